"""An LSTM over the frames."""

from kineray.config.domains import Choice
from kineray.config.fields import PositiveInt
from kineray.config.temporal.base import TemporalSection


class LstmConfig(
    TemporalSection,
    type="lstm",
    builds="kineray.models.temporal.recurrent.Lstm",
    space={"units": Choice(32, 64, 128, 256, 512, ordered=True)},
):
    """The last state of an LSTM with ``units`` units, through a batch norm."""

    units: PositiveInt = 50
