"""Batches of uint8 clips, decoded ahead by child processes.

For each process a thread sends it samples and copies its clips into the batch. Decoding in threads of the
training process is no faster (``benchmarks/loader.py``: 0.7 to 1.0 of bare readers, processes 0.9 to 1.0),
and a thread could not be stopped in a file on which libav hangs.
"""

import logging
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TypeAlias, TypeVar

import numpy as np
import torch

from kineray import storage
from kineray.data.batches.epoch_order import EpochOrder
from kineray.data.batches.labels import label_tensors
from kineray.data.batches.memory import BatchMemory
from kineray.data.batches.spec import BatchSpec, Failure
from kineray.data.clips.decoding import ClipDecoder, SampleKey
from kineray.data.clips.draws import ClipDraws
from kineray.data.clips.preprocessing import Preprocessing
from kineray.data.clips.seeds import sample_rng
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.errors import ConfigError, DecodeError, ManifestError, StorageError
from kineray.video.process import DecodeProcess, decode_process

logger = logging.getLogger(__name__)

_ATTEMPTS = 8  # this many undecodable clips in a row mean a wrong mount or path, not a few bad files
_FETCHERS = 8  # concurrent downloads: they wait for the network, not for a core
_BATCHES_IN_USE = 2  # one in the model, one on its way there

