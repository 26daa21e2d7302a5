"""Manifests keep their content, refuse what is wrong, and have a hash of the content."""

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.data import Manifest, Sample, load_manifest, save_manifest
from kineray.data.manifest.checks import check_flow
from kineray.data.manifest.samples import BoxLabel
from kineray.errors import ManifestError

HEADS = {"verb": ("cut", "wash"), "noun": ("knife", "café", "pan")}


def a_sample(index, uri="/videos/x.mp4", **changes):
    labels = {"verb": index % 2, "noun": index % 3}
    return replace(Sample(f"clip{index}", uri, 0.5, None, labels, f"person{index}", "train"), **changes)


def a_manifest(samples=None, **changes):
    samples = samples if samples is not None else [a_sample(index) for index in range(5)]
    return replace(Manifest("kitchen", tuple(samples), HEADS, {"val": ("lost1", "lost2")}), **changes)


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
seconds = st.floats(0, 1e5, allow_nan=False)
sides = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
boxes = st.builds(
    lambda x, y, labels, person: BoxLabel(x[0], y[0], x[1], y[1], tuple(labels), person),
    sides,
    sides,
    st.lists(st.integers(0, 1), max_size=2),
    st.none() | st.integers(-1, 2**40),
)


@st.composite
def manifests(draw):
    rows = draw(
        st.lists(
            st.tuples(
                st.tuples(texts, seconds, st.none() | seconds, st.integers(-1, 1), st.integers(-1, 2)),
                st.tuples(
                    st.sampled_from(["", "/flow/{u,v}/%d.jpg#fps=25&bound=20"]),
                    *(texts, texts, st.lists(boxes, max_size=2), st.frozensets(texts, max_size=2)),
                ),
            ),
            max_size=6,
            unique_by=lambda row: row[0][0],
        )
    )
    return a_manifest(
        [
            Sample(
                name,
                "s3://bucket/videos/a b.mp4",
                start,
                end,
                {"verb": verb, "noun": noun},
                group,
                split,
                tuple(inside),
                subsets,
                flow,
            )
            for (name, start, end, verb, noun), (flow, group, split, inside, subsets) in rows
        ],
        evaluated=draw(st.sampled_from([{}, {"verb": (1,)}])),
    )


@settings(deadline=None)
@given(manifests())
def test_a_file_gives_back_the_manifest(tmp_path_factory, manifest):
    path = tmp_path_factory.getbasetemp() / "roundtrip.parquet"
    save_manifest(manifest, path)
    again = load_manifest(path)
    assert again == manifest
    assert list(again) == list(manifest)
    assert again.content_hash == manifest.content_hash


@settings(deadline=None)
@given(manifests(), st.data())
def test_samples_behave_like_a_tuple(manifest, data):
    samples = tuple(manifest)
    index = data.draw(st.integers(-len(samples) - 2, len(samples) + 1))
    part = data.draw(st.slices(len(samples)))
    assert tuple(manifest.samples[part]) == samples[part]
    assert list(manifest.samples[part][::-1]) == list(samples[part][::-1])
    assert manifest.samples == samples and replace(manifest, samples=samples) == manifest
    assert replace(manifest, samples=iter(samples)) == manifest
    if -len(samples) <= index < len(samples):
        assert manifest[index] == manifest.samples[np.int64(index)] == samples[index]
    else:
        with pytest.raises(IndexError):
            manifest[index]
    for head in HEADS:
        assert manifest.labels(head).dtype == np.int64
        assert manifest.labels(head).tolist() == [sample.labels[head] for sample in samples]
    for name in manifest.found:
        chosen = manifest.split(name)
        assert list(chosen) == [sample for sample in samples if sample.split == name]
        assert chosen.labels("noun").tolist() == [sample.labels["noun"] for sample in chosen]
        assert pickle.loads(pickle.dumps(chosen)) == chosen
    assert pickle.loads(pickle.dumps(manifest)).content_hash == manifest.content_hash


