"""Accuracy during training: one view in the middle of every video, one centre crop."""

import logging
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from kineray.data import Failure, Manifest, Preprocessing, Sample, eval_clips
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.labels import ABSENT
from kineray.training.step import autocast, clip_loss, shorten
from kineray.training.synchronise import Workers

log = logging.getLogger(__name__)


@torch.no_grad()
def validate(
    model: nn.Module,
    val_set: Manifest,
    preprocessing: Preprocessing,
    *,
    workers: Workers,
    device: torch.device,
    precision: str,
    batch_size: int,
    decoders: int,
    indexes: IndexCache | None,
) -> tuple[dict[str, float], float]:
    """Metrics and score (mean top-1 over the heads, 0 to 1) of the whole set, the same on every worker.

    The set is split over the workers without padding. A video that cannot be decoded counts as wrong;
    a label of -1 does not count. ``val/loss`` is the mean over the decoded videos, summed over the
    heads. The model is left in evaluation mode.
    """
    model.eval()
    heads = list(preprocessing.labels)
    # For every head: labelled, top-1, top-5. Then loss, decoded, undecodable.
    counts = torch.zeros(len(heads), 3, dtype=torch.float64, device=device)
    others = torch.zeros(3, dtype=torch.float64, device=device)
    size = len(val_set)
    indices = range(size * workers.rank // workers.size, size * (workers.rank + 1) // workers.size)
    failures: list[Failure] = []
    for samples, clips_bthwc in _batches(
        val_set,
        preprocessing,
        indices=indices,
        batch_size=batch_size,
        decoders=decoders,
        indexes=indexes,
        failures=failures,
    ):
        labels = {h: torch.tensor([s.labels[h] for s in samples], device=device) for h in heads}
        with autocast(device, precision):
            logits = model(preprocessing.normalise(torch.from_numpy(clips_bthwc).to(device)))
        counts += torch.stack([_hits(logits[head], labels[head]) for head in heads])
        others[0] += clip_loss(logits, labels).sum(dtype=torch.float64)
        others[1] += len(samples)
    if failures:
        labels_of = {sample.id: sample.labels for sample in val_set}
        for failure in failures:
            known = [labels_of[failure.id][h] != ABSENT for h in heads]
            counts[:, 0] += torch.tensor(known, device=device)
            others[2] += 1
        log.warning(
            "%d validation videos cannot be decoded and count as wrong: %s",
            len(failures),
            shorten([failure.uri for failure in failures]),
        )
    workers.sum_(counts)
    workers.sum_(others)
    metrics: dict[str, float] = {}
    for head, (labelled, top1, top5) in zip(heads, counts.tolist(), strict=True):
        metrics[f"val/{head}/top1"] = top1 / max(labelled, 1)
        metrics[f"val/{head}/top5"] = top5 / max(labelled, 1)
    loss, decoded, undecodable = others.tolist()
    metrics["val/loss"] = loss / max(decoded, 1)
    if undecodable:
        metrics["val/undecodable"] = undecodable
    score = sum(metrics[f"val/{head}/top1"] for head in heads) / len(heads)
    return metrics, score


def _batches(
    val_set: Manifest,
    preprocessing: Preprocessing,
    *,
    indices: range,
    batch_size: int,
    decoders: int,
    indexes: IndexCache | None,
    failures: list[Failure],
) -> Iterator[tuple[list[Sample], np.ndarray]]:
    """(samples, uint8 clips [B, T, H, W, 3]); what cannot be decoded goes to ``failures``."""
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
            yield samples, np.concatenate(clips)
            samples, clips = [], []
    if samples:
        yield samples, np.concatenate(clips)


def _hits(logits_bk: Tensor, labels_b: Tensor) -> Tensor:
    """How many are labelled, right, and right within the best five: [3]. Fewer classes than five: all."""
    ranked = logits_bk.float().topk(min(5, logits_bk.shape[1]), dim=1).indices
    right = ranked == labels_b[:, None]  # a label of -1 equals no class
    return torch.stack([(labels_b >= 0).sum(), right[:, 0].sum(), right.sum()])
