"""The command line: run | plan | report | list | sync, and on others' predictions evaluate | compare | export."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence

from calib_bench.errors import SettingsError, UserError, nearest
from calib_bench.system.environment import VERSION
from calib_bench.system.files import FULL
from calib_bench.system.redaction import redact

USAGE = """\
calib_bench {version}: post-hoc calibration against training-time softmax temperature

usage: python -m calib_bench COMMAND [key=value ...] [--debug]

  run     train what a study wants and is not stored yet, then write its report
  plan    print what run would do: trials, groups, what is done, estimated cost; gpus=N price=P tell of a cluster
  report  rebuild the report of a run folder from its store alone: report runs/digits-separation; --serve shows it,
          --wandb makes a W&B Report of it too, and publishes it when wandb=online
  publish what of a run folder belongs in a repository, and a gallery: publish runs/digits-separation to=reports
  launch  a batch script for a cluster: launch slurm nodes=2 gpus=8 task=imagenet
  list    tasks, models, baselines, studies: list, or list tasks
  table   a table of a run as LaTeX, Markdown, CSV, its rows, columns, digits chosen: table --help
  cite    BibTeX of every task, model, baseline and metric of a run: cite runs/digits-separation
  sync    replay a run folder into Weights & Biases: sync runs/digits-separation
  sweep   write a W&B sweep over the same keys as run, for agents that share the grid: sweep task=imdb beta=0.1,1

  evaluate  every calibrator and metric on anyone's predictions: evaluate --calibration cal.npz --test test.npz
  compare   paired differences of two predictors on the same examples: compare a.npz b.npz
  export    a stored trial's logits as npz: export runs/digits-separation:KEY          (each has its own --help)

A value may be a list a,b,c, a range 0..4, logspace(-2,1,7) or linspace(0,1,5); lists on grid keys span the grid.

  python -m calib_bench run                                    the digits task, in about a minute
  python -m calib_bench run task=imdb beta=0.1,1,10 seed=0..4 data=/datasets/imdb

