"""Folders of numbered images, RGB and flow: the same pixels and times as the video they come from."""

import io
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from video_files import numbered_image, write_video

from kineray.data.clips.samplers import eval_times, train_times
from kineray.errors import DecodeError
from kineray.video import frames_uri, is_frames_uri, open_video, probe, read_clip
from kineray.video.frames import FramesUri, parse_frames_uri

WIDTH, HEIGHT, FPS = 64, 48, 25


def save(path, image_hwc, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image_hwc).save(path, **options)


def save_grey(folder, numbers, value=lambda number: number % 256, size=(16, 24)):
    """Images of one grey value each, which encodes their number."""
    for number in numbers:
        save(folder / f"frame_{number:010d}.jpg", np.full(size, value(number), np.uint8), quality=95)
    return folder


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    """20 RGB frames as JPEG."""
    folder = tmp_path_factory.mktemp("frames") / "P01_01"
    for index in range(20):
        save(folder / f"frame_{index + 1:010d}.jpg", numbered_image(index, WIDTH, HEIGHT), quality=90)
    return folder


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """10 frames of flow: one image for u and one for v each."""
    folder = tmp_path_factory.mktemp("flow") / "P01_01"
    for index in range(10):
        for channel, name in enumerate("uv"):
            grey = numbered_image(index, WIDTH, HEIGHT)[..., channel]
            save(folder / name / f"frame_{index + 1:010d}.jpg", grey, quality=90)
    return folder


def rgb_uri(folder, fps=FPS, name="frame_%010d.jpg"):
    return frames_uri(folder / name, fps=fps)


def flow_uri(folder, fps=FPS, bound=25):
    return frames_uri(folder / "{u,v}" / "frame_%010d.jpg", fps=fps, bound=bound)


def read(uri, times, **options):
    with open_video(uri) as video:
        return video.read(times, **options)


def read_image(path):
    return np.asarray(Image.open(path))


# -- the same pixels --------------------------------------------------------------------------------

A_CUT = [
    {},
    {"size": (24, 32)},
    {"box": (8, 4, 32, 40), "size": (20, 16)},
    {"box": (8, 4, 32, 40), "size": (40, 32), "mirror": True},
    {"box": (0, 0, 7, 5)},
]


@pytest.mark.parametrize("cut", A_CUT)
def test_frames_and_a_video_give_the_same_pixels(jpegs, tmp_path, cut):
    """The very JPEG data, once as files and once as a video stream."""
    path = tmp_path / "video.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for index in range(20):
            packet = av.Packet((jpegs / f"frame_{index + 1:010d}.jpg").read_bytes())
            packet.stream, packet.time_base = stream, Fraction(1, FPS)
            packet.pts = packet.dts = index
            packet.is_keyframe = True
            container.mux(packet)
    times = np.array([0.0, 0.04, 0.3, 0.76, 0.1, 0.1])
    np.testing.assert_array_equal(read(rgb_uri(jpegs), times, **cut), read(path, times, **cut))


def test_whole_frames_equal_the_images(tmp_path):
    """Against another decoder, which may differ by rounding; the chroma is stored whole."""
    for index in range(20):
        save(
            tmp_path / f"{index + 1:03d}.jpg", numbered_image(index, WIDTH, HEIGHT), quality=90, subsampling=0
        )
    frames = read(rgb_uri(tmp_path, name="%03d.jpg"), np.arange(20) / FPS)
    wanted = np.stack([read_image(tmp_path / f"{number:03d}.jpg") for number in range(1, 21)])
    assert np.abs(frames.astype(int) - wanted).max() <= 3


def test_png_frames_are_exact(tmp_path):
    for index in range(3):
        save(tmp_path / f"{index + 1:05d}.png", numbered_image(index, WIDTH, HEIGHT))
    uri = rgb_uri(tmp_path, name="%05d.png")
    np.testing.assert_array_equal(
        read(uri, np.arange(3) / FPS), [numbered_image(index, WIDTH, HEIGHT) for index in range(3)]
    )
    np.testing.assert_array_equal(
        read(uri, [0.0], box=(8, 8, 20, 10), mirror=True)[0],
        numbered_image(0, WIDTH, HEIGHT)[8:18, 8:28][:, ::-1],
    )
    assert probe(uri).codec == "png"


def test_grey_images_in_an_rgb_folder_become_rgb(tmp_path):
    uri = rgb_uri(save_grey(tmp_path, [1, 2], {1: 0, 2: 200}.get))
    np.testing.assert_array_equal(read(uri, [0.0, 0.04]).max((1, 2, 3)), [0, 200])
    np.testing.assert_array_equal(read(uri, [0.0, 0.04], size=(8, 8)).min((1, 2, 3)), [0, 200])