T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """A micro-batch of step ``step``.

    ``clips_bthwc``: uint8 [B, T, H, W, C], contiguous. ``labels``: by head, int64 [B], or uint8 [B, classes]
    for a multi-label head. ``ids``: of the samples in the batch. ``failures``: the clips that were replaced.
    """

    step: int
    clips_bthwc: torch.Tensor
    labels: dict[str, torch.Tensor]
    ids: tuple[str, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class Loaded:
    """A clip that was decoded: one of ``sample``, after the ``failures`` of those that it replaces."""

    sample: Sample
    failures: tuple[Failure, ...]


EvalClips = tuple[Sample, np.ndarray | None, np.ndarray | None, Failure | None]
Targets: TypeAlias = Callable[[Sequence[Sample]], dict[str, torch.Tensor]]
"""Makes the labels of a batch, by head, from its samples."""
ClipKey: TypeAlias = tuple[int, int, int]
"""Seed, epoch and repeat of a clip (``ClipDraws.key``)."""


def prefetched_batches(
    preprocessing: Preprocessing,
    micro_batch: int,
    decoders: int,
    max_memory: int | None,
    clips_per_sample: int = 1,
) -> int:
    """How many micro-batches may be decoded ahead of the one that is used next.

    ``max_memory``: bytes for clips in this process and its decoders together (None: enough to keep all
    decoders busy while a batch is used). Raises ConfigError if not even one batch fits.
    """
    clip = preprocessing.frames * preprocessing.crop**2 * preprocessing.channels
    at_once = min(clips_per_sample, micro_batch)  # clips that a decoder cuts at a time
    enough = 2 + decoders * at_once // micro_batch
    if max_memory is None:
        return enough
    fixed = decoders * at_once * clip + _BATCHES_IN_USE * micro_batch * clip
    fits = (max_memory - fixed) // (micro_batch * clip)
    if fits < 1:
        least = fixed + micro_batch * clip
        raise ConfigError(
            f"{max_memory / 2**20:.0f} MiB are less than the {least / 2**20:.0f} MiB that "
            f"{_BATCHES_IN_USE + 1} batches of {micro_batch} clips and {decoders} decoders need",
            code="too_little_memory",
            key="max_memory",
            remedy="raise `max_memory`, or lower `micro_batch` or `decoders`",
        )
    return min(enough, fits)


def load_batches(
    manifest: Manifest,
    preprocessing: Preprocessing,
    specs: Iterable[BatchSpec],
    *,
    seed: int,
    decoders: int,
    clips_per_sample: int = 1,
    drawn_views: int | None = None,
    balance: tuple[str, float] | None = None,
    targets: Targets | None = None,
    indexes: IndexCache | None = None,
    max_memory: int | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """The micro-batches of ``specs``, in order.

    ``decoders``: number of processes that decode ahead. A clip that cannot be decoded is replaced by one of
    another sample, drawn from (seed, epoch, sample id, attempt).

    ``clips_per_sample``: clips of a sample that follow each other in the order (repeated augmentation,
    arXiv 1901.09335); those in one micro-batch are cut in one decoding pass. ``drawn_views``: as in
    ``DataConfig``. ``balance``: head and power for ``balanced_order``. ``targets``: makes the labels of a
    batch from its samples (by default ``label_tensors`` for the heads of ``preprocessing``). ``indexes``: of
    the videos of the manifest. ``max_memory``: see ``prefetched_batches``. ``pin_memory``: allocate batches
    in pinned memory, from which a GPU copies them asynchronously. Raises ManifestError and ConfigError.
    """
    targets = targets or partial(label_tensors, manifest=manifest, heads=list(preprocessing.labels))
    orders = EpochOrder(manifest, seed, clips_per_sample, balance)
    draws = ClipDraws(seed, drawn_views, clips_per_sample)
    memory = BatchMemory(pin_memory)
    with _Decoders(decoders) as pool:
        waiting: deque[_Pending] = deque()
        for spec in specs:
            shaped = spec.clip.applied_to(preprocessing)
            size = min(spec.micro_batch, len(spec.positions))
            ahead = prefetched_batches(shaped, size, decoders, max_memory, clips_per_sample)
            for positions in spec.parts():
                entries = orders.entries(spec.epoch, positions)
                clips_bthwc = memory.take(
                    (len(entries), shaped.frames, shaped.crop, shaped.crop, shaped.channels)
                )
                clips_array = clips_bthwc.numpy()
                tasks = []
                for number, of_sample in groupby(enumerate(entries), key=lambda entry: entry[1][0]):
                    rows_n, repeats_n = zip(*((row, repeat) for row, (_, repeat) in of_sample), strict=True)
                    clips_nthwc = clips_array[rows_n[0] : rows_n[-1] + 1]
                    sample = manifest[number]
                    keys = [draws.key(spec.epoch, repeat) for repeat in repeats_n]
                    load = partial(_load, manifest, sample, keys, draws.is_random, indexes, clips_nthwc)
                    tasks.append(pool.submit(load, sample, shaped))
                waiting.append(_Pending(spec.step, clips_bthwc, tasks, ahead))
                while len(waiting) > min(pending.ahead for pending in waiting):
                    yield waiting.popleft().batch(targets)
        while waiting:
            yield waiting.popleft().batch(targets)


def eval_clips(
    samples: Manifest | Sequence[Sample],
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

    with _Decoders(decoders) as pool:
        waiting: deque[Future[EvalClips]] = deque()
        for number in indices:
            sample = samples[number]
            waiting.append(pool.submit(partial(load, sample), sample, preprocessing))
            if len(waiting) > decoders:  # clips of many views are large, so only a few videos wait
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def drawn_clips(
    manifest: Manifest,
    preprocessing: Preprocessing,
    rows: range,
    draws: ClipDraws,
    *,
    decoders: int,
    indexes: IndexCache | None = None,
) -> Iterator[tuple[np.ndarray, list[Loaded]]]:
    """The clips that training shows of a manifest, once each, a sample at a time.

    Row r is view r % V of sample r // V, V being ``draws.views`` (1 if that is 0). Yields those of ``rows``
    that belong to a sample, uint8 [N, T, crop, crop, C], and where each comes from: clips that cannot be
    decoded are replaced as in ``load_batches``. Raises ManifestError and ConfigError.
    """
    views = draws.views or 1
    waiting: deque[tuple[np.ndarray, Future[list[Loaded]]]] = deque()
    with _Decoders(decoders) as pool:
        for number, of_sample in groupby(rows, key=lambda row: row // views):
            keys = [draws.key_of_view(row % views) for row in of_sample]
            side = preprocessing.crop
            shape = (len(keys), preprocessing.frames, side, side, preprocessing.channels)
            clips_nthwc, sample = np.empty(shape, np.uint8), manifest[number]
            load = partial(_load, manifest, sample, keys, draws.is_random, indexes, clips_nthwc)
            waiting.append((clips_nthwc, pool.submit(load, sample, preprocessing)))
            if len(waiting) > decoders:
                clips_nthwc, loading = waiting.popleft()
                yield clips_nthwc, loading.result()
        for clips_nthwc, loading in waiting:
            yield clips_nthwc, loading.result()


@dataclass(frozen=True)
class _Pending:
    """A batch whose clips are being decoded into ``clips_bthwc``; ``ahead``: how many may wait with it."""

    step: int
    clips_bthwc: torch.Tensor
    tasks: "list[Future[list[Loaded]]]"
    ahead: int

    def batch(self, targets: Targets) -> Batch:
        loaded = [clip for task in self.tasks for clip in task.result()]
        return Batch(
            step=self.step,
            clips_bthwc=self.clips_bthwc,
            labels=targets([item.sample for item in loaded]),
            ids=tuple(item.sample.id for item in loaded),
            failures=tuple(failure for item in loaded for failure in item.failures),
        )


class _Decoders:
    """Child processes that decode, with a thread for each that waits for it, and threads that download."""

    def __init__(self, count: int) -> None:
        self._closing = ExitStack()
        self._free: queue.SimpleQueue[DecodeProcess] = queue.SimpleQueue()
        for _ in range(max(count, 1)):
            self._free.put(self._closing.enter_context(decode_process()))
        self._threads = ThreadPoolExecutor(max(count, 1), thread_name_prefix="decode")
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="fetch")

    def __enter__(self) -> "_Decoders":
        return self

    def __exit__(self, *_: object) -> None:
        self._fetchers.shutdown(wait=True, cancel_futures=True)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._closing.close()

    def submit(
        self, task: Callable[[ClipDecoder], T], sample: Sample, preprocessing: Preprocessing
    ) -> "Future[T]":
        """Call ``task`` with a decoder once the video of ``sample`` is downloaded; downloads run ahead."""
        uri, _ = preprocessing.sources(sample)  # flow beside a video is always on a local disk
        fetched = self._fetchers.submit(storage.prefetch, uri) if storage.is_remote(uri) else None
        return self._threads.submit(self._run, task, fetched, preprocessing)

    def _run(
        self, task: Callable[[ClipDecoder], T], fetched: "Future[None] | None", preprocessing: Preprocessing
    ) -> T:
        if fetched is not None:
            fetched.exception()  # only waits: the decoder meets the same error, and raises it
        with self._process() as process:
            return task(ClipDecoder(process, preprocessing))

    @contextmanager
    def _process(self) -> Iterator[DecodeProcess]:
        process = self._free.get()
        try:
            yield process
        finally:
            self._free.put(process)


def _load(
    manifest: Manifest,
    wanted: Sample,
    keys: Sequence[ClipKey],
    is_random: bool,
    indexes: IndexCache | None,
    clips_nthwc: np.ndarray,
    decoder: ClipDecoder,
) -> list[Loaded]:
    """Decode clips of ``wanted``, or of samples that replace it, into ``clips_nthwc``.

    ``keys``: of each clip (``ClipDraws.key``). ``is_random``: whether they are drawn, and not the clip of
    evaluation.
    """
    try:
        _cut(wanted, [_arguments(wanted, key) for key in keys], is_random, indexes, clips_nthwc, decoder)
    except (DecodeError, StorageError) as error:
        failure = _failure(decoder, wanted, error)
    else:
        return [Loaded(wanted, ()) for _ in keys]
    logger.info("%d clips are replaced: %s", len(keys), failure.message)
    return [
        _replace(manifest, wanted, failure, key, is_random, indexes, clip_1thwc, decoder)
        for key, clip_1thwc in zip(keys, np.split(clips_nthwc, len(keys)), strict=True)
    ]


def _replace(
    manifest: Manifest,
    wanted: Sample,
    failure: Failure,
    key: ClipKey,
    is_random: bool,
    indexes: IndexCache | None,
    clip_1thwc: np.ndarray,
    decoder: ClipDecoder,
) -> Loaded:
    """Decode a clip of another sample in place of the one that failed."""
    failures = [failure]
    for attempt in range(1, _ATTEMPTS):
        arguments = _arguments(wanted, key, attempt)
        sample = manifest[int(sample_rng(*arguments).integers(len(manifest)))]
        try:
            _cut(sample, [arguments], is_random, indexes, clip_1thwc, decoder)
        except (DecodeError, StorageError) as error:
            failures.append(_failure(decoder, sample, error))
            logger.info("the replacement is replaced: %s", error)
        else:
            return Loaded(sample, tuple(failures))
    raise ManifestError(
        f"{_ATTEMPTS} clips in a row cannot be decoded, the last one because of {failures[-1].message}",
        code="nothing_decodable",
        key=manifest.name,
        remedy="check that the videos are where the manifest says",
    )


def _arguments(wanted: Sample, key: ClipKey, attempt: int = 0) -> SampleKey:
    """The arguments of ``sample_rng`` for a clip in the place of ``wanted``."""
    seed, epoch, repeat = key
    return seed, epoch, wanted.id, attempt, repeat


def _cut(
    sample: Sample,
    arguments: Sequence[SampleKey],
    is_random: bool,
    indexes: IndexCache | None,
    clips_nthwc: np.ndarray,
    decoder: ClipDecoder,
) -> None:
    index = _index_of(indexes, sample)
    if is_random:
        clips_nthwc[...] = decoder.train_clips(sample, arguments, index)
    else:
        clips_nthwc[...] = decoder.eval_views(sample, 1, 1, index)[0]  # the same for all


def _index_of(indexes: IndexCache | None, sample: Sample) -> bytes | None:
    return None if indexes is None else indexes.get(sample.uri)


def _failure(decoder: ClipDecoder, sample: Sample, error: DecodeError | StorageError) -> Failure:
    code = error.code if isinstance(error, DecodeError) else "storage"
    return Failure(sample.id, decoder.uri(sample), code, str(error))
