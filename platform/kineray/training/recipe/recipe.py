"""The pieces of an experiment's recipe, together."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from kineray.config import Experiment
from kineray.data.clips.seeds import pcg64
from kineray.errors import ConfigError
from kineray.training.checkpoint_files import MODEL_WEIGHTS
from kineray.training.optim import Factors
from kineray.training.plan import Step
from kineray.training.recipe.base import Group, Piece


class Recipe:
    """All pieces in their order. See ``Piece`` for what each method does.

    ``weights``: the piece whose weights evaluate, export and serve, or ``model``. ``changes_clips``: names of
    the pieces that change clips before the model sees them. Raises ConfigError if
    two pieces give weights.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._seed = experiment.seed
        self._pieces: dict[str, Piece] = {name: piece.build() for name, piece in experiment.recipe.items()}
        self._transforms = {
            name: piece
            for name, piece in self._pieces.items()
            if type(piece).transform_group is not Piece.transform_group
        }
        self._alternatives = _alternatives(self._transforms)
        self.changes_clips = [name for name, piece in self._transforms.items() if piece.changes_clips]
        self.soft_targets = any(piece.soft_targets for piece in self._pieces.values())
        given = [name for name, piece in self._pieces.items() if piece.gives_weights]
        if len(given) > 1:
            raise ConfigError(
                f"{' and '.join(given)} both give the weights to evaluate",
                code="two_kinds_of_weights",
                key=f"recipe.{given[1]}",
                remedy=f"switch one off, as with recipe.{given[1]}=off",
            )
        self.weights = given[0] if given else MODEL_WEIGHTS

    def factors(self, model: nn.Module) -> dict[str, Factors]:
        """What the learning rate and the weight decay of each parameter are multiplied by; 1 if not given."""
        names = [name for name, _ in model.named_parameters()]
        found: dict[str, Factors] = {}
        for piece in self._pieces.values():
            for name, given in piece.factors(names).items():
                found[name] = found.get(name, Factors()).times(given)
        return found

    def begin(self, model: nn.Module) -> None:
        """Let every piece see the model's initial weights."""
        self._device = next(model.parameters()).device
        for piece in self._pieces.values():
            piece.begin(model)

    @torch.no_grad()
    def transform(self, step: Step, position: int, clips_bcthw: Tensor, targets: dict[str, Tensor]) -> Group:
        """Transform a micro-batch of whole batch-norm groups, one after the other.

        ``position``: that of its first clip in the global batch.
        """
        if not self._transforms:
            return clips_bcthw, targets
        size = step.bn_group
        groups = [
            self._transform_group(
                step,
                (position + start) // size,
                clips_bcthw[start : start + size],
                {head: of_head[start : start + size] for head, of_head in targets.items()},
            )
            for start in range(0, len(clips_bcthw), size)
        ]
        if len(groups) == 1:
            return groups[0]
        clips, by_group = zip(*groups, strict=True)
        return torch.cat(clips), {head: torch.cat([of[head] for of in by_group]) for head in targets}

    def _transform_group(self, step: Step, number: int, clips: Tensor, targets: dict[str, Tensor]) -> Group:
        left_out = self._left_out(step, number)
        for name, piece in self._transforms.items():
            if name in left_out:
                continue
            rng = np.random.Generator(pcg64("recipe", name, self._seed, step.index, number))
            clips, targets = piece.transform_group(clips, targets, rng)
        return clips, targets

    def _left_out(self, step: Step, number: int) -> set[str]:
        """The pieces whose place another one takes for a group."""
        left_out: set[str] = set()
        for kind, names in self._alternatives.items():
            drawn = pcg64("alternatives", kind, self._seed, step.index, number).random_raw() % len(names)
            left_out |= {*names} - {names[drawn]}
        return left_out

    def transform_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Let every piece change the gradients."""
        for piece in self._pieces.values():
            piece.transform_gradients(parameters)

    def after_step(self, model: nn.Module, step: Step) -> None:
        """Let every piece see the new weights."""
        for piece in self._pieces.values():
            piece.after_step(model, step)

    def states(self) -> dict[str, dict[str, Tensor]]:
        """The state of every piece that has one."""
        states = {name: piece.state() for name, piece in self._pieces.items()}
        return {name: state for name, state in states.items() if state}

    def load_states(self, states: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from ``states()``, after ``begin``. Raises KeyError or RuntimeError if they do not fit."""
        for name in self.states() | states.keys():
            state = {key: value.to(self._device) for key, value in states[name].items()}
            self._pieces[name].load_state(state)

    @contextmanager
    def evaluated(
        self, model: nn.Module, passes: Mapping[str, Iterator[None]], sum_: Callable[[Tensor], None]
    ) -> Iterator[None]:
        """Inside, the model has the weights that evaluate, after ``Piece.before_validation`` of every piece.

        ``passes``: of the pieces that have any. What they change of these weights stays when it ends.
        """
        if self.weights == MODEL_WEIGHTS:
            self._before_validation(model, passes, sum_)
            yield
            return
        own = _copy(model)
        given = self._pieces[self.weights]
        model.load_state_dict(given.state())
        try:
            self._before_validation(model, passes, sum_)
            if passes:
                given.load_state(_copy(model))
            yield
        finally:
            model.load_state_dict(own)

    def _before_validation(
        self, model: nn.Module, passes: Mapping[str, Iterator[None]], sum_: Callable[[Tensor], None]
    ) -> None:
        for name, of_piece in passes.items():
            self._pieces[name].before_validation(model, of_piece, sum_)
            deque(of_piece, maxlen=0)  # what it has left, for the batches of the next piece follow them


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _alternatives(pieces: Mapping[str, Piece]) -> dict[str, list[str]]:
    """The names of pieces that take turns, by what they are one of (``Piece.one_of``)."""
    kinds = {piece.one_of for piece in pieces.values() if piece.one_of}
    return {kind: [name for name, piece in pieces.items() if piece.one_of == kind] for kind in sorted(kinds)}
