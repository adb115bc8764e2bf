"""Dirichlet calibration: softmax(W log p + b), p = softmax(Z) (Kull et al., 2019, arXiv 1910.12656).

The linear form of their equation 5, with their off-diagonal and intercept regularization (ODIR) as `_affine.odir` has
it. For two classes this is beta calibration without its sign constraints.

When: as matrix scaling, where only probabilities are at hand. Cost: K^2 + K numbers.
"""

from calib_bench.baselines._affine import LOG_PROBABILITIES, Affine, odir

BASELINE = Affine(LOG_PROBABILITIES, odir, full=True).calibrator(reference="kull2019", title="Dirichlet calibration")
