"""Augmentations of uint8 clips, in the processes that decode them."""

import json
import traceback
from functools import lru_cache

import numpy as np
from pydantic import TypeAdapter

from kineray.config import Pieces, Plugin, plugins_of
from kineray.config.augment.base import ClipAugmentation
from kineray.errors import ConfigError


def augment_clip(
    augmentations: Pieces[ClipAugmentation],
    clip_thwc: np.ndarray,
    rgb_channels: int,
    rng: np.random.Generator,
) -> None:
    """Apply ``augmentations`` in their order to a clip, in place: uint8 [T, H, W, C].

    Raises ConfigError for one that fails, with the line, and for one that gives another shape or type.
    """
    for augmentation in augmentations.values():
        try:
            changed = np.asarray(augmentation.augment(clip_thwc, rgb_channels, rng))
        except Exception as error:
            raise _failed(augmentation, f"{type(error).__name__}: {error}{_place(error)}") from error
        if changed.shape != clip_thwc.shape or changed.dtype != np.uint8:
            made = f"{changed.dtype} {list(changed.shape)}"
            raise _failed(augmentation, f"made {made} of a clip of uint8 {list(clip_thwc.shape)}")
        if changed is not clip_thwc:
            clip_thwc[...] = changed


def _failed(augmentation: ClipAugmentation, problem: str) -> ConfigError:
    return ConfigError(problem, code="augmentation_failed", key=f"data.augment.{augmentation.type}")


def _place(error: Exception) -> str:
    """Where it was raised, below ``augment_clip``; the innermost line outside of libraries' folders."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    return "".join(f" ({frame.filename}:{frame.lineno} in {frame.name})" for frame in (own or frames)[-1:])


def to_child(augmentations: Pieces[ClipAugmentation]) -> str:
    """Augmentations as text for a decoding process, with the sources of a user's own; "" for none.

    Raises ConfigError for one that is declared in no file.
    """
    if not augmentations:
        return ""
    plugins = {plugin.name: plugin.to_json() for one in augmentations.values() for plugin in plugins_of(one)}
    tree = {name: one.model_dump(mode="json", exclude={"type"}) for name, one in augmentations.items()}
    return json.dumps([list(plugins.values()), tree])


@lru_cache(maxsize=8)
def in_child(text: str) -> Pieces[ClipAugmentation]:
    """What ``to_child`` wrote; declares a user's own in this process. Raises ConfigError where that fails."""
    if not text:
        return Pieces()
    plugins, tree = json.loads(text)
    for plugin in plugins:
        Plugin.from_json(plugin).execute()
    return TypeAdapter[Pieces[ClipAugmentation]](Pieces[ClipAugmentation]).validate_python(tree)
