"""A model of everything around the sender, which drives it through every interleaving that Hypothesis can think of.

The machine plays driver, clock, network and server at once. It keeps its own account of what must be true, and checks
each command the moment it is given: what is sent, when a timer runs, which acknowledgements are listened for, and how
each message is settled. It takes the sender's module as an argument, so that the same machine can be turned on mutants.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reliable_emit.delivery import Message, rejection

MAX_LOSSES = 2


class _Account:
    """What the machine itself knows of a message."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.sent = 0
        self.failures = 0
        self.losses = 0


def machine_for(module: ModuleType) -> type[RuleBasedStateMachine]:
    """Return the state machine that tests the sender of that module."""

    class SenderMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.queue: list[_Account] = []  # the pending messages, in the order of acceptance
            self.settled: dict[str, str] = {}
            self.emitted = 0
            self.up = False
            self.paused = False
            self.held = False
            self.timer: str | None = None  # "ack" or "backoff"
            self.in_flight: _Account | None = None
            self.listening: list[_Account] = []  # one entry an attempt whose acknowledgement is listened for
            self.expected_ack: tuple[Message, tuple[Any, ...]] | None = None
            self.withdrawing: tuple[Message, str] | None = None
            self.exhausting: _Account | None = None
            self.failed = False

        def check(self, truth: object, otherwise: str) -> None:
            if not truth:
                self.failed = True  # the end of the run would only find what follows from it
                raise AssertionError(otherwise)

        @initialize(hold=st.booleans())
        def start(self, hold: bool) -> None:
            self.hold = hold
            self.sender = module.Sender(max_losses=MAX_LOSSES, on_exhausted="hold" if hold else "dead_letter")

        # What happens.

        @precondition(lambda self: len(self.queue) < 4)
        @rule(retries=st.sampled_from([0, 1, 2, None]))
        def emit(self, retries: int | None) -> None:
            message = Message(
                offset=f"id-{self.emitted}",
                event="event",
                frames="2[]",
                ack_timeout=1.0,
                retries=retries,
                accepted_at=0.0,
            )
            self.emitted += 1
            self.queue.append(_Account(message))
            self.perform([])

        @precondition(lambda self: not self.up)
        @rule()
        def link_up(self) -> None:
            self.up = True
            self.perform(self.sender.link_up())

        @precondition(lambda self: self.up)
        @rule()
        def link_down(self) -> None:
            self.up = False
            self.listening.clear()  # the wrapped client forgets its callbacks with the connection
            if self.in_flight is not None:
                self.in_flight.losses += 1
                self.exhausting = self.in_flight if self.in_flight.losses >= MAX_LOSSES else None
                self.in_flight = None
            self.perform(self.sender.link_down())
            self.check(self.timer is None, "a timer runs although nothing is awaited")

        @precondition(lambda self: self.listening)
        @rule(data=st.data(), reply=st.sampled_from([(), ("ok",), (rejection("no"),)]))
        def acknowledge(self, data: st.DataObject, reply: tuple[Any, ...]) -> None:
            """The server acknowledges some attempt, the latest one or an earlier one."""
            account = data.draw(st.sampled_from(self.listening))
            self.expected_ack = (account.message, reply)
            self.perform(self.sender.acknowledged(account.message, reply))
            self.check(self.expected_ack is None, "an acknowledgement was ignored")

        @precondition(lambda self: self.settled)
        @rule(data=st.data())
        def acknowledge_settled(self, data: st.DataObject) -> None:
            """A callback that was on its way when the message was settled."""
            offset = data.draw(st.sampled_from(sorted(self.settled)))
            stranger = Message(offset=offset, event="event", frames="2[]", ack_timeout=1.0, retries=0, accepted_at=0.0)
            self.check(self.sender.acknowledged(stranger, ("late",)) == [], "a stranger was acknowledged")

        @precondition(lambda self: self.timer == "ack")
        @rule()
        def time_out(self) -> None:
            self.timer = None
            account = self.in_flight
            assert account is not None
            self.in_flight = None
            account.failures += 1
            account.losses = 0
            retries = account.message.retries
            self.exhausting = account if retries is not None and account.failures > retries else None
            expects_backoff = self.exhausting is None
            self.perform(self.sender.timed_out())
            self.check(self.timer == "backoff" or not expects_backoff, "no backoff after a failed attempt")

        @precondition(lambda self: self.timer == "backoff")
        @rule()
        def backoff_over(self) -> None:
            self.timer = None
            self.perform(self.sender.backoff_over())

        @precondition(lambda self: self.queue)
        @rule(data=st.data(), reason=st.sampled_from(["cancelled", "expired", "dropped"]))
        def withdraw(self, data: st.DataObject, reason: str) -> None:
            account = data.draw(st.sampled_from(self.queue))
            self.withdrawing = (account.message, reason)
            others = [listened for listened in self.listening if listened is not account]
            self.perform(self.sender.withdraw(account.message, reason, "withdrawn"))
            self.check(self.withdrawing is None, "a withdrawn message was not settled")
            self.check(
                all(other in self.listening for other in others), "another message's acknowledgement is ignored now"
            )

        @precondition(lambda self: not self.paused)
        @rule()
        def pause(self) -> None:
            self.paused = True
            self.perform(self.sender.pause())

        @precondition(lambda self: self.paused or self.held)
        @rule()
        def resume(self) -> None:
            self.paused = False
            self.let_go()
            self.perform(self.sender.resume())

        @precondition(lambda self: self.held or self.timer)
        @rule()
        def release(self) -> None:
            """Also while nothing is held, where it has to change nothing."""
            self.let_go()
            self.perform(self.sender.release())

        def let_go(self) -> None:
            if self.held:
                self.held = False
                self.queue[0].failures = self.queue[0].losses = 0

        # What the sender commands.

        def perform(self, commands: list[Any]) -> None:
            self.run(commands)
            while self.sender.phase is module.Phase.IDLE and self.queue:
                self.run(self.sender.load(self.queue[0].message))

        def run(self, commands: list[Any]) -> None:
            for command in commands:
                match type(command).__name__:
                    case "Send":
                        self.send(command.message)
                    case "Backoff":
                        self.check(self.timer is None, "two timers")
                        self.check(command.message is self.queue[0].message, "a backoff of another message")
                        self.check(self.in_flight is None, "a backoff while an attempt is in flight")
                        self.check(self.exhausting is None, "one attempt too many")
                        self.timer = "backoff"
                    case "EndAttempts":
                        self.timer = None
                        self.listening.clear()
                        self.in_flight = None
                    case "Acknowledge":
                        self.check(self.expected_ack == (command.message, command.reply), "nobody acknowledged that")
                        self.check(command.reply != (rejection("no"),), "a rejection counts as acknowledgement")
                        self.settle(command.message, "acknowledged")
                        self.expected_ack = None
                    case "Fail":
                        self.fail(command.message, command.reason)
                    case "Hold":
                        self.check(self.hold, "held against the policy")
                        self.check(self.exhausting is not None, "held too early")
                        assert self.exhausting is not None
                        self.check(self.exhausting.message is command.message, "another message is held")
                        self.exhausting = None
                        self.held = True
                    case other:
                        self.check(False, f"unknown command {other}")

        def send(self, message: Message) -> None:
            self.check(self.up, "sent while the link is down")
            self.check(not self.paused, "sent while paused")
            self.check(not self.held, "sent while held")
            self.check(self.timer is None, "sent while a timer runs")
            self.check(self.in_flight is None, "two messages are in flight")
            self.check(message.offset not in self.settled, "sent after it was settled")
            account = self.queue[0]
            self.check(account.message is message, "not the oldest message")
            account.sent += 1
            self.check(message.attempts == account.sent, "attempts are miscounted")
            self.check(message.state == "in_flight", "the state is wrong")
            self.timer = "ack"
            self.in_flight = account
            self.listening.append(account)

        def settle(self, message: Message, how: str) -> None:
            self.check(message.offset not in self.settled, "settled twice")
            self.settled[message.offset] = how
            account = next((account for account in self.queue if account.message is message), None)
            self.check(account is not None, "settled a stranger")
            assert account is not None
            if account is self.queue[0]:
                self.check(self.in_flight is not account, "settled with its attempts going on")
                self.check(self.timer is None, "settled with its timer running")
                self.held = False
            self.queue.remove(account)
            self.check(account not in self.listening, "the acknowledgement of a settled message is listened for")

        def fail(self, message: Message, reason: str) -> None:
            self.settle(message, reason)
            self.check(message.state == "dead", "the state is wrong")
            match reason:
                case "exhausted":
                    self.check(not self.hold, "given up against the policy")
                    self.check(self.exhausting is not None, "given up too early")
                    assert self.exhausting is not None
                    self.check(self.exhausting.message is message, "another message is given up")
                    self.exhausting = None
                case "rejected":
                    self.check(self.expected_ack == (message, (rejection("no"),)), "nobody rejected that")
                    self.expected_ack = None
                case _:
                    self.check(self.withdrawing == (message, reason), "nobody withdrew that")
                    self.withdrawing = None

        # What is always true.

        @invariant()
        def each_is_pending_or_settled(self) -> None:
            self.check(len(self.queue) + len(self.settled) == self.emitted, "a message is lost")

        @invariant()
        def it_never_stalls(self) -> None:
            self.check(self.exhausting is None, "not given up")
            if self.queue and self.up and not self.paused and not self.held:
                self.check(self.timer is not None, "nothing is awaited, and nothing will ever be sent")
            if not self.queue:
                self.check(self.timer is None, "a timer runs for nothing")
                self.check(not self.listening, "listening for nothing")

        @invariant()
        def the_state_is_told(self) -> None:
            for account in self.queue:
                expected = "in_flight" if account is self.in_flight else "queued"
                self.check(account.message.state == expected, "the state is wrong")

        @invariant()
        def late_acknowledgements_are_heard(self) -> None:
            """As many attempts are listened for as were made on this connection."""
            self.check(all(account is self.queue[0] for account in self.listening), "listening for another message")
            if self.in_flight is not None:
                self.check(self.in_flight in self.listening, "not listening for the attempt in flight")

        def teardown(self) -> None:
            """Whatever happened before, a good network at last delivers every pending message, in order."""
            if self.failed or not hasattr(self, "sender"):
                return
            if not self.up:
                self.link_up()
            self.resume()
            pending = [account.message.offset for account in self.queue]
            delivered = []
            for _ in range(2 * len(pending) + 2):
                if not self.queue:
                    break
                if self.timer == "backoff":
                    self.backoff_over()
                message = self.queue[0].message
                self.check(self.in_flight is not None, "the head is not sent on a good network")
                delivered.append(message.offset)
                self.expected_ack = (message, ())
                self.perform(self.sender.acknowledged(message, ()))
            self.check(delivered == pending, "lost, or out of order")
            self.check(len(self.settled) == self.emitted, "a message is lost")

    return SenderMachine
