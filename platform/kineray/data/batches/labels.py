"""Labels of samples as tensors."""

from collections.abc import Sequence

import numpy as np
import torch

from kineray.data.manifest.labels import label_array
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample


def label_tensors(
    samples: Sequence[Sample], manifest: Manifest, heads: Sequence[str]
) -> dict[str, torch.Tensor]:
    """The labels of ``samples`` of ``manifest`` for each of ``heads``, as ``label_array`` makes them.

    int64 [B], or uint8 [B, classes] for a multi-label head.
    """
    return {head: torch.from_numpy(_array(samples, manifest, head)) for head in heads}


def _array(samples: Sequence[Sample], manifest: Manifest, head: str) -> np.ndarray:
    classes = len(manifest.vocabularies[head]) if head in manifest.multi_label else None
    return label_array((sample.labels[head] for sample in samples), classes)
