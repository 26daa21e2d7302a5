"""Multi-label classification: any number of classes for each clip and head."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from kineray.errors import ConfigError
from kineray.metrics import average_precision
from kineray.models import use_sigmoid
from kineray.tasks.base import Task

if TYPE_CHECKING:
    from kineray.config import ModelSection
    from kineray.config.tasks.multi_label import MultiLabelConfig
    from kineray.data import Sample
    from kineray.data.manifest.labels import Label


class MultiLabel(Task):
    """Targets are float32 [B, classes]: 1 for each class of a clip, NaN if its classes are not known."""

    class_score: ClassVar[str] = "average_precision"

    def __init__(self, config: "MultiLabelConfig", labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(config, labels)
        self._take_highest = config.aggregation == "max"
        self._skip_empty = config.skip_empty
        self.protocol = {
            "aggregation": f"{config.aggregation} of sigmoid",
            "empty": "skipped" if config.skip_empty else "negative",
        }

    def targets(self, samples: Sequence["Sample"]) -> dict[str, Tensor]:
        """{head: classes of the samples, float32 [B, classes]}. Raises ConfigError for single classes."""
        return {head: self._multi_hot(head, samples) for head in self.classes}

    def soften(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The targets, which are float32 [B, classes] already."""
        return dict(targets)

    def probabilities(self, logits_bk: Tensor) -> Tensor:
        """The sigmoid of each logit."""
        return logits_bk.float().sigmoid()

    def build_model(self, config: "ModelSection", in_channels: int) -> nn.Module:
        """A network that averages sigmoids, not softmaxes, over positions and streams."""
        model = super().build_model(config, in_channels)
        use_sigmoid(model)
        return model

    def is_known(self, labels: np.ndarray) -> np.ndarray:
        """Clips whose labels are not NaN and, if empty clips are skipped, that have a class."""
        known_n: np.ndarray = ~np.isnan(labels).any(axis=1)
        return known_n & labels.any(axis=1) if self._skip_empty else known_n

    def per_class_metric(self, scores_nc: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Average precision of each class."""
        return average_precision(scores_nc, labels)

    def aggregate(self, scores_vc: np.ndarray) -> np.ndarray:
        """The mean of the views, or each class's highest score."""
        return (
            scores_vc.max(axis=0).astype(np.float64) if self._take_highest else super().aggregate(scores_vc)
        )

    def decide(self, scores_nc: np.ndarray) -> np.ndarray:
        """The classes with a probability of at least one half."""
        unknown_n1 = np.isnan(scores_nc).any(axis=1, keepdims=True)
        return np.where(unknown_n1, np.nan, scores_nc >= 0.5)

    def indices(self, labels: np.ndarray) -> list["Label"]:
        """Tuples of class indices, None if the classes are not known."""
        return [None if np.isnan(row).any() else tuple(np.flatnonzero(row).tolist()) for row in labels]

    def _multi_hot(self, head: str, samples: Sequence["Sample"]) -> Tensor:
        multi_hot_bk = torch.zeros(len(samples), len(self.classes[head]))
        for row, sample in zip(multi_hot_bk, samples, strict=True):
            classes = sample.labels[head]
            if isinstance(classes, int):
                raise ConfigError(
                    f"clips have a single class for the head '{head}'",
                    code="wrong_labels",
                    key="task.type",
                    value="multi_label",
                    remedy="set task.type=classification",
                )
            if classes is None:
                row[:] = torch.nan
            else:
                row[list(classes)] = 1.0
        return multi_hot_bk

    def _head_loss(self, _head: str, logits_bk: Tensor, targets: Tensor) -> Tensor:
        known_b = ~targets.isnan().any(dim=1)
        return torch.where(known_b, self._loss_of_clips(logits_bk, targets.nan_to_num()), 0.0)
