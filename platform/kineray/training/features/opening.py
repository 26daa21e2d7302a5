"""The cached features of a run, opened by all of its workers together."""

import time
from collections.abc import Callable

import torch
from torch import nn

from kineray.config import Experiment
from kineray.data import Manifest, Preprocessing
from kineray.data.manifest.index_cache import IndexCache
from kineray.durations import duration
from kineray.errors import KinerayError
from kineray.options import WorkerOptions
from kineray.sizes import size_text
from kineray.tasks import Task
from kineray.training.events import Event, FeaturesEvent
from kineray.training.features.cached import CachedFeatures
from kineray.training.features.compute import (
    FeatureNetwork,
    FeaturePart,
    check_size,
    compute_missing,
    feature_parts,
    prove,
)
from kineray.training.features.files import features_folder
from kineray.training.synchronise import Workers

_EVERY_S = 10.0


def open_features(
    experiment: Experiment,
    model: nn.Module,
    preprocessing: Preprocessing,
    clip_set: Manifest,
    val_set: Manifest,
    task: Task,
    *,
    workers: Workers,
    device: torch.device,
    options: WorkerOptions,
    indexes: IndexCache | None,
    emit: Callable[[Event], None],
) -> CachedFeatures:
    """The features of a run: those that are missing are computed, and a sample is compared.

    ``model``: with the weights that the run goes on from. ``clip_set``: the samples of an epoch. Workers of
    one host share the work. Raises, on every worker alike, what ``compute_missing`` and ``prove`` raise.
    """
    problem: KinerayError | None = None
    try:
        parts = feature_parts(
            experiment,
            network_of(model),
            preprocessing,
            clip_set,
            val_set,
            device=device,
            decoders=options.decoders or 1,
            indexes=indexes,
        )
        fill(parts, options.max_cache, emit)
    except KinerayError as error:
        problem = error
    for of_worker in workers.gather(problem):
        if of_worker is not None:
            raise of_worker
    return CachedFeatures(experiment, *parts, task)


def network_of(model: nn.Module) -> FeatureNetwork:
    """``model``, which has a frozen part, in evaluation mode."""
    network: FeatureNetwork = model.eval()  # type: ignore[assignment]
    return network


def fill(
    parts: tuple[FeaturePart, FeaturePart], max_cache: int | None, emit: Callable[[FeaturesEvent], None]
) -> int:
    """Compute what is missing and compare a sample; returns the number of clips computed here.

    The size is reported before anything is written. Raises as ``check_size``, ``compute_missing`` and
    ``prove``.
    """
    missing = check_size(parts, max_cache)
    clips = sum(part.files.rows for part in parts)
    size = size_text(sum(part.files.size for part in parts))
    what = f"features of {clips} clips, {size} in {features_folder()}"
    began = last = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY_S and done:
            last = now
            left_s = (total - done) * (now - began) / done
            emit(FeaturesEvent(f"features: {done} of {total} clips, {duration(left_s)} left"))

    emit(FeaturesEvent(f"{what}: {size_text(missing) if missing else 'nothing'} to compute"))
    computed = compute_missing(parts, progress)
    prove(parts)
    if computed:
        spent = duration(time.monotonic() - began)
        emit(FeaturesEvent(f"{what}: {computed} clips computed in {spent}, and a sample compared"))
    return computed
