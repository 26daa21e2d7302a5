"""A data set of made actions: what is done is a motion, with what it is done a shape; long-tailed.

In each video one bright shape moves, grows or shrinks over a still, dark texture. The verb can
only be recognised from several frames, the noun from any of them. As in EPIC-KITCHENS, few verbs and nouns
are most of the data: the k-th has a share in proportion to 1 / k, in training and validation alike.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from kineray.data.clips.seeds import sample_rng
from kineray.data.derive.synth import drifting_texture, folder_taken, write_all, write_intra_video
from kineray.data.manifest.manifest import FILE_NAME, Manifest, load_manifest, save_manifest
from kineray.data.manifest.samples import Sample
from kineray.data.manifest.sizes import record_sizes
from kineray.storage.os_errors import os_errors_about

_NAME = "synthetic-actions"

# Verb -> motion in x and y (down), and growth, from the first frame to the last, in sizes of the shape.
VERBS: dict[str, tuple[float, float, float]] = {
    "take": (0.0, -3.0, 0.0),
    "put": (0.0, 3.0, 0.0),
    "pull": (-3.0, 0.0, 0.0),
    "push": (3.0, 0.0, 0.0),
    "open": (0.0, 0.0, 1.0),
    "close": (0.0, 0.0, -0.6),
}
NOUNS = ("plate", "board", "lid", "tap", "knife")  # a disc, a square, a ring, a cross, a bar


def synthesize_actions(
    folder: str | Path,
    *,
    train: int = 256,
    val: int = 128,
    size: int = 64,
    frames: int = 20,
    fps: int = 15,
    seed: int = 0,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``train + val`` videos of ``frames`` frames and their manifest; returns the manifest's path.

    Its heads are ``verb`` (6 classes) and ``noun`` (5). The same arguments give the same videos.
    ``threads``: number of videos that are written at a time. ``progress`` is called with (videos done, all
    videos). Raises ManifestError if ``folder`` has a manifest of other videos, StorageError if it cannot be
    written.
    """
    folder = Path(folder)
    path = folder / FILE_NAME
    if path.exists() and load_manifest(path).name != _NAME:
        raise folder_taken(folder)
    samples = []
    for split, count in (("train", train), ("val", val)):
        with os_errors_about(folder, remedy="name a `folder` that can be written"):
            (folder / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            name = f"{split}/{index:05d}"
            rng = sample_rng(seed, 1, name)
            labels = {"verb": _long_tailed(rng, len(VERBS)), "noun": _long_tailed(rng, len(NOUNS))}
            uri = str((folder / f"{name}.mp4").absolute())
            samples.append(Sample(name, uri, 0.0, None, labels, name, split))

    def write(sample: Sample) -> None:
        shown = action(sample, size=size, frames=frames, seed=seed)
        write_intra_video(Path(sample.uri), shown, fps)

    write_all(write, samples, threads, progress)
    vocabularies = {"verb": tuple(VERBS), "noun": NOUNS}
    save_manifest(record_sizes(Manifest(_NAME, tuple(samples), vocabularies)), path)
    return path


def action(sample: Sample, *, size: int, frames: int, seed: int) -> np.ndarray:
    """The frames of a sample: uint8 [T, size, size, 3]."""
    rng = sample_rng(seed, 0, sample.id)
    texture = drifting_texture(rng, size=size, frames=1, velocity=(0, 0), smoothness=3.0)[0]
    still = (96 + (texture.astype(float) - 128) / 4).astype(np.uint8)  # darker than any shape
    verb, noun = sample.labels["verb"], sample.labels["noun"]
    assert isinstance(verb, int) and isinstance(noun, int)
    dx, dy, growth = list(VERBS.values())[verb]
    radius = size * rng.uniform(0.12, 0.16)
    centre = size / 2 + rng.uniform(-0.1, 0.1, 2) * size
    colour = rng.integers(192, 256, 3)
    y, x = np.mgrid[:size, :size]
    shown = np.repeat(still[None], frames, 0)
    for number, image_hwc in enumerate(shown):
        part = number / max(frames - 1, 1) - 0.5
        now = radius * (1 + growth * (part + 0.5))
        offset_x = (x - centre[0] - dx * radius * part) / now
        offset_y = (y - centre[1] - dy * radius * part) / now
        image_hwc[inside(NOUNS[noun], offset_x, offset_y)] = colour
    return shown


def inside(noun: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points belong to a shape of radius 1 around 0."""
    distance = np.hypot(x, y)
    widest = np.maximum(abs(x), abs(y))
    found: np.ndarray = {
        "plate": distance < 1,
        "board": widest < 0.9,
        "lid": (distance < 1) & (distance > 0.55),
        "tap": (widest < 1) & (np.minimum(abs(x), abs(y)) < 0.35),
        "knife": (abs(x) < 1.2) & (abs(y) < 0.35),
    }[noun]
    return found


def _long_tailed(rng: np.random.Generator, classes: int) -> int:
    """One of ``classes``, the k-th with a share in proportion to 1 / k."""
    shares = 1 / np.arange(1, classes + 1)
    return int(rng.choice(classes, p=shares / shares.sum()))
