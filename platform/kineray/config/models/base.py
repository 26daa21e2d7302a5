"""The base of the configurations of all architectures."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kineray.config.fields import NameOrNone
from kineray.config.variants import Variant

if TYPE_CHECKING:
    from torch import nn


class ModelSection(Variant, home="kineray.config.models"):
    """Base of every architecture's configuration, whose ``type`` says which one it is.

    ``init``: weights to start from (``kineray.models.load_weights``): a checkpoint folder, a file of
    PySlowFast, PyTorchVideo, Caffe2 or torchvision, or torchvision:NAME; empty for random weights.
    """

    init: NameOrNone = ""

    def build(self, heads: Mapping[str, int], in_channels: int = 3) -> "nn.Module":
        """A new, randomly initialised network; ``init`` is not loaded.

        ``heads``: number of classes of each head; ``in_channels``: number of clip channels (3 for RGB). The
        network takes normalised clips, float [B, C, T, H, W], and returns {head: logits [B, classes]}.
        """
        network: nn.Module = self.implementation()(self, heads, in_channels)
        return network

    def networks(self) -> dict[str, "ModelSection"]:
        """{field: configuration} of the networks inside this one, such as the two streams."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: value for name, value in values.items() if isinstance(value, ModelSection)}

    @property
    def is_of_plugin(self) -> bool:
        """Whether the architecture, or that of a network inside it, is a user's own."""
        is_own = not type(self).__module__.startswith("kineray.")
        return is_own or any(network.is_of_plugin for network in self.networks().values())

    @property
    def names_layers(self) -> bool:
        """Whether the configuration names layers, which exist or not in the network that it builds."""
        return any(network.names_layers for network in self.networks().values())

    def inits(self) -> dict[str, str]:
        """{part: weights to start from}, for the whole network ("") and the networks inside it."""
        found = {"": self.init} if self.init else {}
        for name, network in self.networks().items():
            found |= {f"{name}.{part}".rstrip("."): init for part, init in network.inits().items()}
        return found

    def frozen_at_random(self) -> dict[str, str]:
        """{frozen part without weights to start from: the key, after ``model.``, that sets them}."""
        if self.init:
            return {}
        return {
            f"{name}.{part}": f"{name}.{key}"
            for name, network in self.networks().items()
            for part, key in network.frozen_at_random().items()
        }

    def frozen_part(self) -> dict[str, object] | None:
        """What the frozen first part of the network computes, as plain values; None if there is none.

        What it computes of a clip is then the same in every epoch and can be kept
        (``kineray.training.features``). The network of such a configuration has ``backbone``, the module with
        the frozen weights; ``frame_maps``, normalised clips -> features, float32 [B, ...]; and ``classify``,
        features -> logits.
        """
        return None

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ConfigError, with the key ``data.*``, for clips that the network cannot take.

        ``frames``: number of frames of a clip; ``crop``, ``eval_crop``: its side in pixels in training and
        in evaluation.
        """

    def check_channels(self, channels: int) -> None:
        """Raise ConfigError, with a key ``data.*``, for clips of a number of channels that it cannot take."""
