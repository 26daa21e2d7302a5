"""Fine-tuning: a network that was trained on a large data set learns the classes of a small one.

Source: common practice since Two-Stream I3D (Carreira and Zisserman, arXiv 1705.07750, section 4), which is
fine-tuned on UCF-101 after Kinetics; here SlowFast R50 8x8 with the published Kinetics-400 weights.
Ours, because no source gives them for this network: a tenth of the learning rate of training from scratch, a
new head that learns ten times as fast as the rest, 30 epochs, label smoothing.
Hardware: one GPU; `--micro-batch` decides how many of the 64 clips of a step it holds at once.

    kineray data import ucfTrainTestlist --videos UCF-101 --split 1 --out ucf101.parquet
    python experiments/finetune.py data.manifest=ucf101.parquet model.init=SLOWFAST_8x8_R50.pkl

model.init is a run, a checkpoint, or a file of PySlowFast, PyTorchVideo or torchvision; the log says which
tensors were loaded and which are new. The architecture has to be that of the weights. Variations:

    recipe.freeze=on                                         the head alone is trained
    recipe.freeze.parameters=*stem.*,*res2.* recipe.freeze.until=5,3    thawed layer by layer
    recipe.layer_decay.decay=0.75                            the first layers learn slowest
    recipe.ema.decay=0.999                                   the average of the last weights is evaluated

On a laptop, the axis of a motion (2 classes) from 16 videos: about 100 % top-1 with the weights of a run that
has learned directions, chance (50 %) without (model.init=):

    python experiments/slowfast.py --smoke --workers 2
    kineray data synth data/few --label axis --train 16 --val 64 --seed 1
    python experiments/finetune.py --smoke data.manifest=data/few model.init=slowfast-smoke
"""

import kineray

_head_first = kineray.ParameterGroupsConfig(lr=("*head.*:10",))

experiment = kineray.Experiment(
    name="finetune",
    data=kineray.DataConfig(frames=32, stride=2, short_side=(256, 320), crop=224),
    model=kineray.SlowFastConfig(
        init="SLOWFAST_8x8_R50.pkl", stage_blocks=(3, 4, 6, 3), alpha=4, beta_inv=8, fusion_kernel=7
    ),
    optim=kineray.SgdConfig(lr=0.01, reference_batch=64, momentum=0.9, weight_decay=1e-4),
    schedule=kineray.CosineConfig(warmup_epochs=2, warmup_start=0.1),
    train=kineray.TrainConfig(epochs=30, global_batch=64, bn_group=8, precision="bfloat16"),
    recipe=kineray.Pieces(_head_first, kineray.LabelSmoothingConfig()),
)

# The network of experiments/slowfast.py --smoke. No mirroring: it would swap the classes left and right.
smoke = kineray.Experiment(
    name="finetune-smoke",
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
        init="slowfast-smoke",
        stage_blocks=(1, 1, 1, 1),
        width=16,
        alpha=4,
        beta_inv=4,
        head_pool=2,
        dropout=0.0,
    ),
    optim=kineray.SgdConfig(lr=0.01, reference_batch=16),
    schedule=kineray.CosineConfig(warmup_epochs=1, warmup_start=0.1),
    train=kineray.TrainConfig(epochs=10, global_batch=16, bn_group=8, eval_every_epochs=5),
    recipe=kineray.Pieces(_head_first),
)

search_space = {
    "optim.lr": kineray.LogUniform(1e-3, 0.1),
    "train.epochs": kineray.Choice(10, 30),
}

if __name__ == "__main__":
    kineray.main(experiment, smoke=smoke)
