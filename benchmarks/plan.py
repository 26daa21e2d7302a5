"""Predictions of ``kineray plan`` compared with published training runs and with training on this machine.

    python benchmarks/plan.py [--quick] [--out FILE]

* published: seconds of a step of 64 clips on 8 V100s, as others have measured them, and the prediction for
  that network, device and batch. The first four set the default of the assumed efficiency; the last is not
  used for it.
* here: clips per second of the smoke experiment of ``experiments/slowfast.py`` with 1 and with 2 workers, as
  predicted from parts that are measured one by one (a micro-batch, an update, a clip's decoding), and as
  Ray Train then trains it. Prediction and training take turns.
"""

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from content import machine, table

import kineray
from kineray.config import apply_overrides
from kineray.models.registry import find_preset

ROOT = Path(__file__).parents[1]
SMOKE_STEPS = 80
FIRST_STEPS = 10  # which do not count


@dataclass(frozen=True)
class Published:
    """Seconds of a training step of 8 clips on each of 8 V100s in float32. ``fits``: sets the efficiency."""

    preset: str
    frames: int
    step_s: float
    source: str
    fits: bool = True


_MMACTION2 = "mmaction2 0.x, docs/en/benchmark.md"
PUBLISHED = (
    Published("slowfast_r50_4x16", 32, 0.68, f"{_MMACTION2}, densely encoded videos"),
    Published("slow_r50_4x16", 4, 0.25, f"{_MMACTION2}, densely encoded videos"),
    Published("i3d_r50_8x8", 8, 0.35, f"{_MMACTION2}, densely encoded videos"),
    Published("slowfast_r50_8x8", 32, 0.95, "PySlowFast issue 277"),
    Published("slowfast_r50_4x16", 32, 0.96, "PySlowFast in mmaction2's benchmark", fits=False),
)


def published(rows: tuple[Published, ...]) -> list[dict[str, Any]]:
    """The published runs with their predictions; decoding is taken to be no limit."""
    found: dict[str, Any] = {}
    result = []
    for row in rows:
        if row.preset not in found:
            found[row.preset] = predicted(row)
        plan = found[row.preset]
        step_s = plan.predictions[0].step_s
        result.append(
            {
                "network": row.preset,
                "published_step_s": row.step_s,
                "predicted_step_s": step_s,
                "ratio": step_s / row.step_s,
                "share_of_peak": plan.flops * 64 / row.step_s / 8 / plan.assumptions.peak_flops,
                "efficiency": plan.assumptions.efficiency * step_s / row.step_s,
                "predicted_memory_gb": plan.predictions[0].memory / 1e9,
                "predicted_days": plan.predictions[0].hours / 24,
                "fits": row.fits,
                "source": row.source,
            }
        )
    return result


def predicted(row: Published) -> Any:
    """196 epochs of Kinetics-400 on 8 V100s."""
    preset = find_preset(row.preset)
    experiment = kineray.Experiment(
        data=kineray.DataConfig(frames=row.frames),
        model=preset.config,
        train=kineray.TrainConfig(epochs=196, global_batch=64, precision="float32"),
    )
    unlimited = kineray.Assumptions(decode_clips_per_core=1e6)
    return kineray.plan(experiment, gpus=(8,), device="v100", assumptions=unlimited)


# -- this machine -------------------------------------------------------------------------------------


def smoke(manifest: str, epochs: int) -> Any:
    """The small experiment, validated once at its end."""
    spec = importlib.util.spec_from_file_location("slowfast", ROOT / "experiments/slowfast.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    changes = {"data.manifest": manifest, "train.epochs": epochs, "train.eval_every_epochs": epochs}
    return apply_overrides(module.smoke, changes)


def trained(manifest: str, epochs: int, workers: int) -> float:
    """Clips per second of a run, its median over the steps after the first ones, in a process of its own."""
    with tempfile.TemporaryDirectory() as storage:
        command = [sys.executable, __file__, "--train", manifest, "--epochs", str(epochs)]
        command += ["--workers", str(workers), "--storage", storage]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def train(manifest: str, epochs: int, workers: int, storage: str) -> None:
    """Print the clips per second of a run."""
    from kineray.training import StepEvent

    rates: list[float] = []

    def note(event: object) -> None:
        if isinstance(event, StepEvent) and event.step > FIRST_STEPS:
            rates.append(event.clips_per_s)

    kineray.train(smoke(manifest, epochs), workers=workers, storage=storage, on_event=note)
    print(json.dumps(statistics.median(rates)))


def here(counts: tuple[int, ...], rounds: int, epochs: int, seconds: float) -> list[dict[str, Any]]:
    """Predicted and measured clips per second, by number of workers: medians over ``rounds``."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = str(kineray.data.synthesize(folder))
        predictions: dict[int, list[float]] = {count: [] for count in counts}
        measured: dict[int, list[float]] = {count: [] for count in counts}
        for _ in range(rounds):
            for count in counts:
                plan = kineray.plan(smoke(manifest, epochs), gpus=(count,), device="cpu", seconds=seconds)
                predictions[count].append(plan.predictions[0].clips_per_s)
                measured[count].append(trained(manifest, epochs, count))
    return [
        {
            "workers": count,
            "predicted_clips_per_s": predictions[count],
            "measured_clips_per_s": measured[count],
            "ratio": statistics.median(predictions[count]) / statistics.median(measured[count]),
        }
        for count in counts
    ]


# -- the report ---------------------------------------------------------------------------------------


def published_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    return table(
        [
            {
                "network": row["network"],
                "published s/step": f"{row['published_step_s']:.2f}",
                "predicted": f"{row['predicted_step_s']:.2f}",
                "predicted / published": f"{row['ratio']:.2f}",
                "share of the peak": f"{row['share_of_peak']:.0%}",
                "efficiency": f"{row['efficiency']:.2f}",
                "predicted GB": f"{row['predicted_memory_gb']:.1f}",
                "predicted days": f"{row['predicted_days']:.1f}",
                "source": row["source"],
            }
            for row in rows
        ]
    )


def here_table(rows: list[dict[str, Any]]) -> str:
    """Markdown."""
    return table(
        [
            {
                "workers": row["workers"],
                "predicted clips/s": f"{statistics.median(row['predicted_clips_per_s']):.1f}",
                "measured clips/s": f"{statistics.median(row['measured_clips_per_s']):.1f}",
                "predicted / measured": f"{row['ratio']:.2f}",
            }
            for row in rows
        ]
    )


def fitted_efficiency(rows: list[dict[str, Any]]) -> float:
    """The geometric mean of the efficiencies of the runs that set the default."""
    return math.exp(statistics.mean(math.log(row["efficiency"]) for row in rows if row["fits"]))


def main() -> None:
    """Measure, print Markdown, and write JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="one published run, and no training")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    for name in ("--train", "--storage"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--epochs", "--workers"):
        parser.add_argument(name, type=int, default=10, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    if options.train:
        train(options.train, options.epochs, options.workers, options.storage)
        return
    rows = published(PUBLISHED[1:2] if options.quick else PUBLISHED)
    print(published_table(rows))
    print(f"efficiency that fits: {fitted_efficiency(rows):.3f}\n", flush=True)
    local = [] if options.quick else here((1, 2), options.rounds, epochs=10, seconds=10.0)
    if local:
        print(here_table(local))
    if options.out:
        result = {"machine": machine(), "published": rows, "here": local}
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
