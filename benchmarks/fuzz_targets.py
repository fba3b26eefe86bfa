"""What `benchmarks.fuzz` damages: how it is made, which of its files, and how it is read."""

import contextlib
import dataclasses
import functools
import io
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import fuzz_overrides
from configs import demo
from ssp_jax.checkpoints import Checkpoints, read_newest
from ssp_jax.data.datasets import DataSets
from ssp_jax.data.mask_store import open_store
from ssp_jax.data.pipeline import eval_batches
from ssp_jax.data.reader import ReadSpec
from ssp_jax.data.sources import ClipSource, splits_of
from ssp_jax.flow.estimators import make_estimator
from ssp_jax.flow.store import add_flow, open_flow
from ssp_jax.predict.reading import VideoReader
from ssp_jax.prompts.texts import read_texts, write_text_file
from ssp_jax.prompts.tokeniser import Tokeniser, train_tokeniser
from ssp_jax.run_facts import keep_facts, read_facts
from ssp_jax.run_folder import check_workdir, write_results
from ssp_jax.score.__main__ import run as run_score
from ssp_jax.sharding import make_mesh
from ssp_jax.train_state import state_maker
from ssp_jax.weights.folder import load_facts, load_unused, load_weights, save_weights
from ssp_jax.weights.sources import Source
from ssp_jax.writers import MetricsWriter
from tests.predict import made_videos
from tests.tfds_builders import layouts
from tfds_builders.facts import read_dataset_facts
from tfds_builders.prepare import prepare

Found = Mapping[str, Any]  # name -> array, bytes, or anything with a repr


