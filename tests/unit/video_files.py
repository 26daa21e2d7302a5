"""Small real videos for the tests, and a reference decoder that shares no code with kineray's."""

from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np

TOLERANCE_S = Fraction(1, 1_000_000)


def picture(index, width, height):
    """uint8 [H, W, 3]; every index gives another picture, and no symmetry of the square keeps one."""
    rng = np.random.default_rng(index)
    blocks = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    image = blocks.repeat(8, axis=0).repeat(8, axis=1)
    image[: height // 2, : width // 4] = (255, 0, 0)
    return image


def write_video(
    path,
    *,
    frames=40,
    width=64,
    height=48,
    fps=25,
    gop=12,
    bframes=2,
    times=None,
    time_base=None,
    start=0,
    rotation=0,
    codec="libx264",
    params="",
    container_options=None,
    audio=False,
):
    """Encode ``frames`` pictures; ``times`` are presentation times in ``time_base`` (default 1 / fps)."""
    time_base = time_base or Fraction(1, fps)
    options = {"g": str(gop), "bf": str(bframes)}
    if codec == "libx264":
        options |= {
            "preset": "ultrafast",
            "x264-params": f"keyint={gop}:bframes={bframes}:b-adapt=0:{params}",
        }
    if codec == "libx265":
        options |= {
            "preset": "ultrafast",
            "x265-params": f"keyint={gop}:bframes={bframes}:log-level=none:{params}",
        }
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        stream.options = options
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=16000) if audio else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index, width, height), format="rgb24")
            frame.pts = start + (times[index] if times is not None else index)
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux(sound.encode(_silence(frames * 16000 // fps)))
            container.mux(sound.encode(None))
    return Path(path)


def write_sound(path, seconds=1):
    """A file with an audio stream and nothing else."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        container.mux(stream.encode(_silence(seconds * 16000)))
        container.mux(stream.encode(None))
    return Path(path)


def _silence(samples):
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), np.float32), format="fltp", layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    return frame


@cache
def decode_all(path):
    """Every frame: (seconds from the first one as Fractions, uint8 [N, H, W, 3] as coded)."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [
            (frame.pts * stream.time_base, frame.to_ndarray(format="rgb24"))
            for frame in container.decode(stream)
        ]
    return [time - frames[0][0] for time, _ in frames], np.stack([image for _, image in frames])


def reference_clip(path, timestamps_s, quarter_turns=0):
    """What read_clip must return, from decoding the whole file frame by frame."""
    times, images = decode_all(path)
    chosen = [
        max([index for index, time in enumerate(times) if time <= Fraction(t) + TOLERANCE_S], default=0)
        for t in map(float, timestamps_s)
    ]
    return np.rot90(images[chosen], quarter_turns, axes=(1, 2))
