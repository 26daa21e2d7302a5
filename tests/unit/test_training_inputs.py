"""What goes wrong with the data, the model or its initial weights is found before Ray starts."""

import json
from functools import partial
from pathlib import Path

import pytest

from kineray.config import LogUniform, apply_overrides, load_plugins
from kineray.data import load_manifest, save_manifest
from kineray.errors import CheckpointError, ConfigError, ManifestError
from kineray.orchestration import sweep, train
from kineray.orchestration.probing import probing
from kineray.training.inputs import check_data
from kineray.training.probe import probe
from kineray.training.references import checkpoint_in, find_checkpoint
from small_checkpoint import save_small_checkpoint

LABELS = {"action": ("a", "b", "c", "d")}


def refused(kind, code, key):
    """A context in which exactly this error is raised, in one line."""
    return pytest.raises(
        kind, check=lambda error: (error.code, error.key) == (code, key) and "\n" not in str(error)
    )


def rewritten(manifest_path, folder, change):
    """A copy of a manifest whose samples are changed."""
    from dataclasses import replace

    manifest = load_manifest(manifest_path)
    save_manifest(manifest.with_samples(replace(s, **change(s)) for s in manifest), folder / "m.parquet")
    return str(folder / "m.parquet")


STARTS = [train, partial(sweep, space={"optim.lr": LogUniform(0.1, 1)})]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize(
    ("change", "code", "key"),
    [
        ({"data.manifest": "absent/manifest.parquet"}, "not_found", "data.manifest"),
        ({"data.manifest": __file__ + ".parquet"}, "not_found", "data.manifest"),
        ({"data.heads": "verb"}, "unknown_value", "data.heads"),
        ({"data.modality": "flow", "data.mean": "0.5,0.5", "data.std": "1,1"}, "no_flow", "data.manifest"),
        ({"train.global_batch": 64}, "batch_larger_than_epoch", "train.global_batch"),
        ({"task.type": "multi_label"}, "wrong_labels", "task.type"),
        (
            {"model.type": "two_stream", "model.rgb.alpha": 4, "model.flow.alpha": 4},
            "wrong_shape",
            "data.modality",
        ),
        ({"model.init": "absent.pyth"}, "weights_not_usable", "model.init"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_starts(start, change, code, key, tiny_experiment, tmp_path):
    kind = ManifestError if key == "data.manifest" else ConfigError
    with refused(kind, code, key):
        start(apply_overrides(tiny_experiment, change), storage=str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda sample: {"split": "train"}, "empty_split"),
        (lambda sample: {"split": "val"}, "empty_split"),
        (lambda sample: {"labels": {"action": -1}}, "no_labels"),
        (lambda sample: {"labels": {"action": -1}} if sample.split == "val" else {}, "no_labels"),
    ],
)
def test_a_manifest_without_a_split_or_its_labels_is_named(change, code, tiny_experiment, tmp_path):
    path = rewritten(tiny_experiment.data.manifest, tmp_path, change)
    experiment = apply_overrides(tiny_experiment, {"data.manifest": path})
    with refused(ManifestError, code, "data.manifest") as raised:
        check_data(experiment, load_manifest(path))
    assert raised.value.value == path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with a checkpoint, as a storage holds it."""
    folder = tmp_path_factory.mktemp("runs") / "good"
    save_small_checkpoint(folder / "checkpoints", seed=5)
    (folder / "run.json").write_text(json.dumps({"run_id": "f" * 32}))
    return folder


def test_a_run_is_found_by_name_id_and_folder(run, tmp_path):
    storage = str(run.parent)
    for reference in ("good", "f" * 32, str(run), run):
        assert find_checkpoint(reference, storage) == str(run)
    step = f"{run}/checkpoints/step-00000001"
    assert {checkpoint_in(str(place)) for place in (run, run / "checkpoints", step)} == {step}
    with refused(CheckpointError, "unknown_checkpoint", "godo") as raised:
        find_checkpoint("godo", storage)
    assert "good" in raised.value.remedy
    with refused(CheckpointError, "unknown_checkpoint", "e" * 32):
        find_checkpoint("e" * 32, storage)


def of_small(tiny_experiment, **more):
    return apply_overrides(tiny_experiment, {"model.dropout": 0, **more})


def test_weights_that_fit_are_accepted_and_others_refused_without_loading_them(
    tiny_experiment, run, tmp_path
):
    good = f"{run}/checkpoints/step-00000001"
    probe(of_small(tiny_experiment, **{"model.init": good}), LABELS)
    (tmp_path / "text.safetensors").write_text("not a tensor")
    (tmp_path / "folder").mkdir()
    for change in (
        {"model.init": str(tmp_path / "text.safetensors")},
        {"model.init": str(tmp_path / "folder")},
        {"model.init": good, "model.width": 16},
        {"model.init": good, "model.stage_blocks": "1,2,1,1"},
        {"model.init": good, "model.type": "r2plus1d"},
        {"model.init": "torchvision:no_such_network"},
    ):
        with refused(ConfigError, "weights_not_usable", "model.init"):
            probe(apply_overrides(tiny_experiment, change), LABELS)


def test_a_layer_that_the_network_does_not_have_is_refused(tiny_experiment):
    cut = {"model.type": "frame", "model.backbone": "resnet18", "model.cut": "layer9"}
    experiment = apply_overrides(tiny_experiment, cut)
    assert experiment.model.names_layers and not tiny_experiment.model.names_layers
    with refused(ConfigError, "unknown_value", "model.cut"):
        probe(experiment, LABELS)


MODEL = """
import torch
from torch import nn
from kineray.config import ModelSection


class OwnConfig(ModelSection, type="own"):
    mistake: str = "none"

    def build(self, heads, in_channels=3):
        return Own(self.mistake, heads["action"])


class Own(nn.Module):
    def __init__(self, mistake, classes):
        super().__init__()
        self.mistake = mistake
        self.head = nn.Linear(3 * 32 * 32, classes)  # clips of 3 channels with a side of 32

    def forward(self, clips_bcthw):
        if self.mistake == "distributed":
            torch.distributed.get_rank()
        if self.mistake == "values":
            clips_bcthw.mean().item()
        logits = self.head(clips_bcthw.mean(2).flatten(1))
        return logits if self.mistake == "no head" else {"action": logits}
"""


def test_clips_that_a_users_model_does_not_take_are_refused(tiny_experiment, tmp_path, own_plugins):
    (tmp_path / "own.py").write_text(MODEL)
    load_plugins(tmp_path / "own.py")
    own = apply_overrides(tiny_experiment, {"model.type": "own"})
    probe(own, LABELS)
    for needs_more in ("distributed", "values"):  # left to the workers
        probe(apply_overrides(own, {"model.mistake": needs_more}), LABELS)
    for change in (
        {"data.crop": 30},
        {"data.eval_crop": 36},
        {"data.modality": "rgb_flow", "data.mean": "0,0,0,0,0", "data.std": "1,1,1,1,1"},
    ):
        with refused(ConfigError, "model_refuses_clip", "model.type"):
            probe(apply_overrides(own, change), LABELS)
    with refused(ConfigError, "wrong_shape", "model.type"):
        probe(apply_overrides(own, {"model.mistake": "no head"}), LABELS)


@pytest.mark.slow
def test_the_check_runs_in_a_process_of_its_own(tiny_experiment, tmp_path, own_plugins):
    (tmp_path / "own.py").write_text(f"print('a line')\n{MODEL}")
    load_plugins(tmp_path / "own.py")
    own = apply_overrides(tiny_experiment, {"model.type": "own", "data.crop": 30})
    preprocessing = check_data(own, load_manifest(own.data.manifest)).preprocessing
    with probing(own, preprocessing) as check, refused(ConfigError, "model_refuses_clip", "model.type"):
        check.result()
    with probing(tiny_experiment, preprocessing) as check:  # the configuration tells: there is no process
        check.result()
        assert check._process is None
    with probing(own, preprocessing) as check:
        check.end()
        check.result()
    assert Path(f"/proc/{check._process.pid}").exists() is False
