"""The sender: exhaustively by a state machine, and the cases a reader wants to see by name."""

from __future__ import annotations

import contextlib
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import run_state_machine_as_test
from sender_machine import machine_for
from sender_mutants import MUTANTS, Mutant

from reliable_emit import sender as real_sender
from reliable_emit.delivery import Message
from reliable_emit.sender import Acknowledge, Backoff, EndAttempts, Fail, Send, Sender

SOURCE = pathlib.Path(real_sender.__file__).read_text(encoding="utf-8")


def test_every_interleaving() -> None:
    run_state_machine_as_test(
        machine_for(real_sender),
        settings=settings(max_examples=400, stateful_step_count=50, deadline=None),
    )


@contextlib.contextmanager
def mutated(mutant: Mutant) -> Iterator[ModuleType]:
    assert SOURCE.count(mutant.original) == 1, f"what to mutate is gone, or not unique: {mutant.original!r}"
    module = ModuleType("reliable_emit_mutant")
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(compile(SOURCE.replace(mutant.original, mutant.changed), module.__name__, "exec"), module.__dict__)
        yield module
    finally:
        del sys.modules[module.__name__]


def killer_of(module: ModuleType) -> BaseException | None:
    """Return what the state machine finds wrong with that sender."""
    try:
        run_state_machine_as_test(
            machine_for(module),
            settings=settings(
                max_examples=1000,
                stateful_step_count=30,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                verbosity=Verbosity.quiet,
            ),
        )
    except BaseExceptionGroup as group:
        return group.exceptions[0]
    except (AssertionError, RuntimeError) as error:
        return error
    return None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_machine_kills(mutant: Mutant) -> None:
    with mutated(mutant) as module:
        killer = killer_of(module)
    assert killer is not None, "the mutant survives"
    assert str(killer), f"killed by an assertion that does not say what is wrong: {killer!r}"


def message(retries: int | None = 3) -> Message:
    return Message(offset="a-0", event="e", frames='2["e"]', ack_timeout=1.0, retries=retries, accepted_at=0.0)


def test_a_lost_connection_costs_no_retry() -> None:
    sender, one = Sender(), message(retries=0)
    sender.load(one)
    for losses in range(1, 6):
        assert sender.link_up() == [Send(one)]
        assert sender.link_down() == [EndAttempts()]
        assert (one.failures, one.losses, one.attempts) == (0, losses, losses)


def test_losses_in_a_row_are_bounded() -> None:
    sender, one = Sender(max_losses=2), message(retries=None)
    sender.load(one)
    sender.link_up()
    sender.link_down()
    sender.link_up()
    match sender.link_down():
        case [EndAttempts(), EndAttempts(), Fail(failed, "exhausted", detail)]:
            assert failed is one
            assert "lost 2 times in a row" in detail
        case commands:
            pytest.fail(f"{commands}")


def test_a_timeout_ends_a_row_of_losses() -> None:
    sender, one = Sender(max_losses=2), message(retries=None)
    sender.load(one)
    sender.link_up()
    sender.link_down()
    sender.link_up()
    assert sender.timed_out() == [Backoff(one)]
    assert one.losses == 0


def test_an_acknowledgement_during_backoff_counts() -> None:
    sender, one = Sender(), message()
    sender.link_up()
    sender.load(one)
    assert sender.timed_out() == [Backoff(one)]
    assert sender.acknowledged(one, ("late",)) == [EndAttempts(), Acknowledge(one, ("late",))]
    assert one.state == "acknowledged"


def test_loading_twice_is_a_mistake() -> None:
    sender = Sender()
    sender.load(message())
    with pytest.raises(RuntimeError, match="still has"):
        sender.load(message())


def test_stray_timers_change_nothing() -> None:
    sender, one = Sender(), message()
    assert sender.timed_out() == []
    assert sender.backoff_over() == []
    assert sender.link_down() == []
    sender.load(one)
    assert sender.timed_out() == []
    assert sender.release() == []
    assert (one.attempts, one.failures) == (0, 0)
