"""The server's half: the reference server, and the switches that make it misbehave."""

from reliable_emit.server.database import StoredMessage
from reliable_emit.server.errors import AddressError, StoreError
from reliable_emit.server.faults import FAULTS, Fault, Faults
from reliable_emit.server.reference import ReferenceServer

__all__ = ["FAULTS", "AddressError", "Fault", "Faults", "ReferenceServer", "StoreError", "StoredMessage"]
