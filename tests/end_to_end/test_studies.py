"""The script of every study trains its small network on videos that kineray makes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kineray.cli.scripts import load_script
from kineray.config import apply_overrides, check_space
from kineray.data import load_manifest, synthesize
from kineray.models import find_preset
from kineray.training import CheckpointStore, train

STUDIES = Path(__file__).parents[2] / "experiments"
SCRIPTS = sorted(path.stem for path in STUDIES.glob("*.py"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_search_space_fits_the_experiment(name):
    script = load_script(str(STUDIES / f"{name}.py"))
    for experiment in (script.experiment, script.smoke):
        check_space(experiment, script.search_space)


# Words of the docstrings, which are put behind the script.
STUDIED = [
    (
        "slowfast",
        "model.stage_blocks=3,4,23,3 model.alpha=4 model.nonlocal_res4=6,13,20"
        " model.temporal_blocks_slow=3,4,6,3 model.temporal_blocks_fast=3,4,6,3 data.frames=64",
    ),
    (
        "slowfast",
        "model.alpha=4 model.fusion_kernel=7 train.epochs=239 recipe.multigrid=on recipe.precise_bn=on"
        " schedule.type=steps schedule.decay_epochs=94,154,196 schedule.warmup_epochs=34",
    ),
    ("finetune", "recipe.freeze=on"),
    ("finetune", "recipe.freeze.parameters=*stem.*,*res2.* recipe.freeze.until=5,3"),
    ("finetune", "recipe.layer_decay.decay=0.75"),
    ("finetune", "recipe.ema.decay=0.999"),
    ("s3d", "model.convolutions=full"),
    ("s3d", "model.type=s3d_v3"),
    ("s3d", "model.type=s3d_v3 model.temporal_from=9"),
    ("st_resnet", "model.connection=conv model.position=5_11"),
    ("st_resnet", "model.delays=2 data.frames=3"),
    ("st_resnet", "model.delays=1,2 data.frames=3"),
    ("st_resnet", "train.global_batch=8584 optim.reference_batch=8584"),
    ("st_resnet", "optim.type=rprop train.global_batch=8584"),
    ("st_resnet", "data.stride=2 train.global_batch=4288 optim.reference_batch=4288"),
    ("st_resnet", "data.stride=5 train.global_batch=1720 optim.reference_batch=1720"),
    ("st_resnet", "data.stride=10"),
    ("st_resnet", "data.stride=15 train.global_batch=576 optim.reference_batch=576"),
    (
        "st_resnet",
        "model.type=frame model.init=torchvision:resnet50 model.frozen=true model.dropout=0 optim.lr=0.01"
        " data.sampling=uniform data.frames=16",
    ),
    (
        "st_resnet",
        "model.type=frame model.init=torchvision:resnet50 model.dropout=0 data.sampling=uniform"
        " data.frames=1",
    ),
    (
        "convnets",
        "model.type=c3d data.frames=16 data.short_side=128,128 data.crop=112 data.eval_short_side=128"
        " data.eval_crop=112 optim.lr=0.003 optim.reference_batch=30 train.global_batch=30 train.bn_group=10"
        " train.epochs=16 schedule.type=steps schedule.decay_epochs=4,8,12",
    ),
    (
        "convnets",
        "model.type=frame model.backbone=vgg16 model.init=torchvision:vgg16 data.sampling=segments"
        " data.frames=8 data.mean=0.485,0.456,0.406 data.std=0.229,0.224,0.225 optim.lr=0.01"
        " optim.reference_batch=256 optim.nesterov=false optim.weight_decay=5e-4 train.global_batch=256"
        " train.bn_group=8",
    ),
]


def applied(name, words):
    return apply_overrides(load_script(str(STUDIES / f"{name}.py")).experiment, words.split())


@pytest.mark.parametrize(("name", "words"), STUDIED)
def test_what_a_docstring_gives_can_be_put_behind_the_script(name, words):
    text = " ".join((STUDIES / f"{name}.py").read_text().split())
    assert words in text
    applied(name, words)


def test_the_networks_of_the_studies_are_published_ones():
    by_words = {words: applied(name, words) for name, words in STUDIED}
    found = {words: experiment.model for words, experiment in by_words.items()}
    large = find_preset("slowfast_nl_r101_16x8")
    assert found[STUDIED[0][1]] == large.config and by_words[STUDIED[0][1]].data.frames == large.frames
    for words, name in (
        ("model.type=s3d_v3", "s3d_v3"),
        ("model.type=s3d_v3 model.temporal_from=9", "s3d_v3_top_heavy"),
        ("model.delays=2 data.frames=3", "st_resnet50_special3"),
        ("model.delays=1,2 data.frames=3", "st_resnet50_special3_both"),
    ):
        assert found[words].model_copy(update={"init": ""}) == find_preset(name).config


def test_z_normalised_baselines_are_per_dimension():
    baseline = next(words for _, words in STUDIED if "model.frozen=true" in words)
    for kind in ("average", "gru"):
        words = f"{baseline} model.temporal.type={kind} model.temporal.z_norm=per_dimension model.cut=layer2"
        assert applied("st_resnet", words).model.temporal.z_norm == "per_dimension"


def test_a_step_of_s3d_has_five_videos():
    assert load_script(str(STUDIES / "s3d.py")).experiment.train.global_batch == 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the scripts run: the first makes the videos that all of them use."""
    return tmp_path_factory.mktemp("studies")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in {"slowfast", "finetune"}])
def test_the_small_network_trains(name, folder):
    """As a process of torchrun: that of slowfast.py trains with Ray in the README."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launched = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    changes = ("train.epochs=1", "schedule.warmup_epochs=0")
    command = [sys.executable, str(STUDIES / f"{name}.py"), "--smoke", *changes, "--json"]
    done = subprocess.run(
        command, cwd=folder, env=os.environ | launched, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["step"] == 8 and 0 <= result["best"] <= 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fine_tuning_beats_training_from_scratch_on_little_data(tmp_path):
    torch.set_num_threads(1)

    def best(script, changes, manifest, folder):
        experiment = apply_overrides(load_script(str(STUDIES / f"{script}.py")).smoke, changes)
        experiment = apply_overrides(experiment, {"data.manifest": str(manifest)})
        sets = [load_manifest(manifest).split(name) for name in ("train", "val")]
        checkpoints = CheckpointStore(str(tmp_path / folder))
        result = train(experiment, *sets, checkpoints=checkpoints, on_event=lambda _: None)
        return result.best, checkpoints.best()

    many = synthesize(tmp_path / "many", train=256, val=32)
    few = synthesize(tmp_path / "few", train=16, val=64, seed=1, label="axis")
    _, learned = best("slowfast", {"train.epochs": 6, "train.eval_every_epochs": 3}, many, "before")
    scores = {
        start: best("finetune", {"model.init": init}, few, start)[0]
        for start, init in (("learned", learned), ("scratch", ""))
    }
    assert scores["learned"] > scores["scratch"] + 0.1, scores