def test_a_manifest_written_before_there_were_boxes_is_read_as_it_was(tmp_path):
    """The layout and the hash that the first manifests had; runs are known by that hash."""
    samples = [a_sample(index) for index in range(5)]
    plain = ("id", "uri", "start_s", "end_s", "group", "split")
    columns = {name: [getattr(sample, name) for sample in samples] for name in plain}
    columns["end_s"] = pa.array(columns["end_s"], pa.float64())
    for head in HEADS:
        columns[f"label.{head}"] = pa.array([sample.labels[head] for sample in samples], pa.int32())
    about = {"version": 1, "name": "kitchen", "vocabularies": HEADS, "missing": {"val": ["lost1", "lost2"]}}
    table = pa.table(columns).replace_schema_metadata({"kineray.manifest": json.dumps(about)})
    pq.write_table(table, tmp_path / "manifest.parquet")
    assert load_manifest(tmp_path) == a_manifest()
    assert list(load_manifest(tmp_path)) == samples
    known = "970f92bc558be0c9abe88f1800b1ec8f9507e0eea2de495925b54ca2d96d6da7"
    assert load_manifest(tmp_path).content_hash == a_manifest().content_hash == known


@pytest.mark.slow
def test_many_samples_are_columns_not_objects(tmp_path):
    """Memory and bytes that 100,000 samples take in a process and between processes."""
    rows = (a_sample(index, f"/videos/class {index % 400}/{index:011x}.mp4") for index in range(100_000))
    save_manifest(a_manifest(rows), tmp_path / "manifest.parquet")
    code = f"""
import gc, pickle, resource, sys
from kineray.data.manifest.manifest import load_manifest
import pyarrow.parquet, pyarrow.compute, numpy
def resident(): return int(next(l for l in open("/proc/self/status") if "VmRSS" in l).split()[1]) / 1024
before = resident()
manifest = load_manifest({str(tmp_path)!r})
train = manifest.split("train")
gc.collect()
assert resident() - before < 60, resident() - before
assert len(pickle.dumps(train)) < 4e6
assert train[99_999].id == "clip99999"
assert "pandas" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_sample_is_imported_without_slow_packages():
    code = "import sys; from kineray.data.manifest.samples import Sample; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"pyarrow", "torch", "boto3", "pydantic"} & set(done.stdout.split())


def test_a_moved_folder_is_the_same_manifest(tmp_path):
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    inside, outside = first / "videos" / "a.mp4", tmp_path / "shared.mp4"
    manifest = a_manifest([a_sample(0, str(inside)), a_sample(1, str(outside)), a_sample(2, "s3://b/k.mp4")])
    save_manifest(manifest, first / "manifest.parquet")
    shutil.copytree(first, second)
    moved = load_manifest(second)
    assert [sample.uri for sample in moved] == [
        str(second / "videos" / "a.mp4"),
        str(outside),
        "s3://b/k.mp4",
    ]
    assert (
        moved.content_hash == load_manifest(first / "manifest.parquet").content_hash == manifest.content_hash
    )


def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_manifest(a_manifest([a_sample(0, "set/a.mp4")]), "set/manifest.parquet")
    assert load_manifest("set")[0].uri == str(tmp_path / "set" / "a.mp4")
    monkeypatch.chdir("/")
    assert load_manifest(tmp_path / "set")[0].uri == str(tmp_path / "set" / "a.mp4")


def test_the_hash_follows_every_part_of_the_content():
    base = a_manifest()
    changed = [
        a_manifest([a_sample(0, **change), *base.samples[1:]])
        for change in (
            {"id": "other"},
            {"start_s": 0.75},
            {"end_s": 2.0},
            {"labels": {"verb": 1, "noun": 0}},
            {"labels": {"verb": -1, "noun": 0}},
            {"group": "other"},
            {"split": "val"},
            {"boxes": (BoxLabel(0, 0, 0.5, 1, (0,)),)},
            {"boxes": (BoxLabel(0, 0, 0.5, 1, (1,)),)},
            {"boxes": (BoxLabel(0, 0, 0.5, 1, (0,), 7),)},
            {"boxes": (BoxLabel(0, 0.25, 0.5, 1, (0,)),)},
            {"subsets": frozenset({"tail"})},
            {"subsets": frozenset({"tail", "unseen"})},
            {"flow": "/flow/{u,v}/%d.jpg#fps=25&bound=20"},
            {"flow": "/flow/{u,v}/%d.jpg#fps=25&bound=8"},
            {"flow": "/flow/{u,v}/%d.jpg#fps=30&bound=8"},
            {"size_bytes": 1},
            {"size_bytes": 2},
        )
    ]
    changed += [a_manifest(evaluated={"verb": (0,)}), a_manifest(evaluated={"verb": (1,)})]
    changed.append(a_manifest(vocabularies={"verb": ("wash", "cut"), "noun": HEADS["noun"]}))
    changed.append(a_manifest(base.samples[::-1]))
    changed.append(a_manifest(base.samples[:-1]))
    hashes = {manifest.content_hash for manifest in [base, *changed]}
    assert len(hashes) == len(changed) + 1
    assert all(len(value) == 64 and int(value, 16) >= 0 for value in hashes)
    assert (
        a_manifest([a_sample(index, "/elsewhere.mp4") for index in range(5)]).content_hash
        == base.content_hash
    )
    assert a_manifest(name="other").content_hash == base.content_hash
    folders = ("/flow/{u,v}/%d.jpg#fps=25&bound=8", "/other/{x,y}_%05d.png#fps=25&bound=8")
    assert len({a_manifest([a_sample(0, flow=flow)]).content_hash for flow in folders}) == 1


def test_flow_is_kept_relative_to_the_folder_like_the_videos(tmp_path, monkeypatch):
    inside, outside = "{u,v}/frame_%010d.jpg#fps=25&bound=20", "/flow/{u,v}/%d.jpg#fps=5&bound=8"
    folder = tmp_path / "set"
    flows = [f"{folder}/flow/a/{inside}", "", outside, f"set/flow/b/{inside}"]
    monkeypatch.chdir(tmp_path)
    save_manifest(
        a_manifest([a_sample(index, f"{folder}/a.mp4", flow=flow) for index, flow in enumerate(flows)]),
        folder / "manifest.parquet",
    )
    folder.rename(tmp_path / "moved")
    moved = load_manifest(tmp_path / "moved")
    assert [sample.uri for sample in moved] == [f"{tmp_path}/moved/a.mp4"] * 4
    assert [sample.flow for sample in moved] == [
        f"{tmp_path}/moved/flow/a/{inside}", "", outside, f"{tmp_path}/moved/flow/b/{inside}",
    ]  # fmt: skip
    save_manifest(moved.split("train"), tmp_path / "again.parquet")
    assert load_manifest(tmp_path / "again.parquet").samples == moved.samples
    save_manifest(a_manifest(), tmp_path / "plain.parquet")
    assert "flow" not in pq.read_schema(tmp_path / "plain.parquet").names


def test_samples_without_the_flow_that_is_needed_are_counted():
    flow = "/flow/{u,v}/%d.jpg#fps=25&bound=20"
    some = a_manifest([a_sample(0, flow=flow), a_sample(1), a_sample(2, split="val")])
    alone = a_manifest([a_sample(0, flow), a_sample(1, flow)])
    both = a_manifest([a_sample(0, flow=flow)])
    for modality in ("rgb", "flow", "flow_stack", "rgb_flow", "rgb_flow_stack"):
        check_flow(both, modality)
    for manifest in (some, alone):
        check_flow(manifest, "rgb")
    check_flow(alone, "flow_stack")
    for manifest, modality, message in [
        (some, "flow", "2 of 3 samples in train, val"),
        (alone, "rgb_flow", "2 of 2 samples in train"),
        (some.split("val"), "rgb_flow_stack", "1 of 1 samples in val"),
    ]:
        with pytest.raises(ManifestError, match=message) as caught:
            check_flow(manifest, modality)
        assert (caught.value.code, caught.value.key) == ("no_flow", "kitchen")


def test_splits_and_counts():
    samples = [a_sample(0), a_sample(1, split="val"), a_sample(2)]
    manifest = a_manifest(samples)
    assert [sample.id for sample in manifest.split("train")] == ["clip0", "clip2"]
    assert len(manifest.split("val")) == 1 and manifest.split("val")[0].id == "clip1"
    assert manifest.found == {"train": 2, "val": 1}
    assert manifest.listed == {"train": 2, "val": 3}
    assert manifest.split("train").listed == {"train": 2}
    assert manifest.split("val").missing == {"val": ("lost1", "lost2")}
    assert manifest.split("train").vocabularies == HEADS
    assert replace(manifest, missing={"test": ("x",)}).listed == {"train": 2, "val": 1, "test": 1}
    tail = a_manifest(
        [a_sample(0, subsets=frozenset({"tail", "a"})), a_sample(1, subsets=frozenset({"tail"}))]
    )
    assert tail.subsets == {"a": 1, "tail": 2} and manifest.subsets == {}
    with pytest.raises(ManifestError) as error:
        manifest.labels("action")
    assert (error.value.code, error.value.key) == ("unknown_value", "kitchen")


def test_an_unknown_split_lists_the_splits():
    with pytest.raises(ManifestError, match=r"train \(5\)") as error:
        a_manifest().split("test")
    assert (error.value.code, error.value.key) == ("empty_split", "kitchen")
    with pytest.raises(ManifestError, match="none"):
        a_manifest([]).split("train")


@pytest.mark.parametrize(
    ("samples", "code"),
    [
        ([a_sample(0), a_sample(0)], "repeated_id"),
        ([a_sample(0, labels={"verb": 2, "noun": 0})], "out_of_range"),
        ([a_sample(0, labels={"verb": -2, "noun": 0})], "out_of_range"),
        ([a_sample(0, labels={"verb": 0})], "wrong_labels"),
        ([a_sample(0, labels={"verb": 0, "noun": (1,)})], "wrong_labels"),
        ([a_sample(0), a_sample(1, boxes=(BoxLabel(0, 0, 120, 1, ()),))], "out_of_range"),
        ([a_sample(0, boxes=(BoxLabel(0.5, 0, 0.25, 1, ()),))], "out_of_range"),
        ([a_sample(0, boxes=(BoxLabel(0, 0, float("nan"), 1, ()),))], "out_of_range"),
        ([a_sample(0, boxes=(BoxLabel(0, 0, 1, 1, (0, 2)),))], "out_of_range"),
    ],
)
def test_wrong_samples_are_refused(samples, code):
    with pytest.raises(ManifestError, match=samples[-1].id) as error:
        a_manifest(samples)
    assert (error.value.code, error.value.key) == (code, "kitchen")


@pytest.mark.parametrize("evaluated", [{"verb": (2,)}, {"action": (0,)}])
def test_only_known_classes_can_be_evaluated(evaluated):
    with pytest.raises(ManifestError) as error:
        a_manifest(evaluated=evaluated)
    assert error.value.code == "unknown_value"


def test_samples_of_other_heads_are_refused():
    with pytest.raises(ManifestError) as error:
        Manifest("other", a_manifest().samples, {"action": ("a", "b", "c")})
    assert (error.value.code, error.value.key) == ("wrong_labels", "other")


def test_files_that_are_not_manifests_are_refused(tmp_path):
    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path / "nowhere")
    assert caught.value.code == "not_found"
    assert caught.value.key == f"{tmp_path}/nowhere/manifest.parquet"
    with pytest.raises(ManifestError) as caught:
        load_manifest("")
    assert (caught.value.code, caught.value.key) == ("not_set", "data.manifest")
    (tmp_path / "text.parquet").write_text("id,uri\n")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "empty.parquet").touch()
    for name in ("text.parquet", "other.parquet", "empty.parquet"):
        with pytest.raises(ManifestError) as caught:
            load_manifest(tmp_path / name)
        assert (caught.value.code, caught.value.key) == ("not_a_manifest", f"{tmp_path}/{name}")
        assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "manifest.parquet"
    save_manifest(a_manifest(), path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save_manifest(a_manifest(name=Path("not text")), path)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["manifest.parquet"]
