"""What predictions score, whoever made them: every metric, every example's scores by seed, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from calib_bench.inference import Fitted, Interval, aurc_interval, difference_interval, ece_interval
from calib_bench.metrics.binned import BINS
from calib_bench.metrics.conformal import KINDS

RAW, REPAIRED = "raw", "temperature_scaling"
"""Methods: the predictions as they are, and after the temperature that says what a temperature can repair."""
METRICS = (
    "accuracy", "log_loss", "brier", "ece", "ece_positive", "adaptive_ece", "classwise_ece", "smece", "mce",
    "debiased_squared_ece", "mean_confidence", "mean_entropy", "aurc", "e_aurc", "smece_positive",
    "auroc", "augrc", "coverage_at_5_risk", "risk_at_80_coverage", "lac_coverage", "lac_size", "aps_coverage",
    "aps_size", "raps_coverage", "raps_size",
)  # fmt: skip
SETS = tuple(f"{kind}_{what}" for kind in KINDS for what in ("coverage", "size"))
"""Metrics of conformal sets, means over examples; of raw and repaired probabilities alone: a map that learned many
numbers from the calibration split fits it better than fresh examples, and its thresholds would be too low."""
MEANS = {
    "accuracy": "correct", "log_loss": "log_loss", "brier": "brier", "mean_confidence": "confidence",
    "mean_entropy": "entropy",
}  # fmt: skip
"""Metrics that are means over examples, and the per-example score each is the mean of."""
LOW = (
    "log_loss", "brier", "ece", "adaptive_ece", "aurc", "e_aurc", "smece", "classwise_ece", "mce",
    "debiased_squared_ece", "ece_positive", "smece_positive",
)  # fmt: skip
"""Metrics of which less is better; of accuracy more is."""
PAIRED = (*MEANS, "ece", "adaptive_ece", "aurc", "e_aurc")
"""Metrics whose differences count seeds and examples; of the others they count seeds, for this test set."""


@dataclass(frozen=True)
class SeedScores:
    """One method's scores on the test split, seed by seed.

    Attributes:
        examples: by name (log_loss, brier, correct, confidence...): float64 [N] a seed, or one tensor [S, N].
        metrics: by name, one value a seed.
        bins: of calibration errors by binning.
    """

    examples: Mapping[str, Sequence[Tensor] | Tensor]
    metrics: Mapping[str, Sequence[float]]
    bins: int = field(default=BINS, kw_only=True)

    @property
    def top(self) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
        """Confidences and whether the top label was right, [N] a seed."""
        confidence, correct = ([row.numpy() for row in self.examples[name]] for name in ("confidence", "correct"))
        return confidence, correct

    def take(self, places: Sequence[int]) -> SeedScores:
        """The scores of the seeds at some places."""
        examples = {name: [rows[i] for i in places] for name, rows in self.examples.items()}
        return SeedScores(examples, {name: [values[i] for i in places] for name, values in self.metrics.items()})


def split_measured(values: Mapping[str, Tensor]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What `metrics.measure` gives of one prediction, as METRICS by name and per-example scores [N] by name."""
    metrics = {name: float(value) for name, value in values.items() if name in METRICS}
    return metrics, {name[:-2]: value for name, value in values.items() if name.endswith("_n")}


def difference(metric: str, one: SeedScores, other: SeedScores, nested: bool, fit: Fitted | None = None) -> Interval:
    """The interval of one minus the other in a metric, paired by order of seeds, and by example where of PAIRED.

    Args:
        nested: whether each seed has test examples of its own.
        fit: what a fitted temperature adds to a mean of examples, see `inference.fitted`.
    """
    if metric in MEANS:
        pairs = zip(one.examples[MEANS[metric]], other.examples[MEANS[metric]], strict=True)
        with np.errstate(invalid="ignore"):  # infinite losses on both sides: no interval, which says so
            return difference_interval(metric, [(a - b).numpy() for a, b in pairs], nested, fit)
    if metric in ("aurc", "e_aurc"):
        return aurc_interval(*one.top, other=other.top, excess=metric == "e_aurc", nested=nested)
    if metric in ("ece", "adaptive_ece"):
        return ece_interval(*one.top, other=other.top, adaptive=metric == "adaptive_ece", bins=one.bins, nested=nested)
    by_seed = zip(one.metrics[metric], other.metrics[metric], strict=True)
    return difference_interval(metric, [[a - b] for a, b in by_seed], nested=True)
