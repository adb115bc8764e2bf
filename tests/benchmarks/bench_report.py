"""The report of a stored study: its time, and that its memory does not grow with the number of trials."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib_bench import registry
from calib_bench.core.settings import Settings
from calib_bench.execute import fork_server
from calib_bench.report.build import build
from calib_bench.store.store import Store
from tests.benchmarks.harness import OURS, Bench, Case

sys.path.insert(0, str(Path(__file__).parents[1]))
import synthetic

MOST_GROWTH = 60.0
"""MB."""
_PEAK = """
import resource, sys
import torch
torch.set_num_threads(1)
from pathlib import Path
from tests.benchmarks.bench_report import report
report(Path(sys.argv[1]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def stored(where: Path, betas: int) -> Path:
    """A study on the scale of digits: betas x 5 rates x 10 seeds, 1,000 test examples of 10 classes."""
    words = (f"beta=logspace(-2,2,{betas})", "reference=0.01", "objective=cross_entropy", "seed=0..9", "tune_seeds=10",
             "lr=0.03,0.05,0.1,0.2,0.3", "extend=0")  # fmt: skip
    synthetic.make(where, *words, linked=True, test=1000, classes=10)
    return where


def report(where: Path) -> tuple[Settings, Path]:
    """Analysis with every calibrator, tables, figures and page, from the folder alone."""
    fork_server.start()  # as the command does
    store = Store(where, "read")
    settings = store.settings()
    shutil.rmtree(where / "report", ignore_errors=True)
    return settings, build(store, registry.study(settings.study), settings)


def report_500() -> Bench:
    kept = tempfile.TemporaryDirectory(prefix="calib_bench-")
    few, many = (stored(Path(kept.name) / str(betas), betas) for betas in (2, 10))

    def peak(where: Path) -> float:
        """MB of a process that makes the report and nothing else."""
        command = [sys.executable, "-c", _PEAK, str(where)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    def check(results: Mapping[str, Any]) -> str:
        settings, page = results[OURS]
        assert page.is_file()
        assert len(list((many / "trials").iterdir())) == 510, "the grid and the positive control"
        measured = len((many / "report/tables/trials.csv").read_text().splitlines()) - 1
        assert measured >= 100
        low, high = peak(few), peak(many)
        kept.cleanup()
        assert high - low < MOST_GROWTH, f"{low:.0f} MB with 100 trials, {high:.0f} MB with 500"
        return (
            f"{measured} of them at chosen rates, each under {len(settings.calibrator)} calibrators; peak memory "
            f"{low:.0f} MB with 100 trials stored, {high:.0f} MB with 500"
        )

    return Bench(lambda: report(many), check=check, unit=(500, "trials"))


CASES = [Case("report_500", "report from 500 stored trials: 10 betas x 5 rates x 10 seeds", report_500, seconds=10)]
