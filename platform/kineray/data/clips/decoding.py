"""Cutting the clips of a sample in a decoding process. Imports no torch."""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np

from kineray import storage
from kineray.config import Pieces
from kineray.data.clips.augment import in_child, to_child
from kineray.data.clips.preprocessing import Preprocessing
from kineray.data.clips.seeds import sample_rng
from kineray.data.manifest.samples import Sample
from kineray.video import FrameArray, PacketIndex
from kineray.video.process import DecodeProcess, allocate, decode_process

SampleKey: TypeAlias = tuple[int, int, str, int, int]
"""The arguments of ``sample_rng``: seed, epoch, sample id, attempt, repeat."""


class ClipDecoder:
    """Cuts clips in a child process. To be used by one thread at a time."""

    def __init__(self, process: DecodeProcess, preprocessing: Preprocessing) -> None:
        self._process = process
        # Class names do not affect pixels, and there may be hundreds to send with every clip.
        self._preprocessing = preprocessing.model_copy(update={"labels": {}, "augment": Pieces()})
        self._augment = to_child(preprocessing.augment)

    def uri(self, sample: Sample) -> str:
        """The URI of the video or flow that clips of a sample are read from."""
        return self._preprocessing.sources(sample)[0]

    def train_clips(self, sample: Sample, keys: Sequence[SampleKey], index: bytes | None) -> np.ndarray:
        """``Preprocessing.train_clips``: uint8 [N, T, crop, crop, C], in shared memory.

        ``keys``: the arguments of ``sample_rng`` for each clip. ``index``: ``PacketIndex.to_bytes`` of the
        video, if it is known. Raises DecodeError and StorageError.
        """
        clips: np.ndarray = self._process.call(
            _train_clips,
            self._preprocessing,
            self._augment,
            _bare(sample),
            keys,
            index,
            name=self.uri(sample),
        )
        return clips

    def eval_views(
        self, sample: Sample, views: int, crops: int, index: bytes | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """``Preprocessing.eval_views`` of a sample, in shared memory. Raises DecodeError and StorageError."""
        clips, times = self._process.call(
            _eval_views, self._preprocessing, _bare(sample), views, crops, index, name=self.uri(sample)
        )
        return clips, times


def eval_file(
    file: str | Path | BinaryIO | FrameArray, preprocessing: Preprocessing, views: int, crops: int
) -> tuple[np.ndarray, np.ndarray]:
    """``Preprocessing.eval_views`` of a whole video, cut in a child process.

    ``file``: a path, a URI, an open binary file, or frames. Raises DecodeError and StorageError, and
    ConfigError if the clips need more than this file, such as flow beside a video.
    """
    if isinstance(file, FrameArray):  # nothing of it has to be decoded
        return preprocessing.eval_views(file, views=views, crops=crops)
    content = storage.absolute(file) if isinstance(file, str | Path) else file.read()
    bare = preprocessing.model_copy(update={"labels": {}, "augment": Pieces()})
    name = str(file) if isinstance(file, str | Path) else "the upload"
    with decode_process() as process:
        clips, times = process.call(_eval_file, bare, content, views, crops, name=name)
        return clips.copy(), times.copy()


def usable_cores() -> int:
    """Number of cores that this process may use, and so by default of decoding processes."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_processes(count: int) -> None:
    """Start ``count`` decoding processes, so that the first files do not wait for them."""
    with ExitStack() as held, ThreadPoolExecutor(count) as pool:
        processes = [held.enter_context(decode_process()) for _ in range(count)]
        list(pool.map(lambda process: process.call(_ready, name="a decoding process"), processes))


def _ready() -> None:
    """Does nothing; to call it, a child has to import this module and all that decoding needs."""


def _bare(sample: Sample) -> Sample:
    return replace(sample, labels={}, boxes=(), subsets=frozenset())


def _train_clips(
    preprocessing: Preprocessing,
    augment: str,
    sample: Sample,
    keys: Sequence[SampleKey],
    index: bytes | None,
) -> np.ndarray:
    preprocessing = preprocessing.model_copy(update={"augment": in_child(augment)})
    rngs = [sample_rng(*key) for key in keys]
    uri, flow = preprocessing.sources(sample)
    with storage.video_source(uri) as source:
        return preprocessing.train_clips(
            source, sample, rngs, flow=flow, index=_index(index), allocate=allocate
        )


def _eval_views(
    preprocessing: Preprocessing, sample: Sample, views: int, crops: int, index: bytes | None
) -> tuple[np.ndarray, np.ndarray]:
    uri, flow = preprocessing.sources(sample)
    span_s = (sample.start_s, sample.end_s)
    with storage.video_source(uri) as source:
        return preprocessing.eval_views(
            source, *span_s, views, crops, flow=flow, index=_index(index), allocate=allocate
        )


def _eval_file(
    preprocessing: Preprocessing, content: str | bytes, views: int, crops: int
) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(content, bytes):
        return preprocessing.eval_views(io.BytesIO(content), views=views, crops=crops, allocate=allocate)
    with storage.video_source(content) as source:
        return preprocessing.eval_views(source, views=views, crops=crops, allocate=allocate)


@lru_cache(maxsize=8)  # clips of the same long video often follow each other
def _index(data: bytes | None) -> PacketIndex | None:
    return None if data is None else PacketIndex.from_bytes(data)
