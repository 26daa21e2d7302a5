"""Classification: one class for each clip and head."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kineray.data.manifest.labels import class_counts
from kineray.errors import ConfigError
from kineray.metrics import per_class_accuracy
from kineray.tasks.base import Task

if TYPE_CHECKING:
    from kineray.config.tasks.classification import ClassificationConfig
    from kineray.data import Manifest, Sample
    from kineray.data.manifest.labels import Label


_POWERS = {"none": 0.0, "sqrt": 0.5, "class": 1.0}


class Classification(Task):
    """Targets are int64 [B], -1 if the class is not known.

    Soft targets are float32 [B, classes] and sum to 1; a row of zeros if the class is not known.
    """

    protocol: Mapping[str, str] = {"aggregation": "mean of softmax"}
    class_score: ClassVar[str] = "top1"

    def __init__(self, config: "ClassificationConfig", labels: Mapping[str, Sequence[str]]) -> None:
        super().__init__(config, labels)
        self._weight_power = _POWERS[config.class_weights]
        self._weights: dict[str, Tensor] = {}

    def begin(self, train_set: "Manifest") -> None:
        """Take the weights of the classes from how often they occur in ``train_set``."""
        if self._weight_power:
            self._weights = {
                head: _class_weights(class_counts(train_set.labels(head), len(names)), self._weight_power)
                for head, names in self.classes.items()
            }

    def targets(self, samples: Sequence["Sample"]) -> dict[str, Tensor]:
        """{head: classes of the samples, int64 [B]}. Raises ConfigError if samples have several classes."""
        labels = {head: [sample.labels[head] for sample in samples] for head in self.classes}
        for head, of_samples in labels.items():
            if not all(isinstance(label, int) for label in of_samples):
                raise ConfigError(
                    f"clips have several classes for the head '{head}'",
                    code="wrong_labels",
                    key="task.type",
                    value="classification",
                    remedy="set task.type=multi_label",
                )
        return {head: torch.tensor(of_samples, dtype=torch.int64) for head, of_samples in labels.items()}

    def soften(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One-hot rows."""
        return {head: self._soft(head, of_head) for head, of_head in targets.items()}

    def probabilities(self, logits_bk: Tensor) -> Tensor:
        """The softmax."""
        return logits_bk.float().softmax(dim=1)

    def is_known(self, labels: np.ndarray) -> np.ndarray:
        """Clips whose label is not -1."""
        return labels >= 0

    def per_class_metric(self, scores_nc: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Top-1 accuracy of the clips of each class."""
        return per_class_accuracy(scores_nc, labels)

    def decide(self, scores_nc: np.ndarray) -> np.ndarray:
        """The class with the best score."""
        return np.where(np.isnan(scores_nc).any(axis=1), -1, scores_nc.argmax(axis=1))

    def indices(self, labels: np.ndarray) -> list["Label"]:
        """Class indices, -1 if the class is not known."""
        return [*labels.tolist()]

    def _soft(self, head: str, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            return targets
        one_hot_bk = F.one_hot(targets.clamp(min=0), len(self.classes[head])).float()
        return one_hot_bk * (targets >= 0)[:, None]

    def _head_loss(self, head: str, logits_bk: Tensor, targets: Tensor) -> Tensor:
        if targets.is_floating_point():
            known_b = targets.any(dim=1)
        else:
            known_b, targets = targets >= 0, targets.clamp(min=0)  # any class, as the loss does not count
        loss_b = torch.where(known_b, self._loss_of_clips(logits_bk, targets), 0.0)
        return loss_b * self._clip_weights(head, targets) if head in self._weights else loss_b

    def _clip_weights(self, head: str, targets: Tensor) -> Tensor:
        """The weight of each clip's class; where classes are mixed, the mean of their weights: [B]."""
        weights_k = self._weights[head] = self._weights[head].to(targets.device)
        return targets @ weights_k if targets.is_floating_point() else weights_k[targets]


def _class_weights(counts: np.ndarray, power: float) -> Tensor:
    """Weights in inverse proportion to ``counts`` ** ``power``, with a mean of 1 over the clips: float32 [C].

    A class without clips has the weight of a class of one.
    """
    weights = counts.clip(min=1) ** -power
    scale = counts.sum() / max((counts * weights).sum(), 1)
    return torch.from_numpy(weights * scale).float()
