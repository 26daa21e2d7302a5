"""The videos that the benchmarks read, and functions that their reports share.

The videos are synthetic: a texture with a natural spectrum of about 1/f, over which the camera and four
objects move, with the grain of a small sensor. So the encoder finds motion that it can predict and noise that
it cannot, at the bit rates of real data sets.
"""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import av
import numpy as np

FPS = 30
SECONDS = 10
_VERSION = 1  # of the content: with another version the files are made again
_PACKAGES = (
    "kineray",
    "av",
    "numpy",
    "torch",
    "torchvision",
    "torchcodec",
    "opencv-python-headless",
    "pytorchvideo",
)


@dataclass(frozen=True)
class File:
    """Size in pixels. ``rate``: bits per second. ``gop``: number of frames from one key frame to the next."""

    width: int
    height: int
    rate: int
    gop: int


FILES = {
    "340x256, key frame every 32": File(340, 256, 400_000, 32),
    "340x256, key frame every 250": File(340, 256, 400_000, 250),
    "1280x720, key frame every 32": File(1280, 720, 2_500_000, 32),
    "1280x720, key frame every 250": File(1280, 720, 2_500_000, 250),
}
LARGE_FILES = {
    "1920x1080, key frame every 32": File(1920, 1080, 5_000_000, 32),
    "1920x1080, key frame every 250": File(1920, 1080, 5_000_000, 250),
}
ALL_FILES = FILES | LARGE_FILES


def make_files(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """The paths of the ``ALL_FILES`` with these names; those that are missing are made in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / _file_name(ALL_FILES[name]) for name in names}
    missing = [name for name in names if not paths[name].exists()]
    for size in sorted({(ALL_FILES[name].width, ALL_FILES[name].height) for name in missing}):
        group = [name for name in missing if (ALL_FILES[name].width, ALL_FILES[name].height) == size]
        print(f"making {len(group)} files of {size[0]}x{size[1]} in {folder}", file=sys.stderr)
        _encode([(ALL_FILES[name], paths[name]) for name in group], _frames(*size))
    return paths


def _file_name(file: File) -> str:
    return f"{file.width}x{file.height}-{file.rate // 1000}k-gop{file.gop}-v{_VERSION}.mp4"


def _encode(files: Sequence[tuple[File, Path]], frames: Iterator[np.ndarray]) -> None:
    """Write the same ``frames`` to every file, with libx264's defaults (preset medium, 3 B-frames)."""
    parts = [path.with_suffix(f".{os.getpid()}.part.mp4") for _, path in files]
    containers = [av.open(str(part), "w") for part in parts]
    streams = []
    for (file, _), container in zip(files, containers, strict=True):
        stream = cast(av.VideoStream, container.add_stream("libx264", rate=FPS))
        stream.width, stream.height, stream.pix_fmt = file.width, file.height, "yuv420p"
        stream.bit_rate = file.rate
        stream.codec_context.thread_count = 1  # so that the bytes are the same on every machine
        stream.options = {"g": str(file.gop), "sc_threshold": "0"}
        streams.append(stream)
    for image in frames:
        for container, stream in zip(containers, streams, strict=True):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
    for container, stream, part, (_, path) in zip(containers, streams, parts, files, strict=True):
        container.mux(stream.encode(None))
        container.close()
        part.rename(path)


def _frames(width: int, height: int) -> Iterator[np.ndarray]:
    """uint8 [height, width, 3], ``FPS * SECONDS`` times."""
    rng = np.random.default_rng(0)
    ground = _texture(rng, 2 * height, 2 * width, mean=128, spread=45, steepness=1.1)
    skin = _texture(rng, 2 * height, 2 * width, mean=110, spread=50, steepness=1.0)
    grain = rng.normal(0, 3, (8, height, width, 1)).astype(np.float32)
    rows, columns = np.mgrid[:height, :width]
    for index in range(FPS * SECONDS):
        time_s = index / FPS
        left = round(width * (0.5 + 0.2 * np.sin(0.9 * time_s)))
        top = round(height * (0.5 + 0.2 * np.cos(0.7 * time_s)))
        image = ground[top : top + height, left : left + width].copy()
        for number in range(4):
            x = round(width * (0.5 + 0.4 * np.sin((1 + 0.3 * number) * time_s + number)))
            y = round(height * (0.5 + 0.4 * np.cos((0.8 + 0.4 * number) * time_s + 2 * number)))
            radius = height * (0.12 + 0.03 * number)
            disc = (columns - x) ** 2 + (rows - y) ** 2 < radius**2
            shift = round(20 * number * time_s)
            image[disc] = skin[(rows[disc] + shift) % (2 * height), (columns[disc] - x) % (2 * width)]
        yield np.clip(image + grain[rng.integers(len(grain))], 0, 255).astype(np.uint8)


def _texture(
    rng: np.random.Generator, height: int, width: int, *, mean: float, spread: float, steepness: float
) -> np.ndarray:
    """float32 [height, width, 3] with amplitudes of 1 / frequency ** steepness, in mostly grey colours."""
    down, across = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    frequency = np.hypot(down, across)
    frequency[0, 0] = np.inf
    planes = []
    for _ in range(4):
        noise = np.fft.irfft2(
            np.fft.rfft2(rng.standard_normal((height, width))) / frequency**steepness, s=(height, width)
        )
        planes.append(noise / noise.std())
    grey, *colours = planes
    return (mean + spread * (0.85 * grey[..., None] + 0.3 * np.stack(colours, axis=-1))).astype(np.float32)


def machine() -> dict[str, object]:
    """The machine and the package versions of a measurement."""
    versions = {}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _from_proc("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _from_proc("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "libavcodec": ".".join(map(str, av.library_versions["libavcodec"])),
        "versions": versions,
    }


def _from_proc(path: str, key: str) -> str:
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(key):
                return line.partition(":")[2].strip()
    return ""


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table of ``rows``, which all have the same keys."""
    keys = list(rows[0])
    cells = [[str(row[key]) for key in keys] for row in rows]
    widths = [max(map(len, column)) for column in zip(keys, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        first, *others = (
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    ruler = [("-" * (width - 1) + ":") if place else "-" * width for place, width in enumerate(widths)]
    return "\n".join([line(keys), line(ruler), *map(line, cells)]) + "\n"