@dataclasses.dataclass(frozen=True)
class Target:
    """Something that is read.

    Attributes:
      make: writes it into a new folder. read: folder -> what is in it.
      pattern: of the files that are damaged. below: folder of them.
      unknowable: (file, kind of damage) -> whether other valid content is possible, since the
        format has no checksum.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Found]
    pattern: str = "**/*"
    unknowable: Callable[[Path, str], bool] = lambda path, kind: False

    def files(self, folder: Path) -> list[Path]:
        """Those that may be damaged."""
        return sorted(path for path in folder.glob(self.pattern) if path.is_file())


def _clips(folder: Path) -> Found:
    """All that an evaluation reads of a prepared data set."""
    facts, found = read_dataset_facts(folder), {}
    source = ClipSource([(folder, split) for split in sorted(splits_of(str(folder)))])
    spec = ReadSpec(
        frame_size=16, label_size=16, class_names=facts.class_names, sound_names=facts.sound_names
    )
    with eval_batches(source, spec, batch_size=16, num_threads=1) as batches:
        for number, batch in enumerate(batches):
            for name, array in dataclasses.asdict(batch).items():
                found[f"{name} {number}"] = array
    return found | {"uids": source.table.uid, "classes": facts.class_names}


_WRITERS = {"s4": layouts.write_s4, "ms3": layouts.write_ms3, "avss": layouts.write_avss}


def _downloaded(benchmark: str) -> Target:
    def read(folder: Path) -> Found:
        prepared = prepare(benchmark, folder / "source", folder / "prepared", progress=False)
        found = _clips(prepared)
        shutil.rmtree(folder / "prepared")
        return found

    def unknowable(path: Path, kind: str) -> bool:
        # The downloads have no list of checksums, and of these formats PNG alone has one inside.
        # A video's picture and mask can be any PNG of the right size.
        return path.suffix != ".png" or kind == "exchanged"

    make = _WRITERS[benchmark]
    return Target(lambda folder: make(folder / "source"), read, "source/**/*", unknowable)


def _make_prepared(folder: Path) -> None:
    source = layouts.write_avss(folder.with_name("avss_source"))
    version = prepare("avss", source, folder.with_name("avss_prepared"), progress=False)
    shutil.copytree(version, folder)
    _clips(folder)  # writes the clip tables
    shutil.rmtree(source)
    shutil.rmtree(folder.with_name("avss_prepared"))


def _make_flow(folder: Path) -> None:
    _make_prepared(folder)
    add_flow(_flow_source(folder), make_estimator("dis", None), size=16, progress=False)


def _flow_source(folder: Path) -> ClipSource:
    return ClipSource([(folder, split) for split in sorted(splits_of(str(folder)))])


def _read_flow(folder: Path) -> Found:
    source = _flow_source(folder)
    store = open_flow(source, "dis")
    return {str(clip): store.read(clip) for clip in range(len(source))}


def _mask_store(folder: Path):
    return open_store(folder / "masks", {"model": "a", "size": 24}, 600, 24)


def _make_masks(folder: Path) -> None:
    rng = np.random.default_rng(0)
    _mask_store(folder).write(rng.integers(0, 256, (600, 2, 24, 24), dtype=np.uint8))


def _read_masks(folder: Path) -> Found:
    store = _mask_store(folder)
    return {str(clip): store.read(clip) for clip in range(0, 600, 37)}


_UIDS = tuple(f"clip{number}" for number in range(20))
_TEXTS = {uid: (f"A bell of clip {uid} on the left", "bell, dog") for uid in _UIDS}


def _make_tokeniser(folder: Path) -> None:
    train_tokeniser(list(_TEXTS.values()), folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    vocabulary = sorted(set("".join(" ".join(pair) for pair in _TEXTS.values())))
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *vocabulary]
    (folder / "words").mkdir()
    (folder / "words/vocab.txt").write_text("\n".join(tokens) + "\n")


def _read_tokeniser(folder: Path) -> Found:
    read = (Tokeniser(place) for place in (folder, folder / "words"))
    encoded = [tokeniser.encode_pairs(list(_TEXTS.values()), 24) for tokeniser in read]
    return {f"{name} {i}": array for i, one in enumerate(encoded) for name, array in one.items()}


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"network/a/kernel": (40, 30), "network/a/bias": (30,), "network/b/scale": ()}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def _make_weights(folder: Path) -> None:
    facts = {"source": "aavs", "model": {"hidden": 32, "windows": [4, 4]}, "stage": 1}
    save_weights(folder / "w", _arrays(), facts, {"old/name": np.arange(50)})


def _read_weights(folder: Path) -> Found:
    arrays = load_weights(folder / "w") | load_unused(folder / "w")
    return arrays | {"facts": load_facts(folder / "w")}


def _make_sources(folder: Path) -> None:
    from flax import serialization
    from safetensors.numpy import save_file

    arrays = {name.replace("/", "."): value for name, value in _arrays().items()}
    (folder / "hub").mkdir(parents=True)
    files = dict(zip(arrays, ("1.safetensors", "1.safetensors", "2.safetensors"), strict=True))
    for file in set(files.values()):
        save_file({n: arrays[n] for n in arrays if files[n] == file}, folder / "hub" / file)
    index = {"metadata": {"total_size": 5000}, "weight_map": files}
    (folder / "hub/model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "hub/config.json").write_text(json.dumps({"hidden_size": 32, "layers": [1, 2]}))
    (folder / "flax.msgpack").write_bytes(serialization.msgpack_serialize(dict(arrays)))


def _read_sources(folder: Path) -> Found:
    hub, flax = Source(folder / "hub"), Source(folder / "flax.msgpack")
    return {f"hub {n}": v for n, v in hub.arrays.items()} | flax.arrays | {"config": hub.config}


@functools.cache
def _states():
    def init(key):
        return {"layers": {0: jax.random.normal(key, (40, 30)), 1: jnp.zeros(40)}}

    trained = frozenset(["layers/0", "layers/1"])
    return state_maker(init, optax.adam(1e-3), trained, make_mesh())


def _make_checkpoints(folder: Path) -> None:
    checkpoints, maker = Checkpoints(folder), _states()
    for step in (1, 2):
        state = maker.restart(jnp.int32(step), maker.new(jax.random.key(step)).params)
        checkpoints.save_best(step, state.params, score=step / 10)
        checkpoints.save(state, {"next_batch": step, "loop": {"skipped": step}})
    checkpoints.close()


def _read_checkpoints(folder: Path) -> Found:
    """As an interrupted run does, and whoever starts from the best parameters."""
    found = {f"best {n}": v for n, v in (read_newest(folder, "best") or {"": "none"}).items()}
    checkpoints = Checkpoints(folder)
    state, progress = checkpoints.restore(lambda step: _states()) or (None, {"next_batch": None})
    checkpoints.close()
    # Which of the two states is not of interest: each has to be as it was written.
    step = progress["next_batch"]
    leaves = jax.tree.leaves(state) if step else []
    as_written = _leaves(step) if step else []
    same = [np.array_equal(a, b) for a, b in zip(leaves, as_written, strict=True)]
    skipped = progress.get("loop", {}).get("skipped")
    return found | {"last": "as written" if step and all(same) and skipped == step else step}


def _leaves(step: int) -> list:
    """Arrays of the state that was saved at a step."""
    maker = _states()
    return jax.tree.leaves(maker.restart(jnp.int32(step), maker.new(jax.random.key(step)).params))


def _run_config():
    return demo.get_config("ssp")


def _make_run(folder: Path) -> None:
    check_workdir(_run_config(), folder)
    data = DataSets({}, ("background", "bell", "dog"), ("bell", "dog"))
    keep_facts(folder, data, train_tokeniser(list(_TEXTS.values()), folder / "made"))
    shutil.rmtree(folder / "made")
    write_results(folder / "results.json", {"s4": {"miou": 0.512345}})
    lines = [{"step": step, "loss": 1 / step} for step in range(1, 9)]
    (folder / "avs").mkdir()
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "avs/metrics.jsonl").write_text(text)


def _read_run(folder: Path) -> Found:
    facts = read_facts(folder)
    check_workdir(_run_config(), folder)
    tokens = Tokeniser(facts.config.texts.tokeniser).encode_pairs(list(_TEXTS.values()), 24)
    write_results(folder / "results.json", {"ms3": {"miou": 0.4}})
    MetricsWriter(folder / "avs", resume_step=6).close()
    config = facts.config.copy_and_resolve_references()
    config.texts.tokeniser = ""  # which has the folder's name in it
    results = json.loads((folder / "results.json").read_text())
    return tokens | {
        "config": config.to_json(sort_keys=True),
        "names": (facts.data.class_names, facts.data.sound_names),
        "results": results.get("s4"),
        "metrics": [path.read_bytes() for path in folder.glob("avs/*.jsonl")],
    }


def _make_videos(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(30)]
    sound = made_videos.beeps(0.5, seconds=3.0)
    kinds = (
        *(("a.mp4", "libx264", "aac"), ("b.webm", "libvpx-vp9", "libopus")),
        *(("c.avi", "mpeg4", "mp3"), ("d.mkv", "libx264", "flac"), ("e.ts", "libx264", "aac")),
    )
    for name, codec, audio in kinds:
        made_videos.write_video(
            folder / name,
            frames,
            fps=10,
            sound=sound if audio != "flac" else None,
            codec=codec,
            audio_codec=audio,
            rate=48_000 if audio == "libopus" else made_videos.RATE,
        )


def _read_videos(folder: Path) -> Found:
    found = {}
    for path in sorted(folder.iterdir()):
        clips = list(VideoReader(path).clips())
        found |= {f"{path.name} {i}": clip.waveform for i, clip in enumerate(clips)}
        found |= {f"{path.name} f{i}": np.stack(clip.frames) for i, clip in enumerate(clips)}
    return found


def _make_masks_to_score(folder: Path) -> None:
    for place in ("truth", "pred"):
        for clip in range(3):
            for number in range(3):
                mask = layouts.binary_mask_of(f"{place}{clip}{number}") * 255
                layouts.write_picture(folder / place / f"c{clip}" / f"{number}.png", mask)


def _read_scores(folder: Path) -> Found:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        values = run_score(
            ["--benchmark=s4", f"--pred={folder / 'pred'}", f"--truth={folder / 'truth'}"]
        )
    return {name: values[name] for name in ("miou", "fscore", "activated", "num_frames")}


def _always(path: Path, kind: str) -> bool:
    return True


def _make_texts(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text_file(folder / "texts.json", _TEXTS, {"model": "m"})


TARGETS = {
    "prepared records": Target(_make_prepared, _clips),
    "S4 as downloaded": _downloaded("s4"),
    "MS3 as downloaded": _downloaded("ms3"),
    "AVSS as downloaded": _downloaded("avss"),
    "flow store": Target(_make_flow, _read_flow, "flow-dis/**/*"),
    "mask store": Target(_make_masks, _read_masks, "masks/*"),
    "texts": Target(
        _make_texts,
        lambda folder: {"": read_texts(folder / "texts.json", _UIDS)},
        unknowable=_always,
    ),
    "tokeniser": Target(_make_tokeniser, _read_tokeniser, unknowable=_always),
    "weight folder": Target(_make_weights, _read_weights),
    "weights of others": Target(_make_sources, _read_sources, unknowable=_always),
    "checkpoints": Target(_make_checkpoints, _read_checkpoints),
    "run folder": Target(
        _make_run,
        _read_run,
        unknowable=lambda path, kind: path.name in ("results.json", "metrics.jsonl"),
    ),
    "videos": Target(_make_videos, _read_videos, unknowable=_always),
    "masks to score": Target(
        _make_masks_to_score,
        _read_scores,
        # Of a tree all there is is scored.
        unknowable=lambda path, kind: kind in ("exchanged", "deleted", "a folder instead"),
    ),
    "config overrides": Target(fuzz_overrides.make, fuzz_overrides.read),
}
