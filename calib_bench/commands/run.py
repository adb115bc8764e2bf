"""`run`: do a whole study."""

from __future__ import annotations

import sys
from argparse import Namespace

from calib_bench.commands.command import SETTINGS, Command
from calib_bench.execute import fork_server


def _call(arguments: Namespace) -> int:
    if arguments.settings.workers != 1 or arguments.settings.wandb != "disabled":
        fork_server.start()  # first, so that it imports while this process does
    from calib_bench.commands.run_study import run_study

    return run_study(arguments.settings, ask=sys.stdin.isatty() and sys.stdout.isatty())


COMMAND = Command(
    "run",
    """\
Trains what a study wants and is not stored yet, then writes its report. Given again, it goes on where it stopped, to
the same bits on the same machine. --log-format json writes progress as JSON lines.""",
    (),
    (
        "run                                    the digits task, in a few minutes",
        "run task=imdb beta=0.1,1,10 seed=0..4 data=/datasets/imdb",
        "run study=learning_rate lr_rel=logspace(-2,1,7) --log-format json",
    ),
    _call,
    keys=SETTINGS,
)
