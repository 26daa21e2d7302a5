"""The script of every study trains its small network on videos that kineray makes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kineray.cli.scripts import load_script
from kineray.config import check_space

STUDIES = Path(__file__).parents[2] / "experiments"
SCRIPTS = sorted(path.stem for path in STUDIES.glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_search_space_fits_the_experiment(name):
    script = load_script(str(STUDIES / f"{name}.py"))
    for experiment in (script.experiment, script.smoke):
        check_space(experiment, script.search_space)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "slowfast"])  # the README runs that one
def test_the_small_network_trains(name, tmp_path):
    command = [
        sys.executable,
        str(STUDIES / f"{name}.py"),
        "--smoke",
        "train.epochs=2",
        "--workers",
        "2",
        "--json",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["step"] == 16 and 0 <= result["best"] <= 1
