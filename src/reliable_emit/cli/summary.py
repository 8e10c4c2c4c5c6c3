"""What the sender says at its end."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from reliable_emit import Stats
from reliable_emit.cli.ledger import Ledger
from reliable_emit.cli.output import STDERR, STDOUT, plural


def dead_lettered(stats: Stats) -> int:
    """Return how many messages were given up."""
    return stats.exhausted + stats.rejected + stats.expired


def print_remains(stats: Stats, ledger: Ledger, pending: int, file: Path | None, *, all_read: bool) -> None:
    """Say on standard error what was not delivered, where it is, and how to go on."""
    dead = dead_lettered(stats)
    if not dead and not pending and all_read:
        return
    if dead:
        STDERR.line(f"{plural(dead, 'line')} given up, and lost with this process:")
        for failure in ledger.failures:
            STDERR.line(f"  {failure}")
        if dead > len(ledger.failures):
            STDERR.line(f"  and {dead - len(ledger.failures)} more")
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


def print_summary(stats: Stats, ledger: Ledger, pending: int, seconds: float, status: int, *, as_json: bool) -> None:
    """Print the closing summary on standard output."""
    dead = dead_lettered(stats)
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
        }
        STDOUT.line(json.dumps(summary))
        return
    rate = f" ({stats.acknowledged / seconds:.0f}/s)" if stats.acknowledged and seconds else ""
    STDOUT.line(
        f"{stats.accepted} accepted, {stats.sent} sent, {stats.retried} retried, {stats.acknowledged} acknowledged, "
        f"{dead} dead-lettered, {pending} pending in {seconds:.1f} s{rate}"
    )
