"""Batches of uint8 clips, decoded ahead by child processes.

A thread for each process hands it samples and copies its clips into the batch. Threads that decode in the
training process are no faster (``benchmarks/loader.py``: 0.7 to 1.0 of bare readers, processes 0.9 to
1.0), and none of them could be stopped in a file that libav hangs on.
"""

import logging
import queue
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TypeVar

import numpy as np
import torch

from kineray import storage
from kineray.data.batches.order import balanced_order, global_order, repeats
from kineray.data.clips.decoding import ClipDecoder
from kineray.data.clips.preprocessing import Preprocessing
from kineray.data.clips.seeds import sample_rng
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ConfigError, DecodeError, ManifestError, StorageError
from kineray.video.worker import decode_process

logger = logging.getLogger(__name__)

_ATTEMPTS = 8  # so many undecodable clips in a row mean a wrong mount or path, not some bad files
_FETCHERS = 8  # downloads at a time: they wait for the network, not for a core
_BATCHES_IN_USE = 2  # one that the model works on, one that is handed over

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """A clip that could not be decoded; ``code`` is DecodeError's, or ``storage``."""

    id: str
    uri: str
    code: str
    message: str


@dataclass(frozen=True)
class Batch:
    """A micro-batch of step ``step``.

    ``clips_bthwc`` is uint8 [B, T, H, W, C], contiguous; ``labels`` holds int64 [B] for every head; ``ids``
    are of the samples in the batch; ``failures`` of those that were replaced.
    """

    step: int
    clips_bthwc: torch.Tensor
    labels: dict[str, torch.Tensor]
    ids: tuple[str, ...]
    failures: tuple[Failure, ...]


EvalClips = tuple[Sample, np.ndarray | None, np.ndarray | None, Failure | None]


def steps_per_epoch(manifest: Manifest, global_batch: int, clips_per_sample: int = 1) -> int:
    """Number of whole global batches in an epoch. Raises ManifestError if there is none."""
    clips = len(manifest) * clips_per_sample
    if clips < global_batch:
        times = f", {clips_per_sample} clips of each," if clips_per_sample > 1 else ""
        raise ManifestError(
            f"{manifest.name}: {len(manifest)} samples{times} are fewer than "
            f"train.global_batch={global_batch}; make the batch smaller"
        )
    return clips // global_batch


def prefetched_batches(
    preprocessing: Preprocessing,
    micro_batch: int,
    decoders: int,
    max_memory: int | None,
    clips_per_sample: int = 1,
) -> int:
    """How many micro-batches may be decoded ahead of the one that is used next.

    ``max_memory``: bytes that clips may take in this process and its decoders together (None: as many as
    keep all decoders busy while a batch is used). Raises ConfigError if not even one batch fits.
    """
    clip = preprocessing.frames * preprocessing.crop**2 * preprocessing.channels
    at_once = min(clips_per_sample, micro_batch)  # that a decoder cuts
    enough = 2 + decoders * at_once // micro_batch
    if max_memory is None:
        return enough
    fixed = decoders * at_once * clip + _BATCHES_IN_USE * micro_batch * clip
    fits = (max_memory - fixed) // (micro_batch * clip)
    if fits < 1:
        least = fixed + micro_batch * clip
        raise ConfigError(
            f"--max-memory: {max_memory / 2**20:.0f} MiB are less than the {least / 2**20:.0f} MiB that "
            f"{_BATCHES_IN_USE + 1} batches of {micro_batch} clips and {decoders} decoders take; raise it, "
            "or lower --micro-batch or --decoders"
        )
    return min(enough, fits)


