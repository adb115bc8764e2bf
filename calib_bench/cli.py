"""The command line: `python -m calib_bench COMMAND ...`; what each command takes is in its file in `commands/`."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from calib_bench.commands.command import GRID, settings_help
from calib_bench.commands.table_of_commands import COMMANDS, load
from calib_bench.errors import SettingsError, UserError, nearest
from calib_bench.system.environment import VERSION
from calib_bench.system.files import FULL
from calib_bench.system.redaction import redact

USAGE = """\
calib_bench {version}: post-hoc calibration against training-time softmax temperature

usage: python -m calib_bench COMMAND ...

{commands}

COMMAND --help says what a command takes, with examples. --debug shows where an error came from.

  python -m calib_bench run                                    the digits task, in a few minutes
  python -m calib_bench run task=imdb beta=0.1,1,10 seed=0..4 data=/datasets/imdb

{grid}

keys of run, plan, sweep and launch:
{keys}"""
HELP = {"-h", "--help", "help"}
INTERRUPTED = "interrupted: what is finished is stored; the same command goes on from it"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for what the user can put right, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as interrupt:
        print(f"\n{redact(str(interrupt) or INTERRUPTED)}", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(_explain(error), file=sys.stderr)
        return 2 if _can_be_put_right(error) else 1


def _can_be_put_right(error: Exception) -> bool:
    """Whether the user can put an error right: a UserError, or a full disk."""
    return isinstance(error, UserError) or (isinstance(error, OSError) and error.errno in FULL)


def _explain(error: Exception) -> str:
    """A paragraph on an error, for people; secrets in it are hidden."""
    if isinstance(error, UserError):
        return f"error: {redact(str(error))}"
    if _can_be_put_right(error):
        return f"error: no space is left: {error}. Free some; the same command goes on."
    text = f"{type(error).__name__}: {redact(str(error))}"
    return f"internal error: {text}. Finished trials are stored. --debug shows where."


def _dispatch(words: list[str]) -> int:
    if not words or HELP & set(words):
        command = next((word for word in words if word in COMMANDS), None)
        print(usage() if command is None else load(command).help(), end="")
        return 0
    name, *rest = words
    if name in ("--version", "version"):
        print(VERSION)
        return 0
    if name not in COMMANDS:
        hint = f"did you forget the command? write: run {name}" if "=" in name else nearest(name, COMMANDS)
        raise SettingsError(f"unknown command {name!r}: {hint}")
    return load(name).run(rest)


def usage() -> str:
    """The general help text, with every command and every key; imports nothing heavy."""
    commands = "\n".join(f"  {name:11} {summary}" for name, summary in COMMANDS.items())
    return USAGE.format(version=VERSION, commands=commands, grid=GRID, keys=settings_help()) + "\n"
