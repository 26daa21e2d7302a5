"""Cached features: the same training to the bit, shared and resumable builds, refusals, small memory."""

import contextlib
import json
import os
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from gloo import run_workers
from slow_cases import slow_after
from torchvision.models import mobilenet_v2

import kineray
from kineray.config import (
    ConvLstmConfig,
    EmaConfig,
    Experiment,
    FrameConfig,
    LabelSmoothingConfig,
    MixupConfig,
    MultigridConfig,
    SgdConfig,
    SlowFastConfig,
    apply_overrides,
    to_yaml,
)
from kineray.data import load_manifest, save_manifest
from kineray.errors import ConfigError, StorageError
from kineray.options import WorkerOptions
from kineray.training import (
    CheckpointStore,
    ReplacedEvent,
    StepEvent,
    ValidationEvent,
    load_checkpoint,
    train,
)
from kineray.training.features import files
from kineray.training.features.files import FeatureFiles, FeatureReader, Origin

MODEL = FrameConfig(
    backbone="mobilenet_v2",
    cut="features.4",
    frozen=True,
    temporal=ConvLstmConfig(filters=4, kernel=3, stride=2),
    dropout=0.5,
)


MULTIGRID = MultigridConfig(long_frames=(0.5, 1), long_crops=(1, 1), short_crops=())

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def experiment(tiny_experiment):
    """2 epochs of 3 steps of 4 batch-norm groups."""
    changes = {"train.epochs": 2, "data.frames": 4, "data.stride": 4, "data.drawn_views": 2}
    experiment = apply_overrides(tiny_experiment.model_copy(update={"model": MODEL}), changes)
    return experiment.model_copy(update={"optim": SgdConfig(lr=0.05, reference_batch=16)})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, whose shards hold few clips."""
    monkeypatch.setenv("KINERAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SHARD_BYTES", 300_000)
    return tmp_path / "cache" / "features"


@pytest.fixture
def command(request):
    """The fixture ``kineray``, whose name is the package's here."""
    return request.getfixturevalue("kineray")


class Stop(Exception):  # noqa: N818 - what a test raises to stop a run
    pass


def run(experiment, folder, *, cached, stop_after=None, rank=0, world_size=1, **more):
    """Train on the manifest of the experiment; returns its events."""
    manifest = load_manifest(experiment.data.manifest)
    events = []

    def on_event(event):
        events.append(event)
        if isinstance(event, StepEvent) and event.step == stop_after:
            raise Stop

    with contextlib.suppress(Stop):
        train(
            experiment,
            manifest.split("train"),
            manifest.split("val"),
            checkpoints=CheckpointStore(str(folder)),
            on_event=on_event,
            options=WorkerOptions(cache_features=cached, checkpoint_every=2),
            resume=True,
            rank=rank,
            world_size=world_size,
            **more,
        )
    return events


def measured(events):
    """Loss and learning rate of every step, metrics of every validation, clips that were replaced."""
    steps = [(event.step, event.loss, event.lr) for event in events if isinstance(event, StepEvent)]
    scores = [(event.step, event.metrics) for event in events if isinstance(event, ValidationEvent)]
    replaced = [(event.step, event.failures) for event in events if isinstance(event, ReplacedEvent)]
    return steps, scores, replaced


def content(folder):
    """Bytes of the last checkpoint: weights and optimizer."""
    last = Path(CheckpointStore(str(folder)).last())
    return {name: (last / name).read_bytes() for name in ("model.safetensors", "optimizer.pt")}


def assert_the_same_to_the_bit(experiment, tmp_path, **more):
    end_to_end = run(experiment, tmp_path / "whole", cached=False)
    cached = run(experiment, tmp_path / "cached", cached=True, **more)
    assert measured(cached) == measured(end_to_end)
    assert content(tmp_path / "cached") == content(tmp_path / "whole")
    return end_to_end


