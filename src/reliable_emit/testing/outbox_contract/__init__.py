"""What every outbox promises, as tests that you run on yours.

Derive from :class:`OutboxContract` in your own test suite, and say how one is made::

    from reliable_emit.testing.outbox_contract import OutboxContract

    class TestRedisOutbox(OutboxContract):
        def make(self, place):
            return RedisOutbox("redis://localhost", prefix=str(place))

pytest collects that as it is, without a plugin; for unittest derive from ``unittest.TestCase`` too. Each test has a
place and an event loop of its own, and a bound on its time. What only a durable outbox can do is asked only of one
whose `durable` is true. What happens when its process is killed is not among it: that is for you to show.
"""

from reliable_emit.testing.outbox_contract.dead import DeadLetterContract
from reliable_emit.testing.outbox_contract.pending import PendingContract
from reliable_emit.testing.outbox_contract.stored import StorageContract


class OutboxContract(PendingContract, DeadLetterContract, StorageContract):
    """All that an outbox promises; override `make`.

    Attributes:
        patience: Seconds that a test may take.
    """


__all__ = ["OutboxContract"]
