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
from kineray.data.batches.labels import label_tensors
from kineray.data.batches.memory import BatchMemory
from kineray.data.batches.order import balanced_order, global_order, repeats
from kineray.data.batches.spec import BatchSpec, Failure
from kineray.data.clips.decoding import ClipDecoder
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


EvalClips = tuple[Sample, np.ndarray | None, np.ndarray | None, Failure | None]
Targets: TypeAlias = Callable[[Sequence[Sample]], dict[str, torch.Tensor]]
"""Makes the labels of a batch, by head, from its samples."""


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
    arXiv 1901.09335); those in one micro-batch are cut in one decoding pass. ``balance``: head and power for
    ``balanced_order``. ``targets``: makes the labels of a batch from its samples (by default
    ``label_tensors`` for the heads of ``preprocessing``). ``indexes``: of the videos of the manifest.
    ``max_memory``: see ``prefetched_batches``. ``pin_memory``: allocate batches in pinned memory, from which
    a GPU copies them asynchronously. Raises ManifestError and ConfigError.
    """
    targets = targets or partial(label_tensors, manifest=manifest, heads=list(preprocessing.labels))
    orders = _Orders(manifest, seed, clips_per_sample, balance)
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
                    seed_epoch = (seed, spec.epoch)
                    load = partial(_load, manifest, sample, seed_epoch, repeats_n, indexes, clips_nthwc)
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


@dataclass(frozen=True)
class _Loaded:
    sample: Sample
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class _Pending:
    """A batch whose clips are being decoded into ``clips_bthwc``; ``ahead``: how many may wait with it."""

    step: int
    clips_bthwc: torch.Tensor
    tasks: "list[Future[list[_Loaded]]]"
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


class _Orders:
    """The order of an epoch's clips; the last epoch's is kept."""

    def __init__(
        self, manifest: Manifest, seed: int, clips_per_sample: int, balance: tuple[str, float] | None
    ) -> None:
        if balance and balance[0] in manifest.multi_label:
            raise ConfigError(
                f"the head '{balance[0]}' is multi-label; only heads with one class per clip are balanced",
                code="multi_label",
                key="data.balance",
                remedy="set data.balance=none, or data.balance_head to another head",
            )
        self._manifest = manifest
        self._seed = seed
        self._clips_per_sample = clips_per_sample
        self._balance = balance
        self._epoch = -1
        self._order = self._seen = np.empty(0, np.int64)

    def entries(self, epoch: int, positions: range) -> list[tuple[int, int]]:
        """(sample, how often it was seen before in this epoch) at ``positions``."""
        if epoch != self._epoch:
            self._order = np.repeat(self._samples(epoch), self._clips_per_sample)
            self._seen, self._epoch = repeats(self._order), epoch
        if positions.stop > len(self._order):
            raise ValueError(f"{positions} is beyond the {len(self._order)} clips of an epoch")
        part = slice(positions.start, positions.stop)
        return list(zip(self._order[part].tolist(), self._seen[part].tolist(), strict=True))

    def _samples(self, epoch: int) -> np.ndarray:
        if self._balance is None:
            return global_order(len(self._manifest), self._seed, epoch)
        head, power = self._balance
        return balanced_order(self._manifest.labels(head), self._seed, epoch, power)


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
    seed_epoch: tuple[int, int],
    repeats_n: Sequence[int],
    indexes: IndexCache | None,
    clips_nthwc: np.ndarray,
    decoder: ClipDecoder,
) -> list[_Loaded]:
    """Decode clips of ``wanted``, or of samples that replace it, into ``clips_nthwc``.

    ``repeats_n``: for each clip, how often the sample was seen before in the epoch.
    """
    keys = [(*seed_epoch, wanted.id, 0, repeat) for repeat in repeats_n]
    try:
        clips_nthwc[...] = decoder.train_clips(wanted, keys, _index_of(indexes, wanted))
    except (DecodeError, StorageError) as error:
        failure = _failure(decoder, wanted, error)
    else:
        return [_Loaded(wanted, ()) for _ in repeats_n]
    logger.info("%d clips are replaced: %s", len(repeats_n), failure.message)
    return [
        _replace(manifest, failure, (*seed_epoch, repeat), indexes, clip_1thwc, decoder)
        for repeat, clip_1thwc in zip(repeats_n, np.split(clips_nthwc, len(repeats_n)), strict=True)
    ]


def _replace(
    manifest: Manifest,
    failure: Failure,
    seed_epoch_repeat: tuple[int, int, int],
    indexes: IndexCache | None,
    clip_1thwc: np.ndarray,
    decoder: ClipDecoder,
) -> _Loaded:
    """Decode a clip of another sample in place of the one that failed."""
    failures = [failure]
    seed, epoch, repeat = seed_epoch_repeat
    for attempt in range(1, _ATTEMPTS):
        key = (seed, epoch, failure.id, attempt, repeat)
        sample = manifest[int(sample_rng(*key).integers(len(manifest)))]
        try:
            clip_1thwc[...] = decoder.train_clips(sample, [key], _index_of(indexes, sample))
        except (DecodeError, StorageError) as error:
            failures.append(_failure(decoder, sample, error))
            logger.info("the replacement is replaced: %s", error)
        else:
            return _Loaded(sample, tuple(failures))
    raise ManifestError(
        f"{_ATTEMPTS} clips in a row cannot be decoded, the last one because of {failures[-1].message}",
        code="nothing_decodable",
        key=manifest.name,
        remedy="check that the videos are where the manifest says",
    )


def _index_of(indexes: IndexCache | None, sample: Sample) -> bytes | None:
    return None if indexes is None else indexes.get(sample.uri)


def _failure(decoder: ClipDecoder, sample: Sample, error: DecodeError | StorageError) -> Failure:
    code = error.code if isinstance(error, DecodeError) else "storage"
    return Failure(sample.id, decoder.uri(sample), code, str(error))
