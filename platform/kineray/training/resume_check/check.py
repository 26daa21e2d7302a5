"""Train twice, once without a stop and once with kills, and compare."""

import math
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

from kineray.config import Experiment, loaded_plugins, to_yaml
from kineray.data import Manifest, load_manifest
from kineray.data.manifest.manifest import save_manifest
from kineray.errors import ConfigError, KinerayError, from_json
from kineray.options import WorkerOptions
from kineray.storage import absolute
from kineray.training.inputs import about_manifest, check_data
from kineray.training.plan import StepPlan, check_micro_batch, plan_of
from kineray.training.resume_check.task import FirstSteps, Kill, StepRecord, Task, planned_kills, read_trace
from kineray.training.resume_check.worker import FAILED

_EPOCHS = 3  # that the checked steps are at least part of
_CHECKPOINTS = 8
_VAL_SAMPLES = 16
_KILL_AT = 0.42  # of the steps


@dataclass(frozen=True)
class ResumeCheck:
    """What a check found. ``steps``: of the run; ``kills``: when it was killed; ``workers``: in each life.

    ``difference``: the first thing that is not as in the undisturbed run, or None. ``distance``: the relative
    distance of the weights, which is 0 unless the number of workers changed. ``folder``: where both runs are;
    they are deleted if nothing differs.
    """

    steps: int
    kills: tuple[str, ...]
    workers: tuple[int, ...]
    difference: str | None
    distance: float
    folder: str | None

    @property
    def is_identical(self) -> bool:
        """Whether the resumed run is the undisturbed one."""
        return self.difference is None


