"""Every kind of bad file is found, good files are not, and a clean manifest does not contain bad clips."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video_files import decode_all, edit, reference_clip, spoil, write_dropped, write_sound, write_video

from kineray import storage
from kineray.data.derive.validate import check_video, drop_samples, outside_of, quarantine_path, validate
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.manifest import Manifest, load_manifest, save_manifest
from kineray.data.manifest.samples import BoxLabel, Sample
from kineray.data.manifest.sizes import record_sizes
from kineray.errors import DecodeError
from kineray.video import PacketIndex, frames_uri, index_video, read_clip
from kineray.video.losses import Losses


def clip(uri, *, start=0.0, end=None, name=None, split="train", boxes=(), flow=""):
    name = name or Path(uri).name
    return Sample(name, str(uri), start, end, {"action": 0}, name, split, boxes, flow=flow)


def manifest_of(*samples, missing=None):
    return Manifest("set", samples, {"action": ("run",)}, missing or {})


def bytes_of(path, count):
    path.write_bytes(path.read_bytes()[:count])
    return path


def write_garbage_codec(path):
    write_video(path)
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))


def write_truncated(path):
    write_video(path, frames=100, container_options={"movflags": "faststart"})
    bytes_of(path, path.stat().st_size // 2)


def write_wrong_count(path, announced=431, frames=40):
    """The header of an AVI says how many frames there are, whatever follows."""
    write_video(path, frames=frames, codec="mpeg4", bframes=0)
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):
        at = data.index(tag) + offset
        assert int.from_bytes(data[at : at + 4], "little") == frames
        data[at : at + 4] = announced.to_bytes(4, "little")
    path.write_bytes(data)


def write_cut_avi(path):
    write_video(path, frames=100, codec="mjpeg", pix_fmt="yuvj420p")
    with av.open(str(path)) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    bytes_of(path, ends[70] + ends[70] % 2)  # between two frames


def write_text(path):
    path.write_text("Dear diary,\n" * 200)


# Name -> (how it is made, code).
BAD = {
    "zero.mp4": (Path.touch, "empty"),
    "gone.mp4": (lambda path: None, "not_found"),
    "text.mp4": (write_text, "not_a_video"),
    "sound.mkv": (write_sound, "no_video_stream"),
    "codec.mkv": (write_garbage_codec, "codec_unsupported"),
    "no_index.mp4": (lambda path: bytes_of(write_video(path), -2000), "truncated"),
    "truncated.mp4": (write_truncated, "truncated"),
    "cut.avi": (write_cut_avi, "truncated"),
    "lies.avi": (write_wrong_count, "wrong_frame_count"),
}
GOOD = {
    "plain.mp4": {},
    "b_frames.mkv": {"bframes": 3, "frames": 90},
    "open_gop.mp4": {"codec": "libx265", "params": "open-gop=1:scenecut=0"},
    "sound.mp4": {"audio": True},
    "old.avi": {"codec": "mpeg4", "bframes": 0},
    "one.mp4": {"frames": 1},
    "turned.mov": {"rotation": 90},
    "transport.ts": {"frames": 60},
    "flash.flv": {"bframes": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for name, (make, _) in BAD.items():
        make(folder / name)
    for name, options in GOOD.items():
        write_video(folder / name, **options)
    return folder


@pytest.mark.parametrize("full", [False, True])
def test_bad_files_are_named_and_good_ones_are_not(folder, full):
    manifest = manifest_of(*(clip(folder / name) for name in [*BAD, *GOOD]))
    seen = []
    found = validate(manifest, full=full, decoders=2, progress=lambda *state: seen.append(state))
    assert {Path(problem.uri).name: problem.code for problem in found.problems} == {
        name: code for name, (_, code) in BAD.items()
    }
    assert [problem.samples for problem in found.problems] == [(name,) for name in BAD]
    assert all(
        "\n" not in problem.message and problem.uri not in problem.message for problem in found.problems
    )
    assert found.codes["truncated"] == 3
    assert found.videos == len(BAD) + len(GOOD)
    assert seen[-1] == (found.videos, found.videos, len(BAD))
    assert {Path(uri).name for uri in found.indexes} == set(GOOD)
    index = PacketIndex.from_bytes(found.indexes[str(folder / "b_frames.mkv")])
    np.testing.assert_array_equal(index.pts, index_video(folder / "b_frames.mkv").pts)


@pytest.mark.parametrize(("announced", "is_bad"), [(39, False), (41, False), (43, True), (300, True)])
def test_a_header_may_be_wrong_by_one(tmp_path, announced, is_bad):
    write_wrong_count(tmp_path / "a.avi", announced)
    if is_bad:
        with pytest.raises(DecodeError, match=f"{announced} .* 40") as caught:
            check_video(tmp_path / "a.avi")
        assert caught.value.code == "wrong_frame_count"
    else:
        assert check_video(tmp_path / "a.avi")[0] == pytest.approx(1.6)


JPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "gop": 1, "bframes": 0}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("dropped", [range(4, 50, 5), [3], range(30, 50), range(1, 50), [0, 1, 2]], ids=str)
def test_dropped_frames_of_an_avi_are_no_fault(tmp_path, dropped, full):
    """An empty chunk leaves the frame before it on the screen."""
    path = write_dropped(tmp_path / "a.avi", dropped, **JPEG)
    duration_s, index = check_video(path, full=full)
    kept = [frame for frame in range(50) if frame not in dropped]
    assert index.frames == len(kept)
    np.testing.assert_allclose(index.times_s, (np.array(kept) - kept[0]) / 25, atol=1e-9)
    assert duration_s == pytest.approx((50 - kept[0]) / 25)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("options", [{"bframes": 0}, {}, {"codec": "libx265"}, {"codec": "mpeg4"}], ids=str)
@pytest.mark.parametrize(
    "spans", [[(0.4, 1.4)], [(0, 1), (0, 1)], [(0, 0.2), (1, 2)], [(2, 2.4), (0.4, 0.8)]], ids=str
)
def test_an_edit_list_presents_other_frames_than_are_stored(tmp_path, spans, options, full):
    path = edit(write_video(tmp_path / "a.mp4", frames=75, **options), *spans)
    duration_s, index = check_video(path, full=full)
    length_s = sum(end - start for start, end in spans)
    assert duration_s == pytest.approx(length_s, abs=0.041)
    assert index.frames == len(decode_all(path)[0]) == pytest.approx(25 * length_s, abs=3)
    np.testing.assert_array_equal(read_clip(path, index.times_s), reference_clip(path, index.times_s))


def test_full_finds_frames_that_are_stored_and_cannot_be_decoded(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=200, gop=20, bframes=0, params="scenecut=0")
    spoil(path, range(140, 155))  # neither the first, nor the middle, nor the last frames
    assert Losses(check_video(path)[1]).spans_s() == []
    duration_s, index = check_video(path, full=True)
    assert (duration_s, index.frames) == (8.0, 200)
    ((start_s, end_s),) = Losses(index).spans_s()
    assert (start_s, end_s) == pytest.approx((5.6, 6.4))  # up to the next key frame
    manifest = manifest_of(
        clip(path, name="whole"),
        clip(path, name="inside", start=5.5, end=6.5),
        clip(path, name="near", start=5.0, end=6.4),
        clip(path, name="after", start=6.4, end=7.0),
    )
    assert validate(manifest).bad_samples == frozenset()
    found = validate(manifest, full=True)
    assert found.bad_samples == {"inside", "near"}
    (problem,) = found.problems
    assert (problem.code, problem.uri) == ("truncated", str(path))
    assert "5.60" in problem.message and "6.40" in problem.message
    assert found.damaged == {str(path): problem.message}
    # What was found is in the index, so that training knows it.
    assert len(Losses(PacketIndex.from_bytes(found.indexes[str(path)]))) == 20


def test_a_file_of_which_most_is_damaged_is_bad_as_a_whole(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=100, gop=20, bframes=0, params="scenecut=0")
    spoil(path, range(20, 80))
    (problem,) = validate(manifest_of(clip(path)), full=True).problems
    assert problem.code == "truncated" and "0.80 to 3.20 s" in problem.message


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0.0, None, None),
        (9.5, None, None),
        (10.0, None, "starts at 10.00 s, but the video lasts 10.00 s"),
        (12.0, 13.0, "starts at 12.00 s"),
        (-1.0, 2.0, "starts at -1.00 s"),
        (0.0, 10.0, None),
        (0.0, 10.9, None),
        (0.0, 11.1, "ends at 11.10 s, but the video lasts 10.00 s"),
        (3.0, 2.0, "ends at 2.00 s, before its start at 3.00 s"),
        (4.0, 4.0, None),
    ],
)
def test_spans(start, end, expected):
    problem = outside_of(clip("a.mp4", start=start, end=end), 10.0)
    assert problem is None if expected is None else expected in problem


def test_only_the_samples_outside_their_video_are_bad(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=100)
    late = clip(path, start=5.0, end=6.0, name="late")
    manifest = manifest_of(
        clip(path, name="whole"),
        late,
        replace(late, id="late too"),
        clip(path, start=1.0, end=9.0, name="long"),
    )
    found = validate(manifest)
    assert [(problem.code, problem.samples) for problem in found.problems] == [
        ("span", ("late", "late too")),
        ("span", ("long",)),
    ]
    assert found.videos == 1
    assert list(found.indexes) == [str(path)]
    assert found.bad_samples == {"late", "late too", "long"}


def write_flow(folder, frames, fps=25):
    for name in "uv":
        (folder / name).mkdir(parents=True)
        for number in range(1, frames + 1):
            Image.fromarray(np.full((16, 16), number, np.uint8)).save(folder / name / f"{number}.png")
    return frames_uri(folder / "{u,v}" / "%d.png", fps=fps, bound=20)


def test_the_flow_beside_a_video_is_opened_too(tmp_path):
    """100 frames, 4 s; flow always ends a little earlier, but may end too early."""
    path = write_video(tmp_path / "a.mp4", frames=100)
    whole, half = write_flow(tmp_path / "whole", 99), write_flow(tmp_path / "half", 50)
    damaged = write_flow(tmp_path / "damaged", 99)
    (tmp_path / "damaged/v/50.png").write_bytes(b"no image")  # the one in the middle
    gone = str(tmp_path / "gone/{u,v}/%d.png#fps=25&bound=20")
    manifest = manifest_of(
        clip(path, name="fine", flow=whole),
        clip(path, name="late", start=3.9, end=4.5, flow=whole),
        clip(path, name="early", end=2.5, flow=half),
        clip(path, name="cut", flow=half),
        clip(path, name="bad", end=1.0, flow=damaged),
        clip(path, name="lost", flow=gone),
        clip(path, name="plain"),
    )
    found = validate(manifest, decoders=2)
    assert {problem.samples: (problem.uri, problem.code) for problem in found.problems} == {
        ("cut",): (half, "span"),
        ("bad",): (damaged, "not_a_video"),
        ("lost",): (gone, "not_found"),
    }
    assert found.problems[0].message == "the clip ends at 4.00 s, but the flow lasts 2.00 s"
    assert found.videos == 5 and list(found.indexes) == [str(path)]
    assert [sample.flow for sample in drop_samples(manifest, found.bad_samples)] == [whole, whole, half, ""]


def test_a_clean_manifest_counts_the_bad_as_missing():
    boxes = (BoxLabel(0, 0, 1, 1, (0,)),)
    manifest = manifest_of(
        clip("a.mp4", boxes=boxes), clip("b.mp4"), clip("c.mp4", split="val"), missing={"train": ("lost",)}
    )
    clean = drop_samples(manifest, frozenset({"b.mp4", "c.mp4"}))
    assert list(clean) == [manifest[0]]
    assert clean.missing == {"train": ("lost", "b.mp4"), "val": ("c.mp4",)}
    assert clean.listed == manifest.listed
    assert drop_samples(manifest, frozenset()).content_hash == manifest.content_hash


def test_a_file_that_is_not_the_imported_one_is_found(tmp_path):
    same, other, unknown = (write_video(tmp_path / f"{name}.mp4") for name in ("same", "other", "unknown"))
    manifest = record_sizes(manifest_of(clip(same), clip(other)))
    manifest = manifest.with_samples([*manifest, clip(unknown)])
    assert validate(manifest).problems == ()
    write_video(other, frames=90)
    (problem,) = validate(manifest).problems
    assert (problem.uri, problem.code, problem.samples) == (str(other), "changed", ("other.mp4",))
    assert record_sizes(manifest).content_hash != manifest.content_hash


def test_the_list_lies_beside_the_manifest():
    assert quarantine_path("set/k400.parquet") == "set/k400.quarantine.csv"
    assert quarantine_path("set") == "set/manifest.quarantine.csv"
    assert quarantine_path("s3://bucket/set") == "s3://bucket/set/manifest.quarantine.csv"


@pytest.mark.slow
def test_the_command_lists_cleans_and_exits_with_1(folder, tmp_path, kineray):
    path = str(tmp_path / "set.parquet")
    good, bad = folder / "plain.mp4", folder / "truncated.mp4"
    twice = clip(bad, name="riding a bike; 2", split="val")
    save_manifest(manifest_of(clip(good), clip(bad), twice, missing={"val": ("lost",)}), path)
    code, out, err = kineray("data", "validate", path, "--clean", str(tmp_path / "clean.parquet"))
    assert code == 1
    assert "truncated: 2 clips" in out and "2 clips cannot be used" in out and "/s" in out
    assert f"kineray data stats {tmp_path}/clean.parquet" in err
    with (tmp_path / "set.quarantine.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["uri"] == str(bad) and row["code"] == "truncated"
    assert row["samples"].split(" | ") == ["truncated.mp4", "riding a bike; 2"]
    clean = load_manifest(tmp_path / "clean.parquet")
    assert [sample.id for sample in clean] == ["plain.mp4"]
    assert clean.listed == {"train": 2, "val": 2}
    # Training reads the packet indexes that the check has made anyway.
    for manifest in (path, str(tmp_path / "clean.parquet")):
        indexes = IndexCache.beside(manifest)
        assert PacketIndex.from_bytes(indexes.get(str(good))).frames == 40
        assert indexes.get(str(bad)) is None

    code, out, _ = kineray("data", "validate", path, "--json", "--out", str(tmp_path / "list.csv"))
    assert code == 1
    result = json.loads(out)
    assert result["codes"] == {"truncated": 2}
    assert result["splits"] == [
        {"split": "train", "usable": 1, "bad": 1, "listed": 2},
        {"split": "val", "usable": 0, "bad": 1, "listed": 2},
    ]
    assert (tmp_path / "list.csv").read_text() == (tmp_path / "set.quarantine.csv").read_text()


def test_a_good_set_exits_with_0_and_replaces_an_older_list(folder, tmp_path, kineray):
    path = str(tmp_path / "set.parquet")
    save_manifest(manifest_of(clip(folder / "plain.mp4")), path)
    (tmp_path / "set.quarantine.csv").write_text("old")
    code, out, err = kineray("data", "validate", path, "--full")
    assert code == 0
    assert "cannot be used" not in out
    assert f"kineray data stats {path}" in err
    assert (tmp_path / "set.quarantine.csv").read_text() == "uri,code,message,samples\n"


@pytest.mark.slow
def test_objects_of_a_bucket_are_named_by_their_uris(s3, tmp_path, kineray):
    good = write_video(tmp_path / "good.mp4")
    storage.write_bytes(f"{s3}/set/good.mp4", good.read_bytes())
    storage.write_bytes(f"{s3}/set/cut.mp4", good.read_bytes()[:-2000])
    names = ("good", "cut", "gone")
    save_manifest(
        manifest_of(*(clip(f"{s3}/set/{name}.mp4") for name in names)), f"{s3}/set/manifest.parquet"
    )
    code, out, _ = kineray("data", "validate", f"{s3}/set", "--json", "--decoders", "1")
    assert code == 1
    problems = {problem["uri"]: problem for problem in json.loads(out)["problems"]}
    assert {uri: problem["code"] for uri, problem in problems.items()} == {
        f"{s3}/set/cut.mp4": "truncated",
        f"{s3}/set/gone.mp4": "not_found",
    }
    assert str(tmp_path) not in out
    assert storage.read_bytes(f"{s3}/set/manifest.quarantine.csv").count(b"\n") == 3
    indexes = IndexCache.beside(f"{s3}/set")
    assert PacketIndex.from_bytes(indexes.get(f"{s3}/set/good.mp4")).frames == 40


def test_the_command_reports_errors_in_one_line(tmp_path, kineray):
    code, _, err = kineray("data", "validate", str(tmp_path / "gone"))
    assert code == 2 and "no such manifest" in err
    path = str(tmp_path / "set.parquet")
    save_manifest(manifest_of(clip("/gone.mp4")), path)
    code, _, err = kineray("data", "validate", path, "--clean", "clean.csv")
    assert code == 2 and "--clean=clean.csv: " in err


@pytest.mark.slow
def test_an_interrupted_check_writes_nothing_and_ends_its_children(tmp_path):
    video = write_video(tmp_path / "a.mp4", frames=2000, width=256, height=256, gop=2000, params="scenecut=0")
    links = []
    for number in range(40):
        (tmp_path / f"{number}.mp4").symlink_to(video)
        links.append(clip(tmp_path / f"{number}.mp4"))
    path = tmp_path / "set.parquet"
    save_manifest(manifest_of(*links), path)
    command = [sys.executable, "-m", "kineray", "data", "validate", str(path), "--full", "--decoders", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not _children(process.pid):
        time.sleep(0.05)
    time.sleep(0.5)
    pids = _children(process.pid)
    assert len(pids) == 2
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"Traceback" not in err
    assert sorted(file.name for file in tmp_path.glob("set*")) == ["set.parquet"]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def _children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in tasks for word in file.read_text().split()]
