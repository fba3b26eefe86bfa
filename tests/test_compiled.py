"""What `benchmarks.compiled` counts, on programs small enough to know; and programs for a TPU and a
GPU that need not be there, where their compilers are installed (extra `aot`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import ssp_jax
from benchmarks.compiled_counts import LOOKUP_CYCLES, count, flops, lookups, memory_bytes
from benchmarks.compiled_rows import MARKS, PAGE, TOPOLOGIES, table, write
from benchmarks.compiled_text import Array, Program, arrays
from benchmarks.device_peaks import PEAKS
from benchmarks.full_size import DESCRIBED_ENVIRONMENT, lacking_compiler
from benchmarks.kernel_bundles import cycles_of_bundles
from benchmarks.network_parts import part_of
from ssp_jax.errors import UserError

ROOT = Path(__file__).parent.parent


def _program(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    return Program(jax.jit(function).lower(*arguments).compile().as_text())


def _all(program, measured):
    return sum(times * measured(program, made) for made, times in program.running())


def test_a_product_has_its_flops():
    program = _program(jnp.matmul, ((24, 40), "float32"), ((40, 56), "float32"))
    assert _all(program, flops) == 2 * 24 * 40 * 56


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_has_those_of_its_taps_within_the_picture(stride):
    def convolve(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=numbers
        )

    program = _program(convolve, ((2, 8, 6, 3), "float32"), ((3, 3, 3, 5), "float32"))
    # Of the three taps along an axis one is outside at each end; a stride of two leaves one end.
    taps = {1: (3 * 8 - 2) * (3 * 6 - 2), 2: (3 * 4 - 1) * (3 * 3 - 1)}[stride]
    assert _all(program, flops) == 2 * 2 * 5 * 3 * taps


def test_a_loop_counts_as_often_as_it_runs():
    def repeat(x, y):
        return jax.lax.fori_loop(0, 7, lambda _, x: jnp.sin(x @ y), x)

    program = _program(repeat, ((24, 40), "float32"), ((40, 40), "float32"))
    assert _all(program, flops) == 7 * 2 * 24 * 40 * 40
    assert not program.unknown_loops()


def test_a_loop_without_known_length_is_told():
    def halve(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) > 1, lambda x: x / 2, x)

    assert _program(halve, ((24,), "float32")).unknown_loops() == 1


def test_gathers_have_their_places():
    def look_up(table, rows, at):
        return table[at], rows[at]

    program = _program(look_up, ((500,), "float32"), ((500, 32), "float32"), ((300,), "int32"))
    found = [found for made, _ in program.running() for found in lookups(program, made)]
    assert sorted((x.op, x.places, x.row) for x in found) == [
        ("gather", 300, 1),
        ("gather", 300, 32),
    ]


# As a TPU's compiler writes it: in a loop of 6 turns a scatter within a fusion within a fusion.
_SCATTER = """HloModule jit_f

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner (p0: f32[4096,32], p1: s32[300], p2: f32[300,32]) -> f32[4096,32] {
  %p0 = f32[4096,32]{1,0:T(8,128)} parameter(0)
  %p1 = s32[300]{0:T(1024)} parameter(1)
  %p2 = f32[300,32]{1,0:T(8,128)} parameter(2)
  ROOT %s = f32[4096,32]{1,0:T(8,128)} scatter(%p0, %p1, %p2), update_window_dims={1}, inserted_window_dims={0}, scatter_dims_to_operand_dims={0}, index_vector_dim=1, to_apply=%add
}

%outer (q0: f32[4096,32], q1: s32[300], q2: f32[300,32]) -> f32[4096,32] {
  %q0 = f32[4096,32]{1,0:T(8,128)} parameter(0)
  %q1 = s32[300]{0:T(1024)} parameter(1)
  %q2 = f32[300,32]{1,0:T(8,128)} parameter(2)
  ROOT %f = f32[4096,32]{1,0:T(8,128)} fusion(%q0, %q1, %q2), kind=kCustom, calls=%inner
}

