"""Clips with several classes, or none, of one head: stored, checked, counted, divided and as arrays."""

import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.data import Manifest, Sample, load_manifest, save_manifest
from kineray.data.derive.stats import class_balance
from kineray.data.derive.validate import drop_samples
from kineray.data.manifest.checks import check_task
from kineray.data.manifest.division import divide
from kineray.data.manifest.labels import class_counts, known_labels, label_array
from kineray.data.manifest.samples import BoxLabel
from kineray.errors import ManifestError

HEADS = {"action": ("open", "close", "hold", "pour"), "scene": ("kitchen", "garage")}


def a_manifest(actions, scenes=None, **changes):
    scenes = scenes or [0] * len(actions)
    samples = [
        Sample(f"clip{n}", f"/v/{n}.mp4", 0.0, None, {"action": action, "scene": scene}, f"g{n}", "train")
        for n, (action, scene) in enumerate(zip(actions, scenes, strict=True))
    ]
    return replace(Manifest("home", samples, HEADS, multi_label={"action"}), **changes)


labels = st.none() | st.frozensets(st.integers(0, 3)).map(lambda several: tuple(sorted(several)))


@settings(deadline=None)
@given(st.lists(st.tuples(labels, st.integers(-1, 1)), max_size=8), st.data())
def test_labels_are_kept_and_turned_into_arrays(tmp_path_factory, rows, data):
    actions, scenes = [row[0] for row in rows], [row[1] for row in rows]
    manifest = a_manifest(actions, scenes)
    path = tmp_path_factory.getbasetemp() / "multi.parquet"
    save_manifest(manifest, path)
    again = load_manifest(path)
    assert again == manifest and again.multi_label == {"action"}
    assert again.content_hash == manifest.content_hash
    assert [sample.labels["action"] for sample in again] == actions
    part = replace(again, samples=again.samples[data.draw(st.slices(len(rows)))])
    chosen = [sample.labels["action"] for sample in part]
    expected_nc = np.array(
        [[255] * 4 if one is None else [index in one for index in range(4)] for one in chosen], np.uint8
    ).reshape(len(chosen), 4)
    for hot_nc in (part.labels("action"), label_array(chosen, 4)):
        assert hot_nc.dtype == np.uint8
        np.testing.assert_array_equal(hot_nc, expected_nc)
    np.testing.assert_array_equal(
        part.labels("scene"), label_array([sample.labels["scene"] for sample in part])
    )
    assert part.labels("scene").dtype == label_array([]).dtype == np.int64
    assert known_labels(part.labels("action")).tolist() == [one is not None for one in chosen]
    assert class_counts(part.labels("action"), 4).tolist() == [
        sum(one is not None and index in one for one in chosen) for index in range(4)
    ]
    assert pickle.loads(pickle.dumps(part)) == part


def test_a_set_of_classes_has_one_form_and_one_hash():
    assert a_manifest([(3, 1, 3)])[0].labels["action"] == (1, 3)
    hashes = {a_manifest([actions]).content_hash for actions in [(1, 3), (3, 1), (1,), (), None, (1, 2, 3)]}
    assert len(hashes) == 5


@pytest.mark.parametrize(
    ("actions", "code"),
    [
        ([(0,), (4,)], "out_of_range"),
        ([(), (-1,)], "out_of_range"),
        ([(0,), 1], "wrong_labels"),
    ],
)
def test_wrong_labels_are_refused(actions, code):
    with pytest.raises(ManifestError, match="clip1") as error:
        a_manifest(actions)
    assert (error.value.code, error.value.key) == (code, "home")


def test_a_split_and_what_is_left_after_bad_clips_keep_the_heads():
    manifest = a_manifest([(0,), (1,), None], missing={"train": ("lost",)})
    for part in (manifest.split("train"), drop_samples(manifest, frozenset({"clip1"}))):
        assert part.multi_label == {"action"}
    rest = drop_samples(manifest, frozenset({"clip1"}))
    assert [sample.labels["action"] for sample in rest] == [(0,), None]


def test_balance_counts_every_class_of_a_clip():
    action, scene = class_balance(a_manifest([(0, 1), (0,), (), None]))
    assert action.labelled == 3 and action.per_class.max == 2 and action.absent == ("hold", "pour")
    assert scene.labelled == 4


def test_a_division_spreads_every_class():
    manifest = a_manifest([(0, 1), (0, 1), (2,), (2,), (), None] * 10)
    division = divide(manifest, {"val": 0.5})
    assert division.manifest.multi_label == {"action"}
    for name in ("train", "val"):
        counts = class_counts(division.manifest.split(name).labels("action"), 4)
        assert counts.tolist() == [10, 10, 10, 0]


def test_many_samples_are_columns_and_read_without_pandas(tmp_path):
    save_manifest(a_manifest([(0, 3), (), None] * 10), tmp_path / "manifest.parquet")
    assert str(pq.read_schema(tmp_path / "manifest.parquet").field("label.action").type).startswith("list<")
    code = f"""
import sys
from kineray.data.manifest.manifest import load_manifest
manifest = load_manifest({str(tmp_path)!r}).split("train")
assert manifest.labels("action")[:3].tolist() == [[1, 0, 0, 1], [0, 0, 0, 0], [255] * 4]
assert "pandas" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_set_without_labels_of_clips_has_no_task():
    persons = (BoxLabel(0, 0, 1, 1, (0,)),)
    key_frames = [Sample(f"k{n}", "/v/a.mp4", n, n, {"action": -1}, "a", "train", persons) for n in range(2)]
    ava = Manifest("ava", key_frames, {"action": ("stand",)})
    for training in (True, False):
        with pytest.raises(ManifestError) as error:
            check_task(ava, ["action"], training=training)
        assert (error.value.code, error.value.key) == ("no_task", "ava (train)")
    unlabelled = a_manifest([None, None])
    check_task(unlabelled, ["action", "scene"])
    check_task(unlabelled, ["scene"], training=True)
    check_task(a_manifest([None, ()]), ["action"], training=True)
    with pytest.raises(ManifestError) as error:
        check_task(unlabelled, ["scene", "action"], training=True)
    assert error.value.code == "no_labels"
