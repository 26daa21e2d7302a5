"""A user's own variants, those of examples/, through real workers, trials and replicas."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file

import kineray as package
from conftest import plugins_of_its_own
from kineray.cli import run
from kineray.config import load_plugins, to_yaml
from kineray.errors import CheckpointError
from kineray.tracking import get_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_cluster", "own_plugins"),
]

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("frame_mix.py", "grayscale.py", "poly.py", "tsm.py")
PLUGINS = tuple(word for name in NAMES for word in ("--plugin", str(EXAMPLES / name)))
CHANGES = (
    *("model.type=tsm", "model.shift=0.25", "task.loss.type=poly", "task.loss.epsilon=1"),
    *("recipe.frame_mix.alpha=1", "data.augment.grayscale.probability=0.5"),
)


def kineray(*words):
    """Run a command in this process: (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    streams = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with streams[0], streams[1], pytest.raises(SystemExit) as stopped:
        run(words)
    return stopped.value.code, out.getvalue(), err.getvalue()


def answer(*words):
    """The JSON that a command prints."""
    code, out, err = kineray(*words, "--json")
    assert code == 0, err
    return json.loads(out)


def assert_bit_identical(left, right):
    a, b = (load_file(Path(checkpoint) / "model.safetensors") for checkpoint in (left, right))
    assert a.keys() == b.keys()
    assert [key for key in a if not (a[key] == b[key]).all()] == []


@pytest.fixture(scope="module")
def folder(tiny_experiment, tmp_path_factory):
    """Where the commands run: it holds the experiment, and the runs."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "tiny.yaml").write_text(to_yaml(tiny_experiment))
    with contextlib.chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def train(folder):
    return ("train", "tiny.yaml", *CHANGES, *PLUGINS, "--workers", "2", "--checkpoint-every", "2")


@pytest.fixture(scope="module")
def trained(folder, train, ray_cluster):
    """The run ``own``, uninterrupted: its last checkpoint, and what the command said."""
    with plugins_of_its_own():
        code, _, err = kineray(*train, "--name", "own")
    assert code == 0, err
    return get_run(str(folder / "runs"), "own").last_checkpoint, err


def test_the_run_records_its_plugins_and_the_commands_that_come_next_name_them(trained, folder):
    checkpoint, err = trained
    assert set(json.loads(Path(checkpoint, "state.json").read_text())["plugins"]) == set(NAMES)
    tags = get_run(str(folder / "runs"), "own").tags
    assert {name.removeprefix("plugin.") for name in tags if name.startswith("plugin.")} == set(NAMES)
    shown, evaluated, promoted = err.partition("next:\n")[2].splitlines()
    assert shown.strip() == "kineray runs show own"
    for line in (evaluated, promoted):
        assert set(line.split()) >= set(PLUGINS), line


def test_a_run_of_plugins_that_is_killed_goes_on_exactly(trained, train, folder, on_cluster):
    command = [sys.executable, "-m", "kineray", *train, "--name", "killed"]
    first = subprocess.Popen(
        command, cwd=folder, env=on_cluster, stderr=subprocess.DEVNULL, start_new_session=True
    )
    index = folder / "runs/killed/checkpoints/index.json"
    deadline = time.monotonic() + 240
    while not index.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    stopped_at = json.loads(index.read_text())["last"]
    outcome = answer(*train, "--name", "killed", "--resume")
    assert Path(outcome["last_checkpoint"]).name != stopped_at
    assert_bit_identical(outcome["last_checkpoint"], trained[0])


def test_fields_of_plugins_are_searched(folder):
    space = ("--search", "model.shift=0.125,0.5", "--search", "recipe.frame_mix.alpha=log:0.2:2")
    short = ("train.epochs=1", "schedule.warmup_epochs=0")
    searched = ("model.shift", "recipe.frame_mix.alpha")
    changes = (change for change in CHANGES if not change.startswith(searched))
    found = answer("sweep", "tiny.yaml", *changes, *short, *PLUGINS, *space, "--trials", "2")
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 2
    assert {float(trial["params"]["model.shift"]) for trial in found["trials"]} == {0.125, 0.5}


def test_its_checkpoint_is_evaluated_exported_and_asked(trained, folder, motion_manifest):
    video = package.load_manifest(motion_manifest).split("val")[0].uri
    evaluation = answer("eval", "own", "--views", "1", "--crops", "1", *PLUGINS)
    assert evaluation["metrics"]["action/top1"] >= 0 and not evaluation["failures"]
    exported = answer("export", "own", "--out", "own.pt2", *PLUGINS)
    assert exported["difference"] < 1e-4
    predicted = answer("predict", "own", video, *PLUGINS)
    assert len(predicted["predictions"]["action"]) == 4


def test_without_its_plugins_a_checkpoint_is_refused(trained, folder, tmp_path):
    for command in (("eval",), ("export", "--out", "x.pt2"), ("promote",)):
        code, out, err = kineray(command[0], "own", *command[1:])
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "--plugin frame_mix.py" in err
    (tmp_path / "frame_mix.py").write_text((EXAMPLES / "frame_mix.py").read_text() + "\n# another version\n")
    load_plugins(tmp_path / "frame_mix.py", *(EXAMPLES / name for name in NAMES[1:]))
    with pytest.raises(CheckpointError) as error:
        package.load_checkpoint("runs/own")
    assert error.value.code == "plugin_differs" and "frame_mix.py" in str(error.value)


def test_a_replica_answers_with_it(trained, folder, motion_manifest):
    video = package.load_manifest(motion_manifest).split("val")[0].uri
    code, _, err = kineray("promote", "own", *PLUGINS)
    assert code == 0 and set(err.splitlines()[-2].split()) >= {"serve", *PLUGINS}, err
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "kineray", "serve", "--port", str(port), *PLUGINS]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as service:
        try:
            said = []
            for line in service.stderr:
                said.append(line)
                if line.startswith("serving "):
                    break
            else:
                pytest.fail("".join(said))
            url = f"http://127.0.0.1:{port}/v1/predict"
            response = httpx.post(url, content=Path(video).read_bytes(), timeout=60)
        finally:
            service.terminate()
            service.stderr.read()
    assert response.status_code == 200, response.text
    expected = answer("predict", "own", video, *PLUGINS)["predictions"]["action"]
    for served, offline in zip(response.json()["predictions"]["action"], expected, strict=True):
        assert served["label"] == offline["label"]
        assert served["score"] == pytest.approx(offline["score"], abs=1e-5)


SCRIPT = """
import numpy as np
from torch import nn

import kineray


class PlainConfig(kineray.ModelSection, type="plain"):
    width: int = 8

    def build(self, heads, in_channels=3):
        return Plain(self, heads, in_channels)


class Plain(nn.Module):
    def __init__(self, config, heads, in_channels):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(in_channels, config.width, 3, stride=(1, 2, 2), padding=1),
            nn.BatchNorm3d(config.width),
            nn.ReLU(),
            nn.AdaptiveAvgPool3d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
        )
        self.heads = nn.ModuleDict({head: nn.Linear(config.width, n) for head, n in heads.items()})

    def forward(self, clips):
        features = self.features(clips)
        return {head: classify(features) for head, classify in self.heads.items()}


