"""Score masks of any method: python -m ssp_jax.score --help"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from ssp_jax.errors import UserError
from ssp_jax.files import write_whole
from ssp_jax.plain_commands import command_parser, run_and_exit
from ssp_jax.protocols import DEFAULT_PROTOCOL, Protocol, get_protocol, protocol_names
from ssp_jax.score import frames, masks
from ssp_jax.score.frames import BENCHMARKS, Truth, find_predictions, find_truth
from ssp_jax.score.masks import BinaryReader, SemanticReader
from ssp_jax.score.scoring import Scored, score_masks
from tfds_builders.places import local_path
from tfds_builders.problems import Problem, summary, write_problems_file

_ABOUT = f"""\
Score predicted masks of any method, saved as PNG files, by the metrics of AVSBench.

{frames.__doc__.split(chr(10), 2)[2]}
{masks.__doc__.split(chr(10), 2)[2]}
Every frame needs its prediction: what is missing, damaged or of a wrong size is listed, all at
once. Predictions that no frame has are reported and not scored."""
_EXAMPLES = """\
examples:
  python -m ssp_jax.score --benchmark=s4 --pred=masks/s4 --truth=AVSBench/Single-source
  python -m ssp_jax.score --benchmark=avss --pred=masks --truth=AVSBench/AVSS \\
      --protocol=stepping_stones --out=scores.json
  python -m ssp_jax.main --config=configs/ms3.py --config.data_dir=AVSBench --config.save_masks=True
  python -m ssp_jax.score --benchmark=ms3 --pred=runs/ms3/avs/masks/ms3 --truth=AVSBench"""


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("ssp_jax.score", _ABOUT, _EXAMPLES)
    add = parser.add_argument
    add("--pred", required=True, type=local_path, metavar="DIR", help="folder of predicted masks")
    add(
        "--truth", required=True, type=local_path, metavar="DIR", help="AVSBench, or a tree of PNGs"
    )
    add("--benchmark", required=True, choices=BENCHMARKS, help="s4, ms3: binary; avss: classes")
    add("--protocol", default=DEFAULT_PROTOCOL, choices=protocol_names(), help="(%(default)s)")
    add("--split", default="test", help="of a benchmark (%(default)s)")
    add(
        "--out", type=local_path, metavar="FILE.json", help="write all values there too; a new file"
    )
    return parser


def run(argv: Sequence[str] | None = None) -> dict:
    """The command without its exit status; returns what --out holds.

    Raises:
      UserError: see `find_truth`, `find_predictions`; files that are missing or wrong.
    """
    flags = _parser().parse_args(argv)
    if flags.out and flags.out.exists():
        raise UserError(f"--out={flags.out}: there already; name a new file or remove it")
    protocol = get_protocol(flags.protocol)
    truth = find_truth(flags.truth, flags.benchmark, flags.split, protocol)
    found, problems, surplus, shift = find_predictions(flags.pred, truth)
    make_reader = SemanticReader if flags.benchmark == "avss" else BinaryReader
    reader = make_reader(protocol, len(truth.class_names))
    scored = score_masks(found, reader, protocol)
    if scored.result and scored.largest == 1:
        scored = score_masks(found, reader, protocol, one=1)
    problems = [*truth.problems, *problems, *scored.problems]
    if problems:
        raise UserError(_refusal(problems, surplus, flags.out))
    values = _values(scored, truth, flags, protocol)
    values["surplus"] = [problem.path for problem in surplus]
    notes = _notes(scored, reader, surplus)
    if shift:
        first = min(frame.number for frame in truth.frames.values())
        notes.append(
            f"{len(found)} predictions are numbered from {first - shift}, the truth from {first}: "
            "matched in this order"
        )
    print(_table(values, notes))
    if flags.out:
        flags.out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(flags.out, json.dumps(values, indent=1) + "\n")
    return values


def _refusal(problems: list[Problem], surplus: list[Problem], out: Path | None) -> str:
    path = None
    if out:
        path = out.with_name(f"{out.name}.problems.txt")
        write_problems_file(path, [*problems, *surplus])
    text = f"{len(problems)} problems; nothing was scored:\n{summary(problems, path)}"
    if surplus:
        text += f"\nand {len(surplus)} surplus files:\n{summary(surplus, path)}"
    return text


def _values(scored: Scored, truth: Truth, flags, protocol: Protocol) -> dict:
    result = scored.result
    numbers = {
        field.name: value
        for field in dataclasses.fields(result)
        if isinstance(value := getattr(result, field.name), int | float)
    }
    values = {
        "benchmark": flags.benchmark,
        "protocol": protocol.name,
        "source": protocol.source,
        "pred": str(flags.pred),
        "truth": truth.where,
        **numbers,
    }
    if flags.benchmark == "avss":
        classes = zip(
            truth.class_names,
            result.miou_per_class.tolist(),
            result.fscore_per_class.tolist(),
            result.class_count.tolist(),
            strict=True,
        )
        values["classes"] = {
            name: {"miou": miou, "fscore": fscore, "frames": count}
            for name, miou, fscore, count in classes
        }
    return values


def _notes(scored: Scored, reader, surplus: list[Problem]) -> list[str]:
    side = reader.size
    notes = [f"scored at {side} x {side}, as the protocol does"]
    how = "bilinearly" if isinstance(reader, BinaryReader) else "to the nearest pixel"
    for (width, height), count in scored.sizes.most_common():
        if (width, height) != (side, side):
            notes.append(f"{count} predictions of {width} x {height} pixels were resized {how}")
    if scored.largest == 1:
        notes.append("no prediction has a value above 1: read as masks of 0 and 1")
    elif low := len(scored.readings.get("0 and 1", [])):
        notes.append(f"{low} predictions have no value above 1 of 255: read as scores near 0")
    if 1 < scored.largest < 128:
        notes.append(f"no prediction has a value above {scored.largest} of 255: none is foreground")
    if isinstance(reader, SemanticReader):
        notes += [
            f"{len(files)} predictions were read as {how}"
            for how, files in sorted(scored.readings.items())
        ]
    if surplus:
        notes.append(
            f"{len(surplus)} files belong to no scored frame and were left out, the first is "
            f"{surplus[0].path}"
        )
    return notes


def _table(values: dict, notes: list[str]) -> str:
    lines = [
        f"{values['benchmark']}: {values['truth']}",
        f"protocol {values['protocol']} ({values['source']}): {values['num_clips']} clips, "
        f"{values['num_frames']} frames",
        *(f"note: {note}" for note in notes),
        "",
        f"mIoU       {100 * values['miou']:6.2f}",
        f"F-score    {100 * values['fscore']:6.2f}",
        f"activated  {100 * values['activated']:6.2f}   of the pixels",
    ]
    return "\n".join(lines)


def main() -> None:
    """Entry of the command; a UserError becomes one message and exit status 1."""
    run_and_exit(run)


if __name__ == "__main__":
    main()
