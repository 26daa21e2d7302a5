"""Which files below a folder are taken for videos, and that what is left out is counted and named."""

import logging
import os
import shutil
import unicodedata

import av
import numpy as np
import pytest
from annotation_files import refused, touch
from video_files import write_video

from kineray.data import load_manifest, read_dataset, save_manifest
from kineray.data.importers.folders import from_folders
from kineray.data.importers.hmdb51 import from_hmdb51
from kineray.data.importers.kinetics import from_kinetics_csv
from kineray.video import is_flow_uri, is_frames_uri, probe
from kineray.video.container import _FORMATS
from kineray.video.suffixes import VIDEO_SUFFIXES

# How libav calls the containers that it writes, and a codec that each can hold.
MUXERS = {
    "mov": ("mp4", "libx264", (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mj2")),
    "matroska": ("matroska", "libx264", (".mkv", ".webm", ".mk3d")),
    "avi": ("avi", "mpeg4", (".avi", ".divx")),
    "mpegts": ("mpegts", "libx264", (".ts", ".mts", ".m2ts", ".m2t")),
    "mpeg": ("mpeg", "mpeg1video", (".mpg", ".mpeg", ".mpe", ".m2p", ".vob")),
    "flv": ("flv", "libx264", (".flv",)),
    "asf": ("asf", "mpeg4", (".wmv", ".asf")),
    "ogg": ("ogg", "libvpx", (".ogv", ".ogm")),
}


def ids(manifest):
    return [sample.id for sample in manifest]


@pytest.mark.parametrize("container", MUXERS)
def test_every_container_that_is_read_has_its_suffixes(tmp_path, container):
    muxer, codec, suffixes = MUXERS[container]
    first = tmp_path / "set" / "train" / "run" / f"0{suffixes[0]}"
    first.parent.mkdir(parents=True)
    with av.open(str(first), "w", format=muxer) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(10):
            image = np.full((48, 64, 3), 20 * index, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        file.mux(stream.encode(None))
    for number, suffix in enumerate(suffixes):
        if number:
            shutil.copy(first, first.with_name(f"{number}{suffix.upper()}"))
    manifest = from_folders(tmp_path / "set")
    assert ids(manifest) == [f"train/run/{number}" for number in range(len(suffixes))]
    assert {probe(sample.uri).width for sample in manifest} == {64}


def test_no_suffix_is_of_another_container():
    assert sorted(MUXERS) == sorted(_FORMATS.split(","))
    assert sorted(VIDEO_SUFFIXES) == sorted(suffix for *_, each in MUXERS.values() for suffix in each)


@pytest.mark.parametrize(
    "hidden", ["train/jump/._a.mp4", ".Trash/a.mp4", "__MACOSX/train/jump/a.mp4", "train/jump/@eaDir/a.mp4"]
)
def test_what_other_systems_leave_beside_videos_is_left_out_and_counted(tmp_path, caplog, hidden):
    touch(tmp_path, "train/jump/a.mp4", "val/jump/b.mp4", "train/jump/.DS_Store", hidden)
    assert ids(from_folders(tmp_path)) == ["train/jump/a", "val/jump/b"]
    assert f"{tmp_path}: hidden files left out: 2, such as " in caplog.text


def test_hidden_annotations_are_not_read(tmp_path):
    touch(tmp_path, "v/run/a_run_u.avi", "._run_test_split1.txt")
    (tmp_path / "run_test_split1.txt").write_text("a_run_u.avi 1\n")
    (tmp_path / "._run_test_split1.txt").write_bytes(b"\0\5\26\7\0\2\xff\n")
    assert from_hmdb51(tmp_path, tmp_path / "v").vocabularies == {"action": ("run",)}
    assert len(read_dataset(tmp_path, videos=tmp_path / "v")) == 1


def test_files_that_are_not_videos_are_counted_by_suffix(tmp_path, caplog):
    touch(tmp_path, "train/a/1.mp4", "train/a/2.RMVB", "train/a/3.rmvb", "notes.txt", "train/README")
    assert ids(from_folders(tmp_path)) == ["train/a/1"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.endswith("left out: 4 (.rmvb 2, .txt 1, none 1)")


def test_videos_that_differ_by_suffix_only_are_two_samples(tmp_path):
    touch(tmp_path, "train/jump/a.mp4", "train/jump/a.avi", "train/jump/b.mp4", "val/jump/c.mp4")
    touch(tmp_path, "val/jump/c.mp4.mkv")
    manifest = from_folders(tmp_path)
    in_train, in_val = ids(manifest.split("train")), ids(manifest.split("val"))
    assert in_train == ["train/jump/a.avi", "train/jump/a.mp4", "train/jump/b"]
    assert in_val == ["val/jump/c", "val/jump/c.mp4.mkv"]
    save_manifest(manifest, tmp_path / "manifest.parquet")
    assert load_manifest(tmp_path) == manifest


def test_of_videos_with_one_name_the_first_is_taken_and_the_others_are_counted(tmp_path, caplog):
    (tmp_path / "train.csv").write_text("label,youtube_id,time_start,time_end,split\nx,-a_b_c,5,15,train\n")
    name = "-a_b_c_000005_000015"
    touch(tmp_path / "v", f"a/{name}.mp4", f"b/{name}.mkv", f"b/{name}.webm")
    manifest = from_kinetics_csv(tmp_path / "train.csv", tmp_path / "v")
    assert [sample.uri for sample in manifest] == [str(tmp_path / f"v/a/{name}.mp4")]
    assert f"videos that are named like another one left out: 2, such as b/{name}.mkv" in caplog.text


@pytest.mark.parametrize(
    ("names", "stray"),
    [
        (["train/jump/a.mp4", "val/jump/b.mp4", "zz_preview.mp4"], "zz_preview.mp4"),
        (["train/jump/a.mp4", "val/jump/b.mp4", "aa/preview.mp4"], "aa/preview.mp4"),
        (["train/jump/a.mp4", "val/jump/b.mp4", "extra/jump/c.mp4"], "extra/jump/c.mp4"),
        (["train/jump/a.mp4", "train/jump/cut/b.mp4", "val/jump/c.mp4"], "train/jump/cut/b.mp4"),
        (["jump/a.mp4", "run/b.mp4", "00.mp4"], "00.mp4"),
        (["jump/a.mp4", "run/b.mp4", "jump/old/c.mp4"], "jump/old/c.mp4"),
        (["jump/a.mp4", "run/b.mp4", "test/jump/c.mp4"], "test/jump/c.mp4"),
        (["train/a.mp4", "val/b.mp4"], "train/a.mp4"),
    ],
)
def test_the_video_that_does_not_fit_is_named_and_not_a_right_one(tmp_path, names, stray):
    with refused("wrong_layout", touch(tmp_path, *names)) as error:
        from_folders(tmp_path)
    assert f"found {stray}" in error.value.problem
    assert not any(name in error.value.problem for name in names if name not in stray and len(names) > 2)


def test_a_class_may_be_called_like_a_split(tmp_path):
    touch(tmp_path, "test/1.mp4", "run/2.mp4", "jump/3.mp4")
    assert from_folders(tmp_path).vocabularies == {"action": ("jump", "run", "test")}


def test_a_name_that_is_not_utf8_is_named_and_does_not_stop_the_others(tmp_path, caplog):
    touch(tmp_path, "train/jump/a.mp4", "val/jump/b.mp4")
    (tmp_path / os.fsdecode(b"train/jump/caf\xe9.mp4")).touch()
    (tmp_path / os.fsdecode(b"train/caf\xe9")).mkdir()
    (tmp_path / os.fsdecode(b"train/caf\xe9/a.mp4")).touch()
    assert ids(read_dataset(tmp_path)) == ["train/jump/a", "val/jump/b"]
    assert "names that are not UTF-8 left out: 2, such as train/caf\\xe9/a.mp4" in caplog.text
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(tmp_path / "val", folder / "val")
    for source in (folder, folder / "val"):
        with refused("not_utf8", f"{tmp_path}/caf\\xe9" + "/val" * (source != folder)):
            read_dataset(source)
    with refused("not_utf8", f"{tmp_path}/caf\\xe9"):
        from_folders(folder)


def test_accents_are_the_same_in_one_and_in_two_characters(tmp_path):
    one, two = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert one != two
    touch(tmp_path / "linux", f"train/{one}/{one}.mp4", f"val/{one}/1.mp4")
    touch(tmp_path / "mac", f"train/{two}/{two}.mp4", f"val/{one}/1.mp4")
    linux, mac = (from_folders(tmp_path / name) for name in ("linux", "mac"))
    assert mac.vocabularies == {"action": (one,)} and mac.content_hash == linux.content_hash
    assert mac[0].uri == str(tmp_path / f"mac/train/{two}/{two}.mp4")
    touch(tmp_path / "mac", f"train/{two}/{one}.mp4")
    assert len(from_folders(tmp_path / "mac")) == 3


def test_empty_and_lost_files_are_counted(tmp_path, caplog):
    touch(tmp_path, "train/run/1.mp4", "train/run/2.mp4")
    (tmp_path / "train/run/1.mp4").write_bytes(b"x")
    (tmp_path / "train/run/3.mp4").symlink_to(tmp_path / "gone.mp4")
    assert len(read_dataset(tmp_path)) == 3
    assert "2 of 3 video files are empty or do not exist, such as " in caplog.text


@pytest.mark.parametrize("name", ["x #fps=60.mp4", "x #bound=3&fps=2.MKV", "#fps=25 a%03d.avi", "%d.mp4"])
def test_a_video_may_be_called_like_a_folder_of_frames(tmp_path, name):
    assert not is_frames_uri(name) and not is_flow_uri(name)
    (tmp_path / "train/run").mkdir(parents=True)
    codec = "mpeg4" if name.endswith("avi") else "libx264"
    write_video(tmp_path / "train/run" / name, frames=10, codec=codec)
    (sample,) = read_dataset(tmp_path)
    assert sample.size_bytes and probe(sample.uri).frames == 10


# -- what is held out ---------------------------------------------------------------------------------


def persons(folder, count=10):
    """Videos of persons: each does both actions, from two cameras."""
    names = [
        f"{action}/p{n:02d}_cam{c}.mp4" for action in ("jump", "run") for n in range(count) for c in "12"
    ]
    return touch(folder, *names)


def groups(manifest, split):
    return {sample.group for sample in manifest.split(split)}


def test_the_share_that_is_held_out_without_split_folders_is_said(tmp_path, caplog):
    persons(tmp_path / "set")
    manifest = read_dataset(tmp_path / "set")
    said = "set has no folders of splits: 8 of its 40 videos become val (val_share 0.2), video by video"
    assert manifest.found == {"train": 32, "val": 8} and said in caplog.text
    caplog.clear()
    persons(tmp_path / "set/train")
    shutil.rmtree(tmp_path / "set/run")
    shutil.rmtree(tmp_path / "set/jump")
    assert read_dataset(tmp_path / "set").found == {"train": 40}
    assert "become val" not in caplog.text


def test_which_videos_are_held_out_stays_the_same(tmp_path):
    touch(tmp_path, *(f"run/{n}.mp4" for n in range(10)), *(f"jump/{n}.avi" for n in range(10)))
    assert ids(from_folders(tmp_path).split("val")) == ["jump/0", "jump/3", "run/2", "run/7"]


def test_files_of_one_name_are_held_out_together(tmp_path):
    touch(tmp_path, *(f"run/{n}.{suffix}" for n in range(10) for suffix in ("mp4", "avi")))
    manifest = from_folders(tmp_path, val_share=0.3)
    assert manifest.found == {"train": 14, "val": 6}
    assert not groups(manifest, "train") & groups(manifest, "val")


@pytest.mark.parametrize("pattern", [r"p\d+", r"/(p\d+)_"])
def test_a_person_is_in_one_split_if_the_paths_name_persons(tmp_path, kineray, pattern):
    persons(tmp_path / "set")
    by_video = from_folders(tmp_path / "set")
    assert {s.id.partition("_")[0] for s in by_video.split("val")} & {
        s.id.partition("_")[0] for s in by_video.split("train")
    }
    code, _, err = kineray("data", "import", str(tmp_path / "set"), "--group-by", pattern, "--json")
    assert code == 0, err
    manifest = load_manifest(tmp_path / "set")
    assert manifest.found == {"train": 32, "val": 8}
    assert not groups(manifest, "train") & groups(manifest, "val")
    assert groups(manifest, "train") | groups(manifest, "val") == {f"p{n:02d}" for n in range(10)}
    assert manifest.split("val").labels("action").sum() == 4
    assert "become val (val_share 0.2), by groups" in err
    (tmp_path / "set/manifest.parquet").unlink()
    assert read_dataset(tmp_path / "set", group_by=pattern, val_share=0).found == {"train": 40}


def test_groups_of_split_folders_that_are_in_two_splits_are_counted(tmp_path, caplog):
    touch(tmp_path, "train/run/p01_a.mp4", "train/run/p02_a.mp4", "val/run/p02_b.mp4")
    assert groups(from_folders(tmp_path, group_by=r"p\d+"), "val") == {"p02"}
    assert "groups in several splits: 1, such as p02 in train and val" in caplog.text
    (tmp_path / "train.txt").write_text("train/run/p01_a.mp4 0\ntrain/run/p02_a.mp4 0\n")
    manifest = read_dataset(tmp_path / "train.txt", group_by=r"p\d+")
    assert [sample.group for sample in manifest] == ["p01", "p02"]


def test_a_pattern_that_does_not_find_a_group_everywhere_is_refused(tmp_path, kineray):
    touch(tmp_path, "run/p01.mp4", "run/x.mp4")
    with refused("no_match", "group_by") as error:
        read_dataset(tmp_path, group_by=r"p\d+")
    assert "1 of 2 paths, but not in run/x" in error.value.problem
    for pattern in ("(", r"p\d+"):
        code, _, err = kineray("data", "import", str(tmp_path), "--group-by", pattern)
        assert code == 2 and err.startswith(f"kineray: --group-by={pattern}: ")
    with refused("empty_split", tmp_path.name):
        read_dataset(tmp_path, group_by="run")