# -- the same training --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    slow_after(
        2,
        [
            {},
            {"data.drawn_views": 0, "model.cut": "", "model.grid": 1, "model.feature_dtype": "float16"},
            {"model.grid": 2, "train.precision": "bfloat16", "model.temporal.type": "lstm"},
            {"data.clips_per_sample": 2, "data.drawn_views": 3, "data.balance": "class"},
            {"data.eval_crop": 36, "model.temporal.type": "average", "recipe.precise_bn": "off"},
            {"data.augment.color_jitter": "on", "train.bn_group": 1, "model.temporal.type": "gru"},
        ],
    ),
)
def test_cached_and_end_to_end_training_are_the_same_to_the_bit(experiment, cache, tmp_path, changes):
    assert_the_same_to_the_bit(apply_overrides(experiment, changes), tmp_path)
    assert [one.clips for one in kineray.list_features()] in (["train", "val"], ["val", "train"])


def test_targets_and_weights_may_still_be_changed_by_the_recipe(experiment, cache, tmp_path):
    recipe = [LabelSmoothingConfig(), EmaConfig()]
    changed = Experiment(
        **{name: getattr(experiment, name) for name in Experiment.model_fields} | {"recipe": recipe}
    )
    assert_the_same_to_the_bit(changed, tmp_path)


def test_as_many_views_as_epochs_are_training_without_views(experiment, cache, tmp_path):
    anew = apply_overrides(experiment, {"data.drawn_views": "none"})
    end_to_end = run(anew, tmp_path / "whole", cached=False)
    assert measured(run(experiment, tmp_path / "cached", cached=True)) == measured(end_to_end)


@pytest.mark.parametrize("stop_after", slow_after(1, [5, 1]))
def test_a_cached_run_resumes_exactly_with_the_cache_and_without(experiment, cache, tmp_path, stop_after):
    whole = measured(run(experiment, tmp_path / "whole", cached=False))[0]
    for first, then in ((True, True), (True, False), (False, True)):
        folder = tmp_path / f"{first}-{then}"
        run(experiment, folder, cached=first, stop_after=stop_after)
        again = measured(run(experiment, folder, cached=then))[0]
        assert again and again == whole[-len(again) :]
        assert content(folder) == content(tmp_path / "whole")


def test_its_checkpoint_is_the_whole_model(experiment, cache, tmp_path):
    run(experiment, tmp_path / "cached", cached=True)
    shutil.rmtree(cache)
    loaded = load_checkpoint(str(tmp_path / "cached"))
    assert any(name.startswith("backbone.") for name in loaded.model.state_dict())
    video = load_manifest(experiment.data.manifest).split("val")[0].uri
    assert sum(one["score"] for one in kineray.predict(loaded, video).predictions["action"]) == pytest.approx(
        1
    )


def test_clips_that_cannot_be_decoded_are_replaced_and_counted_alike(experiment, cache, tmp_path):
    manifest = load_manifest(experiment.data.manifest)
    broken = tmp_path / "text.mp4"
    broken.write_text("no video " * 100)
    bad = {manifest.split("train")[index].id for index in (3, 7)} | {manifest.split("val")[5].id}
    samples = [replace(one, uri=str(broken)) if one.id in bad else one for one in manifest]
    save_manifest(manifest.with_samples(samples), tmp_path / "manifest.parquet")
    changes = {"data.manifest": str(tmp_path / "manifest.parquet"), "data.error_budget": 0.5}
    events = assert_the_same_to_the_bit(apply_overrides(experiment, changes), tmp_path)
    _, scores, replaced = measured(events)
    assert replaced and scores[0][1]["val/undecodable"] == 1
    (train_files,) = [one for one in files.all_features() if one.about["clips"] == "train"]
    assert len(FeatureReader(train_files).origins) == 4  # two views of two samples


def in_two_workers(rank, size, experiment, folder, cached, cache):
    """A run of one of two workers, and how many shards it computed."""
    os.environ["KINERAY_CACHE"] = cache  # the processes are made by one that does not have it
    files.SHARD_BYTES = 300_000
    counted = []
    before = FeatureFiles.write
    FeatureFiles.write = lambda self, shard, *rest: (counted.append(shard), before(self, shard, *rest))[1]
    return measured(run(experiment, Path(folder), cached=cached, rank=rank, world_size=size)), len(counted)


