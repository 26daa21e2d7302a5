"""The average of the frames' logits."""

from kineray.config.temporal.base import TemporalSection


class ConsensusConfig(TemporalSection, type="consensus", builds="kineray.models.temporal.average.EveryFrame"):
    """Every frame is classified, and the logits are averaged (TSN, arXiv 1608.00859)."""
