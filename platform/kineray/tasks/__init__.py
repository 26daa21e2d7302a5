"""Tasks, one file each: what is predicted for a clip, with its targets, loss, metrics and presentation.

Training, validation, evaluation and serving use the interface ``Task`` alone. A task is one file here and a
configuration in ``config/tasks``; a loss is one file in ``tasks/losses`` and one in ``config/losses``.
"""

from kineray.tasks.base import Meter, Task

__all__ = ["Meter", "Task"]
