"""Texts of clips by a multimodal model: python -m ssp_jax.prompts --help"""

import argparse
import sys
from collections.abc import Sequence

from ssp_jax.command_line import read_config
from ssp_jax.data.sources import ClipSource
from ssp_jax.plain_commands import command_parser, run_and_exit
from ssp_jax.prompts.generate import TextMaker
from ssp_jax.prompts.multimodal import check_machine, load_answer
from tfds_builders.facts import read_dataset_facts
from tfds_builders.places import expanded, local_path

_ABOUT = """\
Ask a multimodal model two questions about every clip of a prepared data set (location and
characteristics of each object; then, given the answer, what is likely to make sound) and write
the answers into a JSON file. Needs a GPU and the model's weights. May be stopped at any time: the
same command goes on. Clips that fail are listed at the end, with exit status 1."""
_EXAMPLES = """\
examples:
  python -m ssp_jax.prompts --config=configs/s4.py --prepared=prepared/avs_s4/native/1.0.0 \\
      --out=s4_texts.json --trust_remote_code
  python -m ssp_jax.prompts --config=configs/s4.py --prepared=prepared/avs_s4/native/1.0.0 \\
      --out=s4_texts.json --model=Qwen/Qwen2.5-VL-7B-Instruct --split=train,val \\
      --config.texts.wordings.scene='What is where, and what does it look like?'"""
_SMALL = 224  # stored frames below this tell a model little


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("ssp_jax.prompts", _ABOUT, _EXAMPLES)
    add = parser.add_argument
    add(
        "--config",
        required=True,
        metavar="FILE.py",
        help="its texts.wordings are the questions, changed by --config.texts.wordings.scene=... "
        "and .sounding=..., where {scene} is the first answer",
    )
    add(
        "--prepared",
        required=True,
        type=local_path,
        metavar="FOLDER",
        help="as the preparing command names it",
    )
    add(
        "--out",
        required=True,
        type=local_path,
        metavar="FILE.json",
        help="new, or begun by the same command",
    )
    add(
        "--model",
        default="openbmb/MiniCPM-o-2_6",
        type=expanded,
        help="hub name or folder (%(default)s)",
    )
    add("--revision", help="commit or branch of the model on the hub")
    add("--trust_remote_code", action="store_true", help="run the code that the model brings")
    add("--split", default="", help="splits, separated by commas (all)")
    add("--frames", type=int, default=5, help="of each clip, evenly chosen (%(default)s)")
    add("--device", default="cuda", help="as PyTorch names it (%(default)s)")
    add("--max_new_tokens", type=int, default=256, help="of an answer (%(default)s)")
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
      UserError: see `read_config`, `check_machine`, `TextMaker`, `ClipSource`, `load_answer`.
    """
    parser = _parser()
    flags, others = parser.parse_known_args(argv)
    changes = [other for other in others if other.startswith("--config.")]
    if unknown := [other for other in others if other not in changes]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    wordings = read_config(flags.config, changes).texts.wordings.to_dict()
    check_machine(flags.device)
    model = flags.model + (f"@{flags.revision}" if flags.revision else "")
    maker = TextMaker(flags.out, model, flags.frames, wordings)
    facts = read_dataset_facts(flags.prepared)
    splits = [split for split in flags.split.split(",") if split]
    splits = splits or [split for split, count in facts.splits.items() if count]
    source = ClipSource([(flags.prepared, split) for split in splits])
    if facts.frame_size and facts.frame_size < _SMALL:
        print(
            f"note: {flags.prepared} has frames of {facts.frame_size} pixels. Texts go by clips' "
            "names: a data set prepared without --frame_size gives better ones",
            file=sys.stderr,
        )
    answer = load_answer(
        flags.model,
        device=flags.device,
        revision=flags.revision,
        trust_remote_code=flags.trust_remote_code,
        max_new_tokens=flags.max_new_tokens,
    )
    failed = maker.run(source, answer)
    print(f"{flags.out}: texts of {len(maker.texts)} clips")
    for uid, reason in failed.items():
        print(f"left without texts: {uid}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def main() -> None:
    """Entry of the command; a UserError becomes one message and exit status 1."""
    run_and_exit(run, when_stopped="answers are kept; the same command goes on.")


if __name__ == "__main__":
    main()
