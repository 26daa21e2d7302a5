"""The process of a sweep that was started in the background."""

import json
import sys

from kineray.config import from_yaml, space_from_plain
from kineray.data import load_manifest
from kineray.orchestration.life import alive
from kineray.orchestration.messages import SweepTask
from kineray.orchestration.search import TASK, CheckedSweep, run_sweep
from kineray.storage import join, read_bytes


def main(folder: str, name: str, mode: str) -> None:
    """Run the sweep ``name``, which is described in its ``folder``. ``mode``: ``new`` or ``resume``."""
    with alive(folder):
        task = SweepTask.from_json(read_bytes(join(folder, TASK)).decode())
        for plugin in task.plugins:
            plugin.execute()
        experiment = from_yaml(task.experiment)
        sweep = CheckedSweep(
            experiment,
            space_from_plain(json.loads(task.space)),
            load_manifest(experiment.data.manifest or ""),
            task.storage,
            task.settings,
            task.options,
        )
        run_sweep(sweep, name=name, resume=mode == "resume", in_background=True, command=sys.argv)


if __name__ == "__main__":
    main(*sys.argv[1:])
