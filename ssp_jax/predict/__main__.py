"""Segment what sounds in one's own videos: python -m ssp_jax.predict --help"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ssp_jax.command_line import read_config, show_own_log
from ssp_jax.devices import add_threads, device_line
from ssp_jax.errors import UserError
from ssp_jax.files import whole_folder
from ssp_jax.places import run_path, run_words
from ssp_jax.plain_commands import command_parser
from ssp_jax.predict.checkpoint import is_weights
from ssp_jax.predict.overlay import write_overlay
from ssp_jax.predict.predictor import Predictor
from ssp_jax.predict.reading import VideoReader
from ssp_jax.predict.writing import PredictionWriter, spans
from ssp_jax.prompts.texts import NO_TEXTS, Texts, read_texts
from ssp_jax.weights.folder import check_new
from tfds_builders.places import local_path

_ABOUT = """\
Mark in videos, second by second, what sounds. For every VIDEO a new folder OUT/<its name> gets
  overlay.mp4    the video with what sounds coloured, outlined and named, and with its sound
  masks/         a palette PNG of every second, class indices, at the video's size
  sounding.json  what sounds when and where: class, share of the picture, box, confidence
Any length, in constant memory; any format that FFmpeg knows. A video that cannot be read does not
keep others from being done; it is listed at the end, with exit status 1."""
_EXAMPLES = """\
examples:
  python -m ssp_jax.predict concert.mp4 --checkpoint=runs/demo
  python -m ssp_jax.predict *.mp4 --checkpoint=runs/avss --prompts=texts.json --out=marked
  python -m ssp_jax.predict concert.mp4 --config=configs/avss.py:aavs \\
      --checkpoint=weights/aavs_stage1,weights/aavs_stage2,weights/vggish
texts.json, for networks that read texts, by names of files without their ending:
  {"concert": {"scene": "A man with a guitar on a stage.", "sounding": "guitar, man"}}"""
_LOG = logging.getLogger("ssp_jax.predict")  # also where this module is __main__


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("ssp_jax.predict", _ABOUT, _EXAMPLES)
    add = parser.add_argument
    add("videos", nargs="+", metavar="VIDEO", type=local_path)
    add(
        "--checkpoint",
        required=True,
        type=run_words,
        metavar="DIR",
        help="the --workdir of a run: its stage avss, prompted by its avs, or avs alone, which "
        "names no classes; or folders of imported weights, separated by commas",
    )
    add(
        "--config",
        metavar="FILE.py",
        help="of imported weights; --config.dtype=bfloat16 and the like change it",
    )
    add("--prompts", type=local_path, metavar="FILE.json", help="texts of the videos, see below")
    add("--out", default="predictions", metavar="DIR", type=local_path, help="(%(default)s)")
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
      UserError: of what concerns all videos: see `Predictor`, `read_config`, `read_texts`; or two
        videos of one name.
    """
    parser = _parser()
    flags, others = parser.parse_known_args(argv)
    changes = [other for other in others if other.startswith("--config.")]
    if unknown := [other for other in others if other not in changes]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    _check_names(flags.videos, flags.out)
    names = [video.stem for video in flags.videos]
    texts = dict(zip(names, read_texts(flags.prompts, names), strict=True)) if flags.prompts else {}
    todo, failed = _readable(flags.videos, flags.out)
    if todo:
        add_threads()
        predictor = _predictor(flags.checkpoint, flags.config, changes)
        _LOG.info("%s", device_line())
        _tell_about_texts(predictor, flags.prompts)
    for video in todo:
        pair, folder = texts.get(video.path.stem, NO_TEXTS), flags.out / video.path.stem
        try:
            _predict(predictor, video, folder, pair, flags.checkpoint)
        except UserError as error:
            _tell(error)
            failed.append(video.path)
    if failed and len(flags.videos) > 1:
        print(
            f"failed: {len(failed)} of {len(flags.videos)} videos: {', '.join(map(str, failed))}",
            file=sys.stderr,
        )
    return 1 if failed else 0


