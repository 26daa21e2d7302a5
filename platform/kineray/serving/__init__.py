"""The HTTP endpoint on Ray Serve, and the promotion of models to it.

The names below are imported when they are first used, because the replica that handles HTTP imports this
package but needs neither torch nor MLflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_MODULES = {
    "Promotion": "kineray.serving.promotion",
    "Service": "kineray.serving.service",
    "find_service": "kineray.serving.service",
    "promote": "kineray.serving.promotion",
    "rollback": "kineray.serving.promotion",
    "serve": "kineray.serving.service",
}

__all__ = sorted(_MODULES)  # noqa: PLE0605 - a list of strings, made from the table above

if TYPE_CHECKING:
    from kineray.serving.promotion import Promotion as Promotion
    from kineray.serving.promotion import promote as promote
    from kineray.serving.promotion import rollback as rollback
    from kineray.serving.service import Service as Service
    from kineray.serving.service import find_service as find_service
    from kineray.serving.service import serve as serve


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'kineray.serving' has no attribute '{name}'")
