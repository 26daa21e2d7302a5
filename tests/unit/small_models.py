"""A small network of every architecture, and the number of parameters of every preset."""

from dataclasses import dataclass

import pytest

from kineray.config import (
    AttentionConfig,
    AttentiveProbeConfig,
    AverageConfig,
    C3DConfig,
    ConsensusConfig,
    Conv1dConfig,
    ConvLstmConfig,
    FrameConfig,
    GruConfig,
    LayersConfig,
    LstmConfig,
    ModelSection,
    MViTConfig,
    P3DConfig,
    R2Plus1DConfig,
    ResidualConfig,
    ResNet3dConfig,
    S3DConfig,
    S3DV3Config,
    SlowFastConfig,
    STResNetConfig,
    Swin3DConfig,
    TimeceptionConfig,
    TwoStreamConfig,
    VideoResNet18Config,
    X3DConfig,
)


@dataclass(frozen=True)
class Small:
    """A network that a test can train, and clips for it: ``frames`` frames of ``side`` x ``side`` pixels.

    ``channels``: number of clip channels. ``accepted``: other (frames, height, width) that it takes;
    ``refused``: some that it does not take.
    """

    config: ModelSection
    frames: int = 4
    side: int = 32
    channels: int = 3
    accepted: tuple[tuple[int, int, int], ...] = ()
    refused: tuple[tuple[int, int, int], ...] = ()


_ONE_BLOCK_EACH = (1, 1, 1, 1)

# The first layers of image networks: 24 and 64 channels, a quarter of the height and width.
MOBILENET = {"backbone": "mobilenet_v2", "cut": "features.3"}
RESNET = {"backbone": "resnet18", "cut": "layer1"}
_SLOWFAST = SlowFastConfig(stage_blocks=_ONE_BLOCK_EACH, width=8, alpha=2, beta_inv=4, head_pool=1)

