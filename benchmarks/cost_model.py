"""What full trainings cost: FLOPs counted by hand and in the compiled program, and what follows.

    python -m benchmarks.cost_model [--topology=cpu:1] [--frames=2]

First table: a frame of a step, by stage and what trains, FLOPs by hand (benchmarks/analytic_flops),
FLOPs and bytes as XLA's cost analysis of the compiled step says, and the floor of its time that
follows from peaks and bandwidths of the datasheets. Second: the three trainings of configs/*.py.
The expected time supposes a share of the peak (--utilisation); no such device was timed.
`--topology=v5e:2x2` compiles for TPUs by their own compiler (`pip install -e ".[aot]"`).
"""

from absl import app, flags
from ml_collections import ConfigDict

from benchmarks.analytic_flops import PARTS, products, step_flops
from benchmarks.device_peaks import PEAKS
from benchmarks.full_size import described_mesh, full_size_step
from configs import avss, ms3, s4
from ssp_jax.models.sizes import SIZES
from ssp_jax.phases import plan_phases

_TOPOLOGY = flags.DEFINE_string("topology", "cpu:1", "cpu:NUMBER, or of TPUs, as v5e:2x2.")
_FRAMES = flags.DEFINE_integer("frames", 2, "Frames a device in the compiled step.", 1)
_KINDS = flags.DEFINE_list("kinds", ["aavs", "base"], "Of the configs.")
_UTILISATION = flags.DEFINE_float("utilisation", 0.4, "Expected share of the peak.")
_COMPILE = flags.DEFINE_bool("compile", True, "Or only count by hand.")


# Dollars an hour of a device: Google Cloud's list prices (us, on demand) and a typical one of an
# H100. Prices change: what matters is the hours.
PRICES = {"v5e": 1.20, "v5p": 4.20, "h100": 3.00}
CONFIGS = {"S4": s4, "MS3": ms3, "AVSS": avss}


def flops_of(config: ConfigDict, name: str, trains: str) -> dict[str, float]:
    """{part: FLOPs of a frame} by hand, of a stage of a full-size config."""
    stage = config[name]
    sizes = SIZES[config.model.size] | {"decoder_adapter": stage.decoder_adapter}
    own = stage.prompt.source == "self" and trains != "nothing" and stage.prompt.predicted > 0
    found = products(
        sizes,
        frame_size=config.data.frame_size,
        num_queries=stage.num_queries,
        num_classes=71 if name == "avss" else 2,
        text_length=config.texts.max_length if config.model.vta else 0,
        passes=2 if own else 1,
        post_mask_head=stage.criterion.post_mask == "head",
        prompted=stage.prompt.source != "none",
    )
    return step_flops(found, trains)


def _steps() -> None:
    mesh = described_mesh(_TOPOLOGY.value)
    print(f"One frame of a step, float32, compiled for {_TOPOLOGY.value}:\n")
    print(f"| config | stage | trains | {' | '.join(PARTS)} | by hand | compiled | ratio | GB |")
    print("|---" * (len(PARTS) + 7) + "|")
    for kind in _KINDS.value:
        config = avss.get_config(kind)
        for name in ("avs", "avss"):
            for trains in ("phase1", "phase2", "all"):
                parts = flops_of(config, name, trains)
                total = sum(parts.values())
                cells = [f"{value / 1e9:.1f}" for value in (*parts.values(), total)]
                if _COMPILE.value:
                    flops, size = _compiled(kind, name, trains, mesh)
                    cells += [f"{flops / 1e9:.1f}", f"{flops / total:.2f}", f"{size / 1e9:.1f}"]
                print(f"| {kind} | {name} | {trains} | {' | '.join(cells)} |", flush=True)


def _compiled(kind: str, name: str, trains: str, mesh) -> tuple[float, float]:
    """FLOPs and bytes of a frame, by XLA, of a device's share."""
    full = full_size_step(name, trains, kind=kind, frames=_FRAMES.value * mesh.size, mesh=mesh)
    cost = full.step.lower(full.state, full.batch, full.key, 0).compile().cost_analysis()
    return cost["flops"] / _FRAMES.value, cost["bytes accessed"] / _FRAMES.value


def _trainings() -> None:
    print("\nWhole trainings, FLOPs by hand, bfloat16, evaluations included:\n")
    devices = " | ".join(f"{name}: h at the peak, expected, price" for name in PRICES)
    print(f"| config | frames trained | evaluated | PFLOP | {devices} |")
    print("|---" * (4 + len(PRICES)) + "|")
    for title, module in CONFIGS.items():
        for kind in _KINDS.value:
            flops, trained, evaluated = _of_training(module.get_config(kind), title)
            cells = []
            for device, price in PRICES.items():
                floor = flops / PEAKS[device].flops / 3600
                hours = floor / _UTILISATION.value
                cells.append(f"{floor:.2f}, {hours:.2f}, ${hours * price:.2f}")
            print(
                f"| {title}:{kind} | {trained:,} | {evaluated:,} | {flops / 1e15:.0f} | "
                f"{' | '.join(cells)} |"
            )


# Frames of the validation splits.
_VALIDATION = {"S4": 740 * 5, "MS3": 64 * 5, "AVSS": 9_020}


def _of_training(config: ConfigDict, title: str) -> tuple[float, int, int]:
    """(FLOPs, frames trained, frames evaluated) of all stages."""
    config.init_from = "weights"
    flops, trained, evaluated = 0.0, 0, 0
    for name in config.stages.split(","):
        stage = config[name]
        for plan in plan_phases(config, name):
            frames = (plan.end - plan.start) * stage.batch_size
            trained += frames
            flops += frames * sum(flops_of(config, name, plan.name or "all").values())
        frames = stage.steps // stage.eval_every * _VALIDATION[title]
        evaluated += frames
        flops += frames * sum(flops_of(config, name, "nothing").values())
    return flops, trained, evaluated


def main(argv):
    """Prints both tables."""
    _steps()
    _trainings()


if __name__ == "__main__":
    app.run(main)
