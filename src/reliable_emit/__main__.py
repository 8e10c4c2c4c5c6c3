"""The program: ``reliable-emit`` and ``python -m reliable_emit``."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> int:
    """Run the command line and return its exit status."""
    try:
        # Not at the top: the library is installed without the extra too, and then this has to say what is missing.
        from reliable_emit.cli import run  # noqa: PLC0415

        return run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"typer", "rich"}:
            raise
        sys.stderr.write(
            f"error: the command line needs {missing}; install it with: pip install 'reliable-emit[cli]'\n"
        )
        return 2
    except KeyboardInterrupt:
        return _INTERRUPTED  # before a command has taken the signals over


if __name__ == "__main__":
    sys.exit(main())
