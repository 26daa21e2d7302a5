"""The endpoint on Ray Serve, and how a model gets there."""

from kineray.serving.promotion import Promotion, promote, rollback
from kineray.serving.service import Service, find_service, serve

__all__ = ["Promotion", "Service", "find_service", "promote", "rollback", "serve"]