@pytest.mark.slow
def test_workers_share_the_build_and_train_as_they_do_end_to_end(experiment, cache, tmp_path):
    place = str(cache.parent)
    whole = run_workers(in_two_workers, 2, tmp_path / "a", experiment, str(tmp_path / "whole"), False, place)
    cached = run_workers(in_two_workers, 2, tmp_path / "b", experiment, str(tmp_path / "run"), True, place)
    assert cached[0][0] == whole[0][0] and len(cached[0][0][0]) == 6
    shards = sum(len(one.shards) for one in files.all_features())
    assert cached[0][1] + cached[1][1] == shards == 4  # each was computed once


# -- building -----------------------------------------------------------------------------------------


def state_of(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}


def contents_of(folder):
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in folder.rglob("*.npy")}


def test_a_build_is_done_once_and_a_stopped_one_goes_on(experiment, cache, tmp_path, monkeypatch):
    lines = []
    whole = kineray.build_features(experiment, decoders=2, on_message=lines.append)
    assert whole.computed == 48 * 2 + 16 and len(whole.sets) == 2
    assert "112 clips" in lines[0]  # the size is stated first
    assert {one.rows for one in whole.sets} == {96, 16}
    wanted, before = contents_of(cache), state_of(cache)
    assert kineray.build_features(experiment).computed == 0 and state_of(cache) == before

    monkeypatch.setenv("KINERAY_CACHE", str(tmp_path / "other"))
    other = tmp_path / "other" / "features"
    written = []
    write = FeatureFiles.write

    def stops(self, shard, *rest):
        if len(written) == 2:
            self._shard(shard).with_name(".half.tmp").write_bytes(b"half of a shard")
            raise KeyboardInterrupt
        written.append(shard)
        write(self, shard, *rest)

    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(FeatureFiles, "write", stops)
        kineray.build_features(experiment, decoders=2)
    left = {path: path.stat().st_mtime_ns for path in other.rglob("*.npy")}
    assert len(left) == 2
    again = kineray.build_features(experiment, decoders=2)
    assert 0 < again.computed < whole.computed
    assert {path: path.stat().st_mtime_ns for path in left} == left
    assert contents_of(other) == wanted


def test_features_are_those_of_the_backbone(experiment, cache):
    kineray.build_features(experiment, decoders=2)
    torch.manual_seed(experiment.seed)
    model = experiment.model.build({"action": 4}).eval()
    val_set = load_manifest(experiment.data.manifest).split("val")
    (val_files,) = [one for one in files.all_features() if one.about["clips"] == "val"]
    preprocessing = kineray.data.Preprocessing.from_config(experiment.data, val_set.vocabularies)
    for row in (0, 7, 15):
        sample = val_set[row]
        clip, _ = preprocessing.eval_views(sample.uri, sample.start_s, sample.end_s)
        with torch.no_grad():
            frames = preprocessing.normalise(torch.from_numpy(clip))[0].transpose(0, 1)
            maps = torch.stack([model.backbone(frame[None])[0] for frame in frames])
        shard, number = divmod(row, val_files.rows_per_shard)
        np.testing.assert_allclose(val_files.load(shard)[number], maps.numpy(), rtol=1e-4, atol=1e-5)


def key_of_train(experiment, cache):
    before = {one.key for one in kineray.list_features()}
    report = kineray.build_features(experiment, decoders=2)
    return report.sets[0].key, {one.key for one in report.sets} - before


@pytest.mark.parametrize(
    ("changes", "is_other"),
    slow_after(
        4,
        [
            ({"model.cut": "features.3"}, True),
            ({"data.drawn_views": 1}, True),
            ({"model.temporal.type": "lstm", "optim.lr": 0.3, "name": "other", "model.dropout": 0.1}, False),
            ({"model.grid": 1}, True),
            ({"model.feature_dtype": "float16"}, True),
            ({"data.stride": 2}, True),
            ({"data.flip": True}, True),
            ({"data.augment.color_jitter": "on"}, True),
            ({"train.precision": "bfloat16"}, True),
            ({"seed": 1}, True),
        ],
    ),
)
def test_the_key_holds_what_features_depend_on_and_nothing_else(experiment, cache, changes, is_other):
    first, _ = key_of_train(experiment, cache)
    key, new = key_of_train(apply_overrides(experiment, changes), cache)
    assert (key != first) is is_other and bool(new) is is_other


