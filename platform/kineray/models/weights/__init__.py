"""Published weights to start from: kineray's, torchvision's, and public files of SlowFast, X3D and others."""

from pathlib import Path

from torch import nn

from kineray.errors import CheckpointError
from kineray.models.weights.fit import Loaded, fit
from kineray.models.weights.read import read
from kineray.models.weights.torchvision import by_our_names

__all__ = ["Loaded", "load_weights"]


def load_weights(model: nn.Module, init: str, *, path: str | Path | None = None) -> Loaded:
    """Load the weights ``init`` into ``model``, in place; other parameters keep their initialisation.

    ``init`` is one of:

    * a kineray checkpoint folder or its model.safetensors;
    * ``torchvision:NAME`` (``torchvision:resnet50``, ``torchvision:ResNet50_Weights.IMAGENET1K_V2``), which
      torchvision downloads and caches, or a local .pth file of such a network;
    * a .pyth file of PySlowFast or PyTorchVideo, or a Caffe2 .pkl file, of the SlowFast family; of X3D, one
      of PyTorchVideo.

    Weights of image networks are inflated (``inflation.py``). Only the classifiers may differ, and
    non-local blocks may be new. Reading never executes code. ``path``: a local copy of ``init``. Raises
    CheckpointError for weights that cannot be read or do not fit; ``model`` is then unchanged.
    """
    try:
        weights = by_our_names(read(init, Path(path or init)), model.state_dict())
        return fit(model, init, weights)
    except CheckpointError as error:
        raise CheckpointError(error.problem, code=error.code, key=init, remedy=error.remedy) from None
