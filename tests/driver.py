"""A driver that trains what a study wants and stops there, as a process of its own: `python tests/driver.py WORDS`."""

from __future__ import annotations

import sys

from rich.console import Console

from calib_bench import registry
from calib_bench.commands import run_study
from calib_bench.core.settings import parse
from calib_bench.execute import worker
from calib_bench.execute.progress import Display
from calib_bench.planning import plan as planning
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store


def main(words: list[str]) -> None:
    """Train, and keep the plan; prints how many trials this process trained."""
    settings = resolve(parse(words))
    worker.prepare(settings)
    study, store = registry.study(settings.study), Store(settings.folder)
    for message in store.audit():
        print(message)
    console = Console(width=140, highlight=False)
    workers, device = run_study.capacity(settings)
    plan = planning.make(settings, study, store, workers, device)
    plan = run_study.train(settings, study, store, plan, workers, device, Display(console, store.path, False))
    planning.keep(plan, settings, store, settings.command())


if __name__ == "__main__":
    main(sys.argv[1:])
