"""Modern ConvNets on UCF-101: I3D by inflation, and image networks under one temporal subsystem.

Source: a lecture on convolutional networks, after Carreira and Zisserman, Quo Vadis, Action Recognition,
arXiv 1705.07750. I3D-Inception-v1 with weights inflated from ImageNet; SGD with momentum 0.9; a learning rate
of 0.1, divided by 10 when validation stops improving; clips of 64 frames at 25 frames per second.
Ours, because the source does not give it: after how many validations without improvement it is divided.
Hardware: 8 GPUs, some hours.
Expected: UCF-101 top-1 of I3D from ImageNet 84.5 (RGB), 90.6 (flow), 93.4 (both); C3D with an SVM 82.3.

    kineray data import ucfTrainTestlist --videos UCF-101 --split 1 --out ucf101.parquet
    ray submit ray_cluster.yaml experiments/convnets.py -- data.manifest=s3://bucket/ucf101.parquet

    data.modality=flow data.mean=0.5,0.5 data.std=0.226,0.226                        the flow stream

C3D, from scratch as in its paper (arXiv 1412.0767, section 3.1): batches of 30 clips of 16 frames; a learning
rate of 0.003, divided by 10 after every 4 of the 16 epochs.

    model.type=c3d data.frames=16 data.short_side=128,128 data.crop=112 data.eval_short_side=128
        data.eval_crop=112 optim.lr=0.003 optim.reference_batch=30 train.global_batch=30 train.bn_group=10
        train.epochs=16 schedule.type=steps schedule.decay_epochs=4,8,12

VGG, with the recipe of its paper (arXiv 1409.1556, section 3.1): batches of 256, momentum 0.9, weight decay
5e-4; a learning rate of 0.01, divided by 10 up to three times when validation stops improving. Its two hidden
layers with dropout are left out; dropout is applied to the mean of the frames, before the linear classifier.

    model.type=frame model.backbone=vgg16 model.init=torchvision:vgg16 data.sampling=segments data.frames=8
        data.mean=0.485,0.456,0.406 data.std=0.229,0.224,0.225 optim.lr=0.01 optim.reference_batch=256
        optim.nesterov=false optim.weight_decay=5e-4 train.global_batch=256 train.bn_group=8

    model.backbone=vgg11 | ... | vgg19 | googlenet | inception_v3 | resnet18 | ... | resnet152
        | resnext50_32x4d | densenet121 | highway                                other image networks

    model.type=frame model.temporal.type=timeception data.sampling=segments data.frames=128   for long videos
    model.type=frame model.frozen=true model.init=torchvision:resnet50 model.temporal.type=attentive_probe
        data.sampling=segments data.frames=16 data.mean=0.485,0.456,0.406 data.std=0.229,0.224,0.225
                                                                     cross-attention to frozen features

On a laptop, on video files that kineray makes, in about two minutes (4 motion classes, about 90 % top-1):

    python experiments/convnets.py --smoke --workers 2
"""

import kineray

experiment = kineray.Experiment(
    name="convnets",
    data=kineray.DataConfig(
        frames=64,
        stride=1,
        fps=25,
        short_side=(256, 320),
        crop=224,
        eval_short_side=256,
        eval_crop=224,
        mean=(0.5, 0.5, 0.5),  # the normalisation with which the initial weights were trained
        std=(0.5, 0.5, 0.5),
    ),
    model=kineray.S3DConfig(init="torchvision:googlenet", convolutions="full", dropout=0.5),
    optim=kineray.SgdConfig(lr=0.1, reference_batch=96, momentum=0.9, weight_decay=1e-7),
    schedule=kineray.PlateauConfig(),
    train=kineray.TrainConfig(epochs=60, global_batch=96, bn_group=6, precision="bfloat16"),
)

# A quarter of the width, from random weights. No mirroring: it would swap the classes left and right.
smoke = kineray.Experiment(
    name="convnets-smoke",
    data=kineray.DataConfig(
        frames=16,
        stride=1,
        fps=15,
        short_side=(56, 64),
        crop=48,
        eval_short_side=56,
        eval_crop=48,
        flip=False,
    ),
    model=kineray.S3DConfig(convolutions="full", width=16, norm_momentum=0.1, dropout=0.0),
    optim=kineray.SgdConfig(lr=0.03, reference_batch=32),
    schedule=kineray.StepsConfig(warmup_epochs=1, decay_epochs=(6,), decay=0.1),
    train=kineray.TrainConfig(epochs=8, global_batch=32, bn_group=8),
)

search_space = {
    "model.type": kineray.Choice("s3d", "resnet3d"),
    "optim.lr": kineray.LogUniform(0.01, 0.3),
}

if __name__ == "__main__":
    kineray.main(experiment, smoke=smoke)
