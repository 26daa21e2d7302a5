"""The HTTP endpoint on Ray Serve, and the promotion of models to it.

The names below are imported when they are first used, because the replica that handles HTTP imports this
package but needs neither torch nor MLflow.
"""

from typing import TYPE_CHECKING

from kineray.lazy import lazy_names

_WHERE = {
    "Promotion": "promotion",
    "Service": "service",
    "find_service": "service",
    "promote": "promotion",
    "rollback": "promotion",
    "serve": "running",
    "stop_service": "running",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605 - a list of strings, made from the table above

if TYPE_CHECKING:
    from kineray.serving.promotion import Promotion as Promotion
    from kineray.serving.promotion import promote as promote
    from kineray.serving.promotion import rollback as rollback
    from kineray.serving.running import serve as serve
    from kineray.serving.running import stop_service as stop_service
    from kineray.serving.service import Service as Service
    from kineray.serving.service import find_service as find_service

__getattr__, __dir__ = lazy_names(__name__, _WHERE)
