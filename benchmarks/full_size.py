"""One training step of a full-size stage as configs/avss.py has it, for the measurements of it."""

from collections.abc import Callable

from flax import nnx
from jax.sharding import Mesh

from configs import avss
from ssp_jax.batch import AVBatch, fake_batch
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.phases import Phase, make_phases
from ssp_jax.train_state import split_model
from ssp_jax.train_step import make_loss, make_train_step


def full_size_step(
    name: str,
    phase_name: str,
    dtype: str,
    mesh: Mesh,
    *,
    kind: str = "aavs",
    size: str = "base",
    remat: bool = False,
) -> tuple[Callable, Phase, Callable[[int], AVBatch]]:
    """(jitted step, phase, number of frames -> random batch of 384 px, on the host).

    Args:
      name: 'avs', 2 classes, or 'avss', 71. phase_name: what trains: 'phase1', 'phase2' or 'all'.
      dtype: what the network computes in. kind: of the config. size: of models/sizes.py.
    """
    config = avss.get_config(kind)
    config.init_from = "random weights serve here"
    config[name].phases = "all" if phase_name == "all" else "aavs"
    stage = config[name]
    classes, prompted = 2 if name == "avs" else 71, stage.prompt.source != "none"

    def make_model(rngs: nnx.Rngs) -> TrainedNetwork:
        return TrainedNetwork(
            classes,
            size=size,
            num_queries=stage.num_queries,
            num_sounds=0,
            listen=stage.listen,
            overrides={
                "decoder_adapter": stage.decoder_adapter,
                "mask_prompt": prompted,
                "premask": stage.prompt.premask,
                "own_reference": "self" if stage.prompt.source == "self" else "none",
                "post_mask_head": stage.criterion.post_mask == "head",
                "vta": config.model.vta or "none",
                "vta_visual": config.model.vta_visual or "swin",
                "bert_adapters": bool(config.model.bert_adapters),
                "remat": remat,
            },
            rngs=rngs,
        )

    graphdef, init = split_model(make_model)
    phases = make_phases(config, name, init, mesh)
    phase = next(p for p in phases if phase_name in (p.plan.name or "all"))
    loss = make_loss(
        graphdef,
        dtype=dtype,
        num_classes=classes,
        max_targets=stage.max_targets,
        criterion=stage.criterion.to_dict(),
        listen=stage.listen.to_dict(),
    )
    step = make_train_step(loss, phase.tx, mesh, phase.states.shardings, phase.trained)

    def batch(frames: int) -> AVBatch:
        return fake_batch(
            frames,
            frame_size=384,
            label_size=224,
            num_classes=classes,
            num_sounds=0,
            reference=prompted,
            flow_mask=stage.prompt.premask,
            text_length=config.texts.max_length if config.model.vta else 0,
            visual_tokens=(14, 14, 768) if config.model.vta_visual == "clip" else None,
        )

    return step, phase, batch
