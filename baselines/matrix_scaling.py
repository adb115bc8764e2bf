"""Matrix scaling: softmax(W Z + b) with off-diagonal and intercept regularization (ODIR, Kull et al., 2019).

Maximum likelihood with the Gaussian priors `_affine.odir`, fixed, so that a fit takes milliseconds.

When: classes take each other's place in a fixed way, and N is many times K^2. Cost: K^2 + K numbers.
"""

from calib_bench.baselines._affine import LOGITS, Affine, odir

BASELINE = Affine(LOGITS, odir, full=True).calibrator(reference="kull2019", title="Matrix scaling")