def test_flow_is_u_and_v_as_stored(flow):
    frames = read(flow_uri(flow), np.arange(10) / FPS)
    assert frames.shape == (10, HEIGHT, WIDTH, 2) and frames.dtype == np.uint8
    for channel, name in enumerate("uv"):
        for index in range(10):
            wanted = read_image(flow / name / f"frame_{index + 1:010d}.jpg")
            # Two decoders may round the inverse transform differently, by one.
            assert np.abs(frames[index, ..., channel].astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("cut", [{}, {"box": (8, 4, 32, 40), "size": (20, 16)}])
def test_mirrored_flow_points_the_other_way(flow, cut):
    plain, mirrored = (read(flow_uri(flow), [0.1, 0.2], mirror=mirror, **cut) for mirror in (False, True))
    np.testing.assert_array_equal(mirrored[..., 0], 255 - plain[:, :, ::-1, 0])
    np.testing.assert_array_equal(mirrored[..., 1], plain[:, :, ::-1, 1])


def test_scaled_flow_keeps_its_values(tmp_path):
    """A scale of grey is a scale of motion: no value may be stretched to or from a limited range."""
    for value in (0, 1, 16, 127, 128, 235, 254, 255):
        for name in "uv":
            save_grey(tmp_path / name, [1], {1: value}.get)
        for size in ((16, 24), (8, 12), (40, 60), (9, 31)):
            frame = read(flow_uri(tmp_path), [0.0], size=size)
            assert np.unique(frame).tolist() == [value]


def test_out_receives_the_frames(jpegs, flow):
    for uri, channels in ((rgb_uri(jpegs), 3), (flow_uri(flow), 2)):
        out = np.zeros((3, 12, 20, channels), np.uint8)
        with open_video(uri) as video:
            assert video.read([0.0, 0.2, 0.0], size=(12, 20), out=out) is out
            np.testing.assert_array_equal(out, video.read([0.0, 0.2, 0.0], size=(12, 20)))
        np.testing.assert_array_equal(out[0], out[2])
        assert not np.array_equal(out[0], out[1])
        with open_video(uri) as video, pytest.raises(ValueError, match="out has the shape"):
            video.read([0.0, 0.2], size=(12, 20), out=out)


# -- numbers and times ------------------------------------------------------------------------------


def numbers_shown(uri, times):
    """Of folders made by save_grey."""
    return read(uri, times)[:, 0, 0, 0].tolist()


def test_folders_have_the_properties_of_a_video(jpegs, flow):
    info = probe(rgb_uri(jpegs, fps=60))
    assert (info.width, info.height, info.frames, info.fps) == (WIDTH, HEIGHT, 20, 60.0)
    assert info.duration_s == pytest.approx(20 / 60)
    assert (info.codec, info.channels, info.rotation) == ("mjpeg", 3, 0)
    info = probe(flow_uri(flow, fps=30))
    assert (info.width, info.height, info.frames, info.channels) == (WIDTH, HEIGHT, 10, 2)
    assert info.duration_s == pytest.approx(10 / 30)
    np.testing.assert_array_equal(read_clip(rgb_uri(jpegs), [0.0, 0.5]), read(rgb_uri(jpegs), [0.0, 0.5]))


def test_a_frame_is_shown_until_the_next(tmp_path):
    uri = rgb_uri(save_grey(tmp_path, range(1, 21)))
    times = [-1.0, 0.0, 0.039, 0.04, 0.0399999, 0.79, 0.8, 5.0, np.inf]
    assert numbers_shown(uri, times) == [1, 1, 1, 2, 2, 20, 20, 20, 20]  # the fifth is 0.04, rounded
    with open_video(uri) as video:
        with pytest.raises(ValueError, match="at least one timestamp"):
            video.read([])
        with pytest.raises(ValueError, match="not a number"):
            video.read([np.nan])


def test_a_folder_may_start_with_a_later_number(tmp_path):
    """Numbers mean what they mean in the whole video; requests outside are moved to what is there."""
    uri = rgb_uri(save_grey(tmp_path, range(11, 21)))
    assert numbers_shown(uri, [0.0, 0.4, 0.44, 0.76, 1.0]) == [11, 11, 12, 20, 20]
    info = probe(uri)
    assert info.frames == 10 and info.duration_s == pytest.approx(0.8)


@given(
    number=st.integers(1, 300_000),
    fps=st.sampled_from([24.0, 25.0, 29.97, 50.0, 60.0, 60000 / 1001]),
    stride=st.sampled_from([1, 2, 3]),
)
def test_frame_numbers_survive_conversion_to_seconds(number, fps, stride):
    """EPIC's rule for its flow, (number - 1) // stride + 1, is a folder at fps / stride."""
    seconds = (number - 1) / fps
    assert np.floor((seconds + 1e-6) * (fps / stride)) + 1 == (number - 1) // stride + 1


@pytest.mark.parametrize("stride", [1, 2])
def test_epic_segments_show_their_own_flow(tmp_path, stride):
    """Segments by RGB frame numbers, inclusive, and flow at every frame or every second one."""
    fps = {1: 50, 2: 60}[stride]
    last = -(-200 // stride)
    for name in "uv":
        save_grey(tmp_path / name, range(1, last + 1))
    uri = flow_uri(tmp_path, fps=fps / stride)
    for first, stop in [(1, 60), (33, 92), (101, 101), (150, 200)]:
        span = (first - 1) / fps, stop / fps
        wanted = {(rgb - 1) // stride + 1 for rgb in range(first, stop + 1)}
        for sampling in ("dense", "uniform", "segments", "sequences"):
            clip = {"frames": 8, "stride": 2, "fps": fps, "source_fps": fps / stride}
            drawn = [train_times(sampling, *span, **clip, rng=np.random.default_rng(n)) for n in range(4)]
            fixed = eval_times(sampling, *span, **clip, views=3)
            assert set(numbers_shown(uri, np.concatenate([*drawn, *fixed]))) <= wanted


# -- URIs -------------------------------------------------------------------------------------------

a_number = st.floats(0.01, 1e6)


@given(
    folder=st.text("abc/%#&=é !()[];", max_size=12),
    fps=a_number,
    bound=st.none() | a_number,
)
def test_uris_read_back(folder, fps, bound):
    name = "frame_%010d.jpg" if bound is None else "{u,v}/frame_%010d.jpg"
    uri = frames_uri(f"/data/{folder}/{name}", fps=fps, bound=bound)
    assert is_frames_uri(uri)
    parsed = parse_frames_uri(uri)
    assert parsed == FramesUri(f"/data/{folder}/{name}", fps, bound)
    if bound is None:
        assert parsed.components == (parsed.pattern,)
    else:
        assert parsed.components == tuple(f"/data/{folder}/{c}/frame_%010d.jpg" for c in "uv")


def test_uris_are_plain():
    assert frames_uri("/r/frame_%010d.jpg", fps=60) == "/r/frame_%010d.jpg#fps=60"
    assert frames_uri("/r/{x,y}_%05d.jpg", fps=29.97, bound=20.0) == "/r/{x,y}_%05d.jpg#fps=29.97&bound=20"
    for video in ("/r/a.mp4", "s3://b/a.mp4", "/r/100%d.mp4", "/r/a#1.avi", io.BytesIO(), None):
        assert not is_frames_uri(video)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("/r/frame_%010d.jpg", "the frames per second are missing"),
        ("/r/frame_%010d.jpg#bound=3", "the frames per second are missing"),
        ("/r/frame_%010d.jpg#fps=", "fps= is not a number above 0"),
        ("/r/frame_%010d.jpg#fps=0", "fps=0 is not a number above 0"),
        ("/r/frame_%010d.jpg#fps=nan", "fps=nan is not"),
        ("/r/frame_%010d.jpg#fps=25&fps=30", "'fps=30' is not fps=NUMBER or bound=NUMBER, once each"),
        ("/r/frame_%010d.jpg#fps=25&bond=3", "'bond=3' is not"),
        ("/r/frame.jpg#fps=25", "the file name must contain one %0Nd"),
        ("/r/%03d_%010d.jpg#fps=25", "the file name must contain one %0Nd"),
        ("/r/100%_%010d.jpg#fps=25", "the file name must contain one %0Nd"),
        ("/r/%5d.jpg#fps=25", "the file name must contain one %0Nd"),
        ("/%010d/a.jpg#fps=25", "the file name must contain one %0Nd"),
        ("/r/frame_%010d.jpg#fps=25&bound=20", "flow needs one {u,v}"),
        ("/r/{u,v}/{a,b}_%010d.jpg#fps=25&bound=20", "flow needs one {u,v}"),
        ("/r/{u,v}/frame_%010d.jpg#fps=25", "the bound of the flow is missing"),
        ("s3://bucket/frame_%010d.jpg#fps=25", "frame folders must be on a local disk"),
    ],
)
def test_a_malformed_uri_is_one_clear_line(uri, message):
    with pytest.raises(DecodeError) as caught:
        probe(uri)
    assert caught.value.code == "not_a_video"
    assert caught.value.key == uri and caught.value.problem.startswith(message)
    assert "#fps=60" in caught.value.remedy  # how it is written
    assert "\n" not in str(caught.value)


# -- what can be wrong ------------------------------------------------------------------------------


def code_and_key(uri, times=(0.0,)):
    with pytest.raises(DecodeError) as caught:
        read(uri, times)
    assert "\n" not in str(caught.value)
    return caught.value.code, caught.value.key


def test_missing_folders_and_frames_are_named(tmp_path, jpegs):
    assert code_and_key(rgb_uri(tmp_path / "nowhere")) == ("not_found", str(tmp_path / "nowhere"))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "frame_1.jpg").write_bytes(b"x")  # another width
    (tmp_path / "none" / "frame_0000000001.jpg.part").write_bytes(b"x")
    assert code_and_key(rgb_uri(tmp_path / "none")) == ("empty", str(tmp_path / "none"))
    holed = tmp_path / "holed"
    shutil.copytree(jpegs, holed)
    (holed / "frame_0000000007.jpg").unlink()
    assert read(rgb_uri(holed), [0.2, 0.28]).shape == (2, HEIGHT, WIDTH, 3)  # 6 and 8 are there
    missing = str(holed / "frame_0000000007.jpg")
    assert code_and_key(rgb_uri(holed), [0.2, 0.24]) == ("wrong_frame_count", missing)
    assert probe(rgb_uri(holed)).frames == 19


