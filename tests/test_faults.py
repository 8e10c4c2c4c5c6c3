"""Every fault of the table in ``benchmarks/faults.py``: nothing is lost, and sending resumes in bounded time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fault_scenarios import SCENARIOS, Scenario
from fault_stage import Ours, Stage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.play.__name__)
async def test_nothing_is_lost(scenario: Scenario, tmp_path: Path) -> None:
    async with Stage(Ours, tmp_path) as stage:
        outcome = await scenario.run(stage)
    assert outcome.stored == outcome.emitted  # each once, in order
    assert outcome.seconds is not None
    assert outcome.seconds <= scenario.bound
