"""The base of the configurations of all tasks."""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import model_validator

from kineray.config.fields import Labels, NonNegativeFloat
from kineray.config.losses.base import LossSection
from kineray.config.losses.cross_entropy import CrossEntropyConfig
from kineray.config.metrics.base import MetricSection
from kineray.config.variants import Pieces, Variant
from kineray.errors import ConfigError

if TYPE_CHECKING:
    from kineray.tasks import Task


_CLASSES: Mapping[Labels, str] = {"single": "a single class", "multiple": "several classes"}


class TaskSection(Variant, home="kineray.config.tasks"):
    """Base of every task: what is predicted for a clip, with which loss it is learned, and how it is scored.

    ``labels``: whether a clip has a ``single`` class for each head, or ``multiple``. ``metrics``: computed in
    validation and evaluation; ``task.metrics.<type>=off`` leaves one out. ``score``: the metric that decides
    which checkpoint is the best: ``top1`` is its mean over the heads, ``verb/top1`` that of one head.
    ``auxiliary_weight``: of the loss of an auxiliary classifier, in networks that have one in training (0.4,
    as for Inception-v3 in torchvision's references).
    """

    labels: ClassVar[Labels] = "single"

    loss: LossSection = CrossEntropyConfig()
    metrics: Pieces[MetricSection] = Pieces()
    score: str = ""
    auxiliary_weight: NonNegativeFloat = 0.4

    @model_validator(mode="after")
    def _loss_and_metrics_fit_the_labels(self) -> Self:
        parts = {f"metrics.{name}": metric.labels for name, metric in self.metrics.items()}
        for name, labels in {f"loss.type={self.loss.type}": self.loss.labels, **parts}.items():
            if labels not in (self.labels, "any"):
                raise ValueError(
                    f"{name} is for clips of {_CLASSES[labels]}, and task.type={self.type} for clips of "
                    f"{_CLASSES[self.labels]}"
                )
        return self

    def check_heads(self, heads: Iterable[str], multi_label: Container[str]) -> None:
        """Raise ConfigError if clips have single classes for one of ``heads`` and this task needs several.

        Or if it is the other way round. ``multi_label``: the heads for which clips have several.
        """
        for head in heads:
            several = head in multi_label
            if several != (self.labels == "multiple"):
                raise ConfigError(
                    f"clips have {_CLASSES['multiple' if several else 'single']} for the head '{head}'",
                    code="wrong_labels",
                    key="task.type",
                    value=self.type,
                    remedy=f"set task.type={'multi_label' if several else 'classification'}",
                )

    def build(self, labels: Mapping[str, Sequence[str]]) -> "Task":
        """The task for heads with these class names, {head: names}."""
        task: Task = self.implementation()(self, labels)
        return task
