"""Hand trained networks on, and take them: python -m ssp_jax.hub {push,pull} --help"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ssp_jax.errors import UserError
from ssp_jax.files import whole_folder
from ssp_jax.hub.published import read_published, write_published
from ssp_jax.hub.remote import folder_or_repository, open_source, repository, upload
from ssp_jax.places import run_path
from ssp_jax.plain_commands import command_parser, run_and_exit
from ssp_jax.run_facts import read_facts
from ssp_jax.weights.folder import check_new
from tfds_builders.places import local_path

_PUSH = """\
Write the best parameters of a run's stages (safetensors), its config without what tells of the
machine, its scores and a filled-in model card into a new folder, or into a repository of the
Hugging Face hub, private unless --public. Log in there with `hf auth login`, or set HF_TOKEN."""
_PULL = """\
Bring such a folder or repository here. Only files of the known names are taken, no code is run,
links that lead elsewhere are refused, and the network is built once to see that it is whole. Then
  python -m ssp_jax.predict VIDEO --checkpoint=DIR
  python -m ssp_jax.main --config=... --config.init_from=DIR/avs"""
_PUSH_EXAMPLES = """\
examples:
  python -m ssp_jax.hub push runs/demo --to=published/demo
  python -m ssp_jax.hub push runs/avss --to=hf://user/ssp-avss --licence=cc-by-nc-4.0 --public"""
_PULL_EXAMPLES = """\
examples:
  python -m ssp_jax.hub pull hf://user/ssp-avss --out=models/ssp-avss
  python -m ssp_jax.hub pull published/demo --out=models/demo"""


def _parser() -> argparse.ArgumentParser:
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = command_parser(
        "ssp_jax.hub", __doc__, "\n".join([_PUSH_EXAMPLES, *_PULL_EXAMPLES.splitlines()[1:]])
    )
    commands = parser.add_subparsers(dest="command", required=True)
    push = commands.add_parser(
        "push", help="hand a run on", description=_PUSH, epilog=_PUSH_EXAMPLES, **raw
    )
    push.add_argument("run", metavar="RUN", type=run_path, help="--workdir of a run")
    push.add_argument(
        "--to", required=True, type=folder_or_repository, metavar="DIR_or_hf://user/name"
    )
    push.add_argument(
        "--licence", help="of the weights, as the hub names it; needed unless all was generated"
    )
    push.add_argument("--public", action="store_true", help="for a new repository of the hub")
    push.add_argument("--update", action="store_true", help="a repository that exists, by a commit")
    pull = commands.add_parser(
        "pull", help="take one", description=_PULL, epilog=_PULL_EXAMPLES, **raw
    )
    pull.add_argument(
        "source", type=folder_or_repository, metavar="DIR_or_hf://user/name[@revision]"
    )
    pull.add_argument("--out", required=True, metavar="DIR", type=local_path, help="new folder")
    pull.add_argument(
        "--max_gb", type=float, default=8.0, help="refuse what is larger in all (%(default)s)"
    )
    return parser


def run(argv: Sequence[str] | None = None) -> str:
    """The command; returns where things are now.

    Raises:
      UserError: see `write_published`, `read_published`, `upload`, `open_source`, `check_new`.
    """
    flags = _parser().parse_args(argv)
    if flags.command == "pull":
        return _pull(flags.source, flags.out, round(flags.max_gb * 1e9))
    read_facts(flags.run)  # before any folder is made
    found = repository(flags.to)
    if found is None:
        with whole_folder(check_new(flags.to)) as folder:
            write_published(flags.run, folder, Path(flags.to).name, flags.licence)
        return flags.to
    if found[1]:
        raise UserError(f"--to={flags.to}: a revision can be pulled, not pushed; leave it out")
    with tempfile.TemporaryDirectory() as folder:
        write_published(flags.run, Path(folder), found[0], flags.licence)
        return upload(Path(folder), found[0], public=flags.public, update=flags.update)


def _pull(source: str, out: Path, max_bytes: int) -> str:
    check_new(out)
    sizes, fetch = open_source(source)
    with whole_folder(out) as folder:
        try:
            read_published(sizes, fetch, folder, max_bytes)
        except UserError as error:
            raise UserError(f"{source}: {error}") from error
    return str(out)


def main() -> None:
    """Entry of the command; a UserError becomes one message and exit status 1."""
    run_and_exit(lambda: print(run()))


if __name__ == "__main__":
    main()
