"""One full-size program, compiled for a device that need not be there, and the table of several."""

import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from benchmarks.compiled_counts import count
from benchmarks.compiled_text import Program
from benchmarks.device_peaks import PEAKS
from benchmarks.full_size import described_mesh, full_size_predict, full_size_step
from benchmarks.kernel_bundles import kernel_cycles
from benchmarks.network_parts import ELSEWHERE, PARTS
from ssp_jax.errors import UserError

# What `described_mesh` calls them: as many TPUs as libtpu describes at least four of, one GPU.
TOPOLOGIES = {
    "v5e": "v5e:2x4",
    "v6e": "v6e:2x4",
    "v5p": "v5p:2x2x1",
    "h100": "h100",
    "h200": "h200",
}
# They have SparseCores, and what is compiled for these jaxlib 0.10 cannot read back ("async-update
# instruction should have 1 operands but sees 3"), but the compiler writes it into files.
_WRITTEN_OUT = ("v6e", "v5p")
PAGE = Path(__file__).parent.parent / "docs/performance.md"
MARKS = ("<!-- begin of what benchmarks.compiled writes -->", "<!-- its end -->")

# (title, key of what `measure` returns, format).
_MEASURES = [
    ("floor, ms", "floor_ms", ".1f"),
    ("share of the peak", "share", ".1%"),
    ("TFLOP", "tflop", ".2f"),
    ("M cycles", "mcycles", ",.0f"),
    ("of these gathers, scatters, sorts", "mcycles_looked_up", ",.0f"),
    ("of these kernels of our own", "mcycles_own", ",.0f"),
    ("GB read and written", "gb", ".1f"),
    ("kernels", "kernels", ",d"),
    ("M scalars or rows gathered and scattered", "mplaces", ".2f"),
    ("most of them at once, M", "mplaces_at_once", ".2f"),
    ("loops of unknown length", "unknown_loops", ",d"),
    ("code, MB", "code_mb", ".0f"),
    ("arguments, GB", "arguments_gb", ".2f"),
    ("temporary, GB", "temporary_gb", ".2f"),
    ("trace and lower, CPU s", "lower_cpu_s", ".0f"),
    ("compile, CPU s", "compile_cpu_s", ".0f"),
    ("compile, wall s", "compile_s", ".0f"),
]


def measure(device: str, program: str, kind: str, dtype: str, frames: int, **sizes) -> dict:
    """What there is to say of one program, by the keys of `_MEASURES`, and `parts`: {part of the
    network: M cycles of a TPU, or GB of a GPU}. To be called before JAX has looked for devices.

    Where the compiler refuses a program that does not fit, only `refused`, what it says.

    Args:
      sizes: `size` and `frame_size` of `full_size_step`, where they are not the real ones.
    """
    jax.config.update("jax_traceback_in_locations_limit", -1)
    mesh = described_mesh(TOPOLOGIES[device])
    stage, what = program.split(":")
    settings = {"kind": kind, "dtype": dtype, "frames": frames * mesh.size, "mesh": mesh} | sizes
    start = time.process_time()
    if what == "predict":
        predict, *arguments = full_size_predict(stage, **settings)
        lowered = predict.lower(*arguments)
    else:
        full = full_size_step(stage, what, **settings)
        lowered = full.step.lower(full.state, full.batch, full.key, 0)
    found = {"lower_cpu_s": time.process_time() - start}
    start, wall = time.process_time(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
        try:
            compiled = lowered.compile(options if device in _WRITTEN_OUT else None)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return {"refused": re.sub(r"\s+", " ", str(error))}
        found["compile_cpu_s"] = time.process_time() - start
        found["compile_s"] = time.perf_counter() - wall
        text = _text(compiled, Path(folder))
    return found | _counted(text, device, dtype) | _memory(compiled)


def _text(compiled: jax.stages.Compiled, folder: Path) -> str:
    written = sorted(folder.glob("*.after_codegen.txt"), key=lambda path: path.stat().st_size)
    return written[-1].read_text() if written else compiled.as_text()


def _counted(text: str, device: str, dtype: str) -> dict:
    peaks = PEAKS[device]
    program = Program(text)
    kernels = kernel_cycles(program, TOPOLOGIES[device]) if peaks.clock else {}
    counts = count(program, peaks, dtype, kernels)
    total = counts.total
    peak = peaks.flops * (peaks.float32 if dtype == "float32" else 1.0)
    found = {
        "floor_ms": total.floor * 1e3,
        "share": total.flops / peak / total.floor,
        "tflop": total.flops / 1e12,
        "gb": total.bytes / 1e9,
        "kernels": total.kernels,
        "mplaces": counts.places / 1e6,
        "mplaces_at_once": counts.largest / 1e6,
        "unknown_loops": counts.unknown_loops,
    }
    if not peaks.clock:
        return found | {"parts": {name: part.bytes / 1e9 for name, part in counts.parts.items()}}
    return found | {
        "mcycles": total.cycles / 1e6,
        "mcycles_looked_up": counts.looked_up / 1e6,
        "mcycles_own": counts.own_kernels / 1e6,
        "parts": {name: part.cycles / 1e6 for name, part in counts.parts.items()},
    }


def _memory(compiled: jax.stages.Compiled) -> dict[str, float]:
    memory = compiled.memory_analysis()
    code = memory.generated_code_size_in_bytes / 1e6  # 0 of a GPU: not told
    return ({"code_mb": code} if code else {}) | {
        "arguments_gb": memory.argument_size_in_bytes / 1e9,
        "temporary_gb": memory.temp_size_in_bytes / 1e9,
    }


def table(rows: Sequence[Sequence[str]], found: Sequence[Mapping]) -> str:
    """In Markdown, a column for each of `rows` (device, program, kind, dtype, frames) with what
    `measure` found of it, or `said`: why there is nothing."""
    titles = ("", "program", "config", "computes in", "frames a device")
    lines = [[title, *cells] for title, cells in zip(titles, zip(*rows, strict=True), strict=True)]
    lines.insert(1, ["---"] * (len(rows) + 1))
    if any("said" in one for one in found):
        lines.append(["not compiled", *(one.get("said", "") for one in found)])
    for title, key, form in _MEASURES:
        cells = [format(one[key], form) if key in one else "" for one in found]
        lines += [[title, *cells]] if any(cells) else []
    lines.append(["**by part, M cycles (TPU) or GB (GPU)**", *[""] * len(rows)])
    for part in [*PARTS, "else", ELSEWHERE]:
        parts = [one.get("parts", {}).get(part) for one in found]
        if any(parts):
            lines.append([part, *("" if value is None else f"{value:,.1f}" for value in parts)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace(" --- ", "---")


def write(page: Path, text: str) -> None:
    """Put the text into the page between its two marks.

    Raises:
      UserError: the page has not both.
    """
    before, begin, rest = page.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not begin or not end:
        raise UserError(f"{page}: expected the lines {MARKS[0]!r} and {MARKS[1]!r}, around a table")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
