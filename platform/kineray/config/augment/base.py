"""What all augmentations of clips have in common."""

from typing import Any

from kineray.config.variants import Variant


class ClipAugmentation(Variant, home="kineray.config.augment"):
    """Base of what changes the pixels of training clips: ``data.augment.<type>.<field>``.

    A subclass defines ``augment``, or names by ``builds`` a function that takes the section and then the
    arguments of ``augment``. It runs in decoding processes, where nothing should need torch.
    """

    def augment(self, clip_thwc: Any, rgb_channels: int, rng: Any) -> Any:
        """The changed clip: uint8 [T, H, W, C], in a new array or in ``clip_thwc``.

        ``clip_thwc``: uint8 [T, H, W, C] after cropping and mirroring; its first ``rgb_channels`` channels
        are RGB, all others optical flow. ``rng``: a ``numpy.random.Generator``, the sample's own: with no
        other, the clip stays a function of seed, epoch and sample id, however many workers there are.
        """
        return self.build(clip_thwc, rgb_channels, rng)
