"""A training copy shows the same at the same time, costs less to read, and keeps ids, labels and times."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from annotation_files import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import numbered_image, write_sound, write_video

from kineray import storage
from kineray.data.derive.reencode import (
    SETTINGS_FILE,
    check_space,
    estimate,
    make_copies,
    plan,
    target_names,
)
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.manifest import Manifest, load_manifest, save_manifest
from kineray.data.manifest.samples import BoxLabel, Sample
from kineray.data.manifest.sizes import record_sizes
from kineray.errors import DecodeError, StorageError
from kineray.video import PacketIndex, index_video, open_video, probe, read_clip
from kineray.video.encode import Settings, encode

FINE = Settings(crf=1)


def clip(uri, label=0, *, start=0.0, end=None, name=None, split="train", boxes=(), subsets=(), flow=""):
    name = name or Path(uri).stem
    return Sample(
        name, str(uri), start, end, {"action": label}, f"g/{name}", split, boxes, frozenset(subsets), flow
    )


def manifest_of(*samples, missing=None):
    return Manifest("set", samples, {"action": ("run", "jump")}, missing or {})


FILES = {
    "plain.mp4": {},
    "b_frames.mkv": {"bframes": 3, "frames": 90},
    "old.avi": {"codec": "mpeg4", "bframes": 0},
    "hevc.mp4": {"codec": "libx265", "params": "open-gop=1:scenecut=0"},
    "late_start.mkv": {"start": 50},
    "transport.ts": {"frames": 60},
    "one.mp4": {"frames": 1},
    "with_sound.mp4": {"audio": True},
    "phone.mp4": {"rotation": 90},
    "upside_down.mkv": {"rotation": 180},
    "variable.mkv": {
        "frames": 10,
        "time_base": Fraction(1, 300),
        "times": [3, 7, 20, 21, 22, 90, 102, 114, 126, 400],
    },
}


@pytest.mark.parametrize("name", FILES)
def test_the_copy_shows_the_same_at_the_same_time(tmp_path, name):
    source = write_video(tmp_path / name, **FILES[name])
    before, after = encode(source, tmp_path / "copy.mp4", FINE)
    np.testing.assert_array_equal(after.times_s, before.times_s)
    assert after.duration_s == pytest.approx(before.duration_s, abs=1e-6)
    copy = read_clip(tmp_path / "copy.mp4", before.times_s)
    wanted = read_clip(source, before.times_s)
    assert copy.shape == wanted.shape
    assert np.abs(copy.astype(int) - wanted).mean() < 1.5  # neighbouring frames differ by 80
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        first = next(container.decode(stream))
        assert (first.pts, first.rotation) == (0, 0)
    content = (tmp_path / "copy.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a reader needs only the beginning to know all


@settings(max_examples=12, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 90), min_size=2, max_size=24),
    bframes=st.integers(0, 3),
    start=st.integers(0, 500),
    suffix=st.sampled_from(["mp4", "mkv"]),
    rate=st.sampled_from([300, 1000, 30000, 90000]),
)
def test_times_are_kept_whatever_they_are(tmp_path_factory, gaps, bframes, start, suffix, rate):
    folder = tmp_path_factory.mktemp("times")
    source = write_video(
        folder / f"a.{suffix}",
        frames=len(gaps),
        width=16,
        height=16,
        times=[int(time) for time in np.cumsum(gaps)],
        time_base=Fraction(1, rate),
        start=start,
        bframes=bframes,
    )
    before, after = encode(source, folder / "copy.mp4", FINE)
    # Matroska counts milliseconds: several frames may have one time, and the last of them is shown.
    times = np.unique(before.times_s)
    np.testing.assert_allclose(after.times_s, times, atol=1e-9, rtol=0)
    shown, wanted = read_clip(folder / "copy.mp4", times), read_clip(source, times)
    assert np.abs(shown.astype(int) - wanted).mean(axis=(1, 2, 3)).max() < 6


# Container -> encoders whose streams it holds, and this reader reads.
HELD = {
    "mp4": "libx264 libx265 libvpx-vp9 libsvtav1 mpeg4 mjpeg mpeg2video",
    "mov": "libx264 libx265 mpeg4 msmpeg4 mjpeg prores_ks svq1 h263",
    "mkv": "libx264 libx265 libvpx libvpx-vp9 libsvtav1 mpeg4 mjpeg ffv1 mpeg1video mpeg2video rawvideo",
    "webm": "libvpx libvpx-vp9 libsvtav1",
    "avi": "libx264 libvpx mpeg4 msmpeg4 msmpeg4v2 wmv1 flv h263p mjpeg ffv1 huffyuv mpeg2video rawvideo",
    "ts": "libx264 libx265 mpeg4 mpeg1video mpeg2video",
    "mpg": "libx264 libx265 mpeg1video mpeg2video",
    "flv": "libx264 libx265 libvpx-vp9 libsvtav1 flv",
    "wmv": "wmv1 wmv2 libx264 mpeg4 msmpeg4 mjpeg mpeg1video",
    "ogv": "libvpx",
    "3gp": "libx264 mpeg4 h263",
}
MATRIX = [(suffix, codec) for suffix, codecs in HELD.items() for codec in codecs.split()]
OWN_FORMAT = {
    "mjpeg": "yuvj420p",
    "huffyuv": "yuv422p",
    "prores_ks": "yuv422p10le",
    "svq1": "yuv410p",
}


@pytest.mark.parametrize(("suffix", "codec"), MATRIX)
def test_source_and_copy_show_the_same_at_every_time_in_any_container(tmp_path_factory, suffix, codec):
    size = (128, 96) if codec == "h263" else (64, 48)  # which knows five sizes

    @settings(max_examples=3, deadline=None)
    @given(frames=st.integers(8, 40), gop=st.integers(1, 40), bframes=st.integers(0, 3), data=st.data())
    def check(frames, gop, bframes, data):
        folder = tmp_path_factory.mktemp("matrix")
        source = write_video(
            folder / f"a.{suffix}",
            codec=codec,
            frames=frames,
            gop=gop,
            bframes=bframes,
            width=size[0],
            height=size[1],
            pix_fmt=OWN_FORMAT.get(codec, "yuv420p"),
        )
        before, after = encode(source, folder / "copy.mp4", FINE)
        assert after.duration_s == pytest.approx(before.duration_s, abs=1e-6)
        times = data.draw(st.lists(st.floats(-0.5, frames / 25 + 0.5), min_size=1, max_size=12))
        times += [frame / 25 + 0.02 for frame in range(frames)]
        shown, wanted = read_clip(folder / "copy.mp4", times), read_clip(source, times)
        assert np.abs(shown.astype(int) - wanted).mean(axis=(1, 2, 3)).max() < 9  # neighbours differ by 80
        images = np.stack([numbered_image(frame, *size) for frame in range(frames)]).astype(int)
        of_frames = [np.abs(images - frame).mean(axis=(1, 2, 3)).argmin() for frame in shown[-frames:]]
        assert of_frames == list(range(frames)) or suffix == "mpg"  # whose writer leaves gaps

    check()


@settings(max_examples=20, deadline=None)
@given(
    gaps=st.lists(st.integers(1, 4), min_size=1, max_size=30),
    codec=st.sampled_from(["libx264", "mpeg4", "mjpeg", "wmv2"]),
    suffix=st.sampled_from(["avi", "wmv"]),
    bframes=st.integers(0, 3),
)
def test_gaps_in_containers_without_presentation_times_are_kept(
    tmp_path_factory, gaps, codec, suffix, bframes
):
    folder = tmp_path_factory.mktemp("gaps")
    times = [0, *(int(time) for time in np.cumsum(gaps))]
    source = write_video(
        folder / f"a.{suffix}",
        codec=codec,
        frames=len(times),
        times=times,
        bframes=bframes,
        pix_fmt=OWN_FORMAT.get(codec, "yuv420p"),
    )
    before, after = encode(source, folder / "copy.mp4", FINE)
    np.testing.assert_allclose(after.times_s, before.times_s, atol=1e-9)
    assert after.duration_s == pytest.approx(before.duration_s, abs=1e-6)
    at = np.arange(-1, 25 * before.duration_s + 2, 0.5) / 25
    shown, wanted = read_clip(folder / "copy.mp4", at), read_clip(source, at)
    assert np.abs(shown.astype(int) - wanted).mean(axis=(1, 2, 3)).max() < 6
    if bframes == 0 or codec in ("mjpeg", "wmv2"):
        np.testing.assert_allclose(after.times_s, np.array(times) / 25, atol=0.001)


@pytest.mark.parametrize("frames", [25, 26, 27, 28])
@pytest.mark.parametrize("bframes", [0, 2, 3])
def test_a_last_frame_that_stays_does_so_in_the_copy(tmp_path, frames, bframes):
    """Whether or not the copy stores it last."""
    given_file = write_video(tmp_path / "given.mkv", frames=frames, bframes=bframes)
    with av.open(str(given_file)) as given_one, av.open(str(tmp_path / "long.mkv"), "w") as made:
        stream = made.add_stream_from_template(given_one.streams.video[0])
        packets = [packet for packet in given_one.demux(video=0) if packet.size]
        max(packets, key=lambda packet: packet.pts).duration = 5000
        for packet in packets:
            packet.stream = stream
            made.mux(packet)
    before, after = encode(tmp_path / "long.mkv", tmp_path / "copy.mp4", FINE)
    assert before.duration_s == pytest.approx((frames - 1) / 25 + 5)
    assert after.duration_s == pytest.approx(before.duration_s, abs=1e-6)


@pytest.mark.parametrize("key_frames", [1, 8, 32])
def test_key_frames_are_where_they_should_be_and_groups_are_closed(tmp_path, key_frames):
    source = write_video(tmp_path / "a.mp4", frames=100, gop=100, params="scenecut=0")
    _, after = encode(source, tmp_path / "copy.mp4", Settings(key_frames=key_frames))
    np.testing.assert_allclose(after.key_frame_times_s, np.arange(0, 100, key_frames) / 25)
    # No frame that follows a key frame in the file is shown before it.
    keys = np.flatnonzero(after.flags == 1)
    for first, end in zip(keys, [*keys[1:], len(after.pts)], strict=True):
        assert (after.pts[first:end] >= after.pts[first]).all()


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((1920, 1080), 320, (568, 320)),
        ((1080, 1920), 320, (320, 568)),
        ((340, 256), 320, (340, 256)),
        ((341, 257), 320, (340, 256)),
        ((641, 321), 320, (640, 320)),
        ((320, 320), 320, (320, 320)),
        ((4000, 3), 320, (4000, 2)),
        ((1000, 999), 33, (34, 32)),
    ],
)
def test_sizes_are_even_and_never_larger(size, short_side, expected):
    assert Settings(short_side).size(*size) == expected


def test_scaling_and_rotation(tmp_path):
    source = write_video(tmp_path / "a.mp4", width=128, height=64, rotation=90, params="qp=1", frames=3)
    encode(source, tmp_path / "copy.mp4", Settings(32, crf=1))
    info = probe(tmp_path / "copy.mp4")
    assert (info.width, info.height, info.rotation) == (32, 64, 0)
    copy = read_clip(tmp_path / "copy.mp4", [0.0, 0.1])
    wanted = read_clip(source, [0.0, 0.1], short_side=32)
    assert copy.shape == wanted.shape
    assert np.abs(copy.astype(int) - wanted).mean() < 12


def test_an_odd_row_and_column_are_cut_off(tmp_path):
    source = write_colours(tmp_path / "odd.mkv", "bgr0", codec="ffv1", width=65, height=51)
    encode(source, tmp_path / "copy.mp4", FINE)
    copy, wanted = read_clip(tmp_path / "copy.mp4", [0.0]), read_clip(source, [0.0])
    assert (copy.shape, wanted.shape) == ((1, 50, 64, 3), (1, 51, 65, 3))
    same = np.abs(copy.astype(int) - wanted[:, :50, :64]).mean()
    assert same < 12 < np.abs(copy.astype(int) - wanted[:, 1:, 1:]).mean()


def write_colours(path, pix_fmt, tags=(0, 2, 2, 2), codec="libx264", width=64, height=48, rotation=0):
    """``tags``: range, matrix, primaries, transfer; 0 and 2 mean unspecified."""
    color_range, matrix, primaries, transfer = tags
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        if rotation:
            stream.set_display_rotation(rotation)
        context = stream.codec_context
        context.color_range, context.colorspace = color_range, matrix
        context.color_primaries, context.color_trc = primaries, transfer
        stream.options = {"qp": "1"} if codec == "libx264" else {}
        for index in range(5):
            image = numbered_image(index, 72, 72)[:height, :width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame = frame.reformat(
                format=pix_fmt, dst_colorspace=matrix if matrix != 2 else None, dst_color_range=color_range
            )
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def colour_tags(path):
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return (int(frame.color_range), int(frame.colorspace), frame.color_primaries, frame.color_trc)


@pytest.mark.parametrize("tags", [(0, 2, 2, 2), (1, 1, 1, 1), (2, 1, 1, 1), (1, 5, 5, 6), (2, 5, 2, 2)])
@pytest.mark.parametrize("rotation", [0, 180])
def test_colours_are_kept(tmp_path, tags, rotation):
    source = write_colours(tmp_path / "a.mp4", "yuv420p", tags, rotation=rotation)
    _, after = encode(source, tmp_path / "copy.mp4", FINE)
    assert colour_tags(tmp_path / "copy.mp4") == colour_tags(source) == tags
    copy, wanted = read_clip(tmp_path / "copy.mp4", after.times_s), read_clip(source, after.times_s)
    assert np.abs(copy.astype(int) - wanted).mean() < 1


@pytest.mark.parametrize(
    ("pix_fmt", "codec", "tags", "distance"),
    [
        ("yuv420p10le", "libx264", (1, 9, 9, 16), 12),
        ("yuv444p", "libx264", (1, 1, 1, 1), 12),
        ("yuvj422p", "mjpeg", (2, 5, 2, 2), 4),
        ("bgr0", "ffv1", (2, 2, 2, 2), 4),
        ("gray", "ffv1", (2, 2, 2, 2), 1),
    ],
)
def test_other_pixel_formats_become_8_bits_420(tmp_path, pix_fmt, codec, tags, distance):
    """What is lost is the colour resolution of blocks of noise; a wrong range or matrix moves the mean."""
    source = write_colours(tmp_path / "a.mkv", pix_fmt, tags, codec)
    _, after = encode(source, tmp_path / "copy.mp4", FINE)
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt in ("yuv420p", "yuvj420p")
    copy, wanted = read_clip(tmp_path / "copy.mp4", after.times_s), read_clip(source, after.times_s)
    difference = copy.astype(int) - wanted
    assert np.abs(difference).mean() < distance
    assert np.abs(difference.mean(axis=(0, 1, 2))).max() < 3


def test_bad_files_raise_and_leave_nothing(tmp_path):
    cut = write_video(tmp_path / "cut.mp4", frames=100, container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    for path, code in ((cut, "truncated"), (write_sound(tmp_path / "a.mkv"), "no_video_stream")):
        with pytest.raises(DecodeError) as caught:
            encode(path, tmp_path / "copy.mp4", FINE)
        assert caught.value.code == code


def test_names_of_the_copies():
    names = target_names(
        ["/set/train/a.avi", "/set/val/a.webm", "/other/x/b.mp4", "/other/y/b.mkv", "/set/val/a.mp4"], "/set"
    )
    assert names["/set/train/a.avi"] == "train/a.mp4"
    assert names["/other/x/b.mp4"] == "x/b.mp4"
    assert names["/other/y/b.mkv"] == "y/b.mp4"
    assert len(set(names.values())) == 5
    assert names["/set/val/a.mp4"].startswith("val/a-") and names["/set/val/a.webm"].startswith("val/a-")
    assert target_names(["s3://b/v/k.webm"], "/set") == {"s3://b/v/k.webm": "k.mp4"}
    assert target_names(["s3://b/v/x/k.webm"], "s3://b/v") == {"s3://b/v/x/k.webm": "x/k.mp4"}


@given(st.lists(st.text("ab./", min_size=1, max_size=6), min_size=1, max_size=12, unique=True))
def test_no_two_copies_have_one_name(texts):
    uris = list(dict.fromkeys(f"/set/{text.replace('/', 'x/').replace('..', '.')}z.mp4" for text in texts))
    uris += [uri.replace(".mp4", ".mkv") for uri in uris]
    names = target_names(uris, "/set")
    assert len(set(names.values())) == len(uris)


FLOW = "/flow/{u,v}/frame_%010d.jpg#fps=25&bound=20"


@pytest.fixture
def source(tmp_path):
    """The manifest of five clips of four videos, one of them bad."""
    folder = tmp_path / "videos"
    (folder / "train").mkdir(parents=True)
    write_video(folder / "train/a.avi", codec="mpeg4", bframes=0)
    write_video(folder / "train/b.mkv", frames=60, gop=60, width=96, height=64)
    write_video(tmp_path / "c.mp4", frames=50)
    (folder / "bad.mp4").touch()
    manifest = manifest_of(
        clip(folder / "train/a.avi", 0, boxes=(BoxLabel(0.1, 0.2, 0.5, 1, (1,), 3),)),
        clip(folder / "train/b.mkv", 1, start=0.5, end=1.25, name="b1", subsets=("tail",)),
        clip(folder / "train/b.mkv", 0, start=1.0, end=2.0, name="b2", split="val", flow=FLOW),
        clip(folder / "bad.mp4", 1),
        clip(tmp_path / "c.mp4", -1, split="val"),
        missing={"train": ("lost",)},
    )
    save_manifest(manifest, folder / "manifest.parquet")
    return folder


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file()}


def test_the_command_makes_a_manifest_that_differs_in_the_files_alone(source, tmp_path, kineray):
    out = tmp_path / "copies"
    words = ["data", "reencode", str(source), "--out", str(out), "--short-side", "32", "--crf", "1", "--yes"]
    code, text, err = kineray(*words, "--decoders", "2")
    assert code == 0, err
    assert "3 of 4 videos copied" in text
    assert f"not copied: {source}/bad.mp4: empty" in err
    assert "decoded frames per wanted frame" in err and " -> " in err
    assert files_in(out) == {
        "train/a.mp4",
        "train/b.mp4",
        "c.mp4",
        "manifest.parquet",
        "manifest.index.arrow",
        SETTINGS_FILE,
    }
    before, after = load_manifest(source), load_manifest(out)
    wanted = [sample for sample in before if sample.id != "bad"]
    same = {"uri": "", "size_bytes": 0}
    assert [replace(sample, **same) for sample in after] == [replace(sample, **same) for sample in wanted]
    assert [sample.size_bytes for sample in after] == [Path(sample.uri).stat().st_size for sample in after]
    assert [Path(sample.uri).relative_to(out).as_posix() for sample in after] == [
        "train/a.mp4",
        "train/b.mp4",
        "train/b.mp4",
        "c.mp4",
    ]
    assert (after.vocabularies, after.listed) == (before.vocabularies, before.listed)
    assert after.missing == {"train": ("lost", "bad")}
    for old, new in zip(wanted, after, strict=True):
        times = [new.start_s, new.end_s or 1.0]
        shown = read_clip(new.uri, times)
        with open_video(old.uri) as video:
            wanted_clip = video.read(times, size=shown.shape[1:3])
        assert min(shown.shape[1:3]) == 32
        assert np.abs(shown.astype(int) - wanted_clip).mean() < 20
    indexes = IndexCache.beside(str(out))
    assert PacketIndex.from_bytes(indexes.get(after[1].uri)).frames == 60


def copied(source, out, settings=FINE):
    """What the command does, without asking."""
    manifest = load_manifest(source)
    return make_copies(manifest, plan(manifest, str(source), str(out), settings))


def test_a_second_call_makes_only_what_is_missing(source, tmp_path, kineray):
    out = tmp_path / "copies"
    first = copied(source, out)
    assert list(first.failures) == [str(source / "bad.mp4")]
    times = {name: (out / name).stat().st_mtime_ns for name in ("train/a.mp4", "c.mp4")}
    (out / "train/b.mp4").unlink()
    (out / "train/.b.mp4.tmp").write_bytes(b"of a run that was killed")
    write_video(source / "bad.mp4")  # downloaded again
    second = copied(source, out)
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert files_in(out) == {*times, "train/b.mp4", "bad.mp4", SETTINGS_FILE}
    assert second.failures == {} and len(second.indexes) == 4
    assert copied(source, out).manifest.content_hash == second.manifest.content_hash
    originals = record_sizes(load_manifest(source))
    coarse = copied(source, tmp_path / "coarse", replace(FINE, crf=40)).manifest
    assert len({one.content_hash for one in (originals, second.manifest, coarse)}) == 3
    code, text, _ = kineray("data", "reencode", str(source), "--out", str(out), "--crf", "1", "--dry-run")
    assert code == 0 and "nothing to do" in text


def test_other_settings_or_another_set_need_another_folder(source, tmp_path, kineray):
    out = tmp_path / "copies"
    copied(source, out)
    with refused("other_settings", "out") as error:
        copied(source, out, Settings(crf=30))
    assert "crf 1, not 30" in error.value.problem
    save_manifest(replace(load_manifest(source), name="other"), source / "other.parquet")
    with refused("other_settings", "out") as error:
        copied(source / "other.parquet", out)
    assert "dataset set, not other" in error.value.problem
    with refused("folder_taken", "out"):
        copied(source, source)
    (tmp_path / "full/train").mkdir(parents=True)
    (tmp_path / "full/train/a.mp4").write_text("somebody's")
    with refused("folder_taken", "out"):
        copied(source, tmp_path / "full")
    (tmp_path / "full" / SETTINGS_FILE).write_text("[")
    code, _, err = kineray("data", "reencode", str(source), "--out", str(tmp_path / "full"), "--yes")
    assert code == 2 and f"{SETTINGS_FILE}: not written by kineray" in err
    assert len(err.splitlines()) == 1


def test_without_a_terminal_to_ask_yes_is_needed(source, tmp_path, kineray):
    out = tmp_path / "copies"
    code, text, err = kineray("data", "reencode", str(source), "--out", str(out))
    assert (code, text) == (2, "")
    assert len(err.splitlines()) == 1 and "--yes" in err
    code, text, err = kineray(
        "data", "reencode", str(source), "--out", str(out), "--dry-run", "--crf", "30", "--decoders", "1"
    )
    assert code == 0
    assert "4 videos" in text and "decoded frames per wanted frame of a random 2 s clip" in text
    assert f"kineray data reencode {source} --out {out} --crf 30 --yes" in err
    err = kineray("data", "reencode", str(source), "--out", str(out), "--dry-run", "--decoders", "1")[2]
    assert f"kineray data reencode {source} --out {out} --yes" in err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("answer", "copies"), [("y", 3), ("n", 0)])
def test_a_person_is_asked(source, tmp_path, answer, copies):
    """With a pseudo terminal, a process assumes a person."""
    import pty

    out = tmp_path / "copies"
    command = [sys.executable, "-m", "kineray", "data", "reencode", str(source), "--out", str(out)]
    command += ["--decoders", "1"]
    person, terminal = pty.openpty()
    process = subprocess.Popen(command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.write(person, f"{answer}\n".encode())
    text, err = process.communicate(timeout=60)
    os.close(person)
    os.close(terminal)
    assert process.returncode == 0, err
    assert b"Start? [y/N]" in err
    assert len(files_in(out)) == (copies + 3 if copies else 0)
    assert (b"nothing was written" in text) == (copies == 0)
    assert (b"3 of 4 videos copied" in text) == (copies == 3)


@pytest.mark.slow
def test_the_estimate_is_near_the_truth(tmp_path):
    paths = [
        write_video(tmp_path / f"{number}.mp4", frames=250, gop=250, width=64, height=64, params="scenecut=0")
        for number in range(8)
    ]
    manifest = manifest_of(*map(clip, paths))
    save_manifest(manifest, tmp_path / "manifest.parquet")
    todo = plan(manifest, str(tmp_path), str(tmp_path / "copies"), Settings(32))
    cost = estimate(todo, decoders=2)
    assert (cost.tried, cost.videos) == (6, 8)
    assert cost.bytes_before == sum(path.stat().st_size for path in paths)
    assert cost.pixels == pytest.approx(0.25)
    assert cost.decoded_before == pytest.approx(3.0, abs=0.1)  # 10 s: 4 s in front of 2 s on average
    assert 1.2 < cost.decoded_after < 1.5
    start = time.monotonic()
    copies = make_copies(manifest, todo, decoders=2)
    assert time.monotonic() - start < 20 * cost.seconds + 5
    after = sum(Path(sample.uri).stat().st_size for sample in copies.manifest)
    assert cost.bytes_after == pytest.approx(after, rel=0.2)


def test_a_disk_without_space_for_the_copies_is_refused_in_advance(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    manifest = manifest_of(clip(path))
    todo = plan(manifest, str(tmp_path / "m.parquet"), str(tmp_path / "copies/deep"), Settings())
    cost = estimate(todo)
    check_space(cost, todo.folder)
    with pytest.raises(StorageError) as error:
        check_space(replace(cost, bytes_after=1e18), todo.folder)
    assert (error.value.code, error.value.key) == ("disk_full", str(tmp_path / "copies/deep"))
    assert "about 1000000000.0 GB are needed" in error.value.problem


@pytest.mark.slow
def test_a_disk_that_becomes_full_gives_one_line_and_no_half_file(source, tmp_path):
    """A limit on the size of files fails like a full disk."""
    out = tmp_path / "copies"
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
        "from kineray.cli import run;"
        f"run(['data', 'reencode', {str(source)!r}, '--out', {str(out)!r}, '--yes', '--crf', '1'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert files_in(out) <= {SETTINGS_FILE}


def test_a_data_set_without_anything_to_copy_is_refused(tmp_path, kineray):
    (tmp_path / "bad.mp4").touch()
    save_manifest(manifest_of(clip(tmp_path / "bad.mp4")), tmp_path / "manifest.parquet")
    code, _, err = kineray("data", "reencode", str(tmp_path), "--out", str(tmp_path / "copies"), "--yes")
    assert code == 2 and "no video can be copied" in err and "bad.mp4" in err
    frames = f"{tmp_path}/frame_%010d.jpg#fps=30"
    with refused("nothing_to_copy", tmp_path):
        plan(manifest_of(clip(frames)), str(tmp_path), str(tmp_path / "copies"), Settings())
    mixed = manifest_of(clip(frames), clip(tmp_path / "bad.mp4"))
    assert plan(mixed, str(tmp_path), str(tmp_path / "copies"), Settings()).kept == 1


@pytest.mark.slow
def test_an_interrupted_call_continues_where_it_stopped(tmp_path, kineray):
    folder = tmp_path / "videos"
    folder.mkdir()
    video = write_video(folder / "0.mp4", frames=100, width=64, height=64)
    for number in range(1, 12):
        (folder / f"{number}.mp4").symlink_to(video)
    clips = [clip(folder / f"{number}.mp4") for number in range(12)]
    save_manifest(manifest_of(*clips), folder / "m.parquet")
    out = tmp_path / "copies"
    words = ["data", "reencode", str(folder / "m.parquet"), "--out", str(out), "--yes", "--decoders", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "kineray", *words], stderr=subprocess.PIPE, text=True, process_group=0
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(out.glob("*.mp4"))) < 2:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "run the same command again" in err
    made = sorted(out.glob("*.mp4"))
    assert 2 <= len(made) < 12
    for path in made:  # whole
        assert index_video(path).frames == 100
    assert not (out / "manifest.parquet").exists()
    times = {path.name: path.stat().st_mtime_ns for path in made}
    assert kineray(*words)[0] == 0
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert len(load_manifest(out)) == 12
    assert not [name for name in files_in(out) if name.endswith(".tmp")]


@pytest.mark.slow
def test_from_a_bucket_to_a_bucket(s3, tmp_path, kineray):
    local = write_video(tmp_path / "a.mkv", frames=60, gop=60)
    for name in ("set/x/a.mkv", "set/x/b.mkv"):
        storage.write_bytes(f"{s3}/{name}", local.read_bytes())
    samples = [clip(f"{s3}/set/x/{name}.mkv") for name in ("a", "b", "gone")]
    save_manifest(manifest_of(*samples), f"{s3}/set/manifest.parquet")
    words = ["data", "reencode", f"{s3}/set", "--out", f"{s3}/small", "--yes", "--decoders", "1"]
    code, text, err = kineray(*words)
    assert code == 0, err
    assert "2 of 3 videos copied" in text
    assert f"not copied: {s3}/set/x/gone.mkv: not_found" in err
    copies = load_manifest(f"{s3}/small")
    assert [sample.uri for sample in copies] == [f"{s3}/small/x/a.mp4", f"{s3}/small/x/b.mp4"]
    assert copies.missing == {"train": ("gone",)}
    with storage.video_source(copies[0].uri) as file, open_video(file) as video:
        assert video.info.frames == 60
    code, text, _ = kineray(*words, "--json")
    assert code == 0 and json.loads(text)["copies"] == 2
