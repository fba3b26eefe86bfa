"""The model card of a run that is handed on: README.md with the hub's metadata."""

from collections.abc import Iterator, Mapping

from huggingface_hub import EvalResult, ModelCardData
from ml_collections import ConfigDict

from ssp_jax.config import matmul_precision

_USE = """\
```sh
pip install -e .  # in a checkout of ssp_jax
python -m ssp_jax.hub pull {where} --out={name}
python -m ssp_jax.predict VIDEO.mp4 --checkpoint={name}
python -m ssp_jax.main --config=CONFIG.py --config.init_from={name}/{stage}
```

`Predictor.from_run("{name}")(frames, sound, rate)` of `ssp_jax.predict` does the same on arrays.
The files hold numbers and texts (safetensors, JSON); no code is run in reading them."""


def model_card(
    name: str,
    config: ConfigDict,
    sizes: Mapping[str, int],
    results: Mapping[str, Mapping],
    code: str,
    licence: str,
) -> str:
    """The card as Markdown.

    Args:
      name: 'user/name' on the hub, or a folder's. sizes: parameters of each stage that is there.
      results: of results.json. code: version that trained it. licence: as the hub names it.
    """
    short = name.rpartition("/")[2]
    where = f"hf://{name}" if "/" in name else "FOLDER"
    parts = [
        f"---\n{_metadata(short, config, results, licence)}\n---",
        f"# {short}",
        "Audio-visual segmentation with ssp_jax (Stepping Stone Plus in JAX): given frames and "
        "their sound, the pixels of what sounds" + (", and its class." if "avss" in sizes else "."),
        "## Scores",
        "\n".join(_scores(config, results)) or "Not scored yet.",
        "## Network and training",
        "\n".join(_stages(config, sizes)),
        f"Seed {config.seed}, computed in {config.dtype}, products of float32 at matmul_precision "
        f"{matmul_precision(config)}; code: ssp-jax {code}. All settings are in `config.json`, the "
        "names of classes in `facts.json`.",
        "## Use",
        _USE.format(where=where, name=short, stage=next(reversed(sizes))),
        "## Licence",
        f"{licence}, as chosen by who published it; the terms of the training data and of the "
        "starting weights named above hold as well.",
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(name: str, config: ConfigDict, results: Mapping, licence: str) -> str:
    metrics = {"miou": "mean_iou", "fscore": "f_score"}
    evaluated = [
        EvalResult(
            task_type="image-segmentation",
            task_name="Audio-visual segmentation",
            dataset_type=words,
            dataset_name=test,
            metric_type=metric,
            metric_value=round(float(results[test][key]), 4),
        )
        for test, words in _tests(config)
        if test in results
        for key, metric in metrics.items()
    ]
    data = ModelCardData(
        license=licence,
        library_name="ssp-jax",
        pipeline_tag="image-segmentation",
        tags=["audio-visual-segmentation", "jax", "safetensors"],
        model_name=name,
        eval_results=evaluated or None,
    )
    return data.to_yaml()


def _tests(config: ConfigDict) -> Iterator[tuple[str, str]]:
    """(name in results, data)."""
    for stage in ("avs", "avss"):
        yield from sorted(config[stage].test.items()) if stage in config else ()


def _scores(config: ConfigDict, results: Mapping[str, Mapping]) -> Iterator[str]:
    rows = [row for row in _tests(config) if row[0] in results]
    if not rows:
        return
    yield (
        f"In per cent, protocol `{config.protocol}`; `foreign` is with sounds of other clips, "
        "where low is right.\n"
    )
    yield "| test set | data | mIoU | F-score | foreign mIoU |\n|---|---|---|---|---|"
    for test, words in rows:
        result = results[test]
        scores = [result["miou"], result["fscore"], result.get("foreign_sounds", {}).get("miou")]
        cells = ["not scored" if score is None else f"{100 * score:.1f}" for score in scores]
        yield f"| {test} | `{words}` | {' | '.join(cells)} |"


def _stages(config: ConfigDict, sizes: Mapping[str, int]) -> Iterator[str]:
    for name, size in sizes.items():
        stage = config[name]
        start = stage.init_from or config.init_from or "random weights"
        yield (
            f"- stage `{name}`: {size / 1e6:.2f} M parameters (size {config.model.size}), trained "
            f"on {', '.join(f'`{word}`' for word in stage.train)} for {stage.steps} steps of "
            f"{stage.batch_size} frames, from {start}; mask prompt: {stage.prompt.source}; texts: "
            f"{config.model.vta or 'none'}"
        )
