"""The command line. One module a command; `run` is all that the program needs."""

from reliable_emit.cli.app import run

__all__ = ["run"]
