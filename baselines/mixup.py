"""Mixup: train on convex combinations of pairs of examples (Zhang et al., 2018, arXiv 1710.09412).

The share is drawn from Beta(alpha, alpha). Of inputs that are numbers; one share a batch, as in the paper's own
experiments.

When: inputs are images or vectors, and a regularizer of inputs is the comparison.
"""

import numpy as np

from calib_bench.core.baseline import Objective


def share(generator: np.random.Generator, strength: float) -> float:
    """The share an example keeps of itself; alpha = strength, and 0 keeps all."""
    return float(generator.beta(strength, strength)) if strength > 0 else 1.0


BASELINE = Objective(mix=share, strengths=(0.2,), reference="zhang2018", title="Mixup", valid=(0.0, 100.0))
