"""A stem and the residual stages res2 to res5: a pathway of SlowFast, or the backbone of a 3D ResNet."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from torch import nn

from kineray.models.blocks.batch_norm import GhostBatchNorm
from kineray.models.blocks.non_local import Form, NonLocal
from kineray.models.blocks.residual import ResidualBlock


class Pathway(nn.Module):
    """A stem and res2 to res5.

    ``width``: channels of the stem; every stage has twice as many as the previous one. ``fused_width``:
    channels that a lateral connection adds before res2; before res3 they are ``block.expansion`` times as
    many, and twice as many before each further stage. ``stem_kernel`` and ``temporal_kernels``: temporal
    kernel size of conv1, and of every block of res2 to res5. ``nonlocal_blocks``: {stage (3 for res3): the
    blocks, counted from 0, that a non-local block of the form ``nonlocal_form`` follows}.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        width: int,
        fused_width: int = 0,
        stem_kernel: int,
        temporal_kernels: Sequence[Sequence[int]],
        block: type[ResidualBlock],
        nonlocal_blocks: Mapping[int, Sequence[int]] | None = None,
        nonlocal_form: Form = "dot_product",
    ) -> None:
        super().__init__()
        self.channels = (width, *(width * 2**stage * block.expansion for stage in range(4)))
        self.stem = _stem(in_channels, width, stem_kernel)

        def stage(index: int) -> nn.Sequential:
            fused = fused_width if index == 0 else fused_width * 2 ** (index - 1) * block.expansion
            return _stage(
                in_channels=self.channels[index] + fused,
                inner=width * 2**index,
                temporal_kernels=temporal_kernels[index],
                stride=1 if index == 0 else 2,
                block=block,
                nonlocal_blocks=(nonlocal_blocks or {}).get(index + 2, ()),
                nonlocal_form=nonlocal_form,
            )

        self.res2, self.res3, self.res4, self.res5 = (stage(index) for index in range(4))

    def stages(self) -> tuple[nn.Module, ...]:
        """res2 to res5, in order."""
        return self.res2, self.res3, self.res4, self.res5


def _stem(in_channels: int, width: int, temporal_kernel: int) -> nn.Sequential:
    """``in_channels`` -> ``width`` channels, a quarter of the height and width."""
    conv = nn.Conv3d(
        in_channels,
        width,
        (temporal_kernel, 7, 7),
        stride=(1, 2, 2),
        padding=(temporal_kernel // 2, 3, 3),
        bias=False,
    )
    return nn.Sequential(
        OrderedDict(
            conv=conv,
            norm=GhostBatchNorm(width),
            relu=nn.ReLU(inplace=True),
            pool=nn.MaxPool3d((1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
        )
    )


def _stage(
    *,
    in_channels: int,
    inner: int,
    temporal_kernels: Sequence[int],
    stride: int,
    block: type[ResidualBlock],
    nonlocal_blocks: Sequence[int],
    nonlocal_form: Form,
) -> nn.Sequential:
    """One block for each of ``temporal_kernels``; the first one has the stride."""
    stage: OrderedDict[str, nn.Module] = OrderedDict()
    channels = inner * block.expansion
    for index, kernel in enumerate(temporal_kernels):
        first = index == 0
        stage[f"block{index}"] = block(
            in_channels if first else channels, inner, kernel, stride if first else 1
        )
        if index in nonlocal_blocks:
            stage[f"nonlocal{index}"] = NonLocal(channels, nonlocal_form)
    return nn.Sequential(stage)
