"""Batches of cached features, in place of decoded clips."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import nn

from kineray.config import Experiment
from kineray.data import Batch, BatchSpec, ClipShape, Failure, Sample
from kineray.data.batches.epoch_order import EpochOrder
from kineray.data.batches.memory import BatchMemory
from kineray.data.clips.draws import ClipDraws
from kineray.data.clips.preprocessing import balance_of
from kineray.tasks import Task
from kineray.training.features.checks import not_cacheable
from kineray.training.features.compute import FeatureNetwork, FeaturePart
from kineray.training.features.files import FeatureReader
from kineray.training.step import Entry

_AHEAD = 2  # batches that are read while one is used


class CachedFeatures:
    """Complete features of the training and the validation clips of an experiment."""

    def __init__(self, experiment: Experiment, train: FeaturePart, val: FeaturePart, task: Task) -> None:
        self._experiment = experiment
        self._train, self._val = train, val
        self._task = task
        self._train_reader, self._val_reader = FeatureReader(train.files), FeatureReader(val.files)

    def batches(self, specs: Iterable[BatchSpec], *, pin_memory: bool = False) -> Iterator[Batch]:
        """As ``load_batches``: the same samples, labels and failures, with features in place of clips.

        ``Batch.clips_bthwc`` is float32 [B, ...]. Raises ConfigError for a step whose clips have another
        shape, and StorageError.
        """
        experiment, manifest = self._experiment, self._train.rows.manifest
        data = experiment.data
        heads = list(self._train.rows.preprocessing.labels)
        order = EpochOrder(manifest, experiment.seed, data.clips_per_sample, balance_of(data, heads))
        memory = BatchMemory(pin_memory=False)
        waiting: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(1, thread_name_prefix="features") as thread:
            for spec in specs:
                if spec.clip != ClipShape.of(data):
                    raise not_cacheable(
                        "clips have other sizes in some steps", key="recipe", remedy="use clips of one size"
                    )
                for positions in spec.parts():
                    waiting.append(thread.submit(self._batch, spec, positions, order, memory, pin_memory))
                    if len(waiting) > _AHEAD:
                        yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def entry(self, model: nn.Module) -> Entry:
        """Where the features enter ``model``: after its frozen part."""
        network: FeatureNetwork = model  # type: ignore[assignment]
        return Entry(lambda features: features, network.classify)

    def validation(
        self, indices: range, batch_size: int, failures: list[Failure]
    ) -> Iterator[tuple[list[Sample], torch.Tensor]]:
        """(samples, features float32 [B, ...]) of the validation samples at ``indices``, in order.

        What cannot be decoded goes to ``failures``. Raises StorageError.
        """
        rows: list[int] = []
        for row in indices:
            origin = self._val_reader.origins.get(row)
            if origin is not None:
                failures += origin.failures
            else:
                rows.append(row)
            if len(rows) == batch_size:
                yield self._validated(rows)
                rows = []
        if rows:
            yield self._validated(rows)

    def _validated(self, rows: Sequence[int]) -> tuple[list[Sample], torch.Tensor]:
        features = torch.empty((len(rows), *self._val.files.shape))
        self._val_reader.read(rows, features.numpy())
        return [self._val.rows.manifest[row] for row in rows], features

    def _batch(
        self, spec: BatchSpec, positions: range, order: EpochOrder, memory: BatchMemory, pin_memory: bool
    ) -> Batch:
        draws = self._train.rows.draws or ClipDraws(0)
        views, manifest, origins = (
            self._train.rows.views,
            self._train.rows.manifest,
            self._train_reader.origins,
        )
        entries = order.entries(spec.epoch, positions)
        rows = [number * views + draws.view(spec.epoch, repeat) for number, repeat in entries]
        samples: list[Sample] = []
        failures: list[Failure] = []
        for row, (number, _) in zip(rows, entries, strict=True):
            origin = origins.get(row)
            samples.append(manifest[self._numbers[origin.sample] if origin else number])
            failures += origin.failures if origin else ()
        shape = (len(rows), *self._train.files.shape)
        features = memory.take((4 * int(np.prod(shape)),)).view(torch.float32).view(shape)
        self._train_reader.read(rows, features.numpy())
        return Batch(
            step=spec.step,
            clips_bthwc=features.pin_memory() if pin_memory else features,
            labels=self._task.targets(samples),
            ids=tuple(sample.id for sample in samples),
            failures=tuple(failures),
        )

    @cached_property
    def _numbers(self) -> dict[Any, int]:
        """The place of each training sample, by its id; only where some were replaced."""
        return {sample.id: number for number, sample in enumerate(self._train.rows.manifest)}
