"""The client for scientists: features and neurons of a data set, from a server or from its table."""

from __future__ import annotations

from .client import Client, Neuron
from .service_errors import ServiceError, ServiceUnavailable

__all__ = ["Client", "Neuron", "ServiceError", "ServiceUnavailable"]