class NegativeConfig(kineray.ClipAugmentation, type="negative"):
    probability: float = 0.5

    def augment(self, clip_thwc, rgb_channels, rng):
        return 255 - clip_thwc if rng.random() < self.probability else clip_thwc


experiment = kineray.apply_overrides(
    EXPERIMENT,
    ["name=mine", "model.type=plain", "data.augment.negative=on", "train.epochs=2"],
)

if __name__ == "__main__":
    kineray.main(experiment)
"""


def test_a_script_brings_its_own_variants(folder, tiny_experiment, on_cluster):
    """As a program, and as what ``kineray train`` is given: one run in two places."""
    data = ", ".join(f"{name}={value!r}" for name, value in tiny_experiment.data if name != "augment")
    base = (
        f"kineray.Experiment(data=kineray.DataConfig({data}), "
        "schedule=kineray.CosineConfig(warmup_epochs=1, warmup_start=0.1), "
        "train=kineray.TrainConfig(epochs=3, global_batch=16, bn_group=4))"
    )
    (folder / "mine.py").write_text(SCRIPT.replace("EXPERIMENT", base))
    options = ("--workers", "1", "--name")
    program = [sys.executable, "mine.py", *options, "by-program"]
    done = subprocess.run(program, env=on_cluster, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1].strip() == "kineray promote by-program --plugin mine.py"
    by_verb = answer("train", "mine.py", *options, "by-verb")
    runs = [get_run(str(folder / "runs"), name) for name in ("by-program", "by-verb")]
    assert runs[0].fingerprint == runs[1].fingerprint
    assert_bit_identical(runs[0].last_checkpoint, by_verb["last_checkpoint"])
    assert answer("eval", "by-program", "--plugin", "mine.py", "--views", "1", "--crops", "1")["metrics"]


def test_a_plugin_of_several_files_reaches_workers_and_trials(folder, tmp_path):
    """Its folder is not on the path of any process, and its layers are imported when the model is built."""
    source = (EXAMPLES / "tsm.py").read_text()
    package = tmp_path / "my_models"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "layers.py").write_text(source.replace('type="tsm"', 'type="unused"'))
    (package / "tsm.py").write_text(PACKAGED)
    plugin = ("--plugin", str(package / "tsm.py"))
    model = ("model.type=packaged", "train.epochs=1", "schedule.warmup_epochs=0")
    outcome = answer("train", "tiny.yaml", *model, *plugin, "--workers", "1", "--name", "packaged")
    state = json.loads(Path(outcome["last_checkpoint"], "state.json").read_text())
    assert list(state["plugins"]) == ["my_models.tsm"]
    assert answer("eval", "packaged", *plugin, "--views", "1", "--crops", "1")["metrics"]
    found = answer("sweep", "tiny.yaml", *model, *plugin, "--search", "optim.lr=0.01,0.02", "--trials", "1")
    assert [trial["state"] for trial in found["trials"]] == ["finished"]


PACKAGED = """
import kineray


class PackagedConfig(kineray.ModelSection, type="packaged"):
    shift: float = 0.25
    width: int = 8
    dropout: float = 0.5

    def build(self, heads, in_channels=3):
        from .layers import Tsm

        return Tsm(self, heads, in_channels)
"""


def test_an_augmentation_that_fails_is_named_with_its_line(tiny_experiment, folder, tmp_path):
    text = (EXAMPLES / "grayscale.py").read_text()
    line = 1 + next(number for number, line in enumerate(text.splitlines()) if "np.rint" in line)
    (tmp_path / "grayscale.py").write_text(text.replace("@ LUMA", "@ LUMA[:2]"))
    words = ("train", "tiny.yaml", "data.augment.grayscale.probability=1", "--workers", "1", "--name", "bad")
    code, _, err = kineray(*words, "--plugin", str(tmp_path / "grayscale.py"))
    assert code == 2
    assert err.splitlines()[-1].startswith("kineray: data.augment.grayscale: ValueError: matmul"), err
    assert f"({tmp_path / 'grayscale.py'}:{line} in augment)" in err.splitlines()[-1]
