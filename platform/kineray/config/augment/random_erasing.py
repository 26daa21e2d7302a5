"""Random erasing."""

from typing import ClassVar

from kineray.config.augment.base import ClipAugmentation
from kineray.config.fields import AreaRange, PositiveRange, Share


class RandomErasingConfig(
    ClipAugmentation, type="random_erasing", builds="kineray.data.clips.random_erasing.random_erasing"
):
    """A rectangle at the same place in all frames loses its content (Zhong et al., arXiv 1708.04896).

    RGB gets random values, the same in all frames, and flow no motion. ``probability``: share of the clips.
    ``area``: range of the share of the frame that is erased. ``aspect``: range of width / height.
    """

    order: ClassVar[int] = 10  # the last: what is erased stays erased

    probability: Share = 0.5
    area: AreaRange = (0.02, 0.4)
    aspect: PositiveRange = (0.3, 1 / 0.3)
