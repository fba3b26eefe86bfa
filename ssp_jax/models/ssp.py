"""The whole network: frames and sounds to masks with classes (method 3)."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from ssp_jax.models.audio_visual_map import AudioVisualMap, TextVisualMap
from ssp_jax.models.linear import Linear
from ssp_jax.models.mask_decoder import MaskDecoder, head_init
from ssp_jax.models.pixel_decoder import PixelDecoder
from ssp_jax.models.promotion import add, promoted
from ssp_jax.models.resize import resize_bilinear
from ssp_jax.models.swin import Swin
from ssp_jax.models.text_classes import TextClasses
from ssp_jax.models.vggish import EMBEDDING, VGGish
from ssp_jax.models.vta import VTA

STRIDES = (4, 8, 16, 32)
OWN_REFERENCES = ("none", "self", "heard")
PREMASK_FORMS = ("apart", "paper")


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
      mask_prompt: the decoder is prompted (method 3.6) with the reference, or with `premask`.
      premask: the prompt is the pre-mask of flow mask and reference (method 4.2).
      premask_form: 'apart' (ours), the reference is the prompt and the flow mask one beside it,
        `MaskDecoder`'s flow_prompt; 'paper', one map of three values, in which what moves and is
        silent is the same as what sounds and stands still.
      own_reference: (ours) what the network can put in the reference's place: 'none'; 'self', its
        prediction from an empty reference, in a first pass of the decoder; 'heard', its
        `AudioVisualMap`.
      audio_visual_map: (ours) the network has an `AudioVisualMap`.
      decoder_trains_features: (ours) False stops the mask decoder's gradient at its inputs, so that
        only the audio-visual map's loss trains encoders and pixel decoder; needs that map.
      vta: alignment with texts (method 4.5), a name of `vta.VARIANTS`; 'none' reads no texts.
      vta_visual: its visual tokens: 'swin', the encoder's map of stride vta_stride; 'clip', those
        that are given, of width clip_width.
      vta_into: what it changes: 'mask_features' (as the paper says) or 'all', the maps that the
        queries attend to as well (ours).
      vta_norm: how it is added: 'all' or 'added', see `VTA`.
      vta_queries: (ours) what BERT makes of A2, projected, is added to the audio embedding, so that
        queries (and the audio-visual map) look for what is named as for what is heard: also in
        seconds in which it is silent, of which A2 knows nothing.
      text_visual_map: (ours) with vta, a `TextVisualMap` of what A2 names adds to the logits of the
        audio-visual map, which it needs.
      text_classes: (ours) with vta and more classes than one beside the background, `TextClasses`
        add to the class logits.
      bert_vocabulary, bert_length, bert_width, bert_layers, bert_heads, bert_ffn, bert_adapters:
        see `Bert`.
      post_mask_head: queries predict a second mask, for the post-mask loss (method 4.3).
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
        premask: bool = False,
        premask_form: str = "apart",
        own_reference: str = "none",
        audio_visual_map: bool = False,
        decoder_trains_features: bool = True,
        post_mask_head: bool = False,
        vta: str = "none",
        vta_visual: str = "swin",
        vta_stride: int = 32,
        vta_into: str = "mask_features",
        vta_norm: str = "all",
        vta_queries: bool = False,
        text_visual_map: bool = False,
        text_classes: bool = False,
        clip_width: int = 768,
        bert_vocabulary: int = 30522,
        bert_length: int = 512,
        bert_width: int = 768,
        bert_layers: int = 12,
        bert_heads: int = 12,
        bert_ffn: int = 3072,
        bert_adapters: bool = False,
        audio_hidden: int = 512,
        audio_width: float = 1.0,
        final_relu: bool = False,
        sampling: str = "auto",
        remat: bool = False,
        rngs: nnx.Rngs,
    ):
        if not (audio_visual_map or decoder_trains_features):
            raise ValueError("without audio_visual_map only the decoder can train the features")
        if own_reference not in OWN_REFERENCES:
            raise ValueError(f"own_reference: one of {OWN_REFERENCES}, not {own_reference!r}")
        if own_reference == "heard" and not audio_visual_map:
            raise ValueError("own_reference 'heard' needs audio_visual_map")
        if premask_form not in PREMASK_FORMS:
            raise ValueError(f"premask_form: one of {PREMASK_FORMS}, not {premask_form!r}")
        self.mask_prompt, self.premask, self.own_reference = mask_prompt, premask, own_reference
        self.premask_form = premask_form
        self.decoder_trains_features = decoder_trains_features
        text_visual_map &= vta != "none"
        if text_visual_map and not audio_visual_map:
            raise ValueError("text_visual_map adds to the audio_visual_map, which is needed too")
        if audio_visual_map:
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
        self.vta_visual, self.vta_into = vta_visual, vta_into
        if vta_visual not in ("swin", "clip") or vta_stride not in STRIDES:
            raise ValueError(
                f"vta_visual, vta_stride: 'swin' or 'clip', and one of {STRIDES}; not "
                f"{vta_visual!r}, {vta_stride}"
            )
        if vta_into not in ("mask_features", "all"):
            raise ValueError(f"vta_into: 'mask_features' or 'all', not {vta_into!r}")
        if vta != "none":
            self.vta_level = STRIDES.index(vta_stride)
            if vta_queries:
                zero = nnx.initializers.zeros_init()  # the sound is first of all what it was
                self.text_projection = Linear(bert_width, hidden, kernel_init=zero, rngs=rngs)
            self.vta = VTA(
                hidden,
                4 if vta_into == "all" else 1,
                clip_width if vta_visual == "clip" else self.encoder.channels[self.vta_level],
                variant=vta,
                norm=vta_norm,
                bert={
                    "vocabulary": bert_vocabulary,
                    "max_length": bert_length,
                    "width": bert_width,
                    "layers": bert_layers,
                    "heads": bert_heads,
                    "ffn": bert_ffn,
                    "adapters": bert_adapters,
                    "gelu": gelu,
                    "remat": remat,
                },
                rngs=rngs,
            )
        if text_visual_map:
            self.text_visual_map = TextVisualMap(hidden, bert_width, hidden, rngs=rngs)
        if text_classes and vta != "none" and num_classes > 2:
            self.text_classes = TextClasses(bert_width, num_classes, rngs=rngs)
        self.mask_decoder = MaskDecoder(
            num_classes,
            num_queries,
            hidden,
            heads=heads,
            layers=decoder_layers,
            ffn=decoder_ffn,
            decoder_adapter=decoder_adapter,
            mask_prompt=mask_prompt,
            flow_prompt=premask and premask_form == "apart",
            post_mask_head=post_mask_head,
            remat=remat,
            rngs=rngs,
        )

    def __call__(
        self,
        frames: Float[Array, "N H W 3"],
        log_mel: Float[Array, "N 96 64"] | None,
        *,
        reference: Float[Array, "N h w"] | None = None,
        own_reference: Bool[Array, " N"] | None = None,
        flow_mask: Float[Array, "N h w"] | None = None,
        text_ids: Int[Array, "N L"] | None = None,
        text_types: Int[Array, "N L"] | None = None,
        text_mask: Bool[Array, "N L"] | None = None,
        visual_tokens: Float[Array, "N g k E"] | None = None,
        backbone: Sequence[Float[Array, "N h w C"]] | None = None,
        audio_features: Float[Array, "N 128"] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Predict masks and classes of N frames, each with the sound of its second.

        Args:
          frames: normalised, see `AVBatch.normalised`; any size.
          log_mel: log-mel windows; may be None with `audio_features`, which take the place of
            the audio encoder's output.
          reference: where it sounds as far as is known, in [0, 1], of any size; needed by a model
            built with mask_prompt, and refused by one without.
          own_reference: where True the network's own guess replaces the reference; needed by a
            model built with one.
          flow_mask: where it moves, in [0, 1], of the reference's size; needed with premask.
          text_ids, text_types, text_mask: the clip's texts, see `AVBatch`; needed with vta.
          visual_tokens: a grid of CLIP's tokens, needed with vta_visual 'clip'.
          backbone: the encoder's four maps of the frames, if known: neither encoder nor frames are
            then used.

        Returns:
          predictions: 'mask_logits' (N, Q, H/4, W/4), 'class_logits' (N, Q, K + 1), the last
            class being "no object".
          aux: 'layers' (predictions of the initial queries and of every layer but the last),
            'backbone' (four maps, strides 4..32), 'mask_features' (N, H/4, W/4, C), 'multi_scale'
            (strides 32, 16, 8), 'audio_features' (N, 128), 'audio_embedding' (N, C),
            'audio_visual_map' where the model has it, 'mask_prompt' where it is prompted, those of
            `VTA` and those of `MaskDecoder`. 'mask_features' and 'multi_scale' are aligned ones.

        Raises:
          ValueError: prompt or sound missing, or a prompt given to a model without.
        """
        if self.mask_prompt != (reference is not None):
            state = "needs" if self.mask_prompt else "is built without"
            raise ValueError(f"this model {state} a reference (constructor: mask_prompt)")
        with jax.named_scope("audio_encoder"):
            if audio_features is None:
                if log_mel is None:
                    raise ValueError("give log_mel or audio_features")
                audio_features = self.audio_encoder(log_mel)
            audio = self.audio_projection(audio_features)
        with jax.named_scope("encoder"):
            backbone = self.encoder(frames) if backbone is None else backbone
        with jax.named_scope("pixel_decoder"):
            mask_features, multi_scale = self.pixel_decoder(backbone)
        more, named, said = {}, None, None
        if hasattr(self, "vta"):
            visual = visual_tokens if self.vta_visual == "clip" else backbone[self.vta_level]
            if text_ids is None or visual is None:
                raise ValueError("this model needs texts and visual tokens (constructor: vta)")
            with jax.named_scope("vta"):
                maps = [mask_features, *(multi_scale if self.vta_into == "all" else ())]
                maps, aligned = self.vta(maps, visual, text_ids, text_types, text_mask)
                mask_features, multi_scale = maps[0], maps[1:] or multi_scale
                more |= aligned
                if hasattr(self, "text_projection"):
                    audio = add(audio, self.text_projection(aligned["text"]))
                words = self.vta.words(text_ids, text_types, text_mask)
                if hasattr(self, "text_visual_map"):
                    named = self.text_visual_map(mask_features, *words)
                if hasattr(self, "text_classes"):
                    said = self.text_classes(*words)
        if hasattr(self, "audio_visual_map"):
            with jax.named_scope("audio_visual_map"):
                more["audio_visual_map"] = self.audio_visual_map(mask_features, audio, named)
        inputs = (mask_features, multi_scale, audio)
        if not self.decoder_trains_features:
            inputs = jax.lax.stop_gradient(inputs)
        prompt = None
        if self.mask_prompt:
            with jax.named_scope("premask"):
                if self.own_reference != "none":
                    size = mask_features.shape[1:3]
                    reference = resize_bilinear(reference, size)
                    flow_mask = None if flow_mask is None else resize_bilinear(flow_mask, size)
                    own = jax.lax.stop_gradient(self._own_reference(inputs, more, flow_mask, said))
                    own, reference = promoted(own, reference)
                    reference = jnp.where(own_reference[:, None, None], own, reference)
                prompt = more["mask_prompt"] = self._prompt(reference, flow_mask)
        predictions, aux = self._decode(inputs, prompt, flow_mask, said)
        return predictions, aux | more | {
            "backbone": backbone,
            "mask_features": mask_features,
            "multi_scale": multi_scale,
            "audio_features": audio_features,
            "audio_embedding": audio,
        }

    def _prompt(self, reference: Array, flow_mask: Array | None) -> Float[Array, "N h w"]:
        if self.premask and flow_mask is None:
            raise ValueError("this model needs a flow mask (constructor: premask)")
        if not self.premask or self.premask_form == "apart":
            return reference
        return premask(flow_mask, reference)

    @jax.named_scope("mask_decoder")
    def _decode(self, inputs: tuple, prompt, flow_mask, said: Array | None) -> tuple[dict, dict]:
        """Of `MaskDecoder`, with what the texts say of the classes."""
        predictions, aux = self.mask_decoder(*inputs, prompt, flow_mask)
        if said is not None:
            for layer in (predictions, *aux["layers"]):
                layer["class_logits"] += said.astype(layer["class_logits"].dtype)
        return predictions, aux

    def _own_reference(self, inputs: tuple, more: dict, flow_mask, said) -> Float[Array, "N h w"]:
        if self.own_reference == "heard":
            return jax.nn.sigmoid(more["audio_visual_map"]["logits"])
        nothing = jnp.zeros(inputs[0].shape[:3], inputs[0].dtype)
        first, _ = self._decode(inputs, self._prompt(nothing, flow_mask), flow_mask, said)
        return sounding_share(first["mask_logits"], first["class_logits"])


def premask(
    flow_mask: Float[Array, "*n h w"], reference: Float[Array, "*n h w"]
) -> Float[Array, "*n h w"]:
    """M_Pre (method 4.2): 1 where both masks are, 0.5 where one is, 0 elsewhere; for soft ones the
    mean, which is the same for masks of 0 and 1."""
    return add(flow_mask, reference) / 2


def sounding_share(
    mask_logits: Float[Array, "N Q h w"], class_logits: Float[Array, "N Q K1"]
) -> Float[Array, "N h w"]:
    """Return the share of all classes but the background in a pixel's scores."""
    masks, classes = jax.nn.sigmoid(mask_logits), jax.nn.softmax(class_logits, axis=-1)
    weights = jnp.stack([classes[..., 0], classes[..., 1:-1].sum(-1)], axis=-1)
    silent, sounding = jnp.einsum("nqs,nqhw->snhw", *promoted(weights, masks))
    return sounding / jnp.maximum(silent + sounding, 1e-12)


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
    return resize_bilinear(jnp.einsum("nqk,nqhw->nkhw", *promoted(classes, masks)), size)
