"""The server's half: the inbox for your own server, the reference server, and the switches that make it misbehave."""

from reliable_emit.server.errors import AddressError, Reject, ScriptError, StoreError
from reliable_emit.server.faults import FAULTS, Fault, Faults
from reliable_emit.server.history import StoredMessage
from reliable_emit.server.inbox.inbox import Inbox
from reliable_emit.server.inbox.memory import MemoryStore
from reliable_emit.server.inbox.postgres import PostgresStore, PostgresTransaction
from reliable_emit.server.inbox.sqlite import SQLiteStore, SQLiteTransaction
from reliable_emit.server.inbox.store import InboxStore, Key, Record, TakeBack, Transaction
from reliable_emit.server.reference import ReferenceServer

__all__ = [
    "FAULTS",
    "AddressError",
    "Fault",
    "Faults",
    "Inbox",
    "InboxStore",
    "Key",
    "MemoryStore",
    "PostgresStore",
    "PostgresTransaction",
    "Record",
    "ReferenceServer",
    "Reject",
    "SQLiteStore",
    "SQLiteTransaction",
    "ScriptError",
    "StoreError",
    "StoredMessage",
    "TakeBack",
    "Transaction",
]
