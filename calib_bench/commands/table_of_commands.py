"""The commands of the command line: a name, and a line that says what it is for. Each has a file of its name here."""

from __future__ import annotations

import importlib

from calib_bench.commands.command import Command

COMMANDS = {
    "run": "train what a study wants and is not stored yet, then write its report",
    "plan": "print what run would do: trials, groups, what is done, estimated time and cost",
    "report": "rebuild the report of a run folder from its store alone; --serve shows it in the browser",
    "publish": "what of a run folder belongs in a repository, and a gallery of such folders",
    "launch": "write a batch script for a cluster",
    "list": "tasks, models, baselines, studies",
    "table": "a table of a run as LaTeX, Markdown, CSV, its rows, columns, digits chosen",
    "cite": "BibTeX of every task, model, baseline and metric of a run",
    "sync": "replay a run folder into Weights & Biases",
    "upgrade": "pack a run folder's trials into few files",
    "sweep": "write a W&B sweep over the same keys as run, for agents that share the grid",
    "evaluate": "every calibrator and metric on anyone's predictions",
    "apply": "a fitted calibrator's probabilities for new predictions, as npz or csv",
    "predict": "a kept model's logits of new data, as a file that evaluate and apply read",
    "compare": "paired differences of two predictors on the same examples",
    "leaderboard": "how calibrators stand over run folders: ranks, wins, paired differences, cost",
    "advise": "what a recipe tuned at beta=1 becomes at another beta: rate, decay, eps",
    "export": "a stored trial's predictions as files: npz, HDF5, JSON lines",
    "completion": "completion of commands, options and keys for bash, zsh or fish",
}


def load(name: str) -> Command:
    """The declaration of a command; imports its file."""
    command: Command = importlib.import_module(f"calib_bench.commands.{name}").COMMAND
    return command
