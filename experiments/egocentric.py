"""Egocentric actions on EPIC-KITCHENS: a frozen MobileNetV2 and a temporal subsystem.

Source: an internship report. 20 uniformly spaced frames of 256 x 256; MobileNetV2 with ImageNet weights,
frozen; a temporal subsystem; dropout of 0.5, and a linear head each for verb and noun, whose losses are
added. Adam with a learning rate of 0.001, multiplied by 0.2 at epoch 35 and every 20 epochs after it; batches
of 32.
Ours: crops and mirroring; and instead of stopping early as the source does, the best epoch is kept.
Hardware: 2 GPUs; the source needed more than six days.
Expected: no number from the source, whose accuracies are lower than a constant predictor's. On validation of
EPIC-KITCHENS-100, a constant predictor has 20.0 (verb), 3.9 (noun) and 2.1 % (action) top-1; TSN with RGB has
27.4 % action top-1.

    kineray data import epic-kitchens-100-annotations --videos EPIC-KITCHENS --out epic.parquet
    ray submit ray_cluster.yaml experiments/egocentric.py -- data.manifest=s3://bucket/epic.parquet

    model.temporal.type=conv_lstm      ConvLSTM, 8 filters; other subsystems: conv1d, gru, average, residual,
        timeception, attention (guided by a memory), attentive_probe
    model.cut=features.13 model.temporal.type=conv_lstm model.temporal.filters=64 model.temporal.kernel=3
        model.temporal.stride=1 model.temporal.norm=false model.temporal.dense=1000     ConvLSTM, 64 filters,
        on features of an earlier layer
    data.balance=sqrt data.balance_head=verb                                            rare verbs more often
    data.modality=flow_stack data.mean=0.5,0.5 data.std=0.226,0.226 model.frozen=false  optical flow, imported
        with --flow FOLDER

The search over subsystems and learning rates (in a notebook: `kineray.sweep`), with the backbone run once on
four random clips of each sample, and a vector for each frame (without model.grid: whole maps):

    kineray sweep experiments/egocentric.py data.manifest=epic.parquet --trials 24 --cache-features
        data.drawn_views=4 model.grid=1

On a laptop, on video files that kineray makes, in about a minute (4 motion classes, over 90 % top-1):

    python experiments/egocentric.py --smoke --workers 2
"""

import kineray

experiment = kineray.Experiment(
    name="egocentric",
    data=kineray.DataConfig(
        heads=("verb", "noun"),
        sampling="uniform",
        frames=20,
        short_side=(256, 320),
        crop=256,
        eval_short_side=256,
        eval_crop=256,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    model=kineray.FrameConfig(
        init="torchvision:mobilenet_v2",
        backbone="mobilenet_v2",
        frozen=True,
        temporal=kineray.LstmConfig(units=50),
        dropout=0.5,
    ),
    optim=kineray.AdamConfig(lr=1e-3, reference_batch=32),
    schedule=kineray.StepsConfig(decay_epochs=(35, 55, 75, 95), decay=0.2),
    train=kineray.TrainConfig(epochs=100, global_batch=32, bn_group=16, precision="bfloat16"),
)

# Synthetic videos have one head, and their classes differ only in motion: a frozen first layer, even of
# random weights, is enough for a subsystem that sees feature maps. No mirroring: it would swap the classes
# left and right.
smoke = kineray.Experiment(
    name="egocentric-smoke",
    data=kineray.DataConfig(
        sampling="uniform",
        frames=20,
        short_side=(60, 68),
        crop=48,
        eval_short_side=64,
        eval_crop=48,
        flip=False,
    ),
    model=kineray.FrameConfig(
        backbone="mobilenet_v2",
        cut="features.0",
        frozen=True,
        temporal=kineray.ConvLstmConfig(filters=16, kernel=5, stride=2),
        dropout=0.0,
    ),
    optim=kineray.AdamConfig(lr=3e-3, reference_batch=32),
    schedule=kineray.StepsConfig(decay_epochs=(4,), decay=0.2),
    train=kineray.TrainConfig(epochs=5, global_batch=32, bn_group=16),
)

search_space = {
    "model.temporal.type": kineray.Choice(
        "lstm", "gru", "conv_lstm", "conv1d", "average", "residual", "attention"
    ),
    "optim.lr": kineray.LogUniform(1e-4, 1e-2),
}

if __name__ == "__main__":
    kineray.main(experiment, smoke=smoke)
