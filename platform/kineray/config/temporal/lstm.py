"""An LSTM over the frames."""

from kineray.config.fields import PositiveInt
from kineray.config.temporal.base import TemporalSection


class LstmConfig(TemporalSection, type="lstm", builds="kineray.models.temporal.recurrent.Lstm"):
    """The last state of an LSTM with ``units`` units, through a batch norm."""

    units: PositiveInt = 50
