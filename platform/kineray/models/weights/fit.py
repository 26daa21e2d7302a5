"""Loading weights into a model: which must fit, which may differ, and what is reported."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from kineray.config import ModelSection, as_arguments
from kineray.errors import CheckpointError
from kineray.models.preset import RGB
from kineray.models.weights.hints import overrides_for
from kineray.models.weights.inflation import across_modalities, inflate
from kineray.models.weights.read import Weights
from kineray.models.weights.renames import ANY_HEAD

_FREE = {"init", "dropout", "frozen"}  # settings that do not affect the weights
_CLASSIFIER = re.compile(r"(?:.*\.)?linear\.([^.]+)\.(?:weight|bias)")
_NON_LOCAL = r".*\.nonlocal\d+\..*"
_FUSION = r"head\.fuse\..*"
_COUNTER = "num_batches_tracked"  # missing in some files, and nothing depends on it


@dataclass(frozen=True)
class Loaded:
    """The report of ``load_weights``: how many ``tensors`` were loaded from ``init``.

    ``origin``: the project that wrote the file. ``new``: names of the parameters and buffers that keep their
    initialisation. ``notes``: for the user, without full stops.
    """

    init: str
    origin: str
    tensors: int
    new: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        """One line: ``660 tensors of x.pyth (PySlowFast); head action is new: 4 classes``."""
        return "; ".join([f"{self.tensors} tensors of {self.init} ({self.origin})", *self.notes])


def fit(model: nn.Module, init: str, weights: Weights) -> Loaded:
    """Load ``weights`` into ``model``. Raises CheckpointError if they belong to another network."""
    ours = model.state_dict()
    heads = {head for name in ours if (head := _head_of(name))}
    theirs = _without_other_fusion(_with_named_head(weights.tensors, heads), ours)
    chosen: dict[str, Tensor] = {}
    missing: list[str] = []
    other_shapes: list[str] = []
    notes = list(weights.notes)
    for name, wanted in ours.items():
        given = theirs.get(name)
        if given is None:
            missing.append(name)
            continue
        shaped = _shaped(given, wanted)
        if shaped is not None:
            chosen[name] = shaped
            if shaped.shape[1:2] != given.shape[1:2]:
                notes.append(f"{name} has the mean over RGB for each of {shaped.shape[1]} channels")
        elif not (_head_of(name) and given.shape[1:] == wanted.shape[1:]):  # else only the classes differ
            other_shapes.append(f"{name} is {_size(given)}, here {_size(wanted)}")

    new_parts = _new_parts(missing, theirs, weights.may_be_new)
    new_names = re.compile("|".join(new_parts.values()) or "(?!)")
    missing = [name for name in missing if _must_fit(name) and not new_names.fullmatch(name)]
    unknown = [name for name in theirs if name not in ours and _must_fit(name)]
    settings = _other_settings(model, weights)
    if missing or other_shapes or unknown:
        problems = {
            "have other shapes": other_shapes,
            "are missing": missing,
            "are not of this model": unknown,
        }
        if "type" not in settings:
            settings |= overrides_for(theirs, ours)
        raise CheckpointError(
            _misfit(problems),
            code="other_model",
            remedy=_advice(settings, _settings_of(model).get("type")),
        )
    model.load_state_dict(chosen, strict=False)
    notes += [f"trained with model.{key}={value}, which differs here" for key, value in settings.items()]
    notes += [f"{part} new" for part in new_parts]
    notes += [_about_head(head, theirs, ours) for head in sorted(heads) if not _is_loaded(head, ours, chosen)]
    new = tuple(name for name in ours if name not in chosen and not name.endswith(_COUNTER))
    return Loaded(init, weights.origin, len(chosen), new, tuple(notes))


def _head_of(name: str) -> str | None:
    """The head to whose classifier the parameter ``name`` belongs, if any."""
    found = _CLASSIFIER.fullmatch(name)
    return found[1] if found else None


def _must_fit(name: str) -> bool:
    return _head_of(name) is None and not name.endswith(_COUNTER)


def _with_named_head(tensors: Mapping[str, Tensor], heads: Collection[str]) -> dict[str, Tensor]:
    """Use the file's only classifier for our only head, if we have just one."""
    only = next(iter(heads)) if len(heads) == 1 else ANY_HEAD
    return {name.replace(f"linear.{ANY_HEAD}.", f"linear.{only}."): value for name, value in tensors.items()}


