"""How the separation study's page is arranged, and what it says of each beta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd

from calib_bench.analysis.controls import SECTION
from calib_bench.analysis.findings import Finding, Sentences, changes
from calib_bench.core.study import DETAILS, Analysis, Detail, Section, Table
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.report import drawing
from calib_bench.studies.separation import arm_figures, over_time, shift_page
from calib_bench.studies.separation.findings import NAMES, UNITS

SECTIONS = (
    Section(
        "Confidence and dynamics",
        ("separation", "separation_brier"),
        "Every arm against the reference: the change of log loss is the part that a temperature repairs, confidence, "
        "plus the part that none can, dynamics.",
    ),
    Section(
        "Speed or generalization",
        ("comparisons",),
        "Does beta change how far training gets, or only how fast? A change that is there at equal epochs alone may be "
        "one of speed; one that is there at equal training loss and at each run's best epoch too is not.",
    ),
    Section("Baselines", ("baselines",), "Every arm under every post-hoc method, on the test split."),
    Section("Each beta", ("over_beta", "reliability", DETAILS)),
    SECTION,
    Section("Warm-up", ("warm_up",), "What warm-up changes at each beta, and what it leaves of beta's effect."),
    Section("Interventions on beta", ("interventions", "two_by_two", "intervention_rates")),
    Section("Equal confidence", ("matched", "factorial_tests", "factorial", "matched_more")),
    Section("Richer calibrators", ("refinement", "refinement_families")),
    Section(
        "Decisions",
        ("decisions",),
        "What confidence is worth to whoever acts on it: whether it tells right answers from wrong ones, how many "
        "answers may be kept at 5% errors, and how many classes must be named to hold the right one 90% of the time.",
    ),
    over_time.SECTION,
    shift_page.SECTION,
    Section(
        "Ensembles",
        ("ensembles", "reversals"),
        "What the mean of probabilities over an arm's seeds gains, and which orders of arms it turns round.",
    ),
    Section(
        "Claims of the literature",
        ("literature",),
        "What these data say of five published claims: on regularization, selective prediction, conformal sets, "
        "reversals of order and the end of refinement.",
    ),
    Section("The best beta", ("best_beta", "gain"), "Where it is, and what choosing it gains."),
    Section("Seeds", ("collapse", "seeds")),
    Section("Tuning and trials", ("learning_rates", "head_start", "choice", "rates", "trials", "reliability_bins")),
)


class Says(Sentences):
    """What the page says of each beta."""

    BRIEF = (
        f"{CROSS_ENTROPY}: accuracy {{raw[accuracy]:.3f}}, log loss {{raw[log_loss]:.3f}}, after temperature scaling "
        "{repaired[log_loss]:.3f}{more}"
    )
    REFERENCE = "The reference: the other arms are compared with its cross-entropy arm."
    RATES = "Chosen rates ({unit}): {listed}."
    RATE = "{rate:.3g} with {objective}{elsewhere}"
    SEEDS = "seed {cross_fitted} at {rate:.3g}"
    ELSEWHERE = " ({moved}, as the others choose)"
    AGAINST = "With cross-entropy, against beta = {reference:g}: {changes}."


SHOWN = ("accuracy", "log_loss", "brier", "ece", "ece_null", "kappa")


def details(analysis: Analysis) -> list[Detail]:
    """Each family and beta: against the reference, before and after temperature scaling, and how reliable."""
    frame = analysis.tables["baselines"].frame
    if "method" not in frame:
        return []
    families = list(drawing.by_family(frame))
    return [
        _detail(analysis, family if len(families) > 1 else "", rows[rows["beta"] == beta])
        for family, rows in families
        for beta in sorted(set(rows["beta"]))
    ]


def _detail(analysis: Analysis, family: str, rows: pd.DataFrame) -> Detail:
    beta = float(rows["beta"].iloc[0])
    method_rows = rows[rows["method"].isin((arm_figures.RAW, arm_figures.REPAIRED))]
    columns = ["objective", "tuning", "method"]
    columns += [
        c for c in method_rows if c in SHOWN or any(c == f"{name}{end}" for name in SHOWN for end in ("_low", "_high"))
    ]
    bins = pd.DataFrame(analysis.result.reliability)
    bins = _same(bins, rows) if len(bins) else bins
    return Detail(
        title=f"{family}, beta = {beta:.3g}" if family else f"beta = {beta:.3g}",
        brief=_brief(rows),
        text=tuple(_words(analysis, rows)),
        table=Table("Before and after temperature scaling", method_rows[columns], names=("objective", "method")),
        figure=partial(arm_figures.reliability_row, bins) if len(bins) else None,
    )


def _brief(rows: pd.DataFrame) -> str:
    """The cross-entropy arm's main numbers."""
    by_method = rows[rows["objective"] == CROSS_ENTROPY].set_index("method")
    if not {arm_figures.RAW, arm_figures.REPAIRED} <= set(by_method.index):
        return ""
    raw, repaired = by_method.loc[arm_figures.RAW], by_method.loc[arm_figures.REPAIRED]
    kappa = repaired.get("kappa")
    more = f", kappa {kappa:.2f}" if kappa is not None and kappa == kappa else ""
    return Says.BRIEF.of(raw=raw, repaired=repaired, more=more)


def _words(analysis: Analysis, rows: pd.DataFrame) -> Iterator[str]:
    """Text of one beta: its cross-entropy arm against the reference, and the chosen rates."""
    reference = analysis.result.reference
    if float(rows["beta"].iloc[0]) == reference:
        yield Says.REFERENCE
    contrasts = _same(analysis.tables["separation"].frame, rows)
    arm_rows = contrasts[contrasts["objective"] == CROSS_ENTROPY] if len(contrasts) else contrasts
    for row in arm_rows.to_dict("records"):
        if row.get("log_loss_total") == row.get("log_loss_total") is not None:
            yield _against(row, reference)
    rates = _same(analysis.tables["rates"].frame, rows)
    chosen = rates[rates["chosen"]].to_dict("records") if "chosen" in rates else []
    if chosen:
        listed = ", ".join(Says.RATE.of(**row, elsewhere=_elsewhere(rates, row)) for row in chosen)
        yield Says.RATES.of(unit=chosen[0]["unit"], listed=listed)


def _elsewhere(rates: pd.DataFrame, chosen: Mapping[str, Any]) -> str:
    """The seeds of an arm that are reported at another rate than the one that all chose."""
    if "cross_fitted" not in rates:
        return ""
    others = rates[(rates["objective"] == chosen["objective"]) & (rates["rate"] != chosen["rate"])]
    others = others[others["cross_fitted"].fillna("") != ""]
    moved = ", ".join(Says.SEEDS.of(**row) for row in others.to_dict("records"))
    return Says.ELSEWHERE.of(moved=moved) if moved else ""


def _against(row: Mapping[str, Any], reference: float) -> str:
    findings = [Finding.of(row, column, NAMES[column], UNITS.get(column, "")) for column in NAMES]
    return Says.AGAINST.of(reference=reference, changes=changes(findings))


def _same(frame: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The frame's rows of the same model, variant and beta."""
    for column in ("model", "variant", "beta"):
        if column in frame and column in rows:
            value = rows[column].iloc[0]
            frame = frame[frame[column].isna() if value is None or value != value else frame[column] == value]
    return frame
