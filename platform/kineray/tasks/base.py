"""The interface by which training, validation, evaluation and serving use a task."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kineray.errors import ConfigError, ManifestError
from kineray.metrics import Metric, Scored
from kineray.models import AUXILIARY, build_model

if TYPE_CHECKING:
    from kineray.config import ModelSection
    from kineray.config.tasks.base import TaskSection
    from kineray.data import Manifest, Sample
    from kineray.data.manifest.labels import Label

_CHECKED_CLIPS = 256  # at first, by ``Task.check``

Outputs = Mapping[str, Tensor]
"""{head: logits [B, classes]}; with the prefix ``AUXILIARY``, those of an auxiliary classifier."""


class Meter(Protocol):
    """Collects the predictions of one worker for its part of a set; the parts are scored together."""

    def update(self, outputs: Outputs, targets: Mapping[str, Tensor]) -> None:
        """Add clips that the model has predicted."""
        ...

    def failed(self, targets: Mapping[str, Tensor]) -> None:
        """Add clips that cannot be decoded; they count as wrong."""
        ...

    def state(self) -> Any:
        """The collected predictions, to be sent to the other workers."""
        ...

    def metrics(self, states: Sequence[Any]) -> dict[str, float]:
        """The metrics over the states of all workers, in the order of their parts: {name: value}."""
        ...


class Task(ABC):
    """Targets, loss, metrics and presentation of every head; ``classes``: {head: its class names}.

    Labels have two forms. *Targets* are tensors for the loss: those that ``targets`` returns, perhaps
    softened and mixed. *Labels* are the same as NumPy arrays, for the metrics.
    """

    protocol: Mapping[str, str]
    """What scores depend on besides the data: ``aggregation``, how the views of a video are combined."""
    class_score: ClassVar[str]
    """The name of the metric that ``per_class_metric`` computes."""

    def __init__(self, config: "TaskSection", labels: Mapping[str, Sequence[str]]) -> None:
        self.classes = {head: tuple(names) for head, names in labels.items()}
        self._loss = config.loss.build()
        self._loss_type = config.loss.type
        self._metrics = list(config.metrics.values())
        self._score = config.score
        self._auxiliary_weight = config.auxiliary_weight

    @abstractmethod
    def targets(self, samples: Sequence["Sample"]) -> dict[str, Tensor]:
        """{head: labels of the samples}. Raises ConfigError for labels of another kind of task."""

    @abstractmethod
    def soften(self, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Targets as float32 [B, classes], which can be mixed and smoothed; soft targets are not changed."""

    @abstractmethod
    def probabilities(self, logits_bk: Tensor) -> Tensor:
        """The probabilities that are averaged, ranked and shown: float32 [B, classes], from 0 to 1."""

    @abstractmethod
    def is_known(self, labels: np.ndarray) -> np.ndarray:
        """Which clips count in the metrics because their label is known: bool [N]."""

    @abstractmethod
    def per_class_metric(self, scores_nc: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """How well each class is predicted, from 0 to 1: float64 [C], NaN for a class that does not occur."""

    @abstractmethod
    def decide(self, scores_nc: np.ndarray) -> np.ndarray:
        """The labels that scores [N, classes] predict; not known where a row is NaN."""

    @abstractmethod
    def indices(self, labels: np.ndarray) -> list["Label"]:
        """Labels as a manifest has them: for each clip a class index, or a tuple of them."""

    @abstractmethod
    def _head_loss(self, head: str, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """The loss of ``head``, float32 [B]; 0 for a clip whose label is not known."""

    def build_model(self, config: "ModelSection", in_channels: int) -> nn.Module:
        """A new network for this task, with ``in_channels`` clip channels: clips -> ``Outputs``."""
        return build_model(config, {head: len(names) for head, names in self.classes.items()}, in_channels)

    def begin(self, train_set: "Manifest") -> None:  # noqa: B027 - most tasks need nothing of it
        """Called once before training, with the samples of an epoch."""

    def loss(self, outputs: Outputs, targets: Mapping[str, Tensor]) -> Tensor:
        """The loss of every clip, float32 [B], summed over the heads; a label that is not known adds nothing.

        ``targets``: as ``targets`` or ``soften`` returns them. The loss of an auxiliary classifier, which
        some networks have in training, has the weight ``task.auxiliary_weight``.
        """
        losses = []
        for name, logits_bk in outputs.items():
            head = name.removeprefix(AUXILIARY)
            loss = self._head_loss(head, logits_bk.float(), targets[head])
            losses.append(loss if head == name else self._auxiliary_weight * loss)
        return torch.stack(losses).sum(0)

    def _loss_of_clips(self, logits_bk: Tensor, targets: Tensor) -> Tensor:
        """The loss of every clip, [B]. Raises ConfigError if it has another shape, as a user's loss may."""
        loss_b = self._loss(logits_bk, targets)
        if loss_b.shape != logits_bk.shape[:1]:
            raise ConfigError(
                f"returned {list(loss_b.shape)} for {list(logits_bk.shape)} logits",
                code="wrong_shape",
                key=f"task.loss.type={self._loss_type}",
                remedy="return the loss of each clip, [B]",
            )
        return loss_b

    def aggregate(self, scores_vc: np.ndarray) -> np.ndarray:
        """Combine the scores of a video's views: [V, classes] -> float64 [classes]."""
        scores_c: np.ndarray = scores_vc.mean(axis=0, dtype=np.float64)
        return scores_c

    def present(self, scores_c: np.ndarray, names: Sequence[str], top_k: int) -> list[dict[str, Any]]:
        """The prediction of one head as it is shown: the ``top_k`` best classes, ``{"label", "score"}``."""
        best = np.argsort(-scores_c, kind="stable")[:top_k]
        return [{"label": names[index], "score": float(scores_c[index])} for index in best]

    def meter(self) -> Meter:
        """A new, empty meter."""
        return _ScoreMeter(self)

    def measure(self, scores: Mapping[str, np.ndarray], labels: Mapping[str, np.ndarray]) -> dict[str, float]:
        """The metrics of predictions: {"<head>/<name>": value}.

        ``scores``: {head: float [N, classes]}, a row of NaN for a video that cannot be decoded, which counts
        as wrong. ``labels``: {head: labels of the clips}; clips whose label is not known do not count. A head
        without any known label has no metrics.
        """
        values: dict[str, float] = {}
        known = {head: self.is_known(labels[head]) for head in self.classes}
        for prefix, heads, metric in self._measured():
            rows = np.logical_and.reduce([known[head] for head in heads])
            if rows.any():
                scored = [
                    Scored(scores[head][rows], labels[head][rows], self.classes[head]) for head in heads
                ]
                values |= {f"{prefix}/{name}": float(value) for name, value in metric(*scored).items()}
        return values

    @property
    def score(self) -> str:
        """The name of the metric that decides which checkpoint is the best."""
        names = self._score_names()
        return names[0] if len(names) == 1 else f"mean of {' and '.join(names)}"

    def score_of(self, metrics: Mapping[str, float]) -> float:
        """The score, from metrics as ``measure`` names them; heads without known labels do not count.

        Raises ManifestError if no head has any.
        """
        values = [metrics[name] for name in self._score_names() if name in metrics]
        if not values:
            raise ManifestError(
                f"{self.score} cannot be computed: no validation video has a label",
                code="no_labels",
                key="data.manifest",
                remedy="validate on videos with labels",
            )
        return sum(values) / len(values)

    def check(self, val_set: "Manifest") -> None:
        """Raise ConfigError or ManifestError if this task cannot be scored on ``val_set``.

        All labels are checked. Metrics are computed for the first clips, and for more clips only until the
        score is among them, since it may need labels that the first clips lack.
        """
        labels = {head: targets.numpy() for head, targets in self.targets(list(val_set)).items()}
        metrics: dict[str, float] = {}
        clips = 0
        while clips < len(val_set):
            clips = min(max(_CHECKED_CLIPS, 4 * clips), len(val_set))
            scores = {
                head: np.broadcast_to(1 / len(names), (clips, len(names)))
                for head, names in self.classes.items()
            }
            metrics = self.measure(scores, {head: of_head[:clips] for head, of_head in labels.items()})
            if any(name in metrics for name in self._score_names()):
                return
        if metrics:
            raise ConfigError(
                f"{self.score} is not a metric of this task; it has {', '.join(metrics)}",
                code="unknown_metric",
                key="task.score",
                remedy="choose one of them, or add the metric that gives it to task.metrics",
            )
        self.score_of(metrics)

    def _score_names(self) -> list[str]:
        return [self._score] if "/" in self._score else [f"{head}/{self._score}" for head in self.classes]

    def _measured(self) -> Iterator[tuple[str, tuple[str, ...], Metric]]:
        """(prefix of its values, heads, metric) of every metric: first those of one head, then of several."""
        for head in self.classes:
            for section in self._metrics:
                if not section.heads:
                    yield head, (head,), section.build()
        for section in self._metrics:
            if (
                section.heads
                and set(section.heads) <= self.classes.keys()
                and section.type not in self.classes
            ):
                yield section.type, section.heads, section.build()


class _ScoreMeter:
    """Collects the scores of every clip, since metrics such as mean average precision need them all."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._scores = {head: [np.empty((0, len(names)), np.float32)] for head, names in task.classes.items()}
        self._labels = {head: [targets.numpy()] for head, targets in task.targets([]).items()}

    def update(self, outputs: Outputs, targets: Mapping[str, Tensor]) -> None:
        """Add the probabilities of every head; auxiliary classifiers are ignored."""
        for head in self._scores:
            self._scores[head].append(self._task.probabilities(outputs[head]).cpu().numpy())
            self._labels[head].append(targets[head].cpu().numpy())

    def failed(self, targets: Mapping[str, Tensor]) -> None:
        """Add a row of NaN for each clip."""
        for head, scores in self._scores.items():
            labels = targets[head].cpu().numpy()
            scores.append(np.full((len(labels), scores[0].shape[1]), np.nan, np.float32))
            self._labels[head].append(labels)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """{head: scores, float32 [N, classes]} and {head: labels}."""
        scores = {head: np.concatenate(parts) for head, parts in self._scores.items()}
        return scores, {head: np.concatenate(parts) for head, parts in self._labels.items()}

    def metrics(self, states: Sequence[Any]) -> dict[str, float]:
        """``Task.measure`` of the clips of all workers."""
        scores, labels = (
            {head: np.concatenate([part[head] for part in parts]) for head in self._task.classes}
            for parts in zip(*states, strict=True)
        )
        return self._task.measure(scores, labels)