%body (t: (s32[], f32[4096,32], s32[300], f32[300,32])) -> (s32[], f32[4096,32], s32[300], f32[300,32]) {
  %t = (s32[]{:T(128)}, f32[4096,32]{1,0:T(8,128)}, s32[300]{0:T(1024)}, /*index=3*/f32[300,32]{1,0:T(8,128)}) parameter(0)
  %turn = s32[]{:T(128)} get-tuple-element(%t), index=0
  %table = f32[4096,32]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %at = s32[300]{0:T(1024)} get-tuple-element(%t), index=2
  %rows = f32[300,32]{1,0:T(8,128)} get-tuple-element(%t), index=3
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%turn, %one), backend_config={"window_config":{"estimated_cycles":"40"}}
  %more = f32[4096,32]{1,0:T(8,128)} fusion(%table, %at, %rows), kind=kCustom, calls=%outer
  ROOT %u = (s32[]{:T(128)}, f32[4096,32]{1,0:T(8,128)}, s32[300]{0:T(1024)}, f32[300,32]{1,0:T(8,128)}) tuple(%next, %more, %at, %rows)
}

%condition (v: (s32[], f32[4096,32], s32[300], f32[300,32])) -> pred[] {
  %six = s32[]{:T(128)} constant(6)
  %v = (s32[]{:T(128)}, f32[4096,32]{1,0:T(8,128)}, s32[300]{0:T(1024)}, f32[300,32]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%v), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %six), direction=LT
}

