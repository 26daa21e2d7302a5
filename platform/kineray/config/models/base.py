"""What the configurations of all architectures have in common."""

from kineray.config.fields import Section


class ModelSection(Section):
    """Base of every architecture's configuration, whose ``type`` says which one it is.

    ``init``: weights to start from (``kineray.models.load_weights``): a checkpoint folder, a file of
    PySlowFast, PyTorchVideo, Caffe2 or torchvision, or torchvision:NAME; none are new.
    """

    init: str = ""

    def inits(self) -> dict[str, str]:
        """{part: weights to start from}, of the whole ("") and of the networks that it is made of."""
        found = {"": self.init} if self.init else {}
        for name in type(self).model_fields:
            part = getattr(self, name)
            if isinstance(part, ModelSection) and part.init:
                found[name] = part.init
        return found

    def check_clip(self, frames: int, crop: int, eval_crop: int) -> None:
        """Raise ValueError, naming the key, for clips that the network cannot take.

        ``frames`` of a clip; ``crop`` and ``eval_crop``: its sides in pixels, in training and evaluation.
        """
