"""What one process of a checked run does, and the trace that it leaves."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from kineray.config import Plugin
from kineray.options import WorkerOptions
from kineray.training.plan import Step, StepPlan

Moment = Literal["", "step", "first_step", "saving", "epoch_end"]


@dataclass(frozen=True)
class Kill:
    """When SIGKILL ends a run.

    ``moment``: after the update of step number ``step`` (from 1 on), before anything is saved (``step``);
    after the first step that is made since the last start (``first_step``); while the next checkpoint is
    written (``saving``); after the last step of an epoch, before its validation (``epoch_end``); never (the
    empty string).
    """

    moment: Moment = ""
    step: int = 0

    def is_after(self, step: Step) -> bool:
        """Whether the process ends when it has made ``step``."""
        match self.moment:
            case "step":
                return step.index + 1 >= self.step
            case "epoch_end":
                return step.is_validated
            case moment:
                return moment == "first_step"

    def __str__(self) -> str:
        named = {
            "": "never",
            "step": f"in step {self.step}",
            "first_step": "in the first step after a resume",
            "saving": "while it wrote a checkpoint",
            "epoch_end": "at the end of an epoch",
        }
        return named[self.moment]


@dataclass(frozen=True)
class Task:
    """One of the ``workers`` processes of one life of a run: from a start to a kill, or to the last step.

    ``experiment``: YAML; ``manifest``: path; ``folder``: of the run; ``store``: the file by which the
    processes find each other; ``trace``: the file to which the steps are written; ``steps``: of the run.
    """

    experiment: str
    manifest: str
    folder: str
    store: str
    trace: str
    rank: int
    workers: int
    steps: int
    kill: Kill
    options: WorkerOptions
    plugins: tuple[Plugin, ...]

    def to_json(self) -> str:
        """One JSON object, which ``from_json`` reads."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The task that ``to_json`` wrote."""
        values = json.loads(text)
        return cls(
            **values
            | {
                "kill": Kill(**values["kill"]),
                "options": WorkerOptions(**values["options"]),
                "plugins": tuple(map(Plugin.from_json, values["plugins"])),
            }
        )


@dataclass(frozen=True)
class StepRecord:
    """A step as one worker made it.

    ``ids``: samples of its clips, in their order; ``loss``: that of the global batch; ``random``: hash of
    torch's random state after the step.
    """

    step: int
    ids: tuple[str, ...]
    loss: float
    lr: float
    random: str


def write_record(path: Path, made: StepRecord) -> None:
    """Add a line to a trace."""
    with path.open("a") as file:
        file.write(json.dumps(dataclasses.asdict(made)) + "\n")


def read_trace(path: Path) -> Iterator[StepRecord]:
    """The steps in a trace, as far as it was written."""
    lines = path.read_text().splitlines() if path.exists() else []
    for line in lines:
        try:
            values: dict[str, Any] = json.loads(line)
        except ValueError:  # the process was killed while it wrote
            return
        yield StepRecord(**values | {"ids": tuple(values["ids"])})


@dataclass(frozen=True)
class FirstSteps:
    """The first ``steps`` steps of another plan; the last of them is validated."""

    plan: StepPlan
    steps: int

    @property
    def total_steps(self) -> int:
        """How many steps the run has."""
        return min(self.steps, self.plan.total_steps)

    def at(self, index: int) -> Step:
        """The step of this number, from 0 on."""
        step = self.plan.at(index)
        return dataclasses.replace(step, is_validated=True) if index + 1 == self.total_steps else step


def planned_kills(kill_at: Sequence[int]) -> list[Kill]:
    """The kills of a check: in the given steps, and then where loaders and checkpoints fail most easily."""
    return [
        *(Kill("step", step) for step in sorted(kill_at)),
        Kill("first_step"),
        Kill("saving"),
        Kill("epoch_end"),
        Kill("first_step"),
    ]
