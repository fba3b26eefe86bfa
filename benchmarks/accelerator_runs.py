"""The product itself on an accelerator: a training, its export, and one that is stopped."""

import json
import random
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import kills
from benchmarks.accelerator_report import Findings, NotRun
from benchmarks.accelerator_setting import Setting
from benchmarks.device_counts import random_inputs
from ssp_jax.export import FUNCTION, TOLERANCE, WEIGHTS, export_run

# Config, steps of stage avs, steps between two lines of its log and two evaluations: of the demo,
# and of the tests' run, which is made for a CPU.
_DEMO = ("configs/demo.py", 200, 10, 100)
_TINY = ("tests/tiny_run.py:prepared", 4, 1, 4)
# Evaluations take most of a tiny run: on one small set.
_TINY_SETS = {
    "avs.val": "{'s4':'builtin_tiny:val_v1s'}",
    "avs.test": "{'s4':'builtin_tiny:val_v1s'}",
}
# What 200 steps reach on a CPU is 0.37 and 0.34, and the best of nothing and everything 0.05 and
# 0.10: seeds and rounding make a difference of some hundredths so early.
_LEAST_MIOU = {"s4": 0.2, "ms3": 0.2}
_SHARES = ("steps", "compile", "input", "evaluation", "saving", "restart")


def training(found: Findings, setting: Setting) -> None:
    """Part: train by the command, and look at what it wrote."""
    run = _run(setting, "training")
    try:
        run.finish()
    finally:
        run.stop()
    lines = _lines(run)
    losses = [line["loss"] for line in lines]
    found.check("losses that are not finite", int((~np.isfinite(losses)).sum()), 0)
    if not setting.tiny:
        found.check("last loss, in parts of the first", losses[-1] / losses[0], 0.7)
    results = json.loads((run.workdir / "results.json").read_text())
    for name, result in results.items():
        least = 0 if setting.tiny else _LEAST_MIOU[name]
        found.check(f"mIoU of {name}", result["miou"], least, at_least=True)
    columns = {
        "seconds a step": ("steps_per_second", lambda rate: f"{1 / rate:.3g}"),
        "TFLOP/s a device": ("tflops", lambda value: f"{value:.3g}"),
        "MFU": ("mfu", lambda share: f"{100 * share:.2g} %"),
    } | {
        f"goodput: {kind}": (f"goodput/{kind}", lambda share: f"{100 * share:.0f} %")
        for kind in _SHARES
    }
    for at, line in (("middle", lines[len(lines) // 2]), ("end", lines[-1])):
        cells = {name: say(line[key]) for name, (key, say) in columns.items() if key in line}
        found.row({"": f"{at}, step {line['step']}", "loss": f"{line['loss']:.3f}", **cells})


def export(found: Findings, setting: Setting) -> None:
    """Part: export the trained run, and use what was written on the accelerator and the CPU."""
    run = _run(setting, "training")
    if not (run.workdir / "results.json").exists():
        raise NotRun("there is no trained run (part training)")
    out = setting.folder / "served"
    facts = export_run(run.workdir, out)
    found.note(f"the function is for {', '.join(facts['platforms'])}")
    scores, classes = TOLERANCE["float32"]
    checked = facts["checked"]
    found.check(
        "reloaded against the run's prediction, both here: scores, mean difference",
        *(checked["mean_score_difference"], scores),
    )
    found.check(
        "reloaded against the run's prediction, both here: share of pixels of another class",
        *(checked["pixels_of_another_class"], classes),
    )
    function = jax.export.deserialize((out / FUNCTION).read_bytes())
    with np.load(out / WEIGHTS) as weights:
        inputs = dict(weights), random_inputs(facts)
    ours, expected = (
        jax.device_get(jax.jit(function.call)(*jax.device_put(inputs, device)))
        for device in (setting.device, setting.cpu)
    )
    # Products of float32 are rounded to bfloat16 on a TPU, to TF32 on a GPU.
    scores, classes = TOLERANCE["bfloat16"]
    found.check(
        "reloaded here against the CPU: scores, mean difference",
        *(np.abs(ours[1] - expected[1]).mean(), scores),
    )
    found.check(
        "reloaded here against the CPU: share of pixels of another class",
        *((ours[0] != expected[0]).mean(), classes),
    )


def stopping(found: Findings, setting: Setting) -> None:
    """Part: stop the same training in its middle by a signal, and go on."""
    run = _run(setting, "stopping")
    _, steps, every, _ = _sizes(setting)
    middle = steps // 2 // every * every
    moment = kills.Moment("in a step", kills.logged(rf" avs step {middle}/"), 0.1)
    try:
        if kills.kill_at(run, [moment], random.Random(0), signal.SIGTERM) is None:
            raise RuntimeError("the training came to its end before the signal")
        run.finish()
    finally:
        run.stop()
    log = (run.folder / "log").read_text()
    (lost,) = kills.steps_lost(log)
    found.check("steps lost by SIGTERM", lost, 0)
    found.check("last step of the run that went on", _lines(run)[-1]["step"], steps, at_least=True)
    undisturbed = _run(setting, "training")
    if not (undisturbed.workdir / "results.json").exists():
        found.note("not compared with an undisturbed run: there is none (part training)")
        return
    ours, expected = (np.array([line["loss"] for line in _lines(x)]) for x in (run, undisturbed))
    apart = np.abs(ours / expected - 1).max() if len(ours) == len(expected) else np.nan
    found.note(
        f"beside the undisturbed run: losses differ by up to {apart:.1e} of their size, "
        f"{len(kills.differences(undisturbed, run, ['avs']))} arrays and files differ in a bit. "
        "Where a device adds in no fixed order, two undisturbed runs differ as well."
    )


def _sizes(setting: Setting) -> tuple[str, int, int, int]:
    return _TINY if setting.tiny else _DEMO


def _run(setting: Setting, name: str) -> kills.Run:
    """The same training in a folder of its own, on the same data."""
    config, steps, log_every, eval_every = _sizes(setting)
    changes = {
        "stages": "avs",
        "avs.steps": steps,
        "avs.eval_every": eval_every,
        "log_every": log_every,
        "negative_sounds": "",
        "trackers": "",
        "report": False,
        **(_TINY_SETS if setting.tiny else {}),
    }
    arguments = [f"--config.{key}={value}" for key, value in changes.items()]
    folder = setting.folder / name
    prepared = setting.folder / "prepared"
    return kills.Run(folder, config=config, arguments=arguments, prepared=prepared)


def _lines(run: kills.Run) -> list[dict[str, Any]]:
    """Of the training's log, those of steps."""
    path: Path = run.workdir / "avs/metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if "loss" in line]
