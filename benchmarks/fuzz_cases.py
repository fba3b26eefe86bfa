"""One case of `benchmarks.fuzz`: a file damaged, and what came of reading it."""

import dataclasses
import hashlib
import random
import resource
import shutil
import tempfile
import traceback
from pathlib import Path

import numpy as np

from benchmarks.fuzz_damage import damage
from benchmarks.fuzz_targets import TARGETS
from ssp_jax.errors import UserError

ROOT = Path(__file__).parent.parent
MEMORY = 1 << 30
PASSED = ("equal", "refused", "other values without a checksum")
FAILED = ("other values", "traceback", "message without a name", "too much memory", "hang", "died")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one case: one of PASSED and FAILED, the damage, and what was said."""

    kind: str
    damage: str
    said: str = ""


def make(name: str, folder: Path) -> str:
    """Write a target, undamaged; the digest of what is read of it."""
    TARGETS[name].make(folder)
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, Path(copy) / "whole")
        return digest(TARGETS[name].read(Path(copy) / "whole"))


def run_case(name: str, whole: Path, expected: str, seed: int, folder: Path) -> Outcome:
    """Damage a copy of `whole` in the new `folder`, and read it."""
    target, rng = TARGETS[name], random.Random(f"{name} {seed}")
    shutil.copytree(whole, folder)
    files = target.files(folder)
    path = rng.choice(files)
    kind = damage(path, files, rng)
    what = f"{path.relative_to(folder)}: {kind}"
    before = _most_memory()
    try:
        found = digest(target.read(folder))
    except UserError as error:
        said = str(error)
        named = any(str(part) in said for part in (path.name, folder, "--config", "config."))
        found = "refused" if named else "message without a name"
        return Outcome(found, what, said)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also a library's panic, and SystemExit
        frame = traceback.extract_tb(error.__traceback__)[-1]
        ours = [f for f in traceback.extract_tb(error.__traceback__) if str(ROOT) in f.filename]
        places = " > ".join(f"{Path(f.filename).name}:{f.lineno}" for f in (*ours[-3:], frame))
        return Outcome("traceback", what, f"{type(error).__name__} ({error}) {places}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if _most_memory() - before > MEMORY:
        return Outcome("too much memory", what)
    if found == expected:
        return Outcome("equal", what)
    if target.unknowable(path, kind):
        return Outcome("other values without a checksum", what)
    return Outcome("other values", what)


def digest(found) -> str:
    """Of what a target's `read` returns."""
    total = hashlib.sha256()
    for name in sorted(found):
        value = found[name]
        if isinstance(value, np.ndarray):
            total.update(repr((name, value.shape, str(value.dtype))).encode() + value.tobytes())
        else:
            total.update(repr((name, value)).encode(errors="backslashreplace"))
    return total.hexdigest()


def _most_memory() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