def train_batches(
    manifest: Manifest,
    preprocessing: Preprocessing,
    *,
    seed: int,
    global_batch: int,
    start_step: int,
    stop_step: int,
    lo: int,
    hi: int,
    micro_batch: int,
    decoders: int,
    clips_per_sample: int = 1,
    balance: tuple[str, float] | None = None,
    indexes: IndexCache | None = None,
    max_memory: int | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The micro-batches of steps ``start_step`` to ``stop_step`` (exclusive), in order.

    Global batch b of an epoch is samples [b * B, (b + 1) * B) of its permutation; what does not fill a
    batch is dropped. This rank takes positions [lo, hi) of every global batch, cut into parts of
    ``micro_batch``. ``decoders`` processes decode ahead. A clip that cannot be decoded is replaced by
    another, drawn from (seed, epoch, sample id, attempt).

    ``clips_per_sample``: clips of a sample that follow each other in the permutation (repeated
    augmentation, arXiv 1901.09335); those in one micro-batch are cut in one decoding pass.
    ``balance``: head and power for ``balanced_order``. ``indexes``: of the manifest's videos.
    ``max_memory``: see ``prefetched_batches``. ``pin_memory``: put batches where a GPU can copy them from
    while the processor goes on. Raises ManifestError and ConfigError.
    """
    per_epoch = steps_per_epoch(manifest, global_batch, clips_per_sample)
    if not 0 <= lo < hi <= global_batch or micro_batch < 1:
        raise ValueError(f"[{lo}, {hi}) in parts of {micro_batch} is not a slice of {global_batch} positions")
    prefetch = prefetched_batches(
        preprocessing, min(micro_batch, hi - lo), decoders, max_memory, clips_per_sample
    )
    side = preprocessing.crop
    clip_shape = (preprocessing.frames, side, side, preprocessing.channels)

    def parts() -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
        """(step, epoch, [(sample, how often it was seen in this epoch)]) of every micro-batch."""
        order, order_epoch = np.empty(0, np.int64), -1
        for step in range(start_step, stop_step):
            epoch, batch = divmod(step, per_epoch)
            if epoch != order_epoch:
                order, order_epoch = _epoch_order(manifest, seed, epoch, balance), epoch
                order = np.repeat(order, clips_per_sample)
                seen = repeats(order)
            first = batch * global_batch
            for start in range(first + lo, first + hi, micro_batch):
                part = slice(start, min(start + micro_batch, first + hi))
                yield step, epoch, list(zip(order[part].tolist(), seen[part].tolist(), strict=True))

    memory = _Memory(pin_memory)
    with _Decoders(preprocessing, decoders) as pool:
        waiting: deque[_Pending] = deque()
        for step, epoch, entries in parts():
            clips_bthwc = memory.take((len(entries), *clip_shape))
            rows = clips_bthwc.numpy()
            tasks = []
            for number, of_sample in groupby(enumerate(entries), key=lambda entry: entry[1][0]):
                places, again = zip(*((row, repeat) for row, (_, repeat) in of_sample), strict=True)
                clips_nthwc = rows[places[0] : places[-1] + 1]
                sample = manifest[number]
                load = partial(_load, manifest, sample, (seed, epoch), again, indexes, clips_nthwc)
                tasks.append(pool.submit(load, sample))
            waiting.append(_Pending(step, clips_bthwc, tasks))
            if len(waiting) > prefetch:
                yield waiting.popleft().batch(preprocessing)
        while waiting:
            yield waiting.popleft().batch(preprocessing)


def eval_clips(
    manifest: Manifest,
    preprocessing: Preprocessing,
    *,
    views: int,
    crops: int,
    indices: Iterable[int],
    decoders: int,
    indexes: IndexCache | None = None,
) -> Iterator[EvalClips]:
    """``Preprocessing.eval_views`` of the samples at ``indices``, in order.

    Yields (sample, clips uint8 [views * crops, T, side, side, C], timestamps [views, T], None), or
    (sample, None, None, failure) for a video that cannot be decoded.
    """

    def load(sample: Sample, decoder: ClipDecoder) -> EvalClips:
        try:
            clips, timestamps = decoder.eval_views(sample, views, crops, _index_of(indexes, sample))
        except (DecodeError, StorageError) as error:
            return sample, None, None, _failure(decoder, sample, error)
        return sample, clips.copy(), timestamps.copy(), None

    with _Decoders(preprocessing, decoders) as pool:
        waiting: deque[Future[EvalClips]] = deque()
        for number in indices:
            sample = manifest[number]
            waiting.append(pool.submit(partial(load, sample), sample))
            if len(waiting) > decoders:  # the clips of a video with many views are large: few wait
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@dataclass(frozen=True)
class _Loaded:
    sample: Sample
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class _Pending:
    """A batch whose clips are being decoded into ``clips_bthwc``."""

    step: int
    clips_bthwc: torch.Tensor
    tasks: "list[Future[list[_Loaded]]]"

    def batch(self, preprocessing: Preprocessing) -> Batch:
        loaded = [clip for task in self.tasks for clip in task.result()]
        return Batch(
            step=self.step,
            clips_bthwc=self.clips_bthwc,
            labels={
                head: torch.tensor([item.sample.labels[head] for item in loaded])
                for head in preprocessing.labels
            },
            ids=tuple(item.sample.id for item in loaded),
            failures=tuple(failure for item in loaded for failure in item.failures),
        )


class _Memory:
    """Gives batches their memory, and takes it back when nothing refers to a batch any more.

    The first write to a page of new memory makes the kernel find one: for a clip of 5 MB that takes longer
    than copying it. (Pinned memory is kept by torch itself.)
    """

    def __init__(self, pin_memory: bool) -> None:
        self._pin_memory = pin_memory
        self._arrays: list[np.ndarray] = []

    def take(self, shape: tuple[int, ...]) -> torch.Tensor:
        if self._pin_memory:
            return torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        for array in self._arrays:
            # The list, the loop and the call refer to it; tensors and their views do while they live.
            if array.shape == shape and sys.getrefcount(array) == 3:
                return torch.from_numpy(array)
        self._arrays.append(np.empty(shape, np.uint8))
        return torch.from_numpy(self._arrays[-1])


class _Decoders:
    """Child processes that decode, each with a thread that waits for it, and threads that download."""

    def __init__(self, preprocessing: Preprocessing, count: int) -> None:
        self._preprocessing = preprocessing
        self._closing = ExitStack()
        self._free: queue.SimpleQueue[ClipDecoder] = queue.SimpleQueue()
        for _ in range(max(count, 1)):
            process = self._closing.enter_context(decode_process())
            self._free.put(ClipDecoder(process, preprocessing))
        self._threads = ThreadPoolExecutor(max(count, 1), thread_name_prefix="decode")
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")

    def __enter__(self) -> "_Decoders":
        return self

    def __exit__(self, *_: object) -> None:
        self._fetchers.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._closing.close()

    def submit(self, task: Callable[[ClipDecoder], T], sample: Sample) -> "Future[T]":
        """Call ``task`` with a decoder once the sample's video is here; downloads run ahead."""
        uri, _ = self._preprocessing.sources(sample)  # flow beside it lies on a local disk
        fetched = self._fetchers.submit(storage.prefetch, uri) if storage.is_remote(uri) else None
        return self._threads.submit(self._run, task, fetched)

    def _run(self, task: Callable[[ClipDecoder], T], fetched: "Future[None] | None") -> T:
        if fetched is not None:
            fetched.exception()  # the decoder meets the same error, and says it
        with self._decoder() as decoder:
            return task(decoder)

    @contextmanager
    def _decoder(self) -> Iterator[ClipDecoder]:
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)