def _tell(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr)


def _readable(videos: Sequence[Path], out: Path) -> tuple[list[VideoReader], list[Path]]:
    """Videos to predict, and those that cannot be: told before any network is built."""
    todo, failed = [], []
    for video in videos:
        try:
            check_new(out / video.stem)
            todo.append(VideoReader(video))
        except UserError as error:
            _tell(error)
            failed.append(video)
    return todo, failed


def _check_names(videos: Sequence[Path], out: Path) -> None:
    names = [video.stem for video in videos]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(
            f"several videos are called {', '.join(twice)} and would share the folder "
            f"{out / twice[0]}: rename them, or give them one by one with an --out of their own"
        )


def _predictor(checkpoint: str, config: str | None, changes: Sequence[str]) -> Predictor:
    folders = [run_path(word) for word in map(str.strip, checkpoint.split(",")) if word]
    if folders and is_weights(folders):
        if not config:
            raise UserError(
                f"--checkpoint={checkpoint}: imported weights need --config=FILE.py, which says "
                "what model they are of, such as configs/avss.py:aavs"
            )
        return Predictor.from_weights(read_config(config, changes), folders)
    if config or changes:
        raise UserError(
            f"--checkpoint={checkpoint}: a run has its own config.json; leave --config out"
        )
    return Predictor.from_run(checkpoint)


def _tell_about_texts(predictor: Predictor, prompts: str | None) -> None:
    if predictor.reads_texts and not prompts:
        _LOG.warning("this network reads texts; without --prompts it is told nothing")
    if prompts and not predictor.reads_texts:
        _LOG.warning("--prompts=%s: this network reads no texts", prompts)


def _predict(
    predictor: Predictor, video: VideoReader, folder: Path, texts: Texts, checkpoint: str
) -> None:
    path = video.path
    if not video.has_sound:
        _LOG.warning("%s: %s; to the network it is silent", path, video.no_sound)
    for line in video.choices:
        _LOG.info("%s: %s", path, line)
    try:
        with whole_folder(folder) as temporary:
            writer = PredictionWriter(temporary, predictor.class_names)
            with _bar(path.name, round(video.claimed or 0)) as bar:
                for second in predictor.predict(video.clips(), texts):
                    writer.add(second)
                    bar.update()
            for line in video.remarks():
                _LOG.warning("%s: %s", path, line)
            facts = {
                "video": path.name,
                "size": video.size,
                "duration": round(video.end, 3),
                "sound": video.has_sound,
                "checkpoint": checkpoint,
                "stage": predictor.stage_name,
                "texts": list(texts) if predictor.reads_texts else None,
            }
            writer.finish(video.end, facts)
            with _bar(f"{path.name} overlay", len(writer.seconds)) as bar:
                overlay = temporary / "overlay.mp4"
                write_overlay(overlay, video, writer.read_mask, writer.seconds, bar.update)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error})") from error
    print(f"{path}: {len(writer.seconds)} s, see {folder}")
    found = spans(writer.seconds)
    for name, times in found.items():
        shown = ", ".join(f"{start}-{end}" for start, end in times[:8])
        print(f"  {name}: {shown}{' ...' if times[8:] else ''} s")
    if not found:
        print("  nothing in the pictures was found to sound")


def _bar(title: str, total: int) -> tqdm:
    return tqdm(desc=title, total=total or None, unit=" s of video", mininterval=1.0)


def main() -> None:
    """Entry of the command; a UserError becomes one line and exit status 1."""
    show_own_log()
    logging.getLogger("ssp_jax.stage").setLevel(logging.WARNING)  # tables of parameters
    try:
        status = run()
    except UserError as error:
        _tell(error)
        status = 1
    except KeyboardInterrupt:
        print("stopped: videos that are done are kept", file=sys.stderr)
        status = 130
    sys.exit(status)


if __name__ == "__main__":
    main()
