"""Where a run continues: a snapshot or a checkpoint, and what is put back from it."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn
from torch.optim import Optimizer

from kineray.config import Experiment, differing_keys
from kineray.config.overrides import MANIFEST
from kineray.data import Failure, Manifest
from kineray.errors import CheckpointError, ErrorBudgetError
from kineray.training.checkpoint import CheckpointStore, load_training_state
from kineray.training.plan import Step, StepPlan, differing_fields
from kineray.training.recipe import Recipe
from kineray.training.snapshots import Snapshots, decode
from kineray.training.state import TrainingState
from kineray.training.step import shorten
from kineray.training.synchronise import Workers

log = logging.getLogger(__name__)


@dataclass
class Progress:
    """How far a run is: steps made, undecodable clips by sample id, the scores of all validations."""

    steps: int = 0
    undecodable: dict[str, Failure] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)

    def add(self, failures: Sequence[Failure], clips: int, budget: float) -> None:
        """Count undecodable clips. Raises ErrorBudgetError for more than ``budget`` of all ``clips``."""
        self.undecodable |= {failure.id: failure for failure in failures}
        if len(self.undecodable) > budget * clips:
            uris = shorten([failure.uri for failure in self.undecodable.values()])
            raise ErrorBudgetError(
                f"{len(self.undecodable)} of {clips} training clips cannot be decoded, more than {budget:g} "
                f"of them: {uris}",
                code="error_budget",
                key="data.error_budget",
                remedy="repair or remove them, or raise the budget",
            )

    def to_dict(self, last: Step, plan: StepPlan, train_set: Manifest) -> dict[str, Any]:
        """What is known of the run after the step ``last``, as planned."""
        return {
            "step": self.steps,
            "total_steps": plan.total_steps,
            "epoch": last.epochs_done,
            "last_step": last.to_dict(),
            "scores": list(self.scores),
            "manifest": train_set.content_hash,
            "undecodable": [asdict(failure) for failure in self.undecodable.values()],
        }


def last_state(
    checkpoints: CheckpointStore, snapshots: Snapshots | None, workers: Workers, resume: bool
) -> tuple[str, TrainingState] | None:
    """What to resume from and what it is called: the newest snapshot of any host, or the last checkpoint.

    Rank 0 chooses the newer one. Raises CheckpointError if there is a checkpoint without ``resume``.
    """
    newest = workers.gather(snapshots.newest if snapshots is not None and resume else 0)
    is_in_memory = workers.rank == 0 and max(newest) > checkpoints.last_step()
    if workers.gather(is_in_memory)[0]:
        holder = newest.index(max(newest))
        content = snapshots.read() if snapshots is not None and workers.rank == holder else None
        return f"the snapshot of step {max(newest)}", decode(workers.share(content, holder))
    chosen = _choose(checkpoints, resume) if workers.rank == 0 else None
    uri = workers.gather(chosen and chosen[0])[0]
    return None if uri is None else chosen or (uri, load_training_state(uri))


def _choose(checkpoints: CheckpointStore, resume: bool) -> tuple[str, TrainingState] | None:
    if not resume and checkpoints.last() is not None:
        raise CheckpointError(
            "holds a run already",
            code="run_exists",
            key=checkpoints.uri,
            remedy="resume it with `resume`, or name another folder",
        )
    return checkpoints.load_last()


def restore(
    uri: str,
    saved: TrainingState,
    experiment: Experiment,
    train_set: Manifest,
    plan: StepPlan,
    model: nn.Module,
    optimizer: Optimizer,
    recipe: Recipe,
    changed: Collection[str] = (),
) -> Progress:
    """Put ``saved``, from ``uri``, into model, optimizer and recipe; returns how far its run was.

    ``changed``: dotted keys in which the checkpoint's experiment may differ.
    """
    differing = _differing(saved, experiment, train_set)
    refused = [key for key in differing if key not in changed]
    if not differing:
        planned = plan.at(saved.state["step"] - 1)
        refused = [f"the step's {name}" for name in differing_fields(saved.state["last_step"], planned)]
    if refused:
        named = ["the content of data.manifest" if key == MANIFEST else key for key in refused]
        raise CheckpointError(
            f"made with other values of {shorten(named, 6)}",
            code="other_experiment",
            key=uri,
            remedy="start a new run instead of resuming, or name these keys in `changed`",
        )
    hyperparameters = [_without_parameters(group) for group in optimizer.param_groups]
    try:
        model.load_state_dict(saved.weights)
        recipe.begin(model)
        optimizer.load_state_dict(saved.optimizer)
        own = recipe.states() if differing else {}  # a piece that is new begins now, one that is gone is left
        recipe.load_states(
            own | {name: state for name, state in saved.pieces.items() if not differing or name in own}
        )
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"does not fit this model: {str(error).splitlines()[0]}",
            code="other_model",
            key=uri,
            remedy="start a new run instead of resuming",
        ) from None
    for group, values in zip(optimizer.param_groups, hyperparameters, strict=True):
        group.update(values)  # those of the experiment, which may have other ones than the checkpoint
    log.info("continuing %s from step %d", uri, saved.state["step"])
    failures = [Failure(**failure) for failure in saved.state["undecodable"]]
    undecodable = {failure.id: failure for failure in failures}
    return Progress(saved.state["step"], undecodable, saved.state["scores"])


def _differing(saved: TrainingState, experiment: Experiment, train_set: Manifest) -> list[str]:
    """The keys of the science in which a checkpoint was made with other values, or on other content."""
    keys = differing_keys(saved.experiment, experiment)
    return keys if saved.state["manifest"] == train_set.content_hash else [*keys, MANIFEST]


def _without_parameters(group: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name != "params"}
