"""Beta schedule: training starts at 10^strength times beta and comes to beta, log beta falling or rising linearly.

An inverse temperature that changes during training, in the sense of Agarwala et al. (2023, arXiv 2010.07344): early and
late learning see different ones, while predictions are those at the final beta.

When: the question is whether beta matters early or late in training.
"""

from calib_bench.core.baseline import Objective


def factor(done: float, strength: float) -> float:
    """Factor on beta once the share `done` of the updates is made."""
    return 10 ** (strength * (1 - done))


BASELINE = Objective(
    factor=factor, strengths=(-1.0, 1.0), reference="agarwala2023temperature", title="Annealed beta", valid=(-3.0, 3.0)
)