def test_clips_without_a_draw_do_not_depend_on_the_seed(experiment, cache, tmp_path):
    weights = tmp_path / "model.pt"
    torch.manual_seed(3)
    torch.save(mobilenet_v2().state_dict(), weights)
    plain = apply_overrides(experiment, {"data.drawn_views": 0, "model.init": str(weights)})
    assert kineray.build_features(plain, decoders=2).computed == 64
    assert kineray.build_features(apply_overrides(plain, {"seed": 9})).computed == 0


def test_more_than_max_cache_is_refused_before_anything_is_written(experiment, cache):
    with pytest.raises(ConfigError) as error:
        kineray.build_features(experiment, max_cache=10_000)
    assert (error.value.code, error.value.key) == ("cache_too_large", "max_cache")
    assert not list(cache.rglob("*.npy")) and kineray.list_features() == []


def test_features_that_float16_cannot_hold_are_refused(experiment, cache, tmp_path):
    weights = mobilenet_v2().state_dict()
    weights["features.4.conv.3.weight"] *= 1e8
    torch.save(weights, tmp_path / "model.pt")
    changes = {"model.feature_dtype": "float16", "model.init": str(tmp_path / "model.pt")}
    with pytest.raises(ConfigError) as error:
        kineray.build_features(apply_overrides(experiment, changes), decoders=2)
    assert (error.value.code, error.value.key) == ("features_not_finite", "model.feature_dtype")


# -- refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "recipe", "key"),
    [
        ({"model": SlowFastConfig(alpha=4, head_pool=1)}, [], "model.type"),
        ({"model": FrameConfig(backbone="mobilenet_v2")}, [], "model.frozen"),
        ({"drawn_views": None}, [], "data.drawn_views"),
        ({}, [MixupConfig()], "recipe.mixup"),
        ({}, [MULTIGRID], "recipe.multigrid"),
    ],
)
def test_what_cannot_be_cached_is_refused(experiment, cache, tmp_path, changes, recipe, key):
    fields = {name: getattr(experiment, name) for name in Experiment.model_fields} | {"recipe": recipe}
    if "drawn_views" in changes:
        fields["data"] = experiment.data.model_copy(update=changes)
    else:
        fields |= changes
    refused = Experiment(**fields)
    for attempt in (kineray.build_features, lambda one: run(one, tmp_path / "run", cached=True)):
        with pytest.raises(ConfigError) as error:
            attempt(refused)
        assert (error.value.code, error.value.key) == ("not_cacheable", key)
    assert not cache.exists() or not list(cache.iterdir())


# -- proof and damage ---------------------------------------------------------------------------------


def test_features_that_are_not_those_of_their_clips_are_refused(experiment, cache, tmp_path):
    kineray.build_features(experiment, decoders=2)
    for one in files.all_features():
        for path in one.folder.glob("proved-*"):
            path.unlink()
        for shard in one.shards:
            rows = np.array(one.load(shard)) + 1e-3
            one.write(shard, rows, one.note(shard)[2], one.note(shard)[1])
    with pytest.raises(StorageError) as error:
        run(experiment, tmp_path / "run", cached=True)
    assert error.value.code == "features_differ" and Path(error.value.key).parent == cache
    key = Path(error.value.key).name
    assert [one.key for one in kineray.delete_features(key[:6])] == [key]


def test_features_of_another_machine_may_differ_in_their_last_digits(experiment, cache, tmp_path):
    kineray.build_features(experiment, decoders=2)
    for one in files.all_features():
        for path in one.folder.glob("proved-*"):
            path.unlink()
        for shard in one.shards:
            rows = np.nextafter(np.array(one.load(shard)), np.inf, dtype=np.float32)
            one.write(shard, rows, one.note(shard)[2], "another machine")
    assert run(experiment, tmp_path / "run", cached=True)


