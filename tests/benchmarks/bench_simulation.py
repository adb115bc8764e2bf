"""A study of 100,000 trials but for the training: planner, store and report must be linear in time and flat in memory.

The same study with 5, 10 and 20 seeds, in one run folder that grows: every trial is planned, grouped, written with its
checksums, found again, chosen among 250 rates, calibrated and reported by the engine itself; only logits are made up.
"""

from __future__ import annotations

import gc
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from calib_bench import registry
from calib_bench.core.settings import parse
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.planning import plan as planning
from calib_bench.planning import tuning
from calib_bench.planning.defaults import resolve
from calib_bench.report import build
from calib_bench.store.store import Store
from tests.benchmarks.harness import OURS, Bench, Case

sys.path.insert(0, str(Path(__file__).parents[1]))
import synthetic

STUDY = replace(registry.study("separation"), plan=tuning.plan)  # the grid alone: it sets the number of trials
OBJECTIVES = "cross_entropy,label_smoothing:0.1,label_smoothing:0.2,confidence_penalty:0.1"
LARGE = ("beta=logspace(-1,1,5)", "lr=logspace(-3,0,250)", f"objective={OBJECTIVES}")  # 5,000 trials a seed
SMALL = ("beta=0.5,1", "lr=logspace(-3,0,50)", "objective=cross_entropy,label_smoothing:0.1")  # 200 trials a seed
FIXED = ("task=digits", "reference=1", "extend=0", "epochs=2", "wandb=disabled", "stack=100",
         "calibrator=temperature_scaling", "workers=1")  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """What one size of the study took.

    Attributes:
        trials: in the run folder by then.
        new: of them, trained in this stage.
        train, plan, analyse: CPU seconds of writing the new trials, of finding and planning all, of the report.
        memory: MB that the process held at its end, the driver's store and plan included.
        start: MB that it held at its beginning, everything imported.
    """

    trials: int
    new: int
    train: float
    plan: float
    analyse: float
    memory: float
    start: float


def simulate(where: Path, words: Sequence[str], seeds: Sequence[int]) -> list[Stage]:
    """The study of these words with so many seeds, one size after the other in one run folder."""
    test, classes = 20, 4
    labels, truth = synthetic.labels_and_truth(test, classes)
    splits = synthetic.splits_of(labels, classes)
    return [
        _stage(where, [*FIXED, *words, f"seed=0..{n - 1}", f"tune_seeds={n}"], splits, labels, truth) for n in seeds
    ]


def _stage(where: Path, words: Sequence[str], splits: Any, labels: Any, truth: Any) -> Stage:
    began = held()
    settings = resolve(parse(words))
    store = Store(where)
    plan = planning.make(settings, STUDY, store)
    new = plan.pending
    start = time.process_time()
    while plan.pending:
        for group in plan.groups:
            data = store.write_splits(group[0], splits)
            checkpoint = store.checkpoints.begin(group)
            for trial in group:
                store.write(_trained(trial, truth, labels), data, {})
            store.checkpoints.finish(checkpoint)
        plan = planning.make(settings, STUDY, store)
    trained = time.process_time() - start
    start = time.process_time()
    store = Store(where)
    assert store.audit() == []
    plan = planning.make(settings, STUDY, store)
    planned = time.process_time() - start
    start = time.process_time()
    store.write_study(settings, settings.command())
    build.build(store, STUDY, settings)
    analysed = time.process_time() - start
    ended = held()
    assert len(plan.trials) == plan.done
    del store, plan
    gc.collect()
    return Stage(len(list((where / "trials").iterdir())), new, trained, planned, analysed, ended, began)


def held() -> float:
    """MB of this process."""
    return psutil.Process().memory_info().rss / 1e6


def peak() -> float:
    """The most MB that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _trained(trial: Trial, truth: Any, labels: Any) -> TrialResult:
    return synthetic.outcome(trial, synthetic.shape(trial, truth, labels), diverged=False)


def simulate_100000() -> Bench:
    folder = Path(tempfile.mkdtemp(prefix="calib_bench-"))

    def job() -> list[Stage]:
        try:
            return simulate(folder / "run", LARGE, (5, 10, 20))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def check(results: Mapping[str, Any]) -> str:
        stages = results[OURS]
        assert [s.trials for s in stages] == [25_000, 50_000, 100_000]
        return "; ".join(map(described, stages)) + f"; peak {peak():.0f} MB"

    return Bench(job, pairs=1, warm=False, check=check, unit=(100_000, "trials"))


def described(stage: Stage) -> str:
    return (
        f"{stage.trials:,} trials: {1000 * stage.train / max(1, stage.new):.1f} ms to store one, {stage.plan:.1f} s to "
        f"find and plan all, {stage.analyse:.0f} s to report, {stage.memory:.0f} MB"
    )


CASES = [
    Case("simulate_100000", "100,000 trials planned, stored, found and reported", simulate_100000, seconds=1800),
]

if __name__ == "__main__":  # FOLDER SEEDS: one size, in a process of its own
    (one,) = simulate(Path(sys.argv[1]), LARGE, (int(sys.argv[2]),))
    print(json.dumps({**asdict(one), "peak": peak()}))