def test_frames_added_later_are_found(tmp_path):
    uri = rgb_uri(save_grey(tmp_path, [1, 2]))
    assert numbers_shown(uri, [0.2]) == [2]
    save_grey(tmp_path, [3])
    assert numbers_shown(uri, [0.2]) == [3]


def test_of_u_and_v_only_common_frames_are_used(tmp_path):
    save_grey(tmp_path / "u", range(1, 10))
    save_grey(tmp_path / "v", range(2, 8))
    assert numbers_shown(flow_uri(tmp_path), [0.0, 0.04, 5.0]) == [2, 2, 7]
    assert probe(flow_uri(tmp_path)).frames == 6
    save_grey(tmp_path / "w", [99])
    apart = frames_uri(tmp_path / "{u,w}" / "frame_%010d.jpg", fps=FPS, bound=20)
    assert code_and_key(apart) == ("empty", apart)
    shutil.rmtree(tmp_path / "v")
    assert code_and_key(flow_uri(tmp_path))[0] == "not_found"


@pytest.mark.parametrize("kind", ["jpg", "png"])
@pytest.mark.parametrize("grey", [False, True])
def test_damaged_images_are_refused(tmp_path, kind, grey):
    image = numbered_image(0, WIDTH, HEIGHT)
    path = tmp_path / f"000.{kind}"
    save(path, image[..., 0] if grey else image)
    whole = path.read_bytes()
    uri = rgb_uri(tmp_path, name=f"%03d.{kind}")
    read(uri, [0.0])
    for part in (0.1, 0.3, 0.5, 0.8, 0.95):
        path.write_bytes(whole[: int(len(whole) * part)])
        assert code_and_key(uri) == ("truncated", str(path))
    path.write_bytes(whole[:-2] if kind == "jpg" else whole[:-20])
    assert code_and_key(uri)[0] == "truncated"
    path.write_bytes(b"")
    assert code_and_key(uri)[0] == "empty"
    path.write_bytes(b"not an image" * 20)
    assert code_and_key(uri)[0] == "not_a_video"
    path.write_bytes(whole)
    read(uri, [0.0])


