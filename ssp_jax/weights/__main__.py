"""Weights from and to other projects: python -m ssp_jax.weights {import,export,verify} --help"""

import argparse
from collections.abc import Sequence

from ssp_jax.places import run_path
from ssp_jax.plain_commands import command_parser, run_and_exit
from ssp_jax.weights.exporting import export_aavs
from ssp_jax.weights.importing import KINDS, TENSORFLOW_KINDS, import_weights
from ssp_jax.weights.verify import GRADIENT_FACTOR, verify
from tfds_builders.places import local_path

_IMPORT = """\
Convert weights into a weight folder, from which a run can start (config.init_from).
Every array of the source and every parameter of the converted part is accounted for.

KIND           what --path is
mask2former    Hugging Face Mask2Former with a Swin backbone, e.g. the files of
               facebook/mask2former-swin-base-ade-semantic: a folder, or a .safetensors,
               .safetensors.index.json or pytorch_model.bin file
aavs           a checkpoint of AAVS (Stepping Stones), stage 1 or 2: .pth, .ckpt or .safetensors
swin           Hugging Face Swin, e.g. microsoft/swin-base-patch4-window12-384-in22k
swin-original  Microsoft's own files, e.g. swin_base_patch4_window12_384_22k.pth
vggish         vggish-10086976.pth of harritaylor/torchvggish
vggish-tf      not possible: says why
perceiver_flow Hugging Face's deepmind/optical-flow-perceiver, for flow masks
bert           Hugging Face BERT, e.g. bert-base-uncased: a folder, or a .safetensors, .bin or
               flax_model.msgpack file
qformer        Hugging Face BLIP-2, e.g. Salesforce/blip2-itm-vit-g: its Q-Former and queries
clip_vision    Hugging Face CLIP, e.g. openai/clip-vit-base-patch16: its image encoder"""
_IMPORT_EXAMPLES = """\
examples:
  python -m ssp_jax.weights import --source=mask2former --path=mask2former-swin-base-ade-semantic \\
      --out=weights/mask2former
  python -m ssp_jax.weights import --source=aavs --path=avs_s4.pth --out=weights/avs_s4"""
_EXPORT_EXAMPLES = """\
examples:
  python -m ssp_jax.weights export --to=aavs --path=runs/s4/avs --out=s4.pth
  python -m ssp_jax.weights export --to=aavs --path=weights/avs_s4 --out=avs_s4.safetensors"""


def _parser() -> argparse.ArgumentParser:
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = command_parser(
        "ssp_jax.weights",
        __doc__,
        "\n".join([_IMPORT_EXAMPLES, *_EXPORT_EXAMPLES.splitlines()[1:]]),
    )
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser(
        "import", help="into a weight folder", description=_IMPORT, epilog=_IMPORT_EXAMPLES, **raw
    )
    kinds = (*KINDS, *TENSORFLOW_KINDS)
    command.add_argument("--source", required=True, choices=kinds, metavar="KIND")
    command.add_argument("--path", required=True, type=local_path, metavar="FILE_OR_DIR")
    command.add_argument(
        "--out", required=True, type=local_path, metavar="DIR", help="new weight folder"
    )

    command = commands.add_parser(
        "export",
        help="to another project's file",
        description="Write a network as a checkpoint that AAVS's code loads.",
        epilog=_EXPORT_EXAMPLES,
        **raw,
    )
    command.add_argument("--to", required=True, choices=("aavs",))
    command.add_argument(
        "--path",
        required=True,
        type=run_path,
        metavar="DIR",
        help="weight folder, or a run's stage",
    )
    command.add_argument(
        "--out", required=True, type=local_path, metavar="FILE", help="new .pth or .safetensors"
    )

    command = commands.add_parser(
        "verify",
        help="against a PyTorch network's stored values",
        description="Compare every output, the loss and every gradient with stored values. Exit "
        "status 1 if one is off.",
        epilog="example:\n  python -m ssp_jax.weights verify "
        "tests/data/golden/aavs_stage1_tiny.npz",
        **raw,
    )
    command.add_argument("reference", type=local_path, metavar="REFERENCE.npz")
    command.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help=f"relative, default 1e-4; {GRADIENT_FACTOR} times as much for gradients",
    )
    return parser


def run(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status.

    Raises:
      UserError: see `import_weights`, `export_aavs`, `verify`.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "verify":
        return 0 if verify(arguments.reference, tolerance=arguments.tolerance) else 1
    if arguments.command == "export":
        facts = export_aavs(arguments.path, arguments.out)
        left_out = ", ".join(facts["left_out"]) or "nothing"
        print(f"{arguments.out}: AAVS stage {facts['stage']}, {facts['arrays']} arrays")
        print(f"left out, as AAVS's files do: {left_out}")
        return 0
    facts = import_weights(arguments.source, arguments.path, arguments.out)
    for note in facts["notes"]:
        print(note)
    millions = {name: f"{count / 1e6:.1f} M" for name, count in facts["parameters"].items()}
    total = sum(facts["parameters"].values()) / 1e6
    print(f"{arguments.out}: {total:.1f} M parameters: {_listed(millions)}")
    print("model: " + _listed(facts["model"]))
    if facts["stage"]:
        print(f"AAVS stage {facts['stage']}")
    if facts["missing"]:
        print("not in the source: " + ", ".join(facts["missing"]))
    for name, reason in facts["ignored"].items():
        print(f"left out: {name} ({reason})")
    if facts["kept"]:
        print(f"kept for an export: {len(facts['kept'])} arrays that the model has no place for")
    return 0


def _listed(values: dict) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def main() -> None:
    """Entry of the command; a UserError becomes one message and exit status 1."""
    run_and_exit(run)


if __name__ == "__main__":
    main()
