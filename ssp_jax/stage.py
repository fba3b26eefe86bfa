"""One training and its evaluation: from a stage's config to results."""

import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ssp_jax.batch import AVBatch
from ssp_jax.checkpoints import Checkpoints, load_params
from ssp_jax.data.datasets import DataSets, read_spec
from ssp_jax.data.pipeline import eval_batches, train_batches
from ssp_jax.data.reader import FrameCache, FrameReader
from ssp_jax.data.transforms import Augment
from ssp_jax.errors import UserError
from ssp_jax.evaluators.pictures import save_picture
from ssp_jax.evaluators.segmentation import SegmentationEvaluator
from ssp_jax.evaluators.trivial import most_frequent_class, trivial_predictions
from ssp_jax.models.network import TrainedNetwork
from ssp_jax.models.sizes import SIZES
from ssp_jax.optim import count_parameters, make_optimizer, make_schedule
from ssp_jax.protocols import get_protocol
from ssp_jax.sharding import make_mesh, put_batch
from ssp_jax.train import Loop
from ssp_jax.train_state import TrainState, split_model, state_maker
from ssp_jax.train_step import make_loss, make_predict, make_train_step
from ssp_jax.writers import MetricsWriter

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass
class Stage:
    """Everything of one stage (`avs`: binary, `avss`: semantic) that does not change in training.

    Attributes:
      config: the run's. name: 'avs' or 'avss', a key of it. folder: of this stage's files.
    """

    config: ConfigDict
    name: str
    data: DataSets
    folder: Path

    def __post_init__(self):
        config, stage = self.config, self.config[self.name]
        self.stage, self.binary = stage, self.name == "avs"
        self.class_names = ("background", "sounding") if self.binary else self.data.class_names
        self.num_classes = len(self.class_names)
        self.protocol = get_protocol(config.protocol)
        self.mesh: Mesh = make_mesh(config.mesh.fsdp)
        self.spec = read_spec(
            config, self.data, binary=self.binary, label_size=config.data.label_size
        )
        self.cache = FrameCache(config.data.cache_mb * 2**20)
        self.evaluator = SegmentationEvaluator(self.protocol, self.binary, self.num_classes)
        self._build()

    def _build(self) -> None:
        config, stage = self.config, self.stage

        def make_model(rngs: nnx.Rngs) -> TrainedNetwork:
            return TrainedNetwork(
                self.num_classes,
                size=config.model.size,
                num_queries=stage.num_queries,
                num_sounds=len(self.data.sound_names),
                overrides={k: v for k, v in config.model.items() if k != "size" and v is not None},
                rngs=rngs,
            )

        try:
            self.graphdef, init = split_model(make_model)
        except ValueError as error:
            raise UserError(f"config.model: {error}") from error
        shapes = jax.eval_shape(init, jax.random.key(0))
        self.tx, self.schedule = make_optimizer(stage.optim, shapes, stage.steps)
        self._make_state, self.state_shapes, self.shardings = state_maker(init, self.tx, self.mesh)
        trained, frozen = count_parameters(stage.optim, shapes)
        _LOG.info(
            "%s: %s model, %.2f M parameters (%.2f M trained, %.2f M frozen), %d devices",
            *(self.name, config.model.size, (trained + frozen) / 1e6),
            *(trained / 1e6, frozen / 1e6, self.mesh.size),
        )
        self.predict = make_predict(
            self.graphdef, self.mesh, self.shardings.params, config.data.label_size
        )

    def new_state(self) -> TrainState:
        """The state before the first step, by the config's seed."""
        return self._make_state(jax.random.key(self.config.seed))

    def put(self, batch):
        """A host batch on the devices."""
        return put_batch(self.mesh, batch)

    def batches(self, words: str, sounds: str = "own"):
        """Evaluation batches of 'benchmark:split' words; `sounds` as in `eval_batches`."""
        return eval_batches(
            self.data.source(words),
            self.spec,
            batch_size=self.stage.batch_size,
            sounds=sounds,
            seed=self.config.seed,
            num_workers=self.config.data.num_workers,
            cache=self.cache,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def score(self, params: dict, words: str, sounds: str = "own") -> dict[str, float]:
        """{"miou": ..., "fscore": ...} of a data set."""
        with self.batches(words, sounds) as batches:
            return dict(self.evaluator.run(self.predict, params, batches, self.put))

    def validate(self, params: dict) -> dict[str, float]:
        """All validation sets: {"s4/miou": ...}."""
        return {
            f"{name}/{key}": value
            for name, words in self.stage.val.items()
            for key, value in self.score(params, words).items()
        }

    def train(self) -> dict:
        """Train, or go on, or return at once what was trained; the best parameters."""
        config, stage = self.config, self.stage
        checkpoints = Checkpoints(self.folder / "checkpoints")
        with self._train_batches() as batches:
            state = self._start(checkpoints, batches)
            if int(state.step) < stage.steps:
                loss = make_loss(
                    self.graphdef,
                    num_classes=self.num_classes,
                    max_targets=stage.max_targets,
                    criterion=stage.criterion.to_dict(),
                    listen=stage.listen.to_dict(),
                )
                writer = MetricsWriter(self.folder, resume_step=int(state.step))
                state = Loop(
                    train_step=make_train_step(loss, self.tx, self.mesh, self.shardings),
                    batches=batches,
                    put=self.put,
                    evaluate=self.validate if stage.val else None,
                    score=lambda values: float(np.mean(list(values.values()))),
                    learning_rate=self.schedule,
                    checkpoints=checkpoints,
                    writer=writer,
                    name=self.name,
                    steps=stage.steps,
                    eval_every=stage.eval_every,
                    log_every=config.log_every,
                    seed=config.seed,
                ).run(state)
                writer.close()
        params = state.params
        if checkpoints.best_step() is not None:
            params = checkpoints.restore_best(params, self.shardings.params)
            _LOG.info("%s: best validation at step %d", self.name, checkpoints.best_step())
        checkpoints.close()
        return params

    def _train_batches(self):
        config, stage = self.config, self.stage
        return train_batches(
            self.data.source(stage.train),
            self.spec,
            batch_size=stage.batch_size,
            seed=config.seed,
            augment=Augment(**config.data.augment.to_dict()),
            frames_per_clip=config.data.frames_per_clip or None,
            num_workers=config.data.num_workers,
            cache=self.cache,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )

    def _start(self, checkpoints: Checkpoints, batches):
        # Own checkpoint, else weights of another run, else scratch.
        if checkpoints.latest_step() is not None:
            state, data_state = checkpoints.restore(self.state_shapes, self.shardings)
            batches.set_state(data_state)
            _LOG.info("%s: going on at step %d", self.name, int(state.step))
            return state
        state = self.new_state()
        if self.stage.init_from:
            folder = Path(self.stage.init_from)
            folder = folder if folder.is_absolute() else self.folder.parent / folder
            params, new = load_params(folder / "checkpoints", state.params, self.shardings.params)
            shown = ", ".join(new[:6]) + (f" and {len(new) - 6} more" if len(new) > 6 else "")
            _LOG.info("%s: starts from %s; new: %s", self.name, folder, shown or "nothing")
            state = dataclasses.replace(state, params=params)
        return state

    def evaluate(self, params: dict) -> Iterator[tuple[str, dict]]:
        """Scores of every test set: (name, {"miou", "fscore", "foreign_sounds": {...}, ...})."""
        for name, words in self.stage.test.items():
            result = self.score(params, words)
            if len(self.data.source(words)) > 1:  # else there is no other sound
                result["foreign_sounds"] = self.score(params, words, "foreign")
            result |= self._trivial(words)
            with self.batches(words) as batches:
                save_picture(
                    self.folder / f"{name}.png",
                    next(batches),
                    lambda batch: np.asarray(self.predict(params, self.put(batch))).argmax(1),
                    self.class_names,
                )
            yield name, result

    def _trivial(self, words: str) -> dict[str, dict[str, float]]:
        """Predictors that hear nothing, where the data set knows all visible objects."""
        source = self.data.source(words)
        if "objects" not in source[0].maps:
            return {}
        frequent = 1 if self.binary else self._frequent_class()
        reader, states = FrameReader(source, self.spec, self.cache), {}
        with self.batches(words) as batches:
            for batch in batches:
                maps = {name: _maps(reader, batch, name) for name in ("objects", "moving")}
                if self.binary:
                    maps["objects"] = (maps["objects"] > 0).astype(np.uint8)
                predictions = trivial_predictions(
                    **maps, num_classes=self.num_classes, frequent_class=frequent
                )
                for name, prediction in predictions.items():
                    state = self.evaluator.score_labels(prediction, batch)
                    states[name] = states[name].merge(state) if name in states else state
        return {name: dict(self.evaluator.results(state)) for name, state in states.items()}

    def _frequent_class(self) -> int:
        train = self.data.source(self.stage.train)
        with eval_batches(train, self.spec, batch_size=self.stage.batch_size) as batches:
            maps = (next(batches).labels for _ in range(min(20, len(batches))))
            return most_frequent_class(maps, num_classes=self.num_classes)


def _maps(reader: FrameReader, batch: AVBatch, name: str) -> np.ndarray:
    """A further map of every slot, zeros in empty ones; each clip is read once."""
    maps = np.zeros_like(batch.labels)
    for clip in np.unique(batch.clip[batch.valid]):
        slots = np.flatnonzero(batch.clip == clip)
        maps[slots] = reader.maps(int(clip), name, batch.second[slots].tolist())
    return maps


def write_results(path: Path, results: dict) -> None:
    """results.json, atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(results, indent=2) + "\n")
    temporary.replace(path)


def check_config(config: ConfigDict) -> None:
    """Choices that can be judged before any data are prepared.

    Raises:
      UserError: an unknown stage, protocol, size or schedule, or an impossible augmentation.
    """
    known = [name for name in ("avs", "avss") if name in config]
    if not config.stages or not set(config.stages) <= set(known):
        raise UserError(f"config.stages={tuple(config.stages)}: this config has {known}")
    get_protocol(config.protocol)
    if config.model.size not in SIZES:
        raise UserError(
            f"config.model.size={config.model.size!r}: expected one of {', '.join(SIZES)}"
        )
    Augment(**config.data.augment.to_dict())
    for name in config.stages:
        make_schedule(config[name].optim, config[name].steps)


def check_workdir(config: ConfigDict, workdir: Path) -> None:
    """Keep the config in the folder; refuse a folder of another config.

    Raises:
      UserError: the folder holds a run of another config, naming the keys that differ.
    """
    path, text = workdir / "config.json", config.to_json(sort_keys=True, indent=1)
    if path.exists():
        old, new = _flat(json.loads(path.read_text())), _flat(json.loads(text))
        differing = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
        if differing:
            shown = ", ".join(
                f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in differing[:5]
            )
            raise UserError(
                f"{workdir} holds a run of another config ({shown}). Use another --workdir, or the "
                "same config to go on"
            )
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"--workdir={workdir}: cannot be written ({error})") from error


def _flat(tree: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in tree.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
