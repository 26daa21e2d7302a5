"""Two-stream networks: Simonyan and Zisserman, arXiv 1406.2199.

One network reads the RGB frames of a clip, another its optical flow. The configuration chooses both networks
and how they are fused:

    fusion average   mean of the two streams' probabilities ("fusion by averaging" of softmax scores)
    fusion linear    for each head a linear classifier on both streams' L2-normalised probabilities, stacked
                     (the paper trains an SVM on these); it is initialised to compute their sum
    mid              in addition, flow features are fed into the RGB stream after one layer; both streams run
                     to their end and are fused there too (Feichtenhofer et al., arXiv 1604.06573, found
                     the combination best)
    mid_fusion sum   rgb + flow
    mid_fusion conv  a convolution of size 1 on both, concatenated; it is initialised to compute their sum

The source trains each stream separately. Here the loss is that of the fused result; to do as the source
does, train each stream in an experiment and start from both: ``model.rgb.init``, ``model.flow.init``.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kineray.config import ModelSection
from kineray.config.models.two_stream import TwoStreamConfig
from kineray.errors import ConfigError
from kineray.models import r2plus1d, s3d, slowfast
from kineray.models.heads import AUXILIARY, MeanOfProbabilities, check_heads
from kineray.models.preset import RGB, ModelPreset

_FRAMES, _SIDES = range(1, 257), (224, 112, 299)  # clips that are tried, to find the shapes of features


class TwoStream(nn.Module):
    """Both streams and their fusion. ``heads`` maps the name of each head to its number of classes.

    ``in_channels``: number of clip channels: first 3 of RGB, then those of flow (2, or more if stacked).
    Raises ConfigError if there are no channels of flow, or ``mid`` is not a layer that can be fused.
    """

    def __init__(self, config: TwoStreamConfig, heads: Mapping[str, int], in_channels: int = 5) -> None:
        super().__init__()
        self.config = config
        config.check_channels(in_channels)
        check_heads(heads)
        self.rgb = config.rgb.build(heads, RGB)
        self.flow = config.flow.build(heads, in_channels - RGB)
        self.head: nn.Module = LinearFusion(heads) if config.fusion == "linear" else AverageFusion()
        self.mid: MidFusion | None = None
        if config.mid:
            self.mid = _mid_fusion(config, in_channels - RGB)
            self.flow.get_submodule(config.mid).register_forward_hook(self.mid.keep)
            self.rgb.get_submodule(config.mid).register_forward_hook(self.mid.fuse)

    def forward(self, clips_bcthw: Tensor) -> dict[str, Tensor]:
        """Normalised clips, float [B, 3 + F, T, H, W] -> {head: logits [B, classes]}.

        Logits of auxiliary classifiers that only one of the streams has are returned unchanged.
        """
        flow = self.flow(clips_bcthw[:, RGB:])  # first, because ``mid`` hands its features to the RGB stream
        rgb = self.rgb(clips_bcthw[:, :RGB])
        fused: dict[str, Tensor] = self.head(rgb, flow)
        return {**rgb, **flow, **fused}


class AverageFusion(MeanOfProbabilities):
    """The logits of the two streams' mean probabilities, for each head."""

    def forward(self, rgb: Mapping[str, Tensor], flow: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits of both streams, {head: [B, classes]} -> logits of their fusion, {head: [B, classes]}."""
        both = {name: torch.stack([rgb[name], flow[name]], dim=1) for name in rgb if name in flow}
        return {name: self.mean_logits(logits_b2k) for name, logits_b2k in both.items()}


class LinearFusion(AverageFusion):
    """A linear classifier on the L2-normalised probabilities; auxiliary classifiers are averaged."""

    def __init__(self, heads: Mapping[str, int]) -> None:
        super().__init__()
        self.fuse = nn.ModuleDict({name: nn.Linear(2 * classes, classes) for name, classes in heads.items()})
        for linear in self.fuse.values():
            _start_as_sum(linear)

    def forward(self, rgb: Mapping[str, Tensor], flow: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Logits of both streams, {head: [B, classes]} -> logits of their fusion, {head: [B, classes]}."""
        auxiliary = {name: logits for name, logits in rgb.items() if name.startswith(AUXILIARY)}
        fused = super().forward(auxiliary, flow)
        for name, linear in self.fuse.items():
            scores = [F.normalize(self.probabilities(stream[name]), dim=1) for stream in (rgb, flow)]
            fused[name] = linear(torch.cat(scores, dim=1))
        return fused


class MidFusion(nn.Module):
    """Adds features of the flow stream to those of the RGB stream, or mixes both by a convolution.

    ``keep`` and ``fuse`` are forward hooks on the layer in the two streams, so it works with any network.
    """

    def __init__(self, conv: nn.Module | None) -> None:
        super().__init__()
        self.conv = conv
        self.flow_features: Tensor | None = None

    def keep(self, _layer: nn.Module, _inputs: object, features_flow: Tensor) -> None:
        """Remember the output of the flow stream's layer."""
        self.flow_features = features_flow.clone()  # the next layer may change it in place

    def fuse(self, _layer: nn.Module, _inputs: object, features_rgb: Tensor) -> Tensor:
        """Replace the output of the RGB stream's layer."""
        features_flow, self.flow_features = self.flow_features, None
        assert features_flow is not None
        fused: Tensor = self(features_rgb, features_flow)
        return fused

    def forward(self, features_rgb: Tensor, features_flow: Tensor) -> Tensor:
        """[B, C, ...] and [B, F, ...] -> [B, C, ...]."""
        if self.conv is None:
            return features_rgb + features_flow
        mixed: Tensor = self.conv(torch.cat([features_rgb, features_flow], dim=1))
        return mixed


def _start_as_sum(layer: nn.Module) -> None:
    """Make ``layer`` two identity matrices side by side: its output is the sum of the input's halves."""
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    outputs, inputs = weight.shape[:2]
    with torch.no_grad():
        weight.zero_()
        for first in (0, outputs):
            width = min(outputs, inputs - first)
            matrix = weight[:, first : first + width].flatten(1)
            matrix.copy_(torch.eye(outputs, width))
        bias.zero_()


def _mid_fusion(config: TwoStreamConfig, flow_channels: int) -> MidFusion:
    """The fusion after ``config.mid``. Raises ConfigError if that layer cannot be fused."""
    rgb, flow = (_shapes(config, *stream) for stream in ((config.rgb, RGB), (config.flow, flow_channels)))
    if config.mid not in rgb or config.mid not in flow:
        common = [name for name in rgb if name in flow]
        # Offer the outermost layers only, or the next level if all layers are inside one part.
        names = [name for name in common if "." not in name] or [n for n in common if n.count(".") == 1]
        raise ConfigError(
            "not a layer of both streams",
            code="unknown_value",
            key="model.mid",
            value=config.mid,
            remedy=f"choose from {', '.join(names)}" if names else "leave it empty: they have none in common",
        )
    of_rgb, of_flow = rgb[config.mid], flow[config.mid]
    differ = of_rgb != of_flow if config.mid_fusion == "sum" else of_rgb[1:] != of_flow[1:]
    if differ:
        equal = "equal shapes" + (" except for the channels" if config.mid_fusion == "conv" else "")
        raise ConfigError(
            f"features of {list(of_rgb)} in model.rgb and {list(of_flow)} in model.flow, and "
            f"model.mid_fusion={config.mid_fusion} needs {equal}",
            code="wrong_shape",
            key="model.mid",
            value=config.mid,
        )
    if config.mid_fusion == "sum":
        return MidFusion(None)
    convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[1 + len(of_rgb)]
    conv = convolution(of_rgb[0] + of_flow[0], of_rgb[0], 1)
    _start_as_sum(conv)
    return MidFusion(conv)


def _shapes(config: TwoStreamConfig, stream: ModelSection, channels: int) -> dict[str, tuple[int, ...]]:
    """{layer: shape of its output, without the batch} for one of the shortest clips that both streams take.

    Only layers that are called once and return a single tensor of features.
    """
    sizes = [size for size in product(_FRAMES, _SIDES) if _accepts(config, *size)]
    if not sizes:
        raise ConfigError(
            "there are no clips that model.rgb and model.flow can both take",
            code="wrong_shape",
            key="model.mid",
            value=config.mid,
        )
    frames, side = sizes[0]
    outputs: dict[str, list[object]] = {}
    with torch.device("meta"), torch.no_grad():
        network = stream.build({"probe": 1}, channels).eval()
        for name, layer in network.named_modules():
            outputs[name] = []
            layer.register_forward_hook(partial(_record, outputs[name]))
        network(torch.empty(1, channels, frames, side, side))
    return {
        name: tuple(found[0].shape[1:])
        for name, found in outputs.items()
        if len(found) == 1
        and isinstance(found[0], Tensor)
        and 3 <= found[0].ndim <= 5
        and not name.startswith("head")
    }


def _record(outputs: list[object], _layer: nn.Module, _inputs: object, output: object) -> None:
    outputs.append(output)


def _accepts(config: TwoStreamConfig, frames: int, side: int) -> bool:
    try:
        config.check_clip(frames, side, side)
    except ConfigError:
        return False
    return True


def _twice(preset: ModelPreset) -> ModelPreset:
    """A published network twice, for RGB and for flow (u and v)."""
    assert not isinstance(preset.config, TwoStreamConfig)
    config = TwoStreamConfig(rgb=preset.config, flow=preset.config)
    return replace(preset, config=config, channels=RGB + 2)


PRESETS = {
    "two_stream_i3d_inception": _twice(s3d.PRESETS["i3d_inception"]),
    "two_stream_r2plus1d_34": _twice(r2plus1d.PRESETS["r2plus1d_34"]),
    "two_stream_slowfast_r50_4x16": _twice(slowfast.PRESETS["slowfast_r50_4x16"]),
}
