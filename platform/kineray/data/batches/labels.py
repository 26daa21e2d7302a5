"""Labels of samples as tensors."""

from collections.abc import Iterable, Sequence

import torch

from kineray.data.manifest.samples import Sample


def label_tensors(samples: Sequence[Sample], heads: Iterable[str]) -> dict[str, torch.Tensor]:
    """The classes of ``samples`` for every head, int64 [B]; -1: unknown."""
    return {head: torch.tensor([sample.labels[head] for sample in samples]) for head in heads}
