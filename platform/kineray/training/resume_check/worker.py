"""The process of one worker of a checked run: ``python -m kineray.training.resume_check.worker TASK``.

It really gets SIGKILL, from itself, so that nothing of it can end in an orderly way.
"""

import hashlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from kineray.config import from_yaml
from kineray.data import load_manifest
from kineray.errors import KinerayError, to_json
from kineray.storage import join
from kineray.threads import wait_without_spinning
from kineray.training.checkpoint_files import OPTIMIZER
from kineray.training.inputs import check_data
from kineray.training.plan import Step, plan_of
from kineray.training.resume_check.task import FirstSteps, StepRecord, Task, write_record

FAILED = 3  # exit code: stderr is an error as JSON


def run(task: Task) -> None:
    """Train one life of the run. Raises KinerayError."""
    wait_without_spinning()
    import torch
    import torch.distributed as dist

    from kineray.training.checkpoint import CheckpointStore
    from kineray.training.loop import train
    from kineray.training.step import StepResult

    torch.set_num_threads(max((os.cpu_count() or 1) // task.workers, 1))
    for plugin in task.plugins:
        plugin.execute()
    experiment, manifest = from_yaml(task.experiment), load_manifest(task.manifest)
    if task.workers > 1:
        dist.init_process_group(
            "gloo", init_method=f"file://{task.store}", rank=task.rank, world_size=task.workers
        )

    def on_step(step: Step, result: StepResult) -> None:
        random = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()[:16]
        made = StepRecord(step.index + 1, result.ids, result.loss, step.lr, random)
        write_record(Path(task.trace), made)
        if task.kill.is_after(step):
            _die()

    if task.kill.moment == "saving":
        sys.addaudithook(_die_while_saving)
    train(
        experiment,
        manifest.split("train"),
        manifest.split("val"),
        checkpoints=CheckpointStore(join(task.folder, "checkpoints")),
        on_event=lambda _: None,
        rank=task.rank,
        world_size=task.workers,
        options=task.options,
        resume=True,
        plan=FirstSteps(plan_of(experiment, check_data(experiment, manifest).samples), task.steps),
        on_step=on_step,
    )


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _die_while_saving(event: str, arguments: tuple[Any, ...]) -> None:
    """End the process when it opens a file in the middle of a checkpoint."""
    if event == "open" and str(arguments[0]).endswith(OPTIMIZER) and "w" in (arguments[1] or ""):
        _die()


if __name__ == "__main__":
    try:
        run(Task.from_json(Path(sys.argv[1]).read_text()))
    except KinerayError as error:
        sys.stderr.write(to_json(error) + "\n")
        sys.exit(FAILED)
