"""Augmentation of uint8 clips, in the processes that decode them."""

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
    """Apply ``augmentations`` in order to a clip, in place: uint8 [T, H, W, C].

    Raises ConfigError for an augmentation that fails, with the line, or returns another shape or type.
    """
    for augmentation in augmentations.values():
        try:
            changed = np.asarray(augmentation.augment(clip_thwc, rgb_channels, rng))
        except Exception as error:
            raise ConfigError(
                f"{type(error).__name__}: {error}{_place(error)}",
                code="augmentation_failed",
                key=f"data.augment.{augmentation.type}",
            ) from error
        if changed.shape != clip_thwc.shape or changed.dtype != np.uint8:
            raise ConfigError(
                f"turned a clip of uint8 {list(clip_thwc.shape)} into {changed.dtype} {list(changed.shape)}",
                code="wrong_shape",
                key=f"data.augment.{augmentation.type}",
                remedy="return a clip of the same type and shape",
            )
        if changed is not clip_thwc:
            clip_thwc[...] = changed


def _place(error: Exception) -> str:
    """Where it was raised, below ``augment_clip``; the innermost line outside of libraries' folders."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    return "".join(f" ({frame.filename}:{frame.lineno} in {frame.name})" for frame in (own or frames)[-1:])


def to_child(augmentations: Pieces[ClipAugmentation]) -> str:
    """Augmentations as text for a decoding process, with the source code of plug-ins; "" if there are none.

    Raises ConfigError for an augmentation that is not declared in a file.
    """
    if not augmentations:
        return ""
    plugins = {plugin.name: plugin.to_json() for one in augmentations.values() for plugin in plugins_of(one)}
    tree = {name: one.model_dump(mode="json", exclude={"type"}) for name, one in augmentations.items()}
    return json.dumps([list(plugins.values()), tree])


@lru_cache(maxsize=8)
def in_child(text: str) -> Pieces[ClipAugmentation]:
    """The augmentations that ``to_child`` wrote; runs plug-ins in this process to declare theirs.

    Raises ConfigError if that fails.
    """
    if not text:
        return Pieces()
    plugins, tree = json.loads(text)
    for plugin in plugins:
        Plugin.from_json(plugin).execute()
    return TypeAdapter[Pieces[ClipAugmentation]](Pieces[ClipAugmentation]).validate_python(tree)
