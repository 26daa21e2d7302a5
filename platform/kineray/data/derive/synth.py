"""A data set of H.264 videos whose class can only be recognised from motion.

A smooth random texture on a torus drifts left, right, up or down. Every frame of every class is a random
shift of a random texture, so a single frame carries no information about the class; and every frame is coded
independently with a constant quantiser, so the compression carries none either.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import av
import numpy as np

from kineray.data.clips.seeds import sample_rng
from kineray.data.derive.reencode import SETTINGS_FILE
from kineray.data.manifest.manifest import FILE_NAME, Manifest, load_manifest, save_manifest
from kineray.data.manifest.samples import Sample
from kineray.data.manifest.sizes import record_sizes
from kineray.errors import ConfigError, ManifestError
from kineray.storage.os_errors import os_errors_about

_NAME = "synthetic-drift"

Label = Literal["direction", "axis"]

# Direction (x, y) in which the texture moves on the screen; y points down.
DRIFTS: dict[str, tuple[int, int]] = {
    "drift_left": (-1, 0),
    "drift_right": (1, 0),
    "drift_up": (0, -1),
    "drift_down": (0, 1),
}
_AXES = ("horizontal", "vertical")


def synthesize(
    folder: str | Path,
    *,
    train: int = 256,
    val: int = 64,
    size: int = 64,
    seconds: float = 2.0,
    fps: int = 15,
    speed: float = 2.0,
    smoothness: float = 3.0,
    seed: int = 0,
    label: Label = "direction",
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``train + val`` videos and their manifest below ``folder``; returns the path of the manifest.

    Frames are ``size`` x ``size`` pixels; the texture moves ``speed`` pixels per frame and is correlated over
    about ``smoothness`` pixels. The classes alternate, so that every split is balanced. The same arguments
    give the same videos. ``label``: what is to be recognised, the direction (head ``action``, 4 classes) or
    the axis (head ``axis``, 2 classes). ``threads``: number of videos that are written at a time.
    ``progress`` is called with (videos done, all videos). Raises ConfigError for values that make no video,
    ManifestError if ``folder`` has a manifest of other videos, StorageError if it cannot be written.
    """
    if size % 2 or size < 16:
        raise ConfigError("must be even and at least 16", code="out_of_range", key="size", value=size)
    for name, count in (("train", train), ("val", val)):
        if count < 0:
            raise ConfigError("must not be negative", code="out_of_range", key=name, value=count)
    if round(seconds * fps) < 1:
        raise ConfigError(
            f"less than a frame at {fps} fps", code="out_of_range", key="seconds", value=seconds
        )
    folder = Path(folder)
    _check_own(folder)
    classes = tuple(DRIFTS)
    samples = []
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            drift = index % len(classes)
            name = f"{split}/{classes[drift]}/{index // len(classes):05d}"
            uri = str((folder / f"{name}.mp4").absolute())
            labels = {"action": drift} if label == "direction" else {"axis": drift // len(_AXES)}
            samples.append(Sample(name, uri, 0.0, None, labels, name, split))
    for split in ("train", "val"):
        for class_name in classes:
            with os_errors_about(folder, remedy="name a `folder` that can be written"):
                (folder / split / class_name).mkdir(parents=True, exist_ok=True)
    write = partial(
        _write_video,
        size=size,
        frames=round(seconds * fps),
        fps=fps,
        speed=speed,
        smoothness=smoothness,
        seed=seed,
    )
    write_all(write, samples, threads, progress)
    path = folder / FILE_NAME
    vocabularies = {"action": classes} if label == "direction" else {"axis": _AXES}
    save_manifest(record_sizes(Manifest(_NAME, tuple(samples), vocabularies)), path)
    return path


def write_all(
    write: Callable[[Sample], None],
    samples: Sequence[Sample],
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Call ``write`` for each sample, in ``threads`` threads; ``progress(videos done, all videos)``."""
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for done, _ in enumerate(pool.map(write, samples), start=1):
            if progress:
                progress(done, len(samples))


def drifting_texture(
    rng: np.random.Generator, *, size: int, frames: int, velocity: tuple[float, float], smoothness: float
) -> np.ndarray:
    """A random smooth texture that moves ``velocity`` = (x, y) pixels per frame: uint8 [T, size, size, 3].

    The texture is a sum of waves with Gaussian weights, periodic in both directions. It is shifted by
    changing the phases of the waves, which is exact for any fraction of a pixel, without blur.
    """
    waves_y = np.fft.fftfreq(size)[:, None]
    waves_x = np.fft.rfftfreq(size)[None, :]
    weight = np.exp(-2 * (np.pi * smoothness) ** 2 * (waves_y**2 + waves_x**2) / 2)
    weight[0, 0] = 0  # every texture has the same mean
    spectrum_chw = np.fft.rfft2(rng.standard_normal((3, size, size))) * weight
    start_x, start_y = rng.uniform(0, size, 2)
    times = np.arange(frames)[:, None, None]
    shift = waves_x * (start_x + velocity[0] * times) + waves_y * (start_y + velocity[1] * times)
    moved_tchw = spectrum_chw[None] * np.exp(-2j * np.pi * shift)[:, None]
    texture_tchw = np.fft.irfft2(moved_tchw, s=(size, size))
    texture_tchw /= texture_tchw[0].std()
    return np.clip(128 + 48 * texture_tchw, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def folder_taken(folder: Path) -> ManifestError:
    """The error of a folder that has a manifest of other videos."""
    return ManifestError(
        "contains a manifest of other videos",
        code="folder_taken",
        key="folder",
        value=folder,
        remedy="name another folder",
    )


def _check_own(folder: Path) -> None:
    """Raise ManifestError if ``folder`` has a manifest or copies that another command wrote."""
    if (folder / FILE_NAME).exists() and not _is_own(folder):
        raise folder_taken(folder)


def _is_own(folder: Path) -> bool:
    try:
        manifest = load_manifest(folder)
    except ManifestError:
        return False
    return (
        manifest.name == _NAME
        and not manifest.missing
        and not (folder / SETTINGS_FILE).exists()
        and all(
            sample.uri == str((folder / f"{sample.id}.mp4").absolute())
            and sample.split == sample.id.partition("/")[0]
            and not sample.flow
            for sample in manifest
        )
    )


def _write_video(
    sample: Sample, *, size: int, frames: int, fps: int, speed: float, smoothness: float, seed: int
) -> None:
    direction = DRIFTS[Path(sample.uri).parent.name]
    texture_thwc = drifting_texture(
        sample_rng(seed, 0, sample.id),
        size=size,
        frames=frames,
        velocity=(direction[0] * speed, direction[1] * speed),
        smoothness=smoothness,
    )
    write_intra_video(Path(sample.uri), texture_thwc, fps)


def write_intra_video(path: Path, frames_thwc: np.ndarray, fps: int) -> None:
    """Write uint8 frames [T, H, W, 3] as H.264, every frame by itself with a constant quantiser."""
    temporary = path.with_suffix(".tmp")
    height, width = frames_thwc.shape[1:3]
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.options = {"preset": "veryfast", "g": "1", "qp": "20", "aq-mode": "0"}
        for image_hwc in frames_thwc:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_hwc), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    temporary.replace(path)