def _epoch_order(manifest: Manifest, seed: int, epoch: int, balance: tuple[str, float] | None) -> np.ndarray:
    if balance is None:
        return global_order(len(manifest), seed, epoch)
    head, power = balance
    return balanced_order(manifest.labels(head), seed, epoch, power)


def _load(
    manifest: Manifest,
    wanted: Sample,
    when: tuple[int, int],
    again: Sequence[int],
    indexes: IndexCache | None,
    clips_nthwc: np.ndarray,
    decoder: ClipDecoder,
) -> list[_Loaded]:
    """Decode clips of ``wanted``, or what replaces them, into ``clips_nthwc``.

    ``when`` is (seed, epoch), ``again`` how often the sample was seen before in the epoch, for each clip.
    """
    keys = [(*when, wanted.id, 0, repeat) for repeat in again]
    try:
        clips_nthwc[...] = decoder.train_clips(wanted, keys, _index_of(indexes, wanted))
    except (DecodeError, StorageError) as error:
        failure = _failure(decoder, wanted, error)
    else:
        return [_Loaded(wanted, ()) for _ in again]
    logger.info("replaced %d of its clips: %s", len(again), failure.message)
    return [
        _replace(manifest, failure, (*when, repeat), indexes, clip_1thwc, decoder)
        for repeat, clip_1thwc in zip(again, np.split(clips_nthwc, len(again)), strict=True)
    ]


def _replace(
    manifest: Manifest,
    failure: Failure,
    when: tuple[int, int, int],
    indexes: IndexCache | None,
    clip_1thwc: np.ndarray,
    decoder: ClipDecoder,
) -> _Loaded:
    """Decode a clip of another sample; ``when`` is (seed, epoch, repeat) of the one that failed."""
    failures = [failure]
    seed, epoch, repeat = when
    for attempt in range(1, _ATTEMPTS):
        key = (seed, epoch, failure.id, attempt, repeat)
        sample = manifest[int(sample_rng(*key).integers(len(manifest)))]
        try:
            clip_1thwc[...] = decoder.train_clips(sample, [key], _index_of(indexes, sample))
        except (DecodeError, StorageError) as error:
            failures.append(_failure(decoder, sample, error))
            logger.info("replaced a clip: %s", error)
        else:
            return _Loaded(sample, tuple(failures))
    raise ManifestError(
        f"{manifest.name}: {_ATTEMPTS} clips in a row cannot be decoded, the last: {failures[-1].message}"
    )


def _index_of(indexes: IndexCache | None, sample: Sample) -> bytes | None:
    return None if indexes is None else indexes.get(sample.uri)


def _failure(decoder: ClipDecoder, sample: Sample, error: DecodeError | StorageError) -> Failure:
    code = error.code if isinstance(error, DecodeError) else "storage"
    return Failure(sample.id, decoder.uri(sample), code, str(error))
