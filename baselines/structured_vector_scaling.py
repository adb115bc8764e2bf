"""Structured vector scaling (SVS): softmax((1 + v) * x + b) of tempered log probabilities x (Berta et al., 2025).

x is the log of temperature scaling's probabilities mixed with a share 1 / (N + 1) of the uniform, and v, b carry the
ridge penalties `_affine.structured`, so that the fit tends to temperature scaling where examples per class are few.

When: as vector scaling, with few examples a class: it then comes close to temperature scaling. Cost: 2 K numbers.
"""

from calib_bench.baselines._affine import TEMPERED, Affine, structured

BASELINE = Affine(TEMPERED, structured, full=False).calibrator(
    reference="berta2025structured", title="Structured vector scaling"
)
