"""Manifests keep what they hold, refuse what is wrong, and have a hash that follows the content."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineray.data import Manifest, Sample, load_manifest, save_manifest
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


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(texts, seconds, st.none() | seconds, st.integers(-1, 1), st.integers(-1, 2), texts, texts),
        max_size=6,
        unique_by=lambda row: row[0],
    )
)
def test_a_file_gives_back_the_manifest(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "roundtrip.parquet"
    manifest = a_manifest(
        [
            Sample(name, "s3://bucket/videos/a b.mp4", start, end, {"verb": verb, "noun": noun}, group, split)
            for name, start, end, verb, noun, group, split in rows
        ]
    )
    save_manifest(manifest, path)
    again = load_manifest(path)
    assert again == manifest
    assert again.content_hash == manifest.content_hash


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
        )
    ]
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


def test_an_unknown_split_lists_the_splits():
    with pytest.raises(ManifestError, match=r"no samples in split 'test'; its splits are train \(5\)"):
        a_manifest().split("test")
    with pytest.raises(ManifestError, match="its splits are none"):
        a_manifest([]).split("train")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([a_sample(0), a_sample(0)], "clip0 occurs more than once"),
        ([a_sample(0, labels={"verb": 2, "noun": 0})], "verb=2, but there are 2 classes"),
        ([a_sample(0, labels={"verb": -2, "noun": 0})], "verb=-2"),
        ([a_sample(0, labels={"verb": 0})], r"has labels for \['verb'\]"),
    ],
)
def test_wrong_samples_are_refused(samples, message):
    with pytest.raises(ManifestError, match=message):
        a_manifest(samples)


def test_files_that_are_no_manifest(tmp_path):
    with pytest.raises(ManifestError, match=r"nowhere.*no such manifest"):
        load_manifest(tmp_path / "nowhere")
    with pytest.raises(ManifestError, match=r"data\.manifest"):
        load_manifest("")
    (tmp_path / "text.parquet").write_text("id,uri\n")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other.parquet")
    (tmp_path / "empty.parquet").touch()
    for name in ("text.parquet", "other.parquet", "empty.parquet"):
        with pytest.raises(ManifestError, match=rf"{name}: not a kineray manifest") as caught:
            load_manifest(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "manifest.parquet"
    save_manifest(a_manifest(), path)
    before = path.read_bytes()
    bad = a_manifest([replace(a_sample(0), group=Path("not text"))])
    with pytest.raises(pa.ArrowException):
        save_manifest(bad, path)
    assert path.read_bytes() == before
    assert [child.name for child in tmp_path.iterdir()] == ["manifest.parquet"]
