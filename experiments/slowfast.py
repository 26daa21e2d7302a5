"""SlowFast R50 4x16 on Kinetics-400, trained from scratch.

Source: Feichtenhofer et al., SlowFast Networks for Video Recognition, arXiv 1812.03982, appendix A.
Hardware: 128 GPUs with 8 clips each (synchronized SGD, global batch 1024); with fewer GPUs the steps are the
same, but slower.
Expected: 75.6 / 92.0 top-1 / top-5 on Kinetics-400 validation with 10 views x 3 crops.

    kineray data import kinetics-400/train.csv kinetics-400/val.csv --out kinetics-400/manifest.parquet
    ray submit ray_cluster.yaml experiments/slowfast.py -- data.manifest=s3://bucket/k400/manifest.parquet

A thesis re-implements it on Kinetics and AVA with 101 layers, non-local blocks and 64 frames (the model
slowfast_nl_r101_16x8 of `kineray models`); 79.8 / 93.9 top-1 / top-5 with the same recipe:

    model.stage_blocks=3,4,23,3 model.alpha=4 model.nonlocal_res4=6,13,20 model.temporal_blocks_slow=3,4,6,3
        model.temporal_blocks_fast=3,4,6,3 data.frames=64

Multigrid training, whose 358 epochs have less than a third of the iterations of the usual 239; 76.6 instead
of 76.8 top-1 in PySlowFast's model zoo, for the network 8x8:

    model.alpha=4 model.fusion_kernel=7 train.epochs=239 recipe.multigrid=on recipe.precise_bn=on
        schedule.type=steps schedule.decay_epochs=94,154,196 schedule.warmup_epochs=34

On a laptop, on video files that kineray makes, in about a minute (4 motion classes, over 90 % top-1):

    python experiments/slowfast.py --smoke --workers 2
"""

import kineray

experiment = kineray.Experiment(
    name="slowfast",
    data=kineray.DataConfig(frames=32, stride=2, short_side=(256, 320), crop=224),
    model=kineray.SlowFastConfig(stage_blocks=(3, 4, 6, 3), alpha=8, beta_inv=8, fusion_kernel=5),
    optim=kineray.SgdConfig(lr=0.1, reference_batch=64, momentum=0.9, weight_decay=1e-4),
    schedule=kineray.CosineConfig(warmup_epochs=34, warmup_start=0.1),
    train=kineray.TrainConfig(epochs=196, global_batch=1024, bn_group=8, precision="bfloat16"),
)

# A small version of the same recipe. No mirroring: it would swap the classes left and right.
smoke = kineray.Experiment(
    name="slowfast-smoke",
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
    model=kineray.SlowFastConfig(
        stage_blocks=(1, 1, 1, 1), width=16, alpha=4, beta_inv=4, head_pool=2, dropout=0.0
    ),
    optim=kineray.SgdConfig(lr=0.1, reference_batch=32),
    schedule=kineray.CosineConfig(warmup_epochs=1, warmup_start=0.1),
    train=kineray.TrainConfig(epochs=10, global_batch=32, bn_group=8),
)

search_space = {
    "optim.lr": kineray.LogUniform(0.02, 0.5),
    "model.alpha": kineray.Choice(4, 8),
}

if __name__ == "__main__":
    kineray.main(experiment, smoke=smoke)
