"""Small real videos for the tests, and a reference decoder that shares no code with kineray's."""

import struct
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np

TOLERANCE_S = Fraction(1, 1_000_000)


def numbered_image(index, width, height):
    """uint8 [H, W, 3]; every index gives a different image without any symmetry."""
    rng = np.random.default_rng(index)
    blocks = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3), np.uint8)
    image = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    image[: height // 2, : width // 4] = (255, 0, 0)
    return np.ascontiguousarray(image)


def moving(frames, width, height):
    """Images of a texture that moves and fades behind a block, so that frames are predicted from others."""
    texture = np.random.default_rng(0).integers(0, 256, (height + frames, width + 2 * frames, 3))
    texture = texture[::4, ::4].repeat(4, axis=0).repeat(4, axis=1)
    for index in range(frames):
        image = texture[index : index + height, 2 * index : 2 * index + width]
        image = (image * (0.4 + 0.6 * abs(np.cos(index / 9)))).astype(np.uint8)
        image[4:12, 3 * index % width :][:, :8] = (255, 0, 0)
        yield image


# Options that make an encoder quick and leave the types of its frames to the caller.
_QUICK = {
    "libx264": {"preset": "ultrafast"},
    "libx265": {"preset": "ultrafast"},
    "libvpx": {"deadline": "good", "cpu-used": "5", "b": "200k"},
    "libvpx-vp9": {"deadline": "good", "cpu-used": "8", "b": "200k"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1"},
}
_PARAMS = {"libx264": "x264-params", "libx265": "x265-params"}


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
    pix_fmt="yuv420p",
    params="",
    options=None,
    container_options=None,
    audio=False,
    images=None,
):
    """Encode ``frames`` images; ``times`` are presentation times in ``time_base`` (default 1 / fps).

    ``params`` are those of x264 and x265, ``options`` libav's for the encoder. ``images`` replace
    those of ``numbered_image``.
    """
    time_base = time_base or Fraction(1, fps)
    encoder_options = {"g": str(gop)} | _QUICK.get(codec, {})
    if codec in ("libx264", "libx265", "mpeg4", "mpeg2video", "mpeg1video"):
        encoder_options["bf"] = str(bframes)
    if codec in _PARAMS:
        quiet = "log-level=none:" if codec == "libx265" else ""
        encoder_options[_PARAMS[codec]] = f"keyint={gop}:bframes={bframes}:b-adapt=0:{quiet}{params}"
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.time_base = time_base
        stream.codec_context.thread_count = 1
        stream.options = encoder_options | (options or {})
        if rotation:
            stream.set_display_rotation(rotation)
        sound = container.add_stream("aac", rate=16000) if audio else None
        for index in range(frames):
            image = numbered_image(index, width, height) if images is None else images[index]
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pix_fmt != "yuv420p":
                frame = frame.reformat(format=pix_fmt)
            frame.pts = start + (times[index] if times is not None else index)
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            container.mux(sound.encode(_silence(frames * 16000 // fps)))
            container.mux(sound.encode(None))
    return Path(path)


def copy_packets(source, path, change):
    """Write the packets of ``source``'s video stream to ``path``; ``change``: (position, bytes) -> bytes."""
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        stream = made.add_stream_from_template(given.streams.video[0])
        packets = [packet for packet in given.demux(given.streams.video[0]) if packet.size]
        for position, packet in enumerate(packets):
            copy = av.Packet(change(position, bytes(packet)))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            made.mux(copy)
    return Path(path)


def cut_copy(source, path, first, shown):
    """Cut ``source`` without encoding, as ``ffmpeg -ss -c copy`` does: packets from ``first`` on are copied,
    and an edit list hides those before ``shown`` (both in frames at 25 per second)."""
    with av.open(str(source)) as given, av.open(str(path), "w") as made:
        stream = given.streams.video[0]
        copy = made.add_stream_from_template(stream)
        frame = int(1 / (25 * stream.time_base))
        for packet in given.demux(stream):
            if packet.size and packet.pts >= first * frame:
                packet.pts, packet.dts = packet.pts - shown * frame, packet.dts - shown * frame
                packet.stream = copy
                made.mux(packet)
    return Path(path)


def edit(path, *spans_s):
    """Let the edit list of an MP4 (its tables at the end) present these (start, end) one after the other."""
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") - 4
    old = struct.unpack_from(">I", data, at)[0]
    offset = struct.unpack_from(">i", data, at + 20)[0]  # of the first frame, due to the order of decoding
    with av.open(str(path)) as container:
        ticks = 1 / container.streams.video[0].time_base
    entries = b"".join(
        struct.pack(">IiI", round((end - start) * 1000), offset + round(start * ticks), 1 << 16)
        for start, end in spans_s
    )
    data[at : at + old] = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(spans_s)) + entries
    for name in (b"edts", b"trak", b"moov"):
        size_at = data.index(name) - 4
        size = struct.unpack_from(">I", data, size_at)[0] + 16 + len(entries) - old
        struct.pack_into(">I", data, size_at, size)
    path.write_bytes(data)
    return path


def write_dropped(path, dropped, frames=50, **options):
    """An AVI file in which the chunks of the frames ``dropped`` are empty: the frame before stays."""
    write_video(path, frames=frames, **options)
    data = bytearray(path.read_bytes())
    index = data.index(b"idx1") + 8
    movi = data.index(b"movi")
    for frame in sorted(dropped, reverse=True):
        entry = index + 16 * frame
        offset, size = struct.unpack_from("<II", data, entry + 8)
        struct.pack_into("<I", data, entry + 12, 0)
        at = movi + offset
        assert struct.unpack_from("<I", data, at + 4)[0] == size
        # What was there is padding that no reader looks at.
        struct.pack_into("<I", data, at + 4, 0)
        data[at + 8 : at + 16] = b"JUNK" + struct.pack("<I", (size + size % 2 - 8))
    path.write_bytes(data)
    return path


def spoil(path, frames, fill=b"\xff", first_byte=0):
    """Overwrite the packets at these positions of the video stream, from their ``first_byte`` on."""
    with av.open(str(path)) as container:
        packets = [(packet.pos, bytes(packet)) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    for position in frames:
        near, content = packets[position]
        start = data.index(content, near)  # some containers count from the header of the packet
        data[start + first_byte : start + len(content)] = fill * (len(content) - first_byte)
    path.write_bytes(data)
    return path


def lose_transport_packet(path, frame):
    """Leave out the second transport packet of a frame."""
    with av.open(str(path)) as container:
        start = [packet.pos for packet in container.demux(video=0) if packet.size][frame]
    data = path.read_bytes()
    assert data[start] == data[start + 188] == 0x47 and not data[start + 189] & 0x40
    path.write_bytes(data[: start + 188] + data[start + 376 :])
    return path


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


@lru_cache(maxsize=128)
def decode_all(path):
    """Every frame: (seconds from the first one as Fractions, uint8 [N, H, W, 3] as coded).

    AVI and ASF store decoding times only: here, frames are in order at 25 frames per second.
    """
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        untimed = container.format.name in ("avi", "asf")
        frames = [
            (
                Fraction(index, 25) if untimed else frame.pts * stream.time_base,
                frame.to_ndarray(format="rgb24"),
            )
            for index, frame in enumerate(container.decode(stream))
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
