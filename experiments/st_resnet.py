"""Spatio-temporal residual networks on UCF-101: a ResNet-50 whose frames add to those after them.

Source: a thesis after Iqbal, Richard, Kuehne, Gall, Recurrent Residual Learning for Action Recognition, arXiv
1706.08807. A video is cut into sequences of every 10th frame; the last frame of each is classified with what
the connections bring from those before it, and the probabilities of all sequences are averaged. ImageNet
weights; Adam, an update after 1 % of the data (96 of 9,537 clips). Learning rate, epochs and crops are ours.
Hardware: one GPU; the source needed 35 h, and 161, 61 and 23 h with every 2nd, 5th and 15th frame.
Expected: error rate 0.197 on split 1 (0.205 and 0.192 on 2 and 3); 0.236 with frozen ResNet-50 features.

    kineray data import ucfTrainTestlist --videos UCF-101 --split 1 --out ucf101.parquet
    ray submit ray_cluster.yaml experiments/st_resnet.py -- data.manifest=s3://bucket/ucf101.parquet
    kineray eval st_resnet --views 100 --crops 1        all sequences of every video

What the source varies, and its error rates:

    model.position=5_11 | 49_55 | 86_92 | 98_104                            0.265 | 0.234 | 0.231 | 0.197
    model.connection=identity | conv | conv_relu                            0.197 | 0.219 | 0.210
    model.connections=1 | 2 | 4 data.frames=2 | 3 | 5                       0.197 | 0.194 | 0.209
    model.delay=2 data.frames=3                                             0.205 ("special 3")
    data.stride=2 | 5 | 10 | 15                                             0.195 | 0.196 | 0.197 | 0.213
    train.global_batch=960 optim.reference_batch=960 (10 % of the data)     0.233
    optim.type=rprop train.global_batch=960                                 0.222

Its baselines, linear classifiers of ResNet-50 features; they need all of

    model.type=frame model.init=torchvision:resnet50 model.frozen=true model.dropout=0 optim.lr=0.01
    data.sampling=uniform data.frames=16

    model.temporal.type=average                                             0.236
    model.temporal.type=gru model.temporal.units=128                        0.239
    model.cut=layer2 | layer3 model.temporal.z_norm=true                    blocks 2 and 3, z-normalised, with
        each of the two subsystems: 0.431 and 0.440 | 0.309 and 0.403
    model.init=CHECKPOINT                                                   0.260, of a fine-tuned ResNet: the
        first of these, trained with model.frozen=false

On a laptop, on video files that kineray makes, in about two minutes (4 motion classes, about 70 % top-1):

    python experiments/st_resnet.py --smoke --workers 2
"""

import kineray

experiment = kineray.Experiment(
    name="st_resnet",
    data=kineray.DataConfig(
        sampling="sequences",
        frames=2,
        stride=10,
        fps=25,
        short_side=(256, 320),
        crop=224,
        eval_short_side=256,
        eval_crop=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    model=kineray.STResNetConfig(
        init="torchvision:resnet50", position="98_104", connection="identity", connections=1
    ),
    optim=kineray.AdamConfig(lr=1e-4, reference_batch=96),
    schedule=kineray.StepsConfig(),
    train=kineray.TrainConfig(epochs=30, global_batch=96, bn_group=8, precision="bfloat16"),
)

# The same network from random weights, with its connection where the maps are large enough to show motion.
# Mirroring would swap left and right.
smoke = kineray.Experiment(
    name="st_resnet-smoke",
    data=kineray.DataConfig(
        sampling="sequences",
        frames=2,
        stride=3,
        fps=15,
        short_side=(60, 68),
        crop=56,
        eval_short_side=64,
        eval_crop=56,
        flip=False,
    ),
    model=kineray.STResNetConfig(position="5_11", connection="identity", connections=1),
    optim=kineray.AdamConfig(lr=3e-3, reference_batch=32, beta2=0.95),
    schedule=kineray.StepsConfig(decay_epochs=(7,), decay=0.1),
    train=kineray.TrainConfig(epochs=9, global_batch=32, bn_group=16),
)

search_space = {
    "model.position": kineray.Choice("5_11", "49_55", "86_92", "98_104"),
    "model.connection": kineray.Choice("identity", "conv", "conv_relu"),
}

if __name__ == "__main__":
    kineray.main(experiment, smoke=smoke)