SMALL: dict[str, Small] = {
    "s3d": Small(
        S3DConfig(width=8),
        frames=8,
        accepted=((5, 17, 17), (9, 40, 33), (16, 32, 32)),
        refused=((4, 32, 32), (8, 16, 32), (8, 32, 16)),
    ),
    "s3d, full": Small(
        S3DConfig(width=8, convolutions="full"),
        frames=8,
        accepted=((5, 17, 17), (16, 32, 40)),
        refused=((4, 32, 32), (8, 16, 32)),
    ),
    "s3d_v3": Small(
        S3DV3Config(width=2),
        frames=49,
        side=49,
        accepted=((50, 64, 49), (64, 49, 97)),
        refused=((48, 49, 49), (49, 48, 49), (49, 49, 48)),
    ),
    "s3d_v3, top-heavy": Small(
        S3DV3Config(width=2, temporal_from=9, auxiliary="dropout"),
        frames=49,
        side=49,
        accepted=((49, 49, 64), (56, 50, 49)),
        refused=((48, 49, 49), (49, 48, 49)),
    ),
    "slowfast": Small(
        SlowFastConfig(
            stage_blocks=_ONE_BLOCK_EACH,
            width=8,
            alpha=2,
            beta_inv=4,
            head_pool=1,
            nonlocal_res3=(0,),
            nonlocal_res4=(0,),
        ),
        accepted=((2, 32, 32), (4, 48, 33), (8, 64, 32), (4, 17, 32)),
        refused=((3, 32, 32), (4, 16, 32), (4, 32, 16)),
    ),
    "slowfast, basic": Small(
        SlowFastConfig(
            block="basic", stage_blocks=_ONE_BLOCK_EACH, width=8, alpha=2, beta_inv=4, head_pool=1
        ),
        accepted=((2, 32, 32), (4, 48, 33), (4, 1, 1)),
        refused=((3, 32, 32),),
    ),
    "slowfast, r2plus1d": Small(
        SlowFastConfig(
            block="r2plus1d", stage_blocks=_ONE_BLOCK_EACH, width=8, alpha=2, beta_inv=4, head_pool=1
        ),
        refused=((3, 32, 32),),
    ),
    "resnet3d, slow": Small(
        ResNet3dConfig(stage_blocks=_ONE_BLOCK_EACH, width=8, head_pool=1, nonlocal_res3=(0,)),
        accepted=((1, 32, 32), (3, 9, 9)),
        refused=((4, 8, 32), (4, 32, 8)),
    ),
    "resnet3d, i3d": Small(
        ResNet3dConfig(
            variant="i3d",
            stage_blocks=_ONE_BLOCK_EACH,
            width=8,
            head_pool=1,
            nonlocal_res4=(0,),
            nonlocal_form="softmax",
        ),
        accepted=((2, 17, 17), (8, 48, 33)),
        refused=((1, 32, 32), (3, 32, 32), (4, 16, 32)),
    ),
    "video_resnet18": Small(VideoResNet18Config(variant="mc3"), side=16, accepted=((1, 32, 32), (5, 17, 24))),
    "r2plus1d": Small(
        R2Plus1DConfig(stage_blocks=(2, 1, 1, 1), width=8), side=16, accepted=((1, 16, 16), (5, 33, 24))
    ),
    "r2plus1d_bottleneck": Small(
        R2Plus1DConfig(stage_blocks=(1, 1, 1, 1), width=8, bottleneck=True, stem="3x7x7"), side=16
    ),
    "x3d": Small(
        X3DConfig(stage_blocks=(1, 2, 1, 1), width=8, head_pool=1),
        accepted=((1, 32, 32), (5, 17, 24), (4, 48, 65)),
    ),
    "swin3d": Small(
        Swin3DConfig(width=12, stage_blocks=(1, 2, 1, 1)), accepted=((1, 32, 32), (5, 33, 48), (2, 16, 17))
    ),
    "mvit": Small(
        MViTConfig(width=8, stage_blocks=(1, 1, 1, 1), frames=4, side=32),
        refused=((2, 32, 32), (4, 48, 48), (4, 32, 48)),
    ),
    "c3d": Small(
        C3DConfig(width=2),
        frames=16,
        side=112,
        refused=((8, 112, 112), (32, 112, 112), (16, 128, 128), (16, 112, 128)),
    ),
    "p3d": Small(
        P3DConfig(stage_blocks=(1, 1, 2, 1), width=8),
        frames=16,
        accepted=((16, 32, 33), (32, 16, 16)),
        refused=((8, 32, 32), (24, 32, 32)),
    ),
    "frame": Small(
        FrameConfig(**RESNET), accepted=((1, 32, 32), (5, 48, 33)), refused=((4, 31, 32), (4, 32, 31))
    ),
    "frame_z_average": Small(
        FrameConfig(**RESNET, frozen=True, temporal=AverageConfig(z_norm="per_dimension"))
    ),
    "frame_consensus": Small(
        FrameConfig(backbone="highway", cut="stage1", temporal=ConsensusConfig()), accepted=((1, 33, 48),)
    ),
    "frame_gru": Small(
        FrameConfig(**MOBILENET, temporal=GruConfig(units=6, z_norm="per_frame")), accepted=((1, 33, 48),)
    ),
    "frame_lstm": Small(
        FrameConfig(**MOBILENET, frozen=True, temporal=LstmConfig(units=6)), accepted=((1, 33, 48),)
    ),
    "frame_conv_lstm": Small(
        FrameConfig(**MOBILENET, frozen=True, temporal=ConvLstmConfig(filters=6)), accepted=((1, 33, 48),)
    ),
    "frame_conv_lstm_dense": Small(
        FrameConfig(**MOBILENET, temporal=ConvLstmConfig(filters=6, kernel=3, stride=1, norm=False, dense=9)),
    ),
    "frame_conv1d": Small(
        FrameConfig(**MOBILENET, frozen=True, temporal=Conv1dConfig()),
        frames=20,
        refused=((19, 32, 32), (21, 32, 32)),
    ),
    "frame_residual": Small(
        FrameConfig(**RESNET, temporal=ResidualConfig(width=5)), accepted=((1, 32, 32), (7, 48, 33))
    ),
    "frame_timeception": Small(
        FrameConfig(**RESNET, temporal=TimeceptionConfig(layers=2, groups=4)),
        accepted=((7, 48, 33),),
        refused=((3, 32, 32),),
    ),
    "frame_attention": Small(
        FrameConfig(**MOBILENET, temporal=AttentionConfig(filters=6)), accepted=((1, 33, 48),)
    ),
    "frame_layers": Small(
        FrameConfig(
            **MOBILENET,
            frozen=True,
            temporal=LayersConfig(
                width=8,
                layer_1="residual",
                layer_2="dilated_conv",
                layer_3="gru",
                layer_4="attention",
                layer_5="pool",
            ),
        ),
        accepted=((1, 33, 48),),
    ),
    "frame_attentive_probe": Small(
        FrameConfig(**MOBILENET, temporal=AttentiveProbeConfig(width=16, attention_heads=2, queries=2)),
        accepted=((1, 33, 48), (7, 32, 32)),
    ),
    "frame_attentive_probe, frames": Small(
        FrameConfig(
            **RESNET,
            frozen=True,
            temporal=AttentiveProbeConfig(tokens="frames", width=16, attention_heads=2),
        ),
        accepted=((1, 33, 48),),
    ),
    "st_resnet": Small(
        STResNetConfig(position="49_55", connection="conv_relu", connections=2),
        frames=3,
        accepted=((3, 64, 64), (4, 48, 33)),
        refused=((2, 64, 64),),
    ),
    "two_stream": Small(
        TwoStreamConfig(rgb=_SLOWFAST, flow=_SLOWFAST.model_copy(update={"width": 16, "alpha": 4})),
        channels=5,
        accepted=((4, 48, 33), (8, 64, 32)),
        refused=((3, 32, 32), (2, 32, 32)),
    ),
    "two_stream_mid": Small(
        TwoStreamConfig(rgb=_SLOWFAST, flow=_SLOWFAST, fusion="linear", mid="slow.res4", mid_fusion="conv"),
        channels=5,
    ),
}

