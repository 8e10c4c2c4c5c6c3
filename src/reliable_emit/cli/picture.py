"""``python -m reliable_emit.cli.picture FILE``: runs the demo and saves its verdict as a picture, for the README."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from reliable_emit.cli.demo import demo_lines
from reliable_emit.cli.output import STDERR
from reliable_emit.cli.running import Interrupt, run_loop
from reliable_emit.cli.trial import Trial
from reliable_emit.cli.verdict import Verdict, picture

_WIDTH = 72
_SEED = 7


def svg(verdict: Verdict) -> str:
    """Return the verdict as an SVG picture."""
    screen = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    screen.print(picture(verdict))
    drawn = screen.export_svg(title="reliable-emit demo", unique_id="verdict")
    # Without the font that the reader's browser would be told to fetch from elsewhere; any monospaced one does.
    return re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code", "DejaVu Sans Mono")


def main() -> int:
    """Run the demo and write the picture; the exit status is the demo's."""
    if len(sys.argv) != 2:  # noqa: PLR2004 - the program and the file
        STDERR.line("usage: python -m reliable_emit.cli.picture FILE.svg")
        return 2
    file = Path(sys.argv[1])
    return run_loop(lambda interrupt: _draw(interrupt, file))


async def _draw(interrupt: Interrupt, file: Path) -> int:
    with tempfile.TemporaryDirectory(prefix="reliable-emit-") as directory:
        trial = Trial(demo_lines(), seed=_SEED, db=Path(directory) / "chat.db", say=STDERR.line)
        verdict = await interrupt.unless(trial.run())
    if verdict is None:
        return interrupt.status or 1
    file.write_text(svg(verdict), encoding="utf-8")  # noqa: ASYNC240 - nothing else runs any more
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
