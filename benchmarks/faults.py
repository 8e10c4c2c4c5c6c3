"""What becomes of messages when something goes wrong: a plain ``AsyncClient`` with retries by hand, and ours.

The plain one is the tutorial's: each message is emitted with a timeout for its acknowledgement, and emitted again if
there is none; python-socketio reconnects, with its defaults. Both sides meet the same fault, each with a server of its
own. The rows are the tests in ``tests/test_faults.py``. ``python benchmarks/faults.py [word in the name of the row]``
"""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from fault_scenarios import SCENARIOS, WATCH, Scenario
from fault_stage import ACK_TIMEOUT, EVERY, PING, Ours, Outcome, Plain, Side, Stage

WIDTH = max(len(scenario.name) for scenario in SCENARIOS)


async def measure(scenario: Scenario, side: Callable[[], Side]) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        async with Stage(side, Path(directory)) as stage:
            return await scenario.run(stage)


async def both(scenario: Scenario) -> tuple[Outcome, Outcome]:
    if scenario.alone:
        return await measure(scenario, Plain), await measure(scenario, Ours)
    return await asyncio.gather(measure(scenario, Plain), measure(scenario, Ours))


def cell(outcome: Outcome) -> str:
    seconds = "-" if outcome.seconds is None else f"{outcome.seconds:.1f} s"
    return f"{seconds:>10}{f'{outcome.lost} of {len(outcome.emitted)}':>13}"


def main(word: str) -> None:
    logging.disable()
    print(
        f"heartbeat every {PING:g} s, {PING:g} s for its answer; {ACK_TIMEOUT:g} s for an acknowledgement, on both "
        f"sides; a message every {EVERY:g} s\n"
        f"resumed: seconds from when sending was possible again; '-': not within {WATCH:g} s, after which lost is what "
        f"the server does not have\n\n"
        f"{'':{WIDTH}}{'plain':^23}{'ours':^23}\n"
        f"{'':{WIDTH}}{'resumed':>10}{'lost':>13}{'resumed':>10}{'lost':>13}"
    )
    for scenario in SCENARIOS:
        if word in scenario.name:
            plain, ours = asyncio.run(both(scenario))
            print(f"{scenario.name:{WIDTH}}{cell(plain)}{cell(ours)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
