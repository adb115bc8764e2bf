"""An estimate with its limits and p-values, and the columns of a table that hold them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from calib_bench.analysis import format

if TYPE_CHECKING:
    from calib_bench.inference import Interval


@dataclass(frozen=True)
class Estimate:
    """An estimate as a row of a table holds it, in the columns `x`, `x_low`, `x_high`, `x_p` and `x_holm`.

    Attributes:
        mean: the estimate itself.
        low, high: its 95% limits; NaN where it has none.
        p: two-sided p-value; NaN where nothing was tested.
        holm: the p-value after Holm's adjustment; NaN before it.
    """

    mean: float
    low: float
    high: float
    p: float = math.nan
    holm: float = math.nan

    @classmethod
    def of(cls, row: Mapping[Any, Any], column: str) -> Estimate | None:
        """The estimate in a row's `column`; None where a row holds no number there, or has no columns for limits."""
        values = [row.get(f"{column}{end}") for end in ("", "_low", "_high")]
        if not all(map(_is_real, values)):
            return None
        p_values = [row.get(f"{column}{end}") for end in ("_p", "_holm")]
        return cls(*(float(value) if _is_real(value) else math.nan for value in (*values, *p_values)))

    @classmethod
    def of_interval(cls, interval: Interval) -> Estimate:
        """The estimate, limits and p-value of an interval."""
        return cls(interval.mean, interval.low, interval.high, interval.p)

    def limits(self, column: str) -> dict[str, float]:
        """The columns of the estimate and its limits, without p-values."""
        return {column: self.mean, f"{column}_low": self.low, f"{column}_high": self.high}

    def fields(self, column: str) -> dict[str, float]:
        """The columns of the estimate, its limits and the p-values that it has."""
        p_values = {f"{column}_p": self.p, f"{column}_holm": self.holm}
        return self.limits(column) | {name: value for name, value in p_values.items() if not math.isnan(value)}

    def exp(self) -> Estimate:
        """The estimate of a quantity of whose logarithm this is one; p-values stay."""
        return Estimate(math.exp(self.mean), math.exp(self.low), math.exp(self.high), self.p, self.holm)

    @property
    def is_bounded(self) -> bool:
        """Whether the estimate and both limits are finite."""
        return math.isfinite(self.mean) and math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def excludes_zero(self) -> bool:
        """Whether both limits lie on one side of zero."""
        return bool(self.low > 0 or self.high < 0)

    @property
    def is_significant(self) -> bool:
        """Whether the p-value after Holm's adjustment is below `ALPHA`; False before it."""
        return bool(self.holm < format.ALPHA)

    @property
    def text(self) -> str:
        """The estimate as "mean [low, high]", see `format.estimate`."""
        return format.estimate(self.mean, self.low, self.high)

    @property
    def percent(self) -> str:
        """The estimate of a share as "20% [1%, 72%]"."""
        return f"{self.mean:.0%} [{self.low:.0%}, {self.high:.0%}]"


def _is_real(value: object) -> TypeGuard[float]:
    """Whether it is a real number; of a plain float without a look at the tower of numbers, which takes long."""
    return type(value) is float or (value is not None and isinstance(value, numbers.Real))
