"""The endpoint on Ray Serve, and how a model gets there.

The names below are imported when they are first used: the replica that speaks HTTP imports this
package, and needs no torch or MLflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "Promotion": "kineray.serving.promotion",
    "Service": "kineray.serving.service",
    "find_service": "kineray.serving.service",
    "promote": "kineray.serving.promotion",
    "rollback": "kineray.serving.promotion",
    "serve": "kineray.serving.service",
}

__all__ = sorted(_WHERE)  # noqa: PLE0605 - a list of strings, made from the table above

if TYPE_CHECKING:
    from kineray.serving.promotion import Promotion as Promotion
    from kineray.serving.promotion import promote as promote
    from kineray.serving.promotion import rollback as rollback
    from kineray.serving.service import Service as Service
    from kineray.serving.service import find_service as find_service
    from kineray.serving.service import serve as serve


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'kineray.serving' has no attribute '{name}'")
