"""The whole network: frames and sounds to masks with classes (method 3)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from ssp_jax.models.audio_visual_map import AudioVisualMap
from ssp_jax.models.linear import Linear
from ssp_jax.models.mask_decoder import MaskDecoder, head_init
from ssp_jax.models.pixel_decoder import PixelDecoder
from ssp_jax.models.resize import resize_bilinear
from ssp_jax.models.swin import Swin
from ssp_jax.models.vggish import EMBEDDING, VGGish


class AudioProjection(nnx.Module):
    """Linear -> ReLU -> Linear, from VGGish's 128 values to C (method 3.2)."""

    def __init__(self, hidden: int, channels: int, *, rngs: nnx.Rngs):
        self.hidden = Linear(EMBEDDING, hidden, kernel_init=head_init, rngs=rngs)
        self.output = Linear(hidden, channels, kernel_init=head_init, rngs=rngs)

    def __call__(self, audio: Float[Array, "N 128"]) -> Float[Array, "N C"]:
        return self.output(jax.nn.relu(self.hidden(audio)))


class SSP(nnx.Module):
    """Audio-visual segmentation of single frames (method 3): AAVS's network, both stages.

    All state is `nnx.Param`. Presets of the arguments: `ssp_jax.models.sizes.SIZES`.

    Args:
      num_classes: K, background included (2 for S4 and MS3, 71 for AVSS).
      num_queries: Q (AAVS: 30 binary, 100 semantic).
      embed_dim, depths, swin_heads, window, gelu, adapters: the encoder, see `Swin`.
      hidden: C, a multiple of 32. heads: of both decoders.
      encoder_layers, encoder_ffn: deformable encoder of the pixel decoder.
      decoder_layers, decoder_ffn: masked-attention decoder.
      decoder_adapter: 'replace' in AAVS's stage 1, 'after' in stage 2, 'none' is Mask2Former.
      mask_prompt: take a mask prompt (method 3.6).
      heard_prompt: (ours) the network has an `AudioVisualMap` and, without mask_prompt, prompts
        itself with it.
      decoder_trains_features: (ours) False stops the mask decoder's gradient at its inputs, so that
        only the audio-visual map's loss trains encoders and pixel decoder; needs heard_prompt.
      audio_hidden, audio_width, final_relu: audio projection and `VGGish`.
      sampling: see `DeformableAttention`.
      remat: recompute transformer layers in the backward pass, to save memory.

    Raises:
      ValueError: an unknown choice, or sizes that do not divide.
    """

    def __init__(
        self,
        num_classes: int,
        num_queries: int,
        *,
        embed_dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        swin_heads: Sequence[int] = (4, 8, 16, 32),
        window: int = 12,
        gelu: str = "exact",
        adapters: bool = True,
        hidden: int = 256,
        heads: int = 8,
        encoder_layers: int = 6,
        encoder_ffn: int = 1024,
        decoder_layers: int = 9,
        decoder_ffn: int = 2048,
        decoder_adapter: str = "replace",
        mask_prompt: bool = False,
        heard_prompt: bool = False,
        decoder_trains_features: bool = True,
        audio_hidden: int = 512,
        audio_width: float = 1.0,
        final_relu: bool = False,
        sampling: str = "auto",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if not (heard_prompt or decoder_trains_features):
            raise ValueError("without heard_prompt only the decoder can train the features")
        self.mask_prompt, self.heard_prompt = mask_prompt, heard_prompt
        self.decoder_trains_features = decoder_trains_features
        if heard_prompt:
            self.audio_visual_map = AudioVisualMap(hidden, hidden, rngs=rngs)
        self.encoder = Swin(
            embed_dim=embed_dim,
            depths=depths,
            num_heads=swin_heads,
            window=window,
            gelu=gelu,
            adapters=adapters,
            remat=remat,
            rngs=rngs,
        )
        self.audio_encoder = VGGish(width=audio_width, final_relu=final_relu, rngs=rngs)
        self.audio_projection = AudioProjection(audio_hidden, hidden, rngs=rngs)
        self.pixel_decoder = PixelDecoder(
            self.encoder.channels,
            hidden,
            heads=heads,
            layers=encoder_layers,
            ffn=encoder_ffn,
            decoder_adapter=decoder_adapter,
            sampling=sampling,
            remat=remat,
            rngs=rngs,
        )
        self.mask_decoder = MaskDecoder(
            num_classes,
            num_queries,
            hidden,
            heads=heads,
            layers=decoder_layers,
            ffn=decoder_ffn,
            decoder_adapter=decoder_adapter,
            mask_prompt=mask_prompt or heard_prompt,
            remat=remat,
            rngs=rngs,
        )

    def __call__(
        self,
        frames: Float[Array, "N H W 3"],
        log_mel: Float[Array, "N 96 64"] | None,
        mask_prompt: Float[Array, "N h w"] | None = None,
        *,
        audio_features: Float[Array, "N 128"] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Predict masks and classes of N frames, each with the sound of its second.

        Args:
          frames: normalised, see `AVBatch.normalised`; any size.
          log_mel: log-mel windows; may be None with `audio_features`, which take the place of
            the audio encoder's output.
          mask_prompt: in [0, 1], of any size; only if the model was built with mask_prompt, and
            then always.

        Returns:
          predictions: 'mask_logits' (N, Q, H/4, W/4), 'class_logits' (N, Q, K + 1), the last
            class being "no object".
          aux: 'layers' (predictions of the initial queries and of every layer but the last),
            'backbone' (four maps, strides 4..32), 'mask_features' (N, H/4, W/4, C), 'multi_scale'
            (strides 32, 16, 8), 'audio_features' (N, 128), 'audio_embedding' (N, C) and those of
            `MaskDecoder`.

        Raises:
          ValueError: prompt or sound missing, or a prompt given to a model without.
        """
        if audio_features is None:
            if log_mel is None:
                raise ValueError("give log_mel or audio_features")
            audio_features = self.audio_encoder(log_mel)
        audio = self.audio_projection(audio_features)
        backbone = self.encoder(frames)
        mask_features, multi_scale = self.pixel_decoder(backbone)
        heard = {}
        if self.heard_prompt:
            heard["audio_visual_map"] = self.audio_visual_map(mask_features, audio)
            if not self.mask_prompt:
                if mask_prompt is not None:
                    raise ValueError("this model prompts itself (constructor: mask_prompt)")
                mask_prompt = jax.nn.sigmoid(heard["audio_visual_map"]["logits"])
        inputs = (mask_features, multi_scale, audio, mask_prompt)
        if not self.decoder_trains_features:
            inputs = jax.lax.stop_gradient(inputs)
        predictions, aux = self.mask_decoder(*inputs)
        return predictions, aux | heard | {
            "backbone": backbone,
            "mask_features": mask_features,
            "multi_scale": multi_scale,
            "audio_features": audio_features,
            "audio_embedding": audio,
        }


def segmentation_map(
    mask_logits: Float[Array, "N Q h w"],
    class_logits: Float[Array, "N Q K1"],
    image_size: int | tuple[int, int],
    size: int | tuple[int, int],
) -> Float[Array, "N K H W"]:
    """Scores of the K classes per pixel (method 3.5); their arg-max is the segmentation.

    Mask logits are resized to the network's input size `image_size`, squashed, weighted with the
    queries' class probabilities ("no object" left out) and summed, then resized to `size`, where
    they are scored. Both sizes are a side or (height, width). Needs N * Q * H * W floats.
    """
    image_size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    size = (size, size) if isinstance(size, int) else tuple(size)
    masks = jax.nn.sigmoid(resize_bilinear(mask_logits, image_size))
    classes = jax.nn.softmax(class_logits, axis=-1)[..., :-1]
    return resize_bilinear(jnp.einsum("nqk,nqhw->nkhw", classes, masks), size)
