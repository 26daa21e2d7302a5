"""Goodput of a run whose workers are killed, and whether its result is that of an undisturbed run.

    python benchmarks/goodput.py [--quick] [--workers N] [--out FILE]

Two runs train the same small SlowFast from video files for as many steps as about fit into an hour (with
--quick four minutes). In the second one a worker, each time another one, gets SIGKILL every five minutes
(every 40 seconds). Options of both are the defaults. Of each kill:

* lost steps: how many had to be made again;
* kept every: the most steps between two states that were kept, in memory or in a checkpoint;
* to next step: seconds from the kill to the first step that is made after it.

If a sample were skipped or used twice, the loss of its step would be another: the losses of all steps of both
runs are compared, and the bytes of their last weights and optimizers.
"""

import argparse
import itertools
import json
import logging
import os
import re
import signal
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from content import machine, table

import kineray
from kineray.config import CosineConfig, DataConfig, Experiment, SgdConfig, SlowFastConfig, TrainConfig
from kineray.data import synthesize
from kineray.orchestration import RunOutcome
from kineray.training import CheckpointEvent, Event, SnapshotEvent, StepEvent

TRAIN, BATCH, GROUP = 192, 32, 4
SHARE = 0.7  # of the planned time, which the steps take; starts and restarts take the rest


def experiment(folder: Path, epochs: int) -> Experiment:
    """A small SlowFast, which is validated once, at its end."""
    return Experiment(
        name="goodput",
        data=DataConfig(
            manifest=str(folder / "data" / "manifest.parquet"),
            frames=8,
            stride=2,
            fps=15,
            short_side=(72, 80),
            crop=64,
            eval_short_side=72,
            eval_crop=64,
        ),
        model=SlowFastConfig(
            stage_blocks=(1, 1, 1, 1), width=16, alpha=4, beta_inv=4, head_pool=2, dropout=0.5
        ),
        optim=SgdConfig(lr=0.05, reference_batch=BATCH),
        schedule=CosineConfig(warmup_epochs=1, warmup_start=0.1),
        train=TrainConfig(epochs=epochs, global_batch=BATCH, bn_group=GROUP, eval_every_epochs=epochs),
    )


@dataclass
class Kill:
    """One kill: when, and the last step that was reported before it."""

    rank: int
    time: float
    step: int
    lost: int = 0
    to_next_s: float = 0.0


@dataclass
class Observer:
    """Sees the events of a run and kills a worker every ``every_s`` seconds (0: never)."""

    storage: str
    name: str
    workers: int
    every_s: float = 0.0
    losses: dict[int, list[float]] = field(default_factory=dict)
    kills: list[Kill] = field(default_factory=list)
    kept: list[int] = field(default_factory=lambda: [0])
    began: float = 0.0
    step: int = 0
    step_s: list[float] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        """Take an event of the run."""
        if isinstance(event, SnapshotEvent | CheckpointEvent):
            self.kept.append(event.step)
        if not isinstance(event, StepEvent):
            return
        now = time.monotonic()
        self.began = self.began or now
        self.losses.setdefault(event.step, []).append(event.loss)
        self.step_s.append(event.seconds)
        last = self.kills[-1] if self.kills else None
        if last is not None and not last.to_next_s:
            if event.step > self.step:  # it was made before the kill, or nothing was lost
                last.step = event.step
            if event.step <= self.step or now - last.time > 2:
                last.lost = self.step - event.step + 1
                last.to_next_s = now - last.time
        self.step = event.step
        since = last.time if last is not None else self.began
        is_recovered = last is None or last.to_next_s > 0
        if self.every_s and is_recovered and now - since >= self.every_s and event.step < event.total_steps:
            self._kill(len(self.kills) % self.workers)

    def _kill(self, rank: int) -> None:
        tags = kineray.get_run(self.name, storage=self.storage).tags
        found = re.search(r"pid (\d+)", tags[f"worker.{rank}"])
        assert found is not None
        os.kill(int(found[1]), signal.SIGKILL)
        self.kills.append(Kill(rank, time.monotonic(), self.step))


def train(
    folder: Path, epochs: int, workers: int, name: str, every_s: float = 0.0
) -> tuple[RunOutcome, Observer]:
    """A run; returns its outcome and what was observed."""
    storage = str(folder / "runs")
    seen = Observer(storage, name, workers, every_s)
    options = kineray.WorkerOptions(max_failures=100)
    outcome = kineray.train(
        experiment(folder, epochs),
        storage=storage,
        workers=workers,
        name=name,
        options=options,
        on_event=seen,
    )
    return outcome, seen


def content(checkpoint: str | None) -> dict[str, bytes]:
    """The bytes of a checkpoint's tensors."""
    assert checkpoint is not None
    return {name: (Path(checkpoint) / name).read_bytes() for name in ("model.safetensors", "optimizer.pt")}


def measure(folder: Path, workers: int, seconds: float, every_s: float) -> dict[str, list[dict[str, object]]]:
    """The rows of the tables."""
    synthesize(folder / "data", train=TRAIN, val=16)
    _, first = train(folder, 2, workers, "calibration")
    usual_s = sorted(first.step_s)[len(first.step_s) // 2]
    epochs = max(2, round(SHARE * seconds / usual_s / (TRAIN // BATCH)))
    whole, expected = train(folder, epochs, workers, "undisturbed")
    killed, seen = train(folder, epochs, workers, "killed", every_s)
    kept = sorted(set(seen.kept))
    interval = max(after - before for before, after in itertools.pairwise(kept))
    differing = [step for step, losses in seen.losses.items() if {*losses} != {*expected.losses[step]}]
    runs = [
        {
            "run": name,
            "workers": workers,
            "steps": outcome.step,
            "kills": len(observed.kills),
            "goodput": f"{outcome.goodput:.1%}",
            **{cause: f"{outcome.badput.get(cause, 0.0):.1%}" for cause in sorted(killed.badput)},
        }
        for name, outcome, observed in (("undisturbed", whole, expected), ("killed", killed, seen))
    ]
    kills = [
        {
            "kill": number,
            "rank": kill.rank,
            "after step": kill.step,
            "lost steps": kill.lost,
            "to next step": f"{kill.to_next_s:.1f} s",
        }
        for number, kill in enumerate(seen.kills, 1)
    ]
    same = content(killed.last_checkpoint) == content(whole.last_checkpoint)
    result: list[dict[str, object]] = [
        {
            "step": f"{usual_s:.2f} s",
            "kept every": f"{interval} steps",
            "steps with another loss": len(differing),
            "steps left out": len(expected.losses.keys() ^ seen.losses.keys()),
            "weights and optimizer": "equal" if same else "different",
        }
    ]
    return {"runs": runs, "kills": kills, "result": result}


def main() -> None:
    """Measure, print Markdown, and write JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="four minutes, a kill every 40 seconds")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, help="[default: an hour]")
    parser.add_argument("--every", type=float, help="seconds between kills [default: 300]")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    seconds, every_s = (240.0, 40.0) if options.quick else (3600.0, 300.0)
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(
            Path(folder), options.workers, options.seconds or seconds, options.every or every_s
        )
    for rows in measured.values():
        print(table(rows) if rows else "")
    if options.out:
        options.out.write_text(json.dumps({"machine": machine(), **measured}, indent=2) + "\n")


if __name__ == "__main__":
    main()
