"""How fast this machine trains: the update of a worker, without its decoders, in processes of their own.

As many processes as workers share the machine run at the same time, each with its part of the cores.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from kineray.config import Experiment, Plugin, from_yaml, loaded_plugins, to_yaml
from kineray.data import Batch, load_manifest
from kineray.errors import KinerayError, from_json, to_json
from kineray.planning.workload import Measured
from kineray.threads import wait_without_spinning


def measured_here(
    experiment: Experiment,
    device: str,
    workers: Sequence[int],
    cores: int,
    *,
    micro_batch: int,
    activation_checkpointing: bool,
    seconds: float,
) -> Measured:
    """Seconds of a clip and of an update in each of ``workers`` processes that share ``cores``.

    ``device``: torch's. On a GPU a worker has one for itself, so one is measured. Raises KinerayError as
    training does.
    """
    clip_s, update_s = {}, {}
    counts = [1] if device != "cpu" else sorted({min(count, cores) for count in workers})
    for count in counts:
        task = {
            "experiment": to_yaml(experiment),
            "plugins": [plugin.to_json() for plugin in loaded_plugins()],
            "device": device,
            "threads": max(cores // count, 1),
            "micro_batch": micro_batch,
            "activation_checkpointing": activation_checkpointing,
            "seconds": seconds / len(counts),
        }
        answers = _together(count, json.dumps(task))
        clip_s[count] = statistics.mean(answer["clip_s"] for answer in answers)
        update_s[count] = statistics.mean(answer["update_s"] for answer in answers)
    return Measured(clip_s, update_s, on_cpu=device == "cpu")


def _together(count: int, task: str) -> list[dict[str, Any]]:
    """The answers of ``count`` processes that measure ``task`` at the same time."""
    wait_without_spinning()  # they inherit it, as workers do
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "kineray.planning.training_speed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # until it sets its own number
            text=True,
        )
        for _ in range(count)
    ]
    try:
        for child in children:
            _tell(child, task)
        for child in children:
            _hear(child)  # it is ready
        for child in children:
            _tell(child, "go")
        return [_hear(child) for child in children]
    finally:
        for child in children:
            child.kill()
            child.communicate()


def _tell(child: "subprocess.Popen[str]", line: str) -> None:
    assert child.stdin is not None
    child.stdin.write(f"{line}\n")
    child.stdin.flush()


def _hear(child: "subprocess.Popen[str]") -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise KinerayError(
            f"the process that measures training ended with {child.wait()}",
            code="measurement_ended",
            remedy="use a smaller `micro_batch`, or a `device` that is looked up",
        )
    answer: dict[str, Any] = json.loads(line)
    if "error" in answer:
        raise from_json(answer["error"])
    return answer


# -- in such a process --------------------------------------------------------------------------------


def _main() -> None:
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a plug-in prints is no answer

    def answer(value: dict[str, Any]) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    task = json.loads(sys.stdin.readline())
    try:
        run = _prepared(task)
        answer({})
        sys.stdin.readline()
        answer(_measured(run, task["seconds"]))
    except KinerayError as error:
        answer({"error": to_json(error)})


class _Run:
    """Seconds of a step of some batch-norm groups; ``group``: clips of one."""

    def __init__(self, seconds_of: Callable[[int], float], group: int) -> None:
        self.seconds_of = seconds_of
        self.group = group


def _prepared(task: dict[str, Any]) -> _Run:
    import torch

    from kineray.models import checkpoint_activations
    from kineray.training.inputs import preprocessing_of
    from kineray.training.optim import build_optimizer
    from kineray.training.plan import ExperimentPlan
    from kineray.training.recipe import Recipe
    from kineray.training.step import Stepper
    from kineray.training.synchronise import Workers

    torch.set_num_threads(task["threads"])
    for text in task["plugins"]:
        Plugin.from_json(text).execute()
    experiment, device = from_yaml(task["experiment"]), torch.device(task["device"])
    manifest = load_manifest(experiment.data.manifest)
    train_set = manifest.split("train")
    preprocessing = preprocessing_of(experiment, train_set, manifest.split("val"))
    model_task = experiment.task.build(preprocessing.labels)
    model_task.begin(train_set)
    recipe = Recipe(experiment)
    model = model_task.build_model(experiment.model, preprocessing.channels)
    if task["activation_checkpointing"]:
        checkpoint_activations(model)
    model = model.to(device)
    optimizer = build_optimizer(model, experiment.optim, recipe.factors(model))
    recipe.begin(model)
    stepper = Stepper(
        experiment, model, optimizer, preprocessing, model_task, recipe, workers=Workers(), device=device
    )
    first = ExperimentPlan(experiment, max(len(train_set), experiment.train.global_batch)).at(0)
    size = max(task["micro_batch"] // first.bn_group, 1) * first.bn_group
    shape = (size, first.clip.frames, first.clip.crop, first.clip.crop, preprocessing.channels)
    clips_bthwc = torch.randint(0, 256, shape, dtype=torch.uint8)
    samples = [train_set[index % len(train_set)] for index in range(size)]
    batch = Batch(0, clips_bthwc, model_task.targets(samples), tuple(s.id for s in samples), ())

    def seconds_of(micro_batches: int) -> float:
        clips = micro_batches * size
        step = replace(first, global_batch=clips, lr=0.0)
        began = time.perf_counter()
        stepper.run(step, range(clips), iter([batch] * micro_batches))
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return _Run(seconds_of, size)


def _measured(run: _Run, seconds: float) -> dict[str, Any]:
    """Seconds of a clip, and of what a step takes besides its micro-batches."""
    run.seconds_of(1)  # allocates memory and chooses kernels
    one: list[float] = []
    three: list[float] = []
    began = time.perf_counter()
    while not one or time.perf_counter() - began < seconds:
        one.append(run.seconds_of(1))
        three.append(run.seconds_of(3))
    micro_batch_s = max((statistics.median(three) - statistics.median(one)) / 2, 0.0)
    update_s = max(statistics.median(one) - micro_batch_s, 0.0)
    return {"clip_s": micro_batch_s / run.group, "update_s": update_s}


if __name__ == "__main__":
    _main()