def test_a_reader_survives_a_damaged_image(jpegs, tmp_path):
    shutil.copytree(jpegs, tmp_path / "copy")
    bad = tmp_path / "copy" / "frame_0000000002.jpg"
    bad.write_bytes(bad.read_bytes()[:400])
    with open_video(rgb_uri(tmp_path / "copy")) as video:
        with pytest.raises(DecodeError):
            video.read([0.04])
        np.testing.assert_array_equal(video.read([0.0, 0.08]), read(rgb_uri(jpegs), [0.0, 0.08]))


def test_frames_of_another_size_are_refused(jpegs, tmp_path):
    shutil.copytree(jpegs, tmp_path / "copy")
    save(tmp_path / "copy" / "frame_0000000003.jpg", numbered_image(0, 32, 24))
    with pytest.raises(DecodeError, match="32x24 .* 64x48") as caught:
        read(rgb_uri(tmp_path / "copy"), [0.0, 0.08])
    assert caught.value.code == "truncated"
    assert caught.value.key == str(tmp_path / "copy" / "frame_0000000003.jpg")


def test_images_too_large_for_memory_are_refused(tmp_path):
    """A small file can announce an image of gigabytes."""
    Image.new("L", (9000, 9000)).save(tmp_path / "001.png")
    assert code_and_key(rgb_uri(tmp_path, name="%03d.png"))[0] in {"too_large", "truncated"}


def test_a_video_is_still_a_video(tmp_path):
    path = write_video(tmp_path / "100%d_#1.mp4", frames=5)
    assert read(path, [0.0]).shape == (1, 48, 64, 3)
