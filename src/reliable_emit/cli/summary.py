"""What the sender says at its end."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from reliable_emit import Stats
from reliable_emit.cli.ledger import DurableLedger, Ledger
from reliable_emit.cli.options import Options
from reliable_emit.cli.output import STDERR, STDOUT, plural
from reliable_emit.cli.target import Target


def print_remains(stats: Stats, ledger: Ledger, pending: int, file: Path | None, *, all_read: bool) -> None:
    """Say on standard error what was not delivered, where it is, and how to go on."""
    dead = ledger.dead(stats)
    if not dead and not pending and all_read:
        return
    if dead:
        STDERR.line(f"{plural(dead, 'line')} given up, and lost with this process:")
        _print_failures(ledger, dead)
    if pending:
        STDERR.line(f"{plural(pending, 'line')} still pending, and lost with this process, which had them in memory")
    if not all_read:
        STDERR.line("the input was not read to its end")
    if dead and stats.acknowledged:
        STDERR.line(
            "the other lines "
            + (f"up to line {ledger.settled} " if pending or not all_read else "")
            + "were acknowledged"
        )
    elif not stats.acknowledged:
        STDERR.line("no line was acknowledged")
    else:
        STDERR.line(f"lines 1 to {ledger.settled} were acknowledged")
    if pending or not all_read:
        # Behind what was given up too: lines that were acknowledged would be stored twice, under another offset.
        first = ledger.settled + 1
        again = f"; line {first} may have arrived already" if pending else ""
        STDERR.line(f"for the rest: tail -n +{first}{'' if file is None else f' {shlex.quote(str(file))}'}{again}")


def _print_failures(ledger: Ledger, dead: int) -> None:
    for failure in ledger.failures:
        STDERR.line(f"  {failure}")
    if dead > len(ledger.failures):
        STDERR.line(f"  and {dead - len(ledger.failures)} more")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Remains:
    """What is left at the end of a run with a durable outbox.

    Attributes:
        stats: The client's counters.
        ledger: What became of the lines.
        pending: How many messages wait in the file.
        earlier_dead: How many dead letters there were before.
        all_read: Whether the input was read to its end.
        options: What was asked for.
        path: The file.
    """

    stats: Stats
    ledger: DurableLedger
    pending: int
    earlier_dead: int
    all_read: bool
    options: Options
    path: Path


def print_durable_remains(remains: Remains) -> None:
    """Say on standard error what was not delivered, where it is, and how to go on."""
    ledger, path = remains.ledger, remains.path
    dead = ledger.dead(remains.stats)
    look = f"reliable-emit outbox list {shlex.quote(str(path))} --dead"
    if dead:
        STDERR.line(f"{plural(dead, 'message')} given up, now dead letters in {path}:")
        _print_failures(ledger, dead)
    if remains.earlier_dead:
        letters = plural(remains.earlier_dead, "dead letter")
        STDERR.line(f"{letters} of earlier runs in {path}: {look}")
    elif dead:
        STDERR.line(f"to look at them: {look}")
    if remains.pending:
        verb = "waits" if remains.pending == 1 else "wait"
        STDERR.line(f"{plural(remains.pending, 'message')} {verb} in {path}; to go on: {_go_on(remains.options, path)}")
    if not remains.all_read:
        first, file = ledger.accepted_to + 1, remains.options.file
        STDERR.line(
            "the input was not read to its end; "
            + (f"lines 1 to {ledger.accepted_to} were accepted" if ledger.accepted_to else "no line was accepted")
        )
        STDERR.line(f"for the rest: tail -n +{first}{'' if file is None else f' {shlex.quote(str(file))}'}")


def _go_on(options: Options, path: Path) -> str:
    """Return the command that sends what waits; without secrets."""
    target, usual = options.target, Target(options.target.url)
    parts = ["reliable-emit", "send", "URL" if "@" in target.url else shlex.quote(target.url)]
    for option, value, default in (
        ("--outbox", str(path), ""),
        ("--namespace", target.namespace, usual.namespace),
        ("--path", target.path, usual.path),
        ("--transport", target.transport, usual.transport),
    ):
        if value != default:
            parts += [option, shlex.quote(value)]
    return " ".join([*parts, "</dev/null"])


def print_summary(
    stats: Stats,
    ledger: Ledger,
    pending: int,
    seconds: float,
    status: int,
    *,
    as_json: bool,
    resumed: int = 0,
    more: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Print the closing summary on standard output.

    Args:
        stats: The client's counters.
        ledger: What became of the lines.
        pending: How many messages remain.
        seconds: How long it took.
        status: The exit status.
        as_json: Whether it is for machines.
        resumed: How many messages an earlier run had left.
        more: What machines are told besides.
    """
    dead = ledger.dead(stats)
    if as_json:
        summary = {
            "accepted": stats.accepted,
            "sent": stats.sent,
            "retried": stats.retried,
            "acknowledged": stats.acknowledged,
            "dead_lettered": dead,
            "pending": pending,
            "seconds": round(seconds, 3),
            "acknowledged_to_line": ledger.unbroken,
            "settled_to_line": ledger.settled,
            "exhausted": stats.exhausted,
            "rejected": stats.rejected,
            "timed_out": stats.timed_out,
            "lost": stats.lost,
            "connected": stats.connected,
            "disconnected": stats.disconnected,
            "status": status,
            **more,
        }
        STDOUT.line(json.dumps(summary))
        return
    rate = f" ({stats.acknowledged / seconds:.0f}/s)" if stats.acknowledged and seconds else ""
    left = f"{resumed} left by an earlier run, " if resumed else ""
    STDOUT.line(
        f"{left}{stats.accepted} accepted, {stats.sent} sent, {stats.retried} retried, "
        f"{stats.acknowledged} acknowledged, {dead} dead-lettered, {pending} pending in {seconds:.1f} s{rate}"
    )
