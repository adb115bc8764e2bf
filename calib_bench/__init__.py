"""calib_bench: post-hoc calibration against training-time softmax temperature.

The functions below mirror the command line; `calib_bench.api` has them, with examples. The classes are what plug-ins
are made of. Importing this costs nothing: each name is brought when it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from calib_bench.system.environment import VERSION as __version__

if TYPE_CHECKING:
    from calib_bench.api import (
        advise,
        evaluate,
        fit,
        load,
        load_results,
        plot_learning_rates,
        plot_over_beta,
        plot_reliability,
        plot_separation,
        run,
    )
    from calib_bench.core.baseline import Calibrator, Objective
    from calib_bench.core.corruption import Corruption
    from calib_bench.core.model import Model
    from calib_bench.core.study import Analysis, Probe, Study, StudyResult, Table
    from calib_bench.core.task import Recipe, SplitSizes, Task

_MODULES = {
    "calib_bench.api": (
        "advise",
        "evaluate",
        "fit",
        "load",
        "load_results",
        "plot_learning_rates",
        "plot_over_beta",
        "plot_reliability",
        "plot_separation",
        "run",
    ),
    "calib_bench.core.baseline": ("Calibrator", "Objective"),
    "calib_bench.core.corruption": ("Corruption",),
    "calib_bench.core.model": ("Model",),
    "calib_bench.core.study": ("Analysis", "Probe", "Study", "StudyResult", "Table"),
    "calib_bench.core.task": ("Recipe", "SplitSizes", "Task"),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "Analysis",
    "Calibrator",
    "Corruption",
    "Model",
    "Objective",
    "Probe",
    "Recipe",
    "SplitSizes",
    "Study",
    "StudyResult",
    "Table",
    "Task",
    "__version__",
    "advise",
    "evaluate",
    "fit",
    "load",
    "load_results",
    "plot_learning_rates",
    "plot_over_beta",
    "plot_reliability",
    "plot_separation",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'calib_bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
