"""Every fault of the table in ``benchmarks/faults.py``: nothing is lost, and sending resumes in bounded time."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import pytest

from fault_scenarios import SCENARIOS, Scenario
from fault_stage import PING, Ours, Stage

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_PING = (25.0, 20.0)
"""Seconds; so slow a heartbeat cannot be what notices a dead connection within the bound."""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.play.__name__)
async def test_nothing_is_lost(scenario: Scenario, tmp_path: Path) -> None:
    ours = Ours()
    recycled: list[str] = []
    ours.client.on("recycled", recycled.append)
    ping = DEFAULT_PING if scenario.silent else (PING, PING)
    async with Stage(lambda: ours, tmp_path, ping) as stage:
        outcome = await scenario.run(stage)
        stats = dataclasses.replace(ours.client.stats)  # leaving counts too
    assert outcome.stored == outcome.emitted  # each once, in order
    assert outcome.seconds is not None
    assert outcome.seconds <= scenario.bound
    assert stats.disconnected >= 1
    if scenario.silent:
        assert stats.recycled >= 1
        assert len(recycled) == stats.recycled
        assert all("nothing arrived" in evidence for evidence in recycled)
