"""What every store of an inbox promises, as tests that you run on yours.

Derive from :class:`InboxContract` in your own test suite, and say how a store is made, how a handler has an effect in
its transaction, and what effects can be seen from outside::

    from reliable_emit.testing.inbox_contract import InboxContract

    class TestMyStore(InboxContract):
        def make(self, place):
            return MyStore(place / "app.db")

        async def effect(self, transaction, text):
            await transaction.execute("INSERT INTO effects (text) VALUES (?)", (text,))

        async def effects(self, place):
            return [text for (text,) in read(place / "app.db", "SELECT text FROM effects ORDER BY id")]

pytest collects that as it is, without a plugin; for unittest derive from ``unittest.TestCase`` too. Each test has a
place and an event loop of its own, and a bound on its time. What only a durable store can do is asked only if `durable`
is true. What happens when the process is killed is not among it: that is for you to show.
"""

from reliable_emit.testing.inbox_contract.aging import AgeContract
from reliable_emit.testing.inbox_contract.failures import FailureContract
from reliable_emit.testing.inbox_contract.once import OnceContract
from reliable_emit.testing.inbox_contract.overlaps import OverlapContract


class InboxContract(OnceContract, FailureContract, OverlapContract, AgeContract):
    """All that a store promises; override `make`, `effect` and `effects`.

    Attributes:
        patience: Seconds that a test may take.
        durable: Whether another store at the same place has the records; two can then be open at the same time.
    """


__all__ = ["InboxContract"]
