"""Tables of the study of SGD's temperature, each with the note that says how to read it."""

from __future__ import annotations

from calib_bench.analysis.tables import TableSpec

OVER = "95% t intervals over {seeds}"
EXCESS = "The mean over the second half of each run of the objective of all training examples, less the minimum's"
TABLES = {
    "acceptance": TableSpec(
        "What theory claims and what was measured",
        (
            OVER,
            "A claim is met when the measured value, not its interval, is within the tolerance (relative, but for "
            "distances); undecided where seeds of two kinds made it",
        ),
        paper=True,
        names=("model", "claim"),
    ),
    "minima": TableSpec(
        "Minima of the training objective",
        (
            "By L-BFGS in float64. mean_square is E||g_b||^2 over single examples, weight decay's gradient included; "
            "capacity is a quarter of it; noise_curvature is tr(CH) / tr(C)",
        ),
    ),
    "heat": TableSpec(
        "Excess loss over eta0",
        (
            OVER,
            EXCESS,
            "theory is capacity times eta0; theory_finite_rate divides it by 1 - rate noise_curvature / (2 (1 + "
            "momentum)). ratio is excess over theory",
        ),
        paper=True,
    ),
    "collapse": TableSpec("Excess loss over batch size and momentum at equal eta0", (OVER, EXCESS)),
    "cooling": TableSpec(
        "The rate lowered for a third of the run and restored",
        (
            OVER,
            "Excess loss in the second half of each third; control: the last third of runs with the same batches at "
            "the unchanged rate; stationary: whether those had settled before",
        ),
    ),
    "adam": TableSpec(
        "Adam over batch sizes",
        (OVER, EXCESS, "relative is to the first batch size at the same rate_at_first (Malladi et al., 2022)"),
    ),
    "gibbs": TableSpec(
        "The one-parameter model",
        (
            "Total variation distance between the histogram of the parameter and its Gibbs density, in 20 bins of "
            "equal probability; chance is what as many samples would give; the normal is that of the minimum's "
            "curvature",
        ),
    ),
}