def _shaped(given: Tensor, wanted: Tensor) -> Tensor | None:
    """``given`` in the shape of ``wanted``: inflated in time, and adapted to other clip channels; or None."""
    if given.ndim == 4 and wanted.ndim == 5:
        given = inflate(given, wanted.shape[2])
    if given.ndim > 3 and given.shape[1] == RGB != wanted.shape[1]:
        given = across_modalities(given, wanted.shape[1])
    return given if given.shape == wanted.shape else None


def _new_parts(
    missing: Collection[str], theirs: Mapping[str, Tensor], may_be_new: Mapping[str, str]
) -> dict[str, str]:
    """{how to report a part of the network that is missing as a whole, and may be: a regex of its names}.

    A new non-local block is the identity, so networks with such blocks start from those without (arXiv
    1711.07971, section 4.1).
    """
    parts = {**may_be_new, "the non-local blocks are": _NON_LOCAL, "the fusion is": _FUSION}
    return {
        what: names
        for what, names in parts.items()
        if any(re.fullmatch(names, name) for name in missing)
        and not any(re.fullmatch(names, name) for name in theirs)
    }


def _without_other_fusion(theirs: dict[str, Tensor], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``theirs`` without a fusion of two streams for other classes, which cannot be reused."""
    fused = [name for name in theirs if re.fullmatch(_FUSION, name) and name in ours]
    if all(theirs[name].shape == ours[name].shape for name in fused):
        return theirs
    return {name: value for name, value in theirs.items() if name not in fused}


def _settings_of(model: nn.Module) -> dict[str, str]:
    config = getattr(model, "config", None)
    return as_arguments(config.model_dump(mode="json")) if isinstance(config, ModelSection) else {}


def _other_settings(model: nn.Module, weights: Weights) -> dict[str, str]:
    """Settings that the weights were trained with and that differ in ``model``."""
    ours, theirs = _settings_of(model), weights.settings
    if theirs.get("type", ours.get("type")) != ours.get("type"):
        return {"type": theirs["type"]}
    has_non_local = any(re.fullmatch(_NON_LOCAL, name) for name in weights.tensors)
    free = _FREE if has_non_local else {*_FREE, "nonlocal_form"}
    return {
        key: value
        for key, value in theirs.items()
        if ours.get(key, value) != value and key.rpartition(".")[2] not in free
    }


def _is_loaded(head: str, ours: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> bool:
    return all(name in chosen for name in ours if _head_of(name) == head)


def _about_head(head: str, theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    name = next(name for name in ours if _head_of(name) == head and name.endswith(".bias"))
    in_file = f", {len(theirs[name])} in the file" if name in theirs else ""
    return f"head {head} is new: {len(ours[name])} classes{in_file}"


def _advice(settings: Mapping[str, str], our_type: str | None) -> str:
    if our_type == "two_stream" and settings.get("type", our_type) != our_type:
        return "set model.rgb.init or model.flow.init to start a stream from it"
    if settings:
        return "set " + " ".join(f"model.{key}={value}" for key, value in settings.items())
    return "choose the model that they belong to"


def _misfit(problems: Mapping[str, list[str]]) -> str:
    parts = [
        f"{len(names)} weights {what} ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})"
        for what, names in problems.items()
        if names
    ]
    return f"not the weights of this model: {'; '.join(parts)}"


def _size(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a number"
