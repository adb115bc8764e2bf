"""The table of switches."""

from __future__ import annotations

from calib_bench.analysis.tables import STAR, TableSpec
from calib_bench.studies.beta_switch.rows import ALL_ALONG, NEVER

TABLES = {
    "switches": TableSpec(
        "Switching beta in the course of training",
        (
            "beta switches between {reference} and beta after the share `at` of the updates, and no prediction changes "
            "there; {intervals}, up to {seeds}",
            f"against {NEVER}: minus the arm that stays where it began, what the rest of training changes; against "
            f"{ALL_ALONG}: minus the arm that was from the start where this one ends, what the beginning changes",
            "against reference: beta minus {reference}, both all along",
            "decided: the share of the difference between both betas that was settled before the switch, where the "
            "data bound it (Fieller's interval; the choices of rates and the calibration examples are counted)",
            "one rate throughout a run, tuned for each arm with the same budget; dyn: after temperature scaling; "
            f"{STAR} over the rows with the same `against`",
        ),
        paper=True,
    )
}