ENTRY %main (w: (s32[], f32[4096,32], s32[300], f32[300,32])) -> (s32[], f32[4096,32], s32[300], f32[300,32]) {
  %w = (s32[]{:T(128)}, f32[4096,32]{1,0:T(8,128)}, s32[300]{0:T(1024)}, f32[300,32]{1,0:T(8,128)}) parameter(0)
  ROOT %loop = (s32[]{:T(128)}, f32[4096,32]{1,0:T(8,128)}, s32[300]{0:T(1024)}, f32[300,32]{1,0:T(8,128)}) while(%w), condition=%condition, body=%body
}
"""  # noqa: E501


def test_scatters_and_what_a_tpu_says_of_cycles():
    counts = count(Program(_SCATTER), PEAKS["v5e"])
    assert (counts.places, counts.largest) == (6 * 300, 300)
    assert counts.looked_up == 6 * 300 * LOOKUP_CYCLES["scatter, row"]
    assert counts.total.cycles == counts.looked_up + 6 * 40
    assert counts.total.floor == pytest.approx(counts.total.cycles / 1.5e9)
    assert not counts.unknown_loops


def test_a_product_of_cublas_has_its_flops():
    text = """ENTRY %main (a: bf16[24,40], b: bf16[40,56]) -> (bf16[24,56], s8[4096]) {
  %a = bf16[24,40]{1,0} parameter(0)
  %b = bf16[40,56]{1,0} parameter(1)
  ROOT %product = (bf16[24,56]{1,0}, s8[4096]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}}
}
"""  # noqa: E501
    total = count(Program(text), PEAKS["h100"]).total
    assert total.flops == 2 * 24 * 40 * 56
    # Without the room that cuBLAS works in.
    assert total.bytes == 2 * (24 * 40 + 40 * 56 + 24 * 56)
    assert total.floor == total.bytes / PEAKS["h100"].bytes


@pytest.mark.parametrize(("target", "products"), [("", 2), ("Backward", 5)])
def test_attention_of_cudnn_has_the_flops_of_its_products(target, products):
    text = f"""ENTRY %main (q: bf16[4,160,8,32], k: bf16[4,144,8,32]) -> (bf16[4,8,160,32], u8[0]) {{
  %q = bf16[4,160,8,32]{{3,2,1,0}} parameter(0)
  %k = bf16[4,144,8,32]{{3,2,1,0}} parameter(1)
  ROOT %out = (bf16[4,8,160,32]{{3,1,2,0}}, u8[0]{{0}}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaScaleBiasSoftmax{target}", backend_config={{"cudnn_fmha_backend_config": {{"algorithm": {{"tuning_knobs": {{"17": "1"}}}}, "intermediate_tensor_shape": {{"element_type": "BF16", "dimensions": ["4", "8", "160", "144"]}}}}}}
}}
"""  # noqa: E501
    assert _all(Program(text), flops) == products * 2 * 4 * 8 * 160 * 144 * 32


def test_what_reads_a_slice_does_not_read_the_whole():
    def add_slice(table, x, at):
        return jax.lax.dynamic_slice_in_dim(table, at, 1)[0] + x

    program = _program(add_slice, ((100, 64), "float32"), ((64,), "float32"), ((), "int32"))
    # The slice, x and the sum, and some scalars.
    assert 3 * 64 * 4 <= _all(program, memory_bytes) < 4 * 64 * 4


def test_arrays_are_padded_to_their_tiles():
    assert arrays("(bf16[3,40]{1,0:T(8,128)(2,1)}, f32[4]{0:T(128)S(1)})") == (
        Array("bf16", (3, 40), "1,0:T(8,128)(2,1)"),
        Array("f32", (4,), "0:T(128)S(1)"),
    )
    large, small = arrays("(bf16[3,40]{1,0:T(8,128)(2,1)}, f32[4]{0:T(128)S(1)})")
    assert (large.bytes, small.bytes) == (8 * 128 * 2, 128 * 4)
    assert small.on_chip
    assert not large.on_chip
    # The minor axis is the first here.
    assert Array("f32", (3, 40), "0,1:T(8,128)").bytes == 40 * 128 * 4
    assert Array("f32", (5, 3, 40), "").bytes == 5 * 3 * 40 * 4


@pytest.mark.parametrize(
    ("places", "part"),
    [
        (("train_step: f", "models/swin: Swin.__call__", "models/linear: Linear.__call__"),
         "Swin, dense layers"),
        (("models/pixel_decoder: PixelDecoder.__call__", "models/deformable_sampling: f"),
         "deformable sampling"),
        (("train_step: make_train_step.<locals>.train_step",), "optimiser, checks"),
        (("train_step: loss_of", "losses/mask_losses: criterion", "losses/points: least"),
         "point losses"),
        ((), "no line of ours"),
    ],
)  # fmt: skip
def test_a_formula_belongs_to_the_part_where_it_stands(places, part):
    assert part_of(places) == part


def test_what_says_nothing_belongs_where_it_comes_from_or_goes_to():
    package = Path(ssp_jax.__file__).parent
    program = Program(f"""HloModule jit_f

FileNames
1 "{package}/models/vggish.py"
2 "{package}/models/swin.py"

FunctionNames
1 "VGGish.__call__"
2 "Swin.__call__"

FileLocations
1 {{file_name_id=1 function_name_id=1 line=1}}
2 {{file_name_id=2 function_name_id=2 line=1}}

StackFrames
1 {{file_location_id=1 parent_frame_id=1}}
2 {{file_location_id=2 parent_frame_id=1}}

ENTRY %main (a: f32[8]) -> f32[8] {{
  %a = f32[8]{{0}} parameter(0)
  %fetched = f32[8]{{0}} copy(%a)
  %sine = f32[8]{{0}} sine(%fetched), metadata={{op_name="sin" stack_frame_id=1}}
  %moved = f32[8]{{0}} copy(%sine)
  ROOT %cosine = f32[8]{{0}} cosine(%moved), metadata={{op_name="cos" stack_frame_id=2}}
}}
""")
    found = {made.name: part_of(program.places(made)) for made, _ in program.running()}
    assert found == {
        "fetched": "VGGish",
        "sine": "VGGish",
        "moved": "VGGish",
        "cosine": "Swin, rest",
    }


ROWS = [
    ("v5e", "avss:predict", "aavs", "bfloat16", "2"),
    ("h100", "avss:all", "base", "float32", "1"),
]


def test_the_table_has_a_column_for_each_program_and_says_what_lacks():
    found = {"floor_ms": 12.34, "kernels": 1234, "parts": {"VGGish": 5.6}}
    lines = table(ROWS, [found, {"said": "jax-cuda12-plugin is not installed"}]).splitlines()
    assert lines[:2] == ["|  | v5e | h100 |", "|---|---|---|"]
    assert "| not compiled |  | jax-cuda12-plugin is not installed |" in lines
    assert "| kernels | 1,234 |  |" in lines
    assert "| VGGish | 5.6 |  |" in lines
    assert not any(line.startswith("| code") for line in lines)


def test_the_page_gets_the_table_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    write(page, "| new |")
    begin, end = MARKS
    assert page.read_text() == f"before\n{begin}\n\n| new |\n\n{end}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(UserError, match="expected the lines"):
        write(page, "| new |")


def test_the_page_of_the_project_has_the_marks():
    assert all(PAGE.read_text().count(mark) == 1 for mark in MARKS)


def test_bundles_count_as_often_as_their_loops_run():
    # Two before, one of them in a loop of 6 turns with two more in one of 3, one after.
    text = """LB: loop body
     0   :  { %7 = vsyncpa [#allocation6], 0 }
   0x1   :  { %s0 = smov 0 }
   0x2 LB: > { %s1 = sadd.s32 1, %s0 }
   0x3 LB: >> { %s2 = sadd.s32 1, %s3 }
   0x4   : >> { %p1 = scmp.ge.s32.totalorder %s2, 3 /* loop exit test */ }
   0x5   : > { %p0 = scmp.ge.s32.totalorder %s1, 6 /* loop exit test */ }
   0x6   :  {}
"""
    assert cycles_of_bundles(text.splitlines()) == 3 + 6 * (2 + 3 * 2)


_COMPILE = """
import json, sys
from benchmarks.compiled_rows import measure
from ssp_jax.models.sizes import SIZES
from tests.tiny_run import TINY_MODEL
SIZES["tiny"] = SIZES["base"] | TINY_MODEL | {"window": 4}
sizes = {"size": "tiny", "frame_size": 64}
print(json.dumps(measure(sys.argv[1], "avss:phase2", "aavs", "bfloat16", 1, **sizes)))
"""


def _compiled(device):
    """What `measure` says of a tiny program of phase 2."""
    lacking = lacking_compiler(TOPOLOGIES[device])
    if lacking:
        pytest.skip(f"{lacking} is not installed (extra aot)")
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, device],
        cwd=ROOT,
        env=os.environ | DESCRIBED_ENVIRONMENT | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_a_step_compiles_for_a_tpu_that_is_not_there():
    found = _compiled("v5e")
    parts = found["parts"]
    assert {"Swin, dense layers", "deformable sampling", "point losses"} <= parts.keys()
    assert sum(parts.values()) == pytest.approx(found["mcycles"])
    assert found["floor_ms"] == pytest.approx(found["mcycles"] / 1.5)
    assert 0 < found["share"] < 1
    assert found["code_mb"] > 1


def test_a_step_compiles_for_a_gpu_that_is_not_there():
    found = _compiled("h100")
    parts = found["parts"]
    assert {"Swin, dense layers", "deformable sampling", "point losses"} <= parts.keys()
    assert sum(parts.values()) == pytest.approx(found["gb"])
    assert found["floor_ms"] >= found["gb"] / 3350 * 1e3
    assert 0 < found["share"] < 1


def test_a_device_whose_compiler_is_not_installed_is_said_and_left_out():
    # As where the extra is not installed, whatever is here.
    command = """
import sys
from benchmarks import full_size
full_size.importlib.util.find_spec = lambda name: None
from absl import app
from benchmarks import compiled
app.run(compiled.main)
"""
    done = subprocess.run(
        [sys.executable, "-c", command, "--devices=v5e,h200", "--programs=avs:all"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert (
        "| not compiled | libtpu is not installed | jax-cuda12-plugin is not installed |" in lines
    )
