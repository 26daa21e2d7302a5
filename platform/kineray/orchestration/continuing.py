"""Going on from a checkpoint with other values: a run for more epochs, or a new run from another one's."""

from collections.abc import Mapping
from dataclasses import dataclass

from kineray.config import Experiment, as_argument, differing_keys, from_yaml, leaf_keys
from kineray.config.overrides import MANIFEST
from kineray.data import Manifest
from kineray.errors import CheckpointError, ConfigError
from kineray.storage import absolute, exists, join, read_bytes, relative
from kineray.tracking.trials import EXPERIMENT
from kineray.training import plan_of
from kineray.training.inputs import RunData
from kineray.training.kept import Kept, kept, kept_steps, last_kept
from kineray.training.references import find_checkpoint, run_id_in

LINEAGE = "lineage"  # the tag with how a run came about, of one that was extended or forked
FORKED = "forked.checkpoint"  # the tag with the checkpoint that a forked run began with
CHANGED = "changed"  # the tag with the dotted keys in which its first checkpoints may differ from it

_MANY = 6


@dataclass(frozen=True)
class Continuation:
    """How a run goes on from ``checkpoint``, a checkpoint of the run ``of``, with other values.

    ``base``: the experiment of that run. ``changes``: {dotted key: (value before, value from now on)}.
    ``is_fork``: a new run begins there; otherwise ``of`` itself goes on. ``lr``: the learning rate of the
    last step before it and of the first one after it.
    """

    of: str
    checkpoint: Kept
    base: Experiment
    changes: dict[str, tuple[str, str]]
    is_fork: bool
    lr: tuple[float, float]

    @property
    def lineage(self) -> str:
        """What it is, for the record."""
        step, changed = self.checkpoint.step, changes_text(self.changes)
        if not self.is_fork:
            return f"extended at step {step}: {changed}"
        return f"forked from {self.of} at step {step}" + f" with {changed}" * bool(changed)

    def tags(self, before: Mapping[str, str]) -> dict[str, str]:
        """What the record of the run says of it; ``before``: the tags that it has already.

        MLflow keeps the parameters that a run began with: those of an extended one are in ``param.*``.
        """
        keys = [*filter(None, before.get(CHANGED, "").split(",")), *self.changes]
        lineage = "; ".join(filter(None, [before.get(LINEAGE), self.lineage]))
        tags = {LINEAGE: lineage, CHANGED: ",".join(dict.fromkeys(keys))}
        if not self.is_fork:
            return tags | {f"param.{key}": now for key, (_, now) in self.changes.items()}
        run_id = run_id_in(self.checkpoint.uri.rpartition("/checkpoints/")[0])
        return tags | {FORKED: absolute(self.checkpoint.uri), "forked.run_id": run_id or "-"}

    @property
    def line(self) -> str:
        """What it is, and what it does to the learning rate, in one line."""
        step, (before, after) = self.checkpoint.step, self.lr
        return f"{self.lineage}; learning rate {before:.3g} at step {step}, {after:.3g} at step {step + 1}"


def changes_text(changes: Mapping[str, tuple[str, str]], most: int = 20) -> str:
    """``optim.lr 0.1 -> 0.05, train.epochs 10 -> 20``."""
    shown = [f"{key} {before} -> {now}" for key, (before, now) in list(changes.items())[:most]]
    return ", ".join([*shown, f"{len(changes) - most} more"] if len(changes) > most else shown)


def changes_between(base: Experiment, experiment: Experiment) -> dict[str, tuple[str, str]]:
    """{dotted key: (value in ``base``, in ``experiment``)} of the science that differs; ``-`` if absent."""
    before, now = leaf_keys(base), leaf_keys(experiment)
    return {
        key: (
            as_argument(before[key]) if key in before else "-",
            as_argument(now[key]) if key in now else "-",
        )
        for key in differing_keys(base, experiment)
    }


def recorded_experiment(storage: str, name: str) -> Experiment | None:
    """The experiment of the run ``name``, from its folder; None if there is none."""
    path = join(storage, name, EXPERIMENT)
    return from_yaml(read_bytes(path).decode(), path) if exists(path) else None


def can_extend(base: Experiment, experiment: Experiment) -> bool:
    """Whether ``experiment`` is ``base`` for more epochs, perhaps on another schedule."""
    keys = changes_between(base, experiment)
    is_longer = experiment.train.epochs > base.train.epochs
    return is_longer and all(key == "train.epochs" or key.startswith("schedule.") for key in keys)


def extension(storage: str, name: str | None, experiment: Experiment, data: RunData) -> Continuation:
    """The run ``name`` for more epochs. Raises ConfigError and CheckpointError."""
    if name is None:
        raise ConfigError(
            "no run is named", code="not_set", key="extend", remedy="pass the `name` of the run to extend"
        )
    base = recorded_experiment(storage, name)
    checkpoint = last_kept(join(storage, name, "checkpoints")) if base else None
    if base is None or checkpoint is None:
        raise ConfigError(
            f"there is no checkpoint of a run of this name in {storage}",
            code="nothing_to_extend",
            key="name",
            value=name,
            remedy="pass the `name` and the `storage` of a run that has one",
        )
    changes = changes_between(base, experiment)
    if not can_extend(base, experiment):
        raise _not_extended(base, experiment, name, changes)
    return _continuation(name, kept(checkpoint), base, experiment, changes, data, is_fork=False)


