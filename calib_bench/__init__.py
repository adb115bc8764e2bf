"""calib_bench: post-hoc calibration against training-time softmax temperature.

The functions below mirror the command line; `calib_bench.api` has them, with examples. Importing this costs nothing:
they bring what they need when they are called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calib_bench.system.environment import VERSION as __version__

if TYPE_CHECKING:
    from calib_bench.api import (
        evaluate,
        load_results,
        plot_learning_rates,
        plot_over_beta,
        plot_reliability,
        plot_separation,
        run,
    )

__all__ = [
    "__version__",
    "evaluate",
    "load_results",
    "plot_learning_rates",
    "plot_over_beta",
    "plot_reliability",
    "plot_separation",
    "run",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from calib_bench import api

        return getattr(api, name)
    raise AttributeError(f"module 'calib_bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
