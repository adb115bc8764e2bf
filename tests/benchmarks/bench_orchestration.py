"""What is not training: planning, finding what is done, and what each trial costs to plan, store and log."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from calib_bench import registry
from calib_bench.core.settings import Settings, parse
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.planning import plan as planning
from calib_bench.planning import tuning
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store
from tests.benchmarks.harness import OURS, Bench, Case

sys.path.insert(0, str(Path(__file__).parents[1]))
import synthetic

STUDY = replace(registry.study("separation"), plan=tuning.plan)  # the grid alone: it sets the number of trials
TEN_THOUSAND = (
    "task=digits", "beta=logspace(-2,2,20)", "reference=0.01", "lr=logspace(-3,0,10)", "seed=0..9", "tune_seeds=10",
    "objective=cross_entropy,label_smoothing:0.1,label_smoothing:0.2,confidence_penalty:0.1,confidence_penalty:0.2",
    "extend=0", "epochs=2", "wandb=disabled",
)  # fmt: skip
TRIALS = 390
"""The size of a study on digits: 13 betas x 5 rates x 6 seeds."""
EPOCHS, CLASSES = 80, 10
SIZES = {"selection": 300, "calibration": 300, "test": 900}


def folder() -> Path:
    """A new folder that goes when the process does."""
    made = tempfile.TemporaryDirectory(prefix="calib_bench-")
    _kept.append(made)
    return Path(made.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def planned(words: Sequence[str], where: Path) -> planning.Plan:
    """What `run` does before it trains: words to a plan with its groups, given what the folder holds."""
    settings = resolve(parse(words))
    store = Store(where, "peek")
    broken = store.audit()
    assert not broken, broken[0]
    return planning.make(settings, STUDY, store, workers=2)


def plan_10000() -> Bench:
    where = folder() / "nothing"

    def check(results: Mapping[str, Any]) -> str:
        plan = results[OURS]
        assert len(plan.trials) == plan.pending == sum(map(len, plan.groups)) == 10_000
        assert len({trial.key for trial in plan.trials}) == 10_000
        return f"{len(plan.trials):,} trials with keys of their own, in {len(plan.groups)} groups"

    return Bench(lambda: planned(TEN_THOUSAND, where), check=check, unit=(10_000, "trials"))


def find_10000() -> Bench:
    where = folder() / "run"
    torch.manual_seed(0)
    synthetic.make(where, *TEN_THOUSAND, linked=True, test=20)
    older = folder() / "older"
    shutil.copytree(where, older, copy_function=os.link)
    Store(where, "read").upgrade()
    size = sum(path.stat().st_size for path in (where / "trials").iterdir())

    def check(results: Mapping[str, Any]) -> str:
        plan = results[OURS]
        assert plan.done == len(plan.trials) == 10_000
        assert not plan.groups
        return f"every file read and held to its SHA-256: {size / 1e6:.0f} MB; a new Store each time"

    peers = {"a folder a trial": lambda: planned(TEN_THOUSAND, older)}
    return Bench(lambda: planned(TEN_THOUSAND, where), peers, check=check, unit=(10_000, "trials"))


def store_and_log() -> Bench:
    """All of a study on digits but the training: rounds of planning, stacks of 65, every file, W&B offline."""
    from calib_bench.core.study import Analysis
    from calib_bench.tracking.tracker import Tracker

    os.environ["WANDB_SILENT"] = "true"
    words = ("task=digits", "beta=logspace(-2,2,13)", "reference=0.01", "objective=cross_entropy", "seed=0..5",
             "lr=0.03,0.05,0.1,0.2,0.3", "tune_seeds=6", "extend=0", f"epochs={EPOCHS}", "stack=65")  # fmt: skip
    logits = {name: torch.randn(n, CLASSES) for name, n in SIZES.items()}
    labels = {name: torch.randint(CLASSES, (n,)) for name, n in SIZES.items()}
    history = {name: [1.0 / (epoch + 1) for epoch in range(EPOCHS + 1)] for name in ("epoch", "train_loss", "lr")}
    history["epoch"] = [float(epoch) for epoch in range(EPOCHS + 1)]
    splits = synthetic.splits_of(labels, CLASSES)
    root = folder()

    def trained(trial: Trial) -> TrialResult:
        return TrialResult(trial, "done", logits, history, synthetic.facts(trial))

    def job() -> tuple[Store, Settings, int]:
        where = root / "run"
        shutil.rmtree(where, ignore_errors=True)
        settings = resolve(parse(words))
        store = Store(where)
        while (plan := planning.make(settings, STUDY, store, workers=2)).pending:
            for group in plan.groups:
                data = store.write_splits(group[0], splits)
                checkpoint = store.checkpoints.begin(group)
                store.write_together([(trained(trial), {}) for trial in group], data)
                store.checkpoints.finish(checkpoint)
        store.write_study(settings, settings.command())
        warnings: list[str] = []
        with Tracker(store, settings, warnings.append) as tracker:
            logged = tracker.finish(Analysis((), {}))
        assert not warnings
        return store, settings, logged

    def check(results: Mapping[str, Any]) -> str:
        store, settings, runs = results[OURS]
        chosen = sum(len(arm.trials) for arm in tuning.arms(settings, store.scores(settings.select)))
        assert len(os.listdir(store.path / "trials")) == TRIALS
        assert chosen == 78
        assert runs == chosen + 3
        return f"{TRIALS} trials written and synced, {runs} offline runs, {EPOCHS + 1} history rows each"

    return Bench(job, check=check, unit=(TRIALS, "trials"))


CASES = [
    Case("plan_10000", "plan 10,000 trials", plan_10000, seconds=2),
    Case("find_10000", "find 10,000 done trials: open, audit, plan", find_10000, seconds=2),
    Case(
        "store_and_log",
        f"plan, store and log {TRIALS} fused trials (20 ms each)",
        store_and_log,
        seconds=0.02 * TRIALS,
    ),
]
