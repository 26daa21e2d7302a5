"""The order of the clips of an epoch."""

import numpy as np

from kineray.data.batches.order import balanced_order, global_order, repeats
from kineray.data.manifest.manifest import Manifest
from kineray.errors import ConfigError


class EpochOrder:
    """The order of an epoch's clips; the last epoch's is kept.

    ``balance``: head and power for ``balanced_order``. Raises ConfigError if that head is multi-label.
    """

    def __init__(
        self, manifest: Manifest, seed: int, clips_per_sample: int, balance: tuple[str, float] | None
    ) -> None:
        if balance and balance[0] in manifest.multi_label:
            raise ConfigError(
                f"the head '{balance[0]}' is multi-label; only heads with one class per clip are balanced",
                code="multi_label",
                key="data.balance",
                remedy="set data.balance=none, or data.balance_head to another head",
            )
        self._manifest = manifest
        self._seed = seed
        self._clips_per_sample = clips_per_sample
        self._balance = balance
        self._epoch = -1
        self._order = self._seen = np.empty(0, np.int64)

    def entries(self, epoch: int, positions: range) -> list[tuple[int, int]]:
        """(sample, how often it was seen before in this epoch) at ``positions``."""
        if epoch != self._epoch:
            self._order = np.repeat(self._samples(epoch), self._clips_per_sample)
            self._seen, self._epoch = repeats(self._order), epoch
        if positions.stop > len(self._order):
            raise ValueError(f"{positions} is beyond the {len(self._order)} clips of an epoch")
        part = slice(positions.start, positions.stop)
        return list(zip(self._order[part].tolist(), self._seen[part].tolist(), strict=True))

    def _samples(self, epoch: int) -> np.ndarray:
        if self._balance is None:
            return global_order(len(self._manifest), self._seed, epoch)
        head, power = self._balance
        return balanced_order(self._manifest.labels(head), self._seed, epoch, power)
