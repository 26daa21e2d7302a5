"""A manifest as a torch ``Dataset``, for the DataLoader of a training loop of your own."""

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from kineray import storage
from kineray.config import DataConfig
from kineray.data.batches.labels import label_tensors
from kineray.data.clips.draws import ClipDraws
from kineray.data.clips.preprocessing import Preprocessing
from kineray.data.clips.seeds import sample_rng
from kineray.data.clips.sequences import samples_of_epoch
from kineray.data.manifest.index_cache import IndexCache
from kineray.data.manifest.manifest import Manifest
from kineray.data.manifest.samples import Sample
from kineray.video import PacketIndex


class ClipDataset(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """The clips of a manifest: ``dataset[i]`` is a clip of sample i and its labels by head.

        dataset = ClipDataset(kineray.load_manifest("set").split("train"), DataConfig(frames=8, stride=8))
        for clips_bthwc, labels in torch.utils.data.DataLoader(dataset, batch_size=8, num_workers=4):
            logits = model(dataset.preprocessing.normalise(clips_bthwc))

    A clip is uint8 [T, H, W, C]; a label is int64 [], or uint8 [classes] for a multi-label head. ``data``:
    how clips are cut (by default 32 frames of 224 x 224 pixels); indexes of the videos are used if they are
    beside ``data.manifest``. ``training``: random, augmented clips, which are a pure function of (``seed``,
    epoch, sample id) and equal those of ``load_batches``; otherwise the centre of each sample. The sampler
    decides which samples are seen, and in what order.

    Videos are decoded in the calling process, and DecodeError is raised for one that cannot be decoded.
    ``training_batches`` replaces it, decodes each video once for all of its clips and survives files on
    which libav hangs. Raises ConfigError and ManifestError.
    """

    def __init__(
        self, manifest: Manifest, data: DataConfig | None = None, *, training: bool = True, seed: int = 0
    ) -> None:
        data = data or DataConfig()
        self.preprocessing = Preprocessing.from_config(data, manifest.vocabularies)
        self._indexes = IndexCache.beside(data.manifest) if data.manifest else None
        self.manifest = samples_of_epoch(manifest, data, self._indexes) if training else manifest
        self._draws = ClipDraws.of(data, seed)
        self._is_random = training and self._draws.is_random
        # In shared memory, so that persistent workers see it change.
        self._epoch: Tensor = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """Make the clips those of ``epoch``, counted from 0."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        sample = self.manifest[index]
        labels = label_tensors([sample], self.manifest, list(self.preprocessing.labels))
        return torch.from_numpy(self._clip(sample)), {head: of_head[0] for head, of_head in labels.items()}

    def _clip(self, sample: Sample) -> np.ndarray:
        uri, flow = self.preprocessing.sources(sample)
        index_bytes = self._indexes.get(uri) if self._indexes else None
        index = None if index_bytes is None else PacketIndex.from_bytes(index_bytes)
        with storage.video_source(uri) as source:
            if self._is_random:
                seed, epoch, repeat = self._draws.key(int(self._epoch), 0)
                rng = sample_rng(seed, epoch, sample.id, repeat=repeat)
                clips = self.preprocessing.train_clips(source, sample, [rng], flow=flow, index=index)
            else:
                span_s = (sample.start_s, sample.end_s)
                clips, _ = self.preprocessing.eval_views(source, *span_s, flow=flow, index=index)
        clip_thwc: np.ndarray = clips[0]
        return clip_thwc
