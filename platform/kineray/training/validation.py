"""Scores during training: one view in the middle of every video, one centre crop."""

import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from kineray.data import Failure, Manifest, Preprocessing, Sample, eval_clips
from kineray.data.manifest.index_cache import IndexCache
from kineray.tasks import Task
from kineray.training.features.cached import CachedFeatures
from kineray.training.step import Entry, autocast, shorten
from kineray.training.synchronise import Workers

log = logging.getLogger(__name__)


@torch.no_grad()
def validate(
    model: nn.Module,
    val_set: Manifest,
    preprocessing: Preprocessing,
    task: Task,
    *,
    workers: Workers,
    device: torch.device,
    precision: str,
    batch_size: int,
    decoders: int,
    indexes: IndexCache | None,
    cached: CachedFeatures | None = None,
) -> tuple[dict[str, float], float]:
    """Metrics (named ``val/...``) and score of the whole set, the same on every worker.

    The set is split over the workers without padding, and scored whole. A video that cannot be decoded counts
    as wrong; an unknown label does not count. ``val/loss`` is the mean over the decoded videos,
    summed over the heads. ``cached``: features of the set, which are then read in place of its videos. The
    model is left in evaluation mode. Raises ManifestError if no video has a label.
    """
    model.eval()
    meter = task.meter()
    counts = torch.zeros(3, dtype=torch.float64, device=device)  # loss, decoded, undecodable
    size = len(val_set)
    indices = range(size * workers.rank // workers.size, size * (workers.rank + 1) // workers.size)
    failures: list[Failure] = []
    entry = cached.entry(model) if cached else Entry(preprocessing.normalise, model)
    batches = (
        cached.validation(indices, batch_size, failures)
        if cached
        else _batches(
            val_set,
            preprocessing,
            indices=indices,
            batch_size=batch_size,
            decoders=decoders,
            indexes=indexes,
            failures=failures,
        )
    )
    for samples, clips_bthwc in batches:
        targets = {head: of_head.to(device) for head, of_head in task.targets(samples).items()}
        with autocast(device, precision):
            outputs = entry.forward(entry.prepare(clips_bthwc.to(device)))
        meter.update(outputs, targets)
        counts[0] += task.loss(outputs, targets).sum(dtype=torch.float64)
        counts[1] += len(samples)
    if failures:
        failed = {failure.id for failure in failures}
        meter.failed(task.targets([sample for sample in val_set if sample.id in failed]))
        counts[2] += len(failures)
        log.warning(
            "%d validation videos cannot be decoded and count as wrong: %s",
            len(failures),
            shorten([failure.uri for failure in failures]),
        )
    workers.sum_(counts)
    measured = meter.metrics(workers.gather(meter.state()))
    metrics = {f"val/{name}": value for name, value in measured.items()}
    loss, decoded, undecodable = counts.tolist()
    metrics["val/loss"] = loss / max(decoded, 1)
    if undecodable:
        metrics["val/undecodable"] = undecodable
    return metrics, task.score_of(measured)


def _batches(
    val_set: Manifest,
    preprocessing: Preprocessing,
    *,
    indices: range,
    batch_size: int,
    decoders: int,
    indexes: IndexCache | None,
    failures: list[Failure],
) -> Iterator[tuple[list[Sample], torch.Tensor]]:
    """(samples, uint8 clips [B, T, H, W, C]); what cannot be decoded goes to ``failures``."""
    samples: list[Sample] = []
    clips: list[np.ndarray] = []
    for sample, views_vthwc, _, failure in eval_clips(
        val_set, preprocessing, views=1, crops=1, indices=indices, decoders=decoders, indexes=indexes
    ):
        if failure is not None:
            failures.append(failure)
        elif views_vthwc is not None:
            samples.append(sample)
            clips.append(views_vthwc)
        if len(samples) == batch_size:
            yield samples, torch.from_numpy(np.concatenate(clips))
            samples, clips = [], []
    if samples:
        yield samples, torch.from_numpy(np.concatenate(clips))
