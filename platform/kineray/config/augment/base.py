"""The base of all augmentations of clips."""

from typing import Any

from kineray.config.variants import Variant


class ClipAugmentation(Variant, home="kineray.config.augment"):
    """Base of the augmentations of training clips, the sections ``data.augment.<type>``.

    A subclass defines ``augment``, or names in ``builds`` a function that takes the section followed by the
    arguments of ``augment``. It runs in decoding processes, which should not import torch.
    """

    def augment(self, clip_thwc: Any, rgb_channels: int, rng: Any) -> Any:
        """The changed clip: uint8 [T, H, W, C], in a new array or in ``clip_thwc``.

        ``clip_thwc``: uint8 [T, H, W, C] after cropping and mirroring; its first ``rgb_channels`` channels
        are RGB, the others optical flow. ``rng``: the ``numpy.random.Generator`` of the sample; if it is the
        only source of randomness, the clip is a function of seed, epoch and sample id alone, whatever the
        number of workers.
        """
        return self.build(clip_thwc, rgb_channels, rng)