# Each is similar to one that is not listed here, so only slow tests use these.
VARIANTS = {
    *("s3d, full", "s3d_v3, top-heavy", "slowfast, basic", "slowfast, r2plus1d", "resnet3d, i3d"),
    *("r2plus1d_bottleneck", "frame_z_average", "frame_gru", "frame_conv_lstm_dense", "frame_conv1d"),
    *("frame_residual", "frame_timeception", "frame_attention", "frame_conv_lstm", "two_stream_mid"),
    *("frame_attentive_probe", "frame_attentive_probe, frames", "frame_layers"),
}
every_architecture = pytest.mark.parametrize(
    "small",
    [
        pytest.param(small, id=name, marks=pytest.mark.slow if name in VARIANTS else ())
        for name, small in SMALL.items()
    ],
)

# Trainable and frozen parameters with 400 classes of one head. A change here is a change of the architecture.
PARAMETERS: dict[str, int] = {
    "s3d": 8_320_048,
    "i3d_inception": 12_697_264,
    "s3d_v3": 34_236_288,
    "s3d_v3_top_heavy": 33_954_048,
    "slowfast_r18_4x16": 21_779_704,
    "slowfast_r34_4x16": 41_641_624,
    "slowfast_r2plus1d_34_4x16": 63_254_770,
    "slowfast_shallow_4x16": 9_414_424,
    "slowfast_thin_4x16": 5_509_444,
    "slowfast_r50_4x16": 34_480_216,
    "slowfast_r50_8x8": 34_566_488,
    "slowfast_r50_16x8": 34_566_488,
    "slowfast_nl_r50_4x16": 41_838_680,
    "slowfast_nl_r50_8x8": 41_838_680,
    "slowfast_r101_8x8": 53_774_808,
    "slowfast_r101_16x8": 53_774_808,
    "slowfast_r101_50_101_8x8": 53_914_072,
    "slowfast_r101_101_101_8x8": 62_826_968,
    "slowfast_nl_r101_8x8": 60_080_088,
    "slowfast_nl_r101_16x8": 60_080_088,
    "slow_r50_4x16": 32_454_096,
    "slow_r50_8x8": 32_454_096,
    "slow_nl_r50_4x16": 39_812_560,
    "slow_nl_r50_8x8": 39_812_560,
    "c2d_r50_8x8": 24_327_632,
    "c2d_nl_r50_8x8": 31_686_096,
    "c2d_r101_8x8": 43_319_760,
    "c2d_nl_r101_8x8": 50_678_224,
    "i3d_r50_8x8": 28_043_472,
    "i3d_nl_r50_8x8": 35_401_936,
    "i3d_r101_8x8": 51_754_192,
    "i3d_nl_r101_8x8": 59_112_656,
    "r3d_18": 33_371_472,
    "mc3_18": 11_695_440,
    "r2plus1d_18": 31_505_325,
    "r2plus1d_34": 63_747_500,
    "r2plus1d_152": 118_277_110,
    "x3d_xs": 3_794_274,
    "x3d_s": 3_794_274,
    "x3d_m": 3_794_274,
    "x3d_l": 6_153_384,
    "swin3d_t": 28_158_070,
    "swin3d_s": 49_816_678,
    "swin3d_b": 88_048_984,
    "mvit_v1_b": 36_610_672,
    "mvit_v2_s": 34_537_744,
    "c3d": 79_634_576,
    "p3d_63": 25_745_232,
    "p3d_199": 66_492_240,
    "mobilenet_v2_lstm": 2_510_772,
    "mobilenet_v2_conv_lstm": 2_886_976,
    "mobilenet_v2_mid_conv_lstm": 1_376_824,
    "mobilenet_v2_conv1d": 2_309_312,
    "mobilenet_v2_average": 2_736_272,
    "mobilenet_v2_residual": 3_722_128,
    "mobilenet_v2_attention": 5_348_560,
    "resnet50_average": 24_327_632,
    "resnet50_z_average": 24_327_632,
    "resnet50_gru": 24_395_984,
    "resnet50_tsn": 24_327_632,
    "resnet50_timeception": 31_361_592,
    "resnet50_attentive_probe": 27_920_336,
    "vgg16_average": 14_919_888,
    "googlenet_average": 6_009_904,
    "inception_v3_average": 22_605_168,
    "resnext50_average": 23_799_504,
    "densenet121_average": 7_363_856,
    "highway_average": 20_570_256,
    "st_resnet50": 24_327_632,
    "st_resnet50_5_11": 24_327_632,
    "st_resnet50_49_55": 24_327_632,
    "st_resnet50_86_92": 24_327_632,
    "st_resnet50_conv": 28_523_984,
    "st_resnet50_conv_relu": 28_523_984,
    "st_resnet50_context3": 24_327_632,
    "st_resnet50_context5": 24_327_632,
    "st_resnet50_special3": 24_327_632,
    "st_resnet50_special3_both": 24_327_632,
    "two_stream_i3d_inception": 25_372_576,
    "two_stream_r2plus1d_34": 127_489_610,
    "two_stream_slowfast_r50_4x16": 68_955_336,
}
