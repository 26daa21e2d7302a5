"""Of a damaged file only the damaged stretch is lost, and it is said which."""

import logging

import numpy as np
import pytest
from video_files import lose_transport_packet, numbered_image, reference_clip, spoil, write_video

from kineray.errors import DecodeError
from kineray.video import PacketIndex, index_video, losses, open_video, read_clip
from kineray.video.encode import Settings, encode

JPEG = {"codec": "mjpeg", "pix_fmt": "yuvj420p", "gop": 1, "bframes": 0}
# name -> (options, damaged packets, frames that are lost)
SPOILT = {
    "p_frame.mp4": ({"bframes": 0}, [30], range(30, 36)),
    "p_frame.mkv": ({"bframes": 0}, [30], range(30, 36)),
    "key_frame.mp4": ({"bframes": 0}, [36], range(36, 48)),
    "two.mp4": ({"bframes": 0}, [30, 50], [*range(30, 36), *range(50, 60)]),
    "last.mp4": ({"bframes": 0}, [74], [74]),
    "first.mp4": ({"bframes": 0}, [0], range(12)),
    "b_frames.mp4": ({"gop": 12}, [36], range(36, 48)),
    "jpeg.avi": (JPEG, [15], [15]),
    "jpeg.mkv": (JPEG, [15, 16, 40], [15, 16, 40]),
    "h264.avi": ({"bframes": 0}, [30], range(30, 36)),
}


@pytest.fixture(autouse=True)
def no_warnings_yet():
    losses._warned.clear()


def shown(clip):
    """The numbers of the frames of a clip."""
    images = np.stack([numbered_image(frame, 64, 48) for frame in range(75)]).astype(int)
    return [int(np.abs(images - frame).mean(axis=(1, 2, 3)).argmin()) for frame in clip]


def held(lost, count=75):
    """What is shown instead: the last whole frame, or the first one."""
    whole = [frame for frame in range(count) if frame not in lost]
    return [max([one for one in whole if one <= frame], default=whole[0]) for frame in range(count)]


@pytest.mark.parametrize("name", SPOILT)
@pytest.mark.parametrize("is_indexed", [False, True])
def test_only_the_damaged_stretch_is_lost(tmp_path, caplog, name, is_indexed):
    options, damaged, lost = SPOILT[name]
    path = spoil(write_video(tmp_path / name, frames=75, params="scenecut=0", **options), damaged)
    index = PacketIndex.from_bytes(index_video(path).to_bytes())
    assert (index.frames, index.truncated) == (75, False)
    assert index.duration_s == pytest.approx(3.0)
    with open_video(path, index=index if is_indexed else None) as video:
        assert shown(video.read(np.arange(75) / 25)) == held(lost)
        for frame in (0, lost[0] - 1, lost[-1] + 1, 74):
            if frame not in lost and 0 <= frame < 75:
                assert shown(video.read([frame / 25])) == [frame]
        with pytest.raises(DecodeError) as caught:
            video.read([lost[0] / 25, lost[-1] / 25])
    assert (caught.value.code, caught.value.key) == ("truncated", str(path))
    place = f"{lost[0] / 25:.2f} to"
    assert place in str(caught.value) and "cut off" not in str(caught.value)
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert str(path) in record.getMessage() and place in record.getMessage()


@pytest.mark.parametrize("is_indexed", [False, True])
@pytest.mark.parametrize(
    ("name", "options"), [("h264.mp4", {}), ("mpeg4.mkv", {"codec": "mpeg4", "params": None})]
)
def test_damage_that_the_decoder_conceals_is_lost_too(tmp_path, name, options, is_indexed):
    options = {"params": "scenecut=0", **options}
    path = write_video(tmp_path / name, frames=75, bframes=0, **options)
    path = spoil(path, [30], fill=b"\x00", first_byte=20)
    index = PacketIndex.from_bytes(index_video(path).to_bytes())
    with open_video(path, index=index if is_indexed else None) as video:
        assert shown(video.read(np.arange(75) / 25)) == held(range(30, 36))
        assert video.losses.spans_s() == [pytest.approx((1.2, 1.44))]
    _, after = encode(path, tmp_path / "copy.mp4", Settings(crf=1))
    assert after.duration_s == pytest.approx(3.0)
    assert shown(read_clip(tmp_path / "copy.mp4", np.arange(75) / 25)) == held(range(30, 36))


def test_frames_before_the_concealed_damage_that_refer_to_it_are_lost(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=75, bframes=2, params="scenecut=0")
    whole = read_clip(path, np.arange(75) / 25)
    spoil(path, [30], fill=b"\x00", first_byte=20)
    with open_video(path) as video:
        clip = video.read(np.arange(75) / 25)
        lost = [frame for frame in range(75) if not (clip[frame] == whole[frame]).all()]
        assert lost and shown(clip) == held(lost)


def test_a_clip_beside_the_damage_is_read_without_a_word(tmp_path, caplog):
    path = spoil(write_video(tmp_path / "a.mp4", frames=75, bframes=0, params="scenecut=0"), [30])
    assert shown(read_clip(path, [0.4, 2.0])) == [10, 50]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_clips_of_which_some_frames_are_lost_show_the_ones_before(tmp_path):
    path = spoil(write_video(tmp_path / "a.mp4", frames=75, bframes=0, params="scenecut=0"), [30])
    assert shown(read_clip(path, [1.3, 0.8, 1.1])) == [29, 20, 27]


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_lost_transport_packet_costs_what_refers_to_it(tmp_path, codec):
    path = write_video(tmp_path / "a.ts", codec=codec, frames=75, gop=12, params="scenecut=0:open-gop=0")
    whole = reference_clip(path, np.arange(75) / 25)
    lose_transport_packet(path, 24)
    index = index_video(path)
    assert (index.frames, index.truncated) == (75, False)
    clip = read_clip(path, index.times_s)
    same = (clip == whole).all(axis=(1, 2, 3))
    assert same[:20].all() and same[37:].all()
    wrong = [frame for frame in range(20, 37) if not same[frame]]
    assert wrong and all((clip[frame] == clip[wrong[0] - 1]).all() for frame in wrong if codec == "libx264")


def test_a_copy_keeps_what_is_whole_and_the_times(tmp_path):
    path = spoil(write_video(tmp_path / "a.mp4", frames=75, bframes=0, params="scenecut=0"), [30])
    before, after = encode(path, tmp_path / "copy.mp4", Settings(crf=1))
    assert losses.Losses(before).spans_s() == [pytest.approx((1.2, 1.44))]
    assert after.duration_s == pytest.approx(3.0)
    assert shown(read_clip(tmp_path / "copy.mp4", np.arange(75) / 25)) == held(range(30, 36))


def test_a_copy_of_a_file_that_is_mostly_damaged_is_refused(tmp_path):
    path = spoil(write_video(tmp_path / "a.mp4", frames=75, bframes=0, params="scenecut=0"), range(12, 72))
    with pytest.raises(DecodeError) as caught:
        encode(path, tmp_path / "copy.mp4", Settings())
    assert caught.value.code == "truncated" and "0.48 to 2.88 s" in str(caught.value)