def verify_resume(
    experiment: Experiment,
    *,
    steps: int = 40,
    kill_at: Sequence[int] = (),
    workers: int = 1,
    elastic: bool = False,
    options: WorkerOptions = WorkerOptions(),
    on_life: Callable[[str], None] | None = None,
) -> ResumeCheck:
    """Train the first ``steps`` steps twice, once with kills, and compare all that the two runs did.

    The second run is killed by SIGKILL in the steps ``kill_at`` (by default one), in the first step after a
    resume, while a checkpoint is written and at the end of an epoch, and resumed each time. Samples,
    learning rate, loss and random state of every step are compared, then weights, optimizer, recipe and
    scores: bit for bit, or with ``elastic``, where the number of workers changes with each life, samples
    exactly and losses and weights within one part in a hundred. Epochs are made short by leaving out samples;
    everything else is as in training. Without ``options.decoders`` there are two. ``on_life`` is called with
    a line about each start. Needs neither Ray nor MLflow; trains on the CPU.

    Raises ConfigError, ManifestError and whatever training raises.
    """
    if not experiment.data.manifest:
        raise ConfigError("no manifest given", code="not_set", key="data.manifest", remedy="pass one")
    with about_manifest(experiment):
        manifest = load_manifest(absolute(experiment.data.manifest))
    whole = plan_of(experiment, check_data(experiment, manifest).samples)
    check_micro_batch(options.micro_batch, experiment.train.bn_group)
    small = _shortened(manifest, experiment, whole, steps)
    plan = FirstSteps(plan_of(experiment, check_data(experiment, small).samples), steps)
    counts = [workers, workers - 1 or 2] if elastic else [workers]
    for count in counts:
        plan.at(0).share(0, count)
    total = plan.total_steps
    _check_steps(kill_at, total)
    every = options.checkpoint_every
    every = every if isinstance(every, int) else max(total // _CHECKPOINTS, 1)
    options = replace(options, checkpoint_every=every, decoders=options.decoders or 2)
    folder = Path(tempfile.mkdtemp(prefix="kineray-verify-resume-"))
    save_manifest(small, folder / "manifest.parquet")
    runs = _Runs(experiment, folder, total, options, on_life or _ignore)
    undisturbed, _ = runs.run("undisturbed", [], [workers])
    kills = planned_kills(kill_at or [max(math.ceil(total * _KILL_AT), 1)])
    resumed, made = runs.run("resumed", kills, counts)
    difference, apart = _compare(folder, undisturbed, resumed, exact=not elastic)
    if difference is None:
        shutil.rmtree(folder)
    return ResumeCheck(
        steps=total,
        kills=tuple(map(str, made)),
        workers=tuple(len(life) for life in resumed),
        difference=difference,
        distance=apart,
        folder=str(folder) if difference else None,
    )


def _compare(
    folder: Path,
    undisturbed: list[list[list[StepRecord]]],
    resumed: list[list[list[StepRecord]]],
    *,
    exact: bool,
) -> tuple[str | None, float]:
    """What differs first, and the distance of the weights."""
    from kineray.training.resume_check import compare

    wanted, found = (compare.last_state(str(folder / name)) for name in ("undisturbed", "resumed"))
    apart = compare.distance(wanted, found)
    difference = compare.first_different_step(undisturbed, resumed, exact=exact)
    if difference is None and exact:
        difference = compare.first_different_value(wanted, found)
    elif difference is None and not apart <= compare.TOLERANCE:
        difference = f"the weights are {apart:.2g} apart"
    return difference, apart


def _shortened(manifest: Manifest, experiment: Experiment, plan: StepPlan, steps: int) -> Manifest:
    """A manifest with so few samples that ``steps`` steps are more than an epoch."""
    per_epoch = min(max(steps // _EPOCHS, 1), plan.total_steps)
    clips = sum(plan.at(index).global_batch for index in range(per_epoch))
    train = math.ceil(clips / experiment.data.clips_per_sample)
    of_train, of_val = (list(manifest.split(name)) for name in ("train", "val"))
    return manifest.with_samples([*of_train[:train], *of_val[:_VAL_SAMPLES]])


def _check_steps(kill_at: Sequence[int], total: int) -> None:
    for step in kill_at:
        if not 1 <= step <= total:
            raise ConfigError(
                f"the checked run has {total} steps",
                code="out_of_range",
                key="kill_at",
                value=step,
                remedy=f"give `kill_at` from 1 to {total}",
            )


class _Runs:
    """Starts and kills the processes of the two runs."""

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        steps: int,
        options: WorkerOptions,
        on_life: Callable[[str], None],
    ) -> None:
        self._task = Task(
            experiment=to_yaml(experiment),
            manifest=str(folder / "manifest.parquet"),
            folder="",
            store="",
            trace="",
            rank=0,
            workers=1,
            steps=steps,
            kill=Kill(),
            options=options,
            plugins=loaded_plugins(),
        )
        self._folder = folder
        self._on_life = on_life

    def run(
        self, name: str, kills: Sequence[Kill], counts: Sequence[int]
    ) -> tuple[list[list[list[StepRecord]]], list[Kill]]:
        """Train to the last step in as many lives as the kills cut it into: their steps, the kills made."""
        lives: list[list[list[StepRecord]]] = []
        made: list[Kill] = []
        workers = cycle(counts)
        for kill in [*kills, Kill()]:
            folder = self._folder / name / f"life-{len(lives)}"
            folder.mkdir(parents=True)
            count = next(workers)
            self._on_life(f"{name} run: start {len(lives) + 1}, {count} worker{'s' * (count > 1)}")
            was_killed = self._live(folder, kill, count)
            lives.append([list(read_trace(folder / f"trace-{rank}")) for rank in range(count)])
            if not was_killed:  # it reached its last step
                break
            made.append(kill)
        return lives, made

    def _live(self, folder: Path, kill: Kill, workers: int) -> bool:
        """One life of a run; returns whether it was killed. Raises KinerayError."""
        common = replace(
            self._task, folder=str(folder.parent), store=str(folder / "store"), workers=workers, kill=kill
        )
        processes = [
            self._start(folder, replace(common, rank=rank, trace=str(folder / f"trace-{rank}")))
            for rank in range(workers)
        ]
        try:
            for process in processes:
                if process.wait():  # the others would wait for it in vain
                    break
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        for rank, process in enumerate(processes):
            if process.returncode > 0 or (process.returncode and not kill.moment):
                raise _failure(process.returncode, (folder / f"stderr-{rank}").read_text())
        return any(process.returncode for process in processes)

    def _start(self, folder: Path, task: Task) -> "subprocess.Popen[bytes]":
        path = folder / f"task-{task.rank}.json"
        path.write_text(task.to_json())
        with (folder / f"stderr-{task.rank}").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "kineray.training.resume_check.worker", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )


def _failure(code: int, stderr: str) -> KinerayError:
    """The error with which a worker ended."""
    last = (stderr.strip().splitlines() or [f"a worker ended with {code}"])[-1]
    return from_json(last) if code == FAILED else KinerayError(last, code="worker_exception")


def _ignore(_: str) -> None:
    """Drop a line about a start."""
