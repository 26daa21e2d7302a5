"""The core works elsewhere: no Ray, no MLflow, an older torch, a newer Python where there is one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = ROOT / ".venv/bin/uv"
PACKAGES = (
    "torch==2.11.0 torchvision==0.26.0 av boto3 click numpy pyarrow pydantic pyyaml safetensors "
    "hypothesis moto[server] pytest pytest-timeout pytest-xdist pytorchvideo scipy"
)


def another_python():
    """A Python 3.12 of this machine. CI must have one; elsewhere the test is skipped without."""
    places = [shutil.which("python3.12"), *Path.home().glob(".pyenv/versions/3.12*/bin/python")]
    for place in filter(None, places):
        if subprocess.run([place, "--version"], capture_output=True, check=False).returncode == 0:
            return str(place)
    missing = "no Python 3.12: neither python3.12 on the PATH nor ~/.pyenv/versions/3.12*"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_core_runs_without_ray_on_an_older_torch(tmp_path):
    python = tmp_path / "venv/bin/python"
    subprocess.run([UV, "venv", "--quiet", "--python", another_python(), tmp_path / "venv"], check=True)
    constraints = (ROOT / "requirements.lock").read_text().splitlines()
    constrained = {package.partition("[")[0] for package in PACKAGES.split() if "==" not in package}
    (tmp_path / "constraints.txt").write_text(
        "\n".join(line for line in constraints if line.split("==")[0] in constrained)
    )
    install = [
        UV,
        "pip",
        "install",
        "--no-config",  # pyproject.toml holds torch to the release of the lock
        "--quiet",
        "--python",
        python,
        "--constraint",
        tmp_path / "constraints.txt",
    ]
    subprocess.run([*install, *PACKAGES.split()], check=True)
    parts = ("data_loader", "models_all", "training_loop", "training_step")
    tests = [ROOT / f"tests/unit/test_{part}.py" for part in parts]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform")}
    subprocess.run(
        [python, "-c", "import kineray.video, kineray.data, kineray.models"], env=environment, check=True
    )
    missing = subprocess.run([python, "-c", "import ray"], capture_output=True, check=False)
    assert missing.returncode != 0
    done = subprocess.run(
        [python, "-m", "pytest", "-m", "not slow", "-n", "auto", "-p", "no:cacheprovider", *tests],
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert done.returncode == 0
