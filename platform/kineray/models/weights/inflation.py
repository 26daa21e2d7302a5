"""Weights of image networks in video networks: Carreira, Zisserman, arXiv 1705.07750, section 2.3."""

import torch
from torch import Tensor


def inflate(weight_oihw: Tensor, frames: int) -> Tensor:
    """A kernel of an image, repeated over ``frames`` and divided by their number: [O, I, T, H, W].

    So a video that repeats one image gives what the image gives.
    """
    return weight_oihw.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames


def mean_over_time(channels: int, frames: int) -> Tensor:
    """The kernel of a convolution over time, [channels, channels, ``frames``, 1, 1], that averages.

    Behind an inflated convolution over space it keeps what ``inflate`` promises.
    """
    return inflate(torch.eye(channels)[:, :, None, None], frames)


def across_modalities(weight: Tensor, channels: int) -> Tensor:
    """The first kernel of an RGB network, [O, 3, ...], for clips of other channels, [O, ``channels``, ...].

    Each channel gets the mean over red, green and blue (Wang et al., arXiv 1608.00859, section 3.2).
    """
    mean = weight.mean(dim=1, keepdim=True)
    return torch.cat([mean] * channels, dim=1)
