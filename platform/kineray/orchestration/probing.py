"""The checks that need torch, in a process of their own while Ray starts: the driver imports no torch."""

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kineray.config import Experiment, Plugin, from_yaml, loaded_plugins, to_yaml
from kineray.data import Preprocessing
from kineray.errors import KinerayError, from_json, to_json

log = logging.getLogger(__name__)

_LONGEST_S = 60.0  # from the start; after that, workers find what is wrong


class Probe:
    """A check that runs in the background, or none for an experiment whose configuration tells enough."""

    def __init__(
        self, experiment: Experiment, preprocessing: Preprocessing, checkpoint: str | None = None
    ) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._started = time.monotonic()
        model = experiment.model
        names = model.names_layers or any(piece.names_parameters for piece in experiment.recipe.values())
        if not (checkpoint or model.inits() or model.is_of_plugin or names):
            return
        plugins = [plugin.to_json() for plugin in loaded_plugins()]
        task = {
            "experiment": to_yaml(experiment),
            "labels": preprocessing.labels,
            "checkpoint": checkpoint,
            "plugins": plugins,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kineray.orchestration.probing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:
            pipe.write(json.dumps(task).encode())
        self._process.stdin = None  # so that ``communicate`` leaves it alone

    def result(self) -> None:
        """Raise the KinerayError that the check found, if any. A check that cannot be made finds none."""
        if self._process is None:
            return
        left_s = max(self._started + _LONGEST_S - time.monotonic(), 0.1)
        try:
            answer, _ = self._process.communicate(timeout=left_s)
        except subprocess.TimeoutExpired:
            answer = b""
        if not answer:
            log.debug("the model could not be checked before the start")
        elif (found := json.loads(answer)) is not None:
            raise from_json(found)

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@contextmanager
def probing(
    experiment: Experiment, preprocessing: Preprocessing, checkpoint: str | None = None
) -> Iterator[Probe]:
    """A check of the model and its weights, the initial ones or those of ``checkpoint``, beside the body."""
    probe = Probe(experiment, preprocessing, checkpoint)
    try:
        yield probe
    finally:
        probe.end()


def _main() -> None:
    answer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a plug-in prints is no answer
    task = json.load(sys.stdin)
    for plugin in map(Plugin.from_json, task["plugins"]):
        plugin.execute()
    experiment = from_yaml(task["experiment"])
    problem: KinerayError | None = None
    from kineray.training.probe import probe

    try:
        probe(experiment, task["labels"], task["checkpoint"])
    except KinerayError as error:
        problem = error
    with os.fdopen(answer, "w") as file:
        json.dump(problem and to_json(problem), file)


if __name__ == "__main__":
    _main()
