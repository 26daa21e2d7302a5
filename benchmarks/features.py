"""Seconds per epoch on cached features compared with the same trial end to end.

    python benchmarks/features.py [--quick] [--out FILE]

The trial is that of ``experiments/egocentric.py``: a frozen MobileNetV2, 20 frames of 256 x 256 pixels, an
LSTM (on whole maps, a ConvLSTM). An epoch is all training clips and the validation after it. Both arms are
runs of the plain loop, each in a process of its own, and take turns; their losses must be equal, or the
benchmark ends. The first epoch of a run does not count.

* pooled: a feature vector for each frame (``model.grid=1``); whole maps: 1280 x 8 x 8 for each frame;
* build: seconds for computing the features once, which every trial after the first one saves;
* memory: the largest resident memory of the arm's process, without its decoding processes.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from content import machine, table

import kineray
from kineray.config import apply_overrides

ROOT = Path(__file__).parents[1]
ARMS = ("end to end", "cached")
KINDS: dict[str, dict[str, object]] = {
    "pooled": {"model.grid": 1, "model.temporal.type": "lstm", "model.temporal.units": 50},
    "whole maps": {"model.temporal.type": "conv_lstm"},
}


def experiment(manifest: str, kind: str, epochs: int, views: int) -> Any:
    """The trial, on made videos; weights are random, which costs the same."""
    from runpy import run_path

    study = run_path(str(ROOT / "experiments/egocentric.py"))["experiment"]
    changes = {
        "data.manifest": manifest,
        "data.heads": "none",
        "data.drawn_views": views,
        "model.init": "none",
        "schedule.type": "cosine",
        "schedule.warmup_epochs": 0,
        "train.epochs": epochs,
        "train.global_batch": 8,
        "train.bn_group": 8,
        "train.precision": "float32",
    }
    return apply_overrides(study, {**changes, **KINDS[kind]})


# -- an arm, in a process of its own ------------------------------------------------------------------


def run_arm(manifest: str, kind: str, arm: str, epochs: int, views: int) -> None:
    """Train; prints seconds of each epoch, losses, seconds before the first step and memory."""
    from kineray.data import load_manifest
    from kineray.training import CheckpointStore, Event, StepEvent, ValidationEvent, train

    seconds: list[float] = [0.0]
    losses: list[float] = []
    first: list[float] = []
    began = time.perf_counter()

    def note(event: Event) -> None:
        if isinstance(event, StepEvent):
            first.append(time.perf_counter() - began - event.seconds)
            losses.append(event.loss)
            seconds[-1] += event.seconds
        elif isinstance(event, ValidationEvent):
            seconds[-1] += event.seconds
            seconds.append(0.0)

    loaded = load_manifest(manifest)
    with tempfile.TemporaryDirectory() as folder:
        train(
            experiment(manifest, kind, epochs, views),
            loaded.split("train"),
            loaded.split("val"),
            checkpoints=CheckpointStore(folder),
            on_event=note,
            options=kineray.WorkerOptions(cache_features=arm == "cached", decoders=os.cpu_count()),
        )
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    result = {"epochs_s": seconds[1:-1], "losses": losses, "before_s": first[0], "peak_mib": peak_mib}
    print(json.dumps(result))


# -- the measurement ----------------------------------------------------------------------------------


def measure_arm(manifest: str, kind: str, arm: str, epochs: int, views: int) -> dict[str, Any]:
    """What ``run_arm`` prints."""
    words = ["--arm", arm, "--kind", kind, "--manifest", manifest]
    words += ["--epochs", str(epochs), "--views", str(views)]
    process = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, *words], stdout=subprocess.PIPE, text=True, check=False
    )
    if process.returncode:
        raise SystemExit(f"{arm}, {kind}: its process ended with {process.returncode}")
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def measure(
    manifest: str, kind: str, rounds: int, epochs: int, views: int
) -> dict[str, list[dict[str, Any]]]:
    """The runs of both arms, which take turns. Ends the program if their losses differ."""
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for turn in range(rounds):
        for arm in ARMS if turn % 2 == 0 else reversed(ARMS):
            runs[arm].append(measure_arm(manifest, kind, arm, epochs, views))
    losses = {json.dumps(run["losses"]) for of_arm in runs.values() for run in of_arm}
    if len(losses) > 1:
        raise SystemExit(f"{kind}: the losses of the arms differ")
    return runs


def report(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Markdown: medians over all epochs of all rounds, and the ratio of each round's medians."""
    rows: list[dict[str, object]] = []
    for kind, runs in results.items():
        by_round = {arm: [statistics.median(run["epochs_s"]) for run in runs[arm]] for arm in ARMS}
        ratio = statistics.median(
            whole / cached for whole, cached in zip(by_round["end to end"], by_round["cached"], strict=True)
        )
        for arm in ARMS:
            of_arm = runs[arm]
            rows.append(
                {
                    "features": kind,
                    "arm": arm,
                    "s / epoch": f"{statistics.median(by_round[arm]):.3g}",
                    "cached is": f"{ratio:.1f}x" if arm == "end to end" else "",
                    "build, s": f"{of_arm[0]['before_s']:.1f}" if arm == "cached" else "",
                    "peak MiB": f"{statistics.median(run['peak_mib'] for run in of_arm):.0f}",
                }
            )
    return table(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few clips: does it run?")
    parser.add_argument("--out", type=Path, help="write all numbers to this file, as JSON")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--manifest", help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--views", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.arm:
        run_arm(given.manifest, given.kind, given.arm, given.epochs, given.views)
        return
    clips, rounds, epochs, views = (8, 1, 3, 1) if given.quick else (64, 3, 4, 2)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KINERAY_CACHE"] = str(Path(folder, "cache"))
        made = kineray.data.synthesize(
            Path(folder, "set"), train=clips, val=max(clips // 4, 4), size=256, seconds=2.0
        )
        for kind in KINDS:
            results[kind] = measure(str(made), kind, rounds, epochs, views)
        sizes = {
            f"{one.clips}, {' x '.join(map(str, one.shape))}": one.bytes for one in kineray.list_features()
        }
    print(report(results))
    if given.out:
        found = {
            "machine": machine(),
            "training clips": clips,
            "views": views,
            "bytes": sizes,
            "runs": results,
        }
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", os.pathsep.join(sys.path[1:]))
    main()
