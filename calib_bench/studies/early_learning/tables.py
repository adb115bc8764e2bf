"""Tables of the study of early learning."""

from __future__ import annotations

from calib_bench.analysis.tables import TableSpec
from calib_bench.core.fate import GUESS
from calib_bench.studies.early_learning.probes import COMMON, FRONTIER_STEPS, LONGEST, TOLERANCE

OVER = "Geometric means over seeds, 95% t intervals of the logarithms"
TABLES = {
    "acceptance": TableSpec(
        "The theory's numbers",
        ("Smallest and largest over inverse temperatures and seeds; met when every one of them is within",),
        paper=True,
    ),
    "slopes": TableSpec("Exponents of beta", ("Log-log slopes, fitted seed by seed; 95% t intervals",), paper=True),
    "timescales": TableSpec(
        "Early learning",
        (
            OVER,
            "tenth: time to move by ||Z0||/10, over tau_z/10; whole: by ||Z0||, over tau_z. tau_nl: when ||Z - "
            "Z_lin|| is a tenth of ||Z_lin - Z0||; missing where a seed's path ended before",
            "critical tau: beta^2 times the critical rate. Full-batch gradient descent in steps of at most "
            f"{LONGEST:g} of that",
        ),
        paper=True,
    ),
    "collapse": TableSpec(
        "When networks leave the common path",
        (
            f"First seed. A constant is added to each logit so that Z0 is that of beta={COMMON:g}; or two copies in "
            "opposition start from zero, where the leading change of the kernel cancels",
        ),
        hidden=("path",),
    ),
    "curvature": TableSpec(
        "Largest curvature at initialization",
        (
            OVER,
            "Zero logits: two copies of the body under opposite heads",
            f"residual: relative residual of Lanczos' iteration, stopped at {TOLERANCE:g}; products: Hessian-vector "
            "products used; the largest over seeds",
        ),
    ),
    "frontier": TableSpec(
        "Where descent is lost",
        (
            OVER,
            f"{FRONTIER_STEPS} steps of full-batch gradient descent at each rate. Lost: the loss is not finite, or "
            f"ends at {GUESS:.0%} or more of that of the best constant prediction, unless it never rose and still "
            "falls",
            "relative: the frontier in critical rates; catapults: rates tried above the critical one at which the "
            "loss rose and came back, beyond: the largest rate at which it did, both the most over seeds",
        ),
    ),
    "measurements": TableSpec("Every path"),
}