keys:
{keys}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for what the user can put right, 130 when interrupted."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except UserError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {redact(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        said = str(stop) or "interrupted: what is finished is stored; the same command goes on from it"
        print(f"\n{redact(said)}", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        if isinstance(error, OSError) and error.errno in FULL:
            print(f"error: no space is left: {error}. Free some; the same command goes on.", file=sys.stderr)
            return 2
        print(
            f"internal error: {type(error).__name__}: {redact(str(error))}. Finished trials are stored. --debug shows "
            "where.",
            file=sys.stderr,
        )
        return 1


def _dispatch(words: list[str]) -> int:
    if not words or {"-h", "--help", "help"} & set(words):
        own = next((word for word in words if word in (*EXTERNAL, "table")), None)
        print(_help_of(own) if own else usage())
        return 0
    if words[0] in ("--version", "version"):
        print(VERSION)
        return 0
    command, *rest = words
    if command not in COMMANDS:
        hint = f"did you forget the command? write: run {command}" if "=" in command else nearest(command, COMMANDS)
        raise SettingsError(f"unknown command {command!r}: {hint}")
    return COMMANDS[command](rest)


def usage() -> str:
    """The help text, every key included; imports nothing heavy."""
    from calib_bench import registry
    from calib_bench.core.settings import KEYS, describe

    lines = [f"  {key:13} {describe(key)}" for key in KEYS]
    for study, options in registry.study_options().items():
        lines += ["", f"keys of study={study}:"]
        lines += [f"  {key:13} {describe(key, options)}" for key in options.model_fields]
    return USAGE.format(version=VERSION, keys="\n".join(lines))


def _run(words: list[str]) -> int:
    from calib_bench.commands.run import run
    from calib_bench.core.settings import parse

    return run(parse(_flags(words)), ask=sys.stdin.isatty() and sys.stdout.isatty())


def _flags(words: list[str]) -> list[str]:
    """`--log-format json` and `--log-format=json` as the word `log_format=json`."""
    joined, left = [], list(words)
    while left:
        word = left.pop(0)
        if word == "--log-format":
            if not left:
                raise SettingsError("--log-format takes a format: text or json")
            word = f"--log-format={left.pop(0)}"
        joined.append(f"log_format={word.partition('=')[2]}" if word.startswith("--log-format=") else word)
    return joined


def _plan(words: list[str]) -> int:
    from calib_bench.commands.plan import show_plan
    from calib_bench.core.settings import parse

    own = [word for word in words if word.partition("=")[0] in ("gpus", "price")]
    told = {word.partition("=")[0]: _number(word) for word in own}
    if len(told) < len(own):
        raise SettingsError("gpus= and price= are given once each")
    gpus = told.get("gpus", 64.0)
    if gpus != int(gpus):
        raise SettingsError(f"gpus={gpus:g} is no whole number")
    return show_plan(parse(word for word in words if word not in own), int(gpus), told.get("price"))


def _number(word: str) -> float:
    import math

    key, _, text = word.partition("=")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise SettingsError(f"{key}={text} is no number: give for example gpus=64 price=2.5, the price of a GPU hour")
    return value


def _report(words: list[str]) -> int:
    from calib_bench.commands.report import report
    from calib_bench.core.settings import parse

    wandb = next((word.partition("=")[2] for word in words if word.startswith("wandb=")), None)
    if wandb is not None:
        parse([f"wandb={wandb}"])
    wandb = wandb or ("" if "--wandb" in words else None)
    words = [word for word in words if word != "--wandb" and not word.startswith("wandb=")]
    serving = "--serve" in words
    ports = [word for word in words if word.startswith("port=")] if serving else []
    words = [word for word in words if word not in ("--serve", *ports)]
    folders, plugins = ([word for word in words if word.startswith("plugins=") == own] for own in (False, True))
    if len(folders) != 1 or "=" in folders[0] or len(plugins) > 1 or len(ports) > 1:
        raise SettingsError(
            "report takes one run folder: python -m calib_bench report runs/digits-separation; with --serve it is "
            "shown in the browser and kept fresh, at port=8000 unless told otherwise"
        )
    trusted = parse(plugins).plugins
    if not serving:
        return report(folders[0], trusted, wandb)
    from pathlib import Path

    from calib_bench.commands.serve import serve

    port = ports[0].removeprefix("port=") if ports else "8000"
    if not (port.isdecimal() and int(port) < 65536):
        raise SettingsError(f"port={port} is not a port: give a number from 0 (any free one) to 65535")
    return serve(Path(folders[0]), trusted, int(port))


def _publish(words: list[str]) -> int:
    from calib_bench.commands import publish
    from calib_bench.commands.report import published

    return published(*publish.words(words))


def _list(words: list[str]) -> int:
    from calib_bench.commands.list import show

    return show(words)


def _table(words: list[str]) -> int:
    from calib_bench.commands.table import show

    return show(words)


def _cite(words: list[str]) -> int:
    from calib_bench.commands.cite import show

    return show(words)


def _sync(words: list[str]) -> int:
    from calib_bench.commands.sync import sync

    return sync(words)


def _sweep(words: list[str]) -> int:
    from calib_bench.commands.sweep import sweep

    return sweep(words)


def _launch(words: list[str]) -> int:
    from calib_bench.commands.launch import launch

    return launch(words)


def _help_of(command: str) -> str:
    if command == "table":
        from calib_bench.commands.table import HELP

        return HELP
    from calib_bench.commands.evaluate import help_of

    return help_of(command)


def _external(command: str) -> Callable[[list[str]], int]:
    def call(words: list[str]) -> int:
        from calib_bench.commands import evaluate

        return int(getattr(evaluate, command)(words))

    return call


EXTERNAL = ("evaluate", "compare", "export")
COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "plan": _plan,
    "report": _report,
    "publish": _publish,
    "list": _list,
    "table": _table,
    "cite": _cite,
    "sync": _sync,
    "sweep": _sweep,
    "launch": _launch,
    **{command: _external(command) for command in EXTERNAL},
}