def test_damaged_shards_are_found_removed_and_computed_again(experiment, cache, command):
    kineray.build_features(experiment, decoders=2)
    wanted = contents_of(cache)
    (one,) = [one for one in files.all_features() if one.about["clips"] == "train"]
    flipped, short = one._shard(0), one._shard(1)
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    short.write_bytes(short.read_bytes()[:-7])
    code, out, _ = command("cache", "verify", "--json")
    assert code == 1
    assert {found["key"]: found["damaged"] for found in json.loads(out)["features"]}[one.key] == [0, 1]
    assert kineray.build_features(experiment, decoders=2).computed == 2 * one.rows_per_shard
    assert contents_of(cache) == wanted
    assert command("cache", "verify")[0] == 0


def test_the_commands_build_list_and_remove(experiment, cache, command, tmp_path):
    (tmp_path / "experiment.yaml").write_text(to_yaml(experiment))
    code, out, err = command("cache", "build", str(tmp_path / "experiment.yaml"), "model.grid=1", "--json")
    assert code == 0 and "112 clips" in err
    built = json.loads(out)
    assert built["computed"] == 112
    listed = json.loads(command("cache", "ls", "--json")[1])["features"]
    assert sorted(listed, key=lambda one: one["key"]) == sorted(built["sets"], key=lambda one: one["key"])
    assert command("cache", "rm")[0] == 2  # neither a key nor --all
    assert command("cache", "rm", listed[0]["key"])[0] == 0
    assert json.loads(command("cache", "ls", "--json")[1])["features"] == listed[1:]
    assert command("cache", "rm", "--all")[0] == 0 and kineray.list_features() == []


def test_unknown_keys_and_foreign_files_are_refused(cache):
    for function in (kineray.verify_features, kineray.delete_features):
        with pytest.raises(ConfigError) as error:
            function("abc")
        assert (error.value.code, error.value.key) == ("unknown_value", "abc")
    (cache / "0123").mkdir(parents=True)
    (cache / "0123" / "index.json").write_text("{}")
    with pytest.raises(StorageError) as error:
        kineray.list_features()
    assert error.value.code == "damaged"


# -- files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_read_as_they_were_written(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(files, "SHARD_BYTES", 500)
    monkeypatch.setattr(files, "_OPEN_FILES", 2)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 3, 5, 2)).astype(dtype)
    made = FeatureFiles(tmp_path / "key", {"clips": "train"}, 50, (3, 5, 2), dtype).create()
    assert made.missing() == list(made.shards) and len(made.shards) > 5
    origin = Origin("b", (kineray.data.Failure("a", "a.mp4", "truncated", "is short"),))
    for shard in made.shards:
        numbers = made.rows_of(shard)
        made.write(shard, rows[numbers.start : numbers.stop], {numbers[0]: origin}, "here")
    opened = FeatureFiles.open(tmp_path / "key")
    assert opened == made and opened.missing() == [] and not any(map(opened.differs, opened.shards))
    reader = FeatureReader(opened)
    assert reader.origins == {opened.rows_of(shard)[0]: origin for shard in opened.shards}
    order = rng.permutation(50).tolist()
    out = np.empty((50, 3, 5, 2), np.float32)
    for part in pairwise([*range(0, 50, 7), 50]):
        reader.read(order[slice(*part)], out[slice(*part)])
    np.testing.assert_array_equal(out, rows[order].astype(np.float32))
    reader.close()


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_features(tmp_path):
    made = FeatureFiles(tmp_path / "key", {}, 2048, (8, 128, 8, 8), "float16").create()
    for shard in made.shards:
        rows = np.full((len(made.rows_of(shard)), *made.shape), shard, np.float16)
        made.write(shard, rows, {}, "here")
    del rows
    assert made.size > 250 * 2**20
    reader, out = FeatureReader(made), np.empty((16, *made.shape), np.float32)
    order = np.random.default_rng(0).permutation(made.rows).tolist()
    reader.read(order[:16], out)
    before = resident_bytes()
    for start in range(0, made.rows, 16):
        reader.read(order[start : start + 16], out)
    assert resident_bytes() - before < 16 * 2**20
