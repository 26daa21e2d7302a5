"""Weights of image networks in video networks: Carreira, Zisserman, arXiv 1705.07750, section 2.3."""

import torch
from torch import Tensor


def inflate(weight_oihw: Tensor, frames: int) -> Tensor:
    """A 2D kernel repeated over ``frames`` frames and divided by their number: [O, I, T, H, W].

    So a video that repeats one image has the same output as the image.
    """
    return weight_oihw.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames


def mean_over_time(channels: int, frames: int) -> Tensor:
    """The kernel of a temporal convolution that averages: [channels, channels, ``frames``, 1, 1].

    After a spatial convolution it keeps the property that ``inflate`` has.
    """
    return inflate(torch.eye(channels)[:, :, None, None], frames)


def across_modalities(weight: Tensor, channels: int) -> Tensor:
    """The first kernel of an RGB network, [O, 3, ...], adapted to other channels, [O, ``channels``, ...].

    Each channel gets the mean over red, green and blue (Wang et al., arXiv 1608.00859, section 3.2).
    """
    mean = weight.mean(dim=1, keepdim=True)
    return torch.cat([mean] * channels, dim=1)