def _not_extended(
    base: Experiment, experiment: Experiment, name: str, changes: Mapping[str, tuple[str, str]]
) -> ConfigError:
    if experiment.train.epochs <= base.train.epochs:
        return ConfigError(
            f"run {name} has {base.train.epochs} already",
            code="out_of_range",
            key="train.epochs",
            value=experiment.train.epochs,
            remedy="give more epochs, or go on with `resume`",
        )
    return ConfigError(
        f"run {name} can be extended with other values of train.epochs and schedule.*, not with "
        f"{changes_text(changes, _MANY)}",
        code="other_experiment",
        key="extend",
        remedy=f"start a new run from its checkpoint: `fork` {name}",
    )


def fork_from(
    reference: str, storage: str, experiment: Experiment, manifest: Manifest, data: RunData
) -> Continuation:
    """A new run that starts from ``reference``: ``RUN``, ``RUN@STEP``, or the folder of either.

    Raises ConfigError and CheckpointError, also for what a checkpoint cannot carry over.
    """
    name, checkpoint = _origin(reference, storage)
    found = kept(checkpoint)
    changes = changes_between(found.experiment, experiment)
    if found.state.get("manifest") != manifest.split("train").content_hash:
        changes[MANIFEST] = (found.experiment.data.manifest or "-", experiment.data.manifest or "-")
    _check_carried(found, changes, data)
    return _continuation(name, found, found.experiment, experiment, changes, data, is_fork=True)


def _origin(reference: str, storage: str) -> tuple[str, str]:
    """The name of the run that ``reference`` means, and the URI of the checkpoint."""
    run, at, step = reference.rpartition("@")
    if not at or not step.isdigit():
        run, step = reference, ""
    folder = find_checkpoint(run, storage)
    if exists(join(folder, "state.json")):
        return folder, folder
    name = relative(folder, storage) or folder
    steps = kept_steps(join(folder, "checkpoints"))
    chosen = steps.get(int(step)) if step else last_kept(join(folder, "checkpoints"))
    if chosen is None:
        listed = ", ".join(map(str, steps))
        raise CheckpointError(
            f"{name} has no checkpoint of step {step}" if step else f"{name} has no checkpoint",
            code="unknown_step",
            key="fork",
            value=reference,
            remedy=f"it has those of the steps {listed}" if steps else "choose another run",
        )
    return name, chosen


def _check_carried(found: Kept, changes: Mapping[str, tuple[str, str]], data: RunData) -> None:
    """Raise ConfigError for changes that need other tensors than the checkpoint has.

    Those of the network and of groups of parameters take torch to see (``kineray.training.probe``).
    """
    if "optim.type" in changes:
        before, now = changes["optim.type"]
        raise _not_carried("optim.type", f"a checkpoint with the state of {before} has none of {now}", found)
    before_heads, heads = found.preprocessing.labels, data.preprocessing.labels
    for head in {**before_heads, **heads}:
        if list(before_heads.get(head, ())) != list(heads.get(head, ())):
            raise _not_carried(MANIFEST, f"the checkpoint has other classes of the head {head}", found)


def _not_carried(key: str, problem: str, found: Kept) -> ConfigError:
    return ConfigError(
        problem,
        code="not_carried",
        key=key,
        remedy=f"keep it as it was, or start a new run from the weights alone: model.init={found.uri}",
    )


def _continuation(
    name: str,
    checkpoint: Kept,
    base: Experiment,
    experiment: Experiment,
    changes: dict[str, tuple[str, str]],
    data: RunData,
    *,
    is_fork: bool,
) -> Continuation:
    plan, step, scores = plan_of(experiment, data.samples), checkpoint.step, checkpoint.scores
    if step >= plan.total_steps:
        raise ConfigError(
            f"ends at step {plan.total_steps}, and the checkpoint is of step {step}",
            code="out_of_range",
            key="train.epochs",
            value=experiment.train.epochs,
            remedy="give more epochs",
        )
    made, planned = checkpoint.state["last_step"], plan.at(step - 1).to_dict()
    if not is_fork and any(made.get(part) != planned[part] for part in ("epoch", "first", "global_batch")):
        raise ConfigError(
            f"its recipe gives run {name} other steps from the start if it has more epochs",
            code="other_steps",
            key="extend",
            value=name,
            remedy=f"start a new run from its checkpoint: `fork` {name}",
        )
    for kind, piece in experiment.recipe.items():
        if piece.stops(scores):
            raise ConfigError(
                f"run {name} ended by it at step {step}, and would again",
                code="stopped_early",
                key=f"recipe.{kind}",
                remedy=f"`fork` {name} with other values, or with recipe.{kind}=off",
            )
    known = scores if checkpoint.state["score"] is None else scores[:-1]  # when that step was made
    before = checkpoint.state["last_step"]["lr"] * checkpoint.experiment.schedule.factor_after(known)
    after = plan.at(step).lr * experiment.schedule.factor_after(scores)
    return Continuation(name, checkpoint, base, changes, is_fork, (before, after))
