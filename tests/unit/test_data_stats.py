"""The content of a data set is measured correctly, and key frames that are far apart are reported."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import write_video

from kineray.data.derive.stats import (
    Range,
    class_balance,
    decoded_per_wanted,
    key_gaps,
    measure,
    pick_uris,
    stats,
)
from kineray.data.manifest.manifest import Manifest, save_manifest
from kineray.data.manifest.samples import BoxLabel, Sample
from kineray.errors import DecodeError
from kineray.video import index_video


def clip(uri, label=0, *, split="train", start=0.0, end=None, name=None, group=None, boxes=()):
    name = name or Path(uri).stem
    return Sample(name, str(uri), start, end, {"action": label}, group or name, split, boxes)


def manifest_of(*samples, missing=None, classes=("run", "jump", "swim")):
    return Manifest("set", samples, {"action": classes}, missing or {})


def test_a_video_is_measured_without_decoding(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=100, gop=25, bframes=2, width=64, height=48, rotation=90)
    facts = measure(str(path))
    assert (facts.width, facts.height, facts.codec, facts.frames) == (48, 64, "h264", 100)
    assert (facts.fps, facts.duration_s) == (25, 4.0)
    assert facts.key_gaps_s == (1.0, 1.0)
    assert facts.key_gaps_frames == (25, 25)


def test_the_last_key_frame_reaches_to_the_end(tmp_path):
    index = index_video(write_video(tmp_path / "a.mkv", frames=40, gop=30))
    seconds, frames = key_gaps(index)
    np.testing.assert_allclose(seconds, [1.2, 0.4], atol=2e-3)
    np.testing.assert_array_equal(frames, [30, 10])


@pytest.mark.parametrize(
    ("frames", "gop", "expected"),
    [
        (500, 1, 1.0),
        (500, 25, 1.24),  # a clip of 50 frames begins anywhere in 25: 12 frames in front of it on average
        (150, 1000, 2.0),  # it begins at 0 to 100, and all is decoded from 0
    ],
)
def test_the_cost_of_a_random_clip(tmp_path, frames, gop, expected):
    path = tmp_path / "a.mp4"
    write_video(path, frames=frames, gop=gop, bframes=0, params="scenecut=0", width=16, height=16)
    assert decoded_per_wanted(index_video(path)) == pytest.approx(expected, abs=0.06)


@settings(max_examples=20, deadline=None)
@given(
    frames=st.integers(1, 60), gop=st.integers(1, 30), bframes=st.integers(0, 3), clip_s=st.floats(0.01, 3)
)
def test_the_cost_is_between_one_and_the_whole_file(tmp_path_factory, frames, gop, bframes, clip_s):
    path = tmp_path_factory.mktemp("cost") / "a.mp4"
    write_video(path, frames=frames, gop=gop, bframes=bframes, width=16, height=16)
    index = index_video(path)
    assert 1 <= decoded_per_wanted(index, clip_s) <= frames
    seconds, counts = key_gaps(index)
    assert counts.sum() == frames
    assert seconds.sum() == pytest.approx(index.duration_s)
    assert (counts <= gop).all()


def test_splits_are_measured_separately(tmp_path):
    small = write_video(tmp_path / "small.mp4", frames=25, width=32, height=16)
    large = write_video(tmp_path / "large.mkv", frames=50, width=64, height=48, fps=30, codec="libx265")
    long = write_video(tmp_path / "long.mp4", frames=100, width=64, height=48, gop=200)
    manifest = manifest_of(
        clip(small, 0),
        clip(large, 0),
        clip(long, 1, start=1.0, end=2.5, name="cut", group="g"),
        clip(long, -1, start=3.0, end=9.0, name="end", group="g"),
        clip(long, 2, split="val", name="whole"),
        missing={"train": ("lost", "gone")},
    )
    found = stats(manifest, decoders=2)
    assert found.unreadable == {}
    train, val = found.splits
    assert (train.split, train.clips, train.missing, train.groups, train.videos) == ("train", 4, 2, 3, 3)
    assert train.measured == 3
    assert train.sizes == {"64x48": 2, "32x16": 1}
    assert train.codecs == {"h264": 2, "hevc": 1}
    assert train.frame_rates == {"25": 2, "30": 1}
    assert train.video_s.min == 1.0 and train.video_s.max == 4.0
    # A clip is no longer than its video: 1, 50 / 30, 1.5 and 1 seconds.
    assert train.clip_s.max == pytest.approx(50 / 30, abs=0.01)
    assert train.clip_hours * 3600 == pytest.approx(1 + 50 / 30 + 1.5 + 1, abs=0.01)
    assert (val.videos, val.clips, val.key_gaps_s, val.key_gaps_frames) == (1, 1, (4.0, 4.0), (100, 100))
    (balance,) = train.heads
    assert (balance.classes, balance.labelled, balance.absent) == (3, 3, ("swim",))
    assert (balance.per_class, balance.imbalance) == (Range(1, 1.5, 2), 2)


def test_boxes_count_as_clips_of_the_first_head():
    boxes = (BoxLabel(0, 0, 1, 1, (0, 2)), BoxLabel(0, 0, 0.5, 1, (2,)))
    (balance,) = class_balance(manifest_of(clip("a.mp4", -1, boxes=boxes), clip("b.mp4", -1)))
    assert balance.labelled == 3
    assert balance.absent == ("jump",)
    assert balance.per_class == Range(1, 1.5, 2)
    (balance,) = class_balance(manifest_of(clip("a.mp4", -1)))
    assert balance.per_class is None and balance.imbalance is None


def test_videos_that_cannot_be_read_are_named(tmp_path):
    good = write_video(tmp_path / "good.mp4")
    (tmp_path / "empty.mp4").touch()
    cut = write_video(tmp_path / "cut.mp4", frames=100, container_options={"movflags": "faststart"})
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(DecodeError):
        measure(str(cut))
    manifest = manifest_of(*map(clip, [good, tmp_path / "empty.mp4", cut, tmp_path / "gone.mp4"]))
    found = stats(manifest)
    assert {Path(uri).name: why.partition(":")[0] for uri, why in found.unreadable.items()} == {
        "empty.mp4": "empty",
        "cut.mp4": "truncated",
        "gone.mp4": "not_found",
    }
    assert (found.splits[0].videos, found.splits[0].measured) == (4, 1)
    nothing = stats(manifest_of(clip(tmp_path / "gone.mp4"))).splits[0]
    assert (nothing.measured, nothing.clip_hours, nothing.decoded_per_wanted) == (0, None, None)


def test_a_folder_of_frames_is_all_key_frames(tmp_path):
    import av

    (tmp_path / "frames").mkdir()
    with av.open(str(tmp_path / "frames/%010d.jpg"), "w", format="image2") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuvj420p"
        for _ in range(20):
            frame = av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    facts = measure(f"{tmp_path}/frames/%010d.jpg#fps=10")
    assert (facts.frames, facts.duration_s, facts.width, facts.height) == (20, 2.0, 32, 16)
    assert (facts.decoded_per_wanted, facts.key_gaps_frames) == (1.0, (1.0, 1.0))


def test_a_sample_of_the_videos_is_always_the_same(tmp_path):
    names = [f"{number}.mp4" for number in range(100)]
    chosen = pick_uris([f"/here/{name}" for name in names], 10)
    assert len(set(chosen)) == 10
    assert [Path(uri).name for uri in pick_uris([f"/there/{name}" for name in reversed(names)], 10)] == [
        Path(uri).name for uri in chosen
    ]
    assert pick_uris(names, None) == pick_uris(names, 100) == names
    paths = [write_video(tmp_path / name, frames=25, width=16, height=16) for name in names[:4]]
    found = stats(manifest_of(*map(clip, paths)), sample=2)
    assert (found.splits[0].clips, found.splits[0].measured) == (4, 2)
    assert found.splits[0].clip_hours * 3600 == pytest.approx(4)


@pytest.mark.slow
def test_the_command_warns_of_rare_key_frames(tmp_path, kineray):
    rare = write_video(tmp_path / "rare.mp4", frames=200, gop=500, params="scenecut=0", width=16, height=16)
    often = write_video(tmp_path / "often.mp4", frames=200, gop=10, width=16, height=16)
    for path, warned in ((rare, True), (often, False)):
        manifest = str(tmp_path / f"{path.stem}.parquet")
        save_manifest(manifest_of(clip(path)), manifest)
        code, out, err = kineray("data", "stats", manifest)
        assert code == 0
        assert "16x16 (1)" in out and "h264 (1)" in out
        assert ("key frames are far apart" in err) == warned
        assert (f"kineray data reencode {manifest} --out FOLDER" in err) == warned
    code, out, err = kineray("data", "stats", str(tmp_path / "often.parquet"), "--sample", "1", "--json")
    assert code == 0 and err == ""
    (split,) = json.loads(out)["splits"]
    assert split["key_gaps_frames"] == [10, 10]
    assert split["heads"][0]["absent"] == ["jump", "swim"]


def test_the_command_names_videos_that_cannot_be_read(tmp_path, kineray):
    manifest = str(tmp_path / "set.parquet")
    save_manifest(manifest_of(clip(tmp_path / "gone.mp4")), manifest)
    code, _, err = kineray("data", "stats", manifest)
    assert code == 0
    assert "1 videos cannot be read, such as" in err and "gone.mp4 (not_found: " in err
    assert f"kineray data validate {manifest}" in err
