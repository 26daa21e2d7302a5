"""Batches of uint8 clips, decoded ahead by threads (PyAV releases the GIL while it decodes)."""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from kineray.data.manifest import Manifest, Sample
from kineray.data.order import global_order, sample_rng
from kineray.data.preprocessing import Preprocessing
from kineray.data.storage import local_copy
from kineray.errors import DecodeError, ManifestError, StorageError

logger = logging.getLogger(__name__)

_ATTEMPTS = 8  # so many undecodable clips in a row mean a wrong mount or path, not some bad files


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

    ``clips_bthwc`` is uint8 [B, T, H, W, 3]; ``labels`` holds int64 [B] for every head; ``ids`` are of
    the samples in the batch; ``failures`` of those that were replaced.
    """

    step: int
    clips_bthwc: torch.Tensor
    labels: dict[str, torch.Tensor]
    ids: tuple[str, ...]
    failures: tuple[Failure, ...]


EvalClips = tuple[Sample, np.ndarray | None, np.ndarray | None, Failure | None]


def steps_per_epoch(manifest: Manifest, global_batch: int) -> int:
    """Number of whole global batches in an epoch. Raises ManifestError if there is none."""
    if len(manifest) < global_batch:
        raise ManifestError(
            f"{manifest.name}: {len(manifest)} samples are fewer than train.global_batch={global_batch};"
            " make the batch smaller"
        )
    return len(manifest) // global_batch


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
    threads: int,
    prefetch: int,
) -> Iterator[Batch]:
    """The micro-batches of steps ``start_step`` to ``stop_step`` (exclusive), in order.

    Global batch b of an epoch is samples [b * B, (b + 1) * B) of its permutation; what does not fill a
    batch is dropped. This rank takes positions [lo, hi) of every global batch, cut into parts of
    ``micro_batch``. At most ``prefetch`` micro-batches are decoded ahead. A clip that cannot be decoded
    is replaced by another, drawn from (seed, epoch, sample id, attempt). Raises ManifestError.
    """
    per_epoch = steps_per_epoch(manifest, global_batch)
    if not 0 <= lo < hi <= global_batch or micro_batch < 1:
        raise ValueError(f"[{lo}, {hi}) in parts of {micro_batch} is not a slice of {global_batch} positions")

    def parts() -> Iterator[tuple[int, list[partial[_Loaded]]]]:
        order, order_epoch = np.empty(0, np.int64), -1
        for step in range(start_step, stop_step):
            epoch, batch = divmod(step, per_epoch)
            if epoch != order_epoch:
                order, order_epoch = global_order(len(manifest), seed, epoch), epoch
            positions = order[batch * global_batch + lo : batch * global_batch + hi]
            for first in range(0, hi - lo, micro_batch):
                indices = positions[first : first + micro_batch]
                yield step, [partial(_load, manifest, preprocessing, seed, epoch, int(i)) for i in indices]

    with ThreadPoolExecutor(max(threads, 1), thread_name_prefix="decode") as pool:
        waiting: deque[tuple[int, list[Future[_Loaded]]]] = deque()
        try:
            for step, tasks in parts():
                waiting.append((step, [pool.submit(task) for task in tasks]))
                if len(waiting) > max(prefetch, 0):
                    yield _batch(*waiting.popleft())
            while waiting:
                yield _batch(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def eval_clips(
    manifest: Manifest,
    preprocessing: Preprocessing,
    *,
    views: int,
    crops: int,
    indices: Iterable[int],
    threads: int,
) -> Iterator[EvalClips]:
    """``Preprocessing.eval_views`` of the samples at ``indices``, in order.

    Yields (sample, clips uint8 [views * crops, T, C, C, 3], timestamps [views, T], None), or
    (sample, None, None, failure) for a video that cannot be decoded.
    """

    def load(index: int) -> EvalClips:
        sample = manifest[index]
        try:
            clips, timestamps = preprocessing.eval_views(
                local_copy(sample.uri), sample.start_s, sample.end_s, views, crops
            )
        except (DecodeError, StorageError) as error:
            return sample, None, None, _failure(sample, error)
        return sample, clips, timestamps, None

    with ThreadPoolExecutor(max(threads, 1), thread_name_prefix="decode") as pool:
        waiting: deque[Future[EvalClips]] = deque()
        try:
            for index in indices:
                waiting.append(pool.submit(load, index))
                if len(waiting) > threads:  # the clips of a video with many views are large: few wait
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Loaded:
    clip_thwc: np.ndarray
    sample: Sample
    failures: tuple[Failure, ...]


def _load(manifest: Manifest, preprocessing: Preprocessing, seed: int, epoch: int, index: int) -> _Loaded:
    wanted, failures = manifest[index], []
    for attempt in range(_ATTEMPTS):
        rng = sample_rng(seed, epoch, wanted.id, attempt)
        sample = wanted if attempt == 0 else manifest[int(rng.integers(len(manifest)))]
        try:
            clip_thwc = preprocessing.train_clip(local_copy(sample.uri), sample, rng)
        except (DecodeError, StorageError) as error:
            failures.append(_failure(sample, error))
            logger.info("replaced a clip: %s", error)
        else:
            return _Loaded(clip_thwc, sample, tuple(failures))
    raise ManifestError(
        f"{manifest.name}: {_ATTEMPTS} clips in a row cannot be decoded, the last: {failures[-1].message}"
    )


def _failure(sample: Sample, error: DecodeError | StorageError) -> Failure:
    code = error.code if isinstance(error, DecodeError) else "storage"
    return Failure(sample.id, sample.uri, code, str(error))


def _batch(step: int, futures: Sequence["Future[_Loaded]"]) -> Batch:
    loaded = [future.result() for future in futures]
    heads = loaded[0].sample.labels
    return Batch(
        step=step,
        clips_bthwc=torch.from_numpy(np.stack([item.clip_thwc for item in loaded])),
        labels={head: torch.tensor([item.sample.labels[head] for item in loaded]) for head in heads},
        ids=tuple(item.sample.id for item in loaded),
        failures=tuple(failure for item in loaded for failure in item.failures),
    )
