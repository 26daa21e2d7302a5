"""What is predicted of a clip: its targets, loss, scores and presentation. One file for each task.

What trains, validates, evaluates and serves knows a task by ``Task`` alone. A task is one file here and its
configuration, in ``config/tasks``; a loss one in ``tasks/losses`` and one in ``config/losses``.
"""

from kineray.tasks.base import Meter, Task

__all__ = ["Meter", "Task"]
