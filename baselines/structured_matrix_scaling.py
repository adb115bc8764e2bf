"""Structured matrix scaling (SMS): softmax((I + D) x + b) of tempered log probabilities x (Berta et al., 2025).

As structured vector scaling, with a full matrix D, whose off-diagonal entries carry a larger penalty
(`_affine.structured`).

When: as matrix scaling with fewer examples than it needs. Cost: K^2 + K numbers.
"""

from calib_bench.baselines._affine import TEMPERED, Affine, structured

BASELINE = Affine(TEMPERED, structured, full=True).calibrator(
    reference="berta2025structured", title="Structured matrix scaling"
)
