"""Controls of every study, comparisons with a known answer: no effect, an effect, or equality."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis.contrast import DIFFERENCES, contrast
from calib_bench.analysis.findings import Sentences
from calib_bench.analysis.format import number
from calib_bench.analysis.interventions import why_not
from calib_bench.analysis.measure import Measures, measure_arm
from calib_bench.analysis.result_rows import Row, cell, excludes_zero
from calib_bench.analysis.table_notes import NAMES
from calib_bench.analysis.tables import TableSpec
from calib_bench.core.baseline import Calibrator
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.study import Role, Section
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.planning.search import shortened
from calib_bench.planning.tuning import Arm, More, planned, tuned, with_role

RESCALED = "reference logits times 2"
UNDERTRAINED = "the reference trained too briefly"
IDENTITY = "both factors of beta, minus training at beta"
ROUNDING = 1e-6
AGREES = 1e-3
"""Largest difference, in nats and in accuracy, between two runs that are equal but for rounding while they learn."""
PART = 8
MOST = 2
"""Most families whose controls are described one by one."""
REPAIR = ("temperature_scaling",)
SECTION = Section(
    "Controls",
    ("controls",),
    "Comparisons with a known answer. If one fails, do not trust the results that depend on it.",
)
"""Where a study's page shows them."""


def undertrained(grid: Grid, arms: Sequence[Arm]) -> Arm | None:
    """The reference at its chosen rate for an eighth of its epochs; None where `why_none`, or where it has no rate."""
    reference = _reference(grid, arms)
    if reference is None or not reference.trials or why_none(reference.trial) is not None:
        return None
    return shorter(reference)


def why_none(trial: Trial) -> str | None:
    """Why an arm has no positive control; "" where there is nothing to say of it, None where it has one.

    Without an epoch a pretrained model is one of another kind, and where its head is new there is nothing to measure.
    """
    if trial.epochs == 0:
        return ""
    if trial.pretrained and _brief(trial.epochs) == 0:
        return Says.NONE_SHORTER
    return None


def _brief(epochs: int) -> int:
    """An eighth of the epochs, at least one of more than one."""
    return max(epochs // PART, min(1, epochs - 1))


def shorter(arm: Arm) -> Arm:
    """The arm for an eighth of its epochs."""
    epochs = _brief(arm.trial.epochs)
    trials = {seed: shortened(trial, epochs) for seed, trial in arm.trials.items()}
    return Arm(next(iter(trials.values())), arm.rates, {}, arm.chosen, arm.status, trials)


def identity(grid: Grid, arms: Sequence[Arm]) -> tuple[Arm, Arm] | None:
    """The arm with the beta farthest from the reference's, and the same training written as its two factors.

    None without interventions, for another optimizer than sgd (the identity is exact for it alone), or while pending.
    """
    reference = _reference(grid, arms)
    if reference is None or grid.interventions != "yes" or reference.trial.optimizer != "sgd":
        return None
    if why_not(reference.trial):
        return None
    arm = _farthest(grid, [arm for arm in arms if arm is not reference])
    if arm is None or not arm.trials:
        return None
    trials = {seed: _refactored(trial, grid.reference) for seed, trial in arm.trials.items()}
    return arm, Arm(next(iter(trials.values())), arm.rates, {}, arm.chosen, arm.status, trials)


def _farthest(grid: Grid, arms: Sequence[Arm]) -> Arm | None:
    """The cross-entropy arm with the beta farthest from the reference's; None where there is none."""
    candidates = [arm for arm in arms if arm.trial.objective == CROSS_ENTROPY]
    return max(candidates, key=lambda arm: abs(math.log(arm.trial.beta / grid.reference)), default=None)


def _refactored(trial: Trial, reference: float) -> Trial:
    """The same training at the reference's beta: head rate times factor^2, initial head times factor."""
    factor = trial.beta / reference
    rate = trial.lr / factor**2 if trial.lr_unit == "lr_eff" else trial.lr
    return trial.model_copy(update={"beta": reference, "head_lr": factor**2, "head_init": factor, "lr": rate})


def _reference(grid: Grid, arms: Sequence[Arm]) -> Arm | None:
    return next((a for a in arms if a.trial.beta == grid.reference and a.trial.objective == CROSS_ENTROPY), None)


def roles(grid: Grid, arms: Sequence[Arm]) -> Iterator[tuple[Trial, Role]]:
    """The trials that a family's controls take, given its arms of the grid."""
    short, same = undertrained(grid, arms), identity(grid, arms)
    for arm in (short, same[1] if same else None):
        yield from with_role(arm.trials.values() if arm else (), "control")


def base(grid: Grid, arms: Sequence[Arm]) -> Arm | None:
    """The arm at the reference's beta whose controls run in a study without a single reference.

    Args:
        arms: of one family, those of the grid first.
    """
    at_reference = [arm for arm in arms if arm.trial.beta == grid.reference]
    return _reference(grid, at_reference) or next(iter(at_reference), None)


def plan(grid: Grid, scores: Scores, more: More | None = None) -> dict[Trial, Role]:
    """As `tuning.plan`, and the trials of each family's positive control: see `read`."""
    return planned(
        pair for family in tuned(grid, scores, more) for pair in (*family.roles(), *positive(base(grid, family.arms)))
    )


def positive(arm: Arm | None) -> Iterator[tuple[Trial, Role]]:
    """The trials of an arm's positive control, once its rate is chosen."""
    if arm is not None and arm.trials and why_none(arm.trial) is None:
        yield from with_role(shorter(arm).trials.values(), "control")


def read(grid: Grid, store: Results, arms: Sequence[Arm], variant: str | None, nested: bool) -> list[Row]:
    """The rows of a family's controls, which `plan` has trained; none before its reference's rate is chosen.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    reference = base(grid, arms)
    if reference is None or not reference.trials:
        return []
    return of_arm(store, reference, each.named(reference, variant), nested)


def of_arm(store: Results, arm: Arm, name: Row, nested: bool) -> list[Row]:
    """Rows of the controls of one arm, each with the columns `name` that name the arm."""
    repair = registry.calibrators(REPAIR)
    return [name | row for row in both(store, measure_arm(store, arm, repair), repair, nested)]


def rescaled(store: Results, arm: Arm, repair: Mapping[str, Calibrator], reference: Measures, nested: bool) -> Row:
    """The negative control: the reference with its logits doubled, so that only confidence differs."""
    row: Row = {"control": RESCALED, "must": "leave dyn and accuracy at 0"}
    row |= contrast(measure_arm(store, arm, repair, scale=2.0), reference, nested)
    return {**row, "passed": _worst(row, DYNAMICS) < ROUNDING if "accuracy" in row else None}


def weaker(measures: Measures, reference: Measures, nested: bool) -> Row:
    """The positive control: an under-trained reference, which the study must tell from the reference."""
    epochs = f"{measures.arm.trial.epochs} of {reference.arm.trial.epochs} epochs"
    row: Row = {"control": UNDERTRAINED, "must": "move dyn and accuracy", "trained": epochs}
    row |= contrast(measures, reference, nested)
    # Both at 95%: a study that sees one of them move sees dynamics.
    seen = any(excludes_zero(row, column) for column in ("log_loss_dyn", "accuracy"))
    return {**row, "passed": seen if "accuracy" in row else None}


def both(store: Results, reference: Measures, repair: Mapping[str, Calibrator], nested: bool) -> list[Row]:
    """The negative control of an arm and, where it was trained at all, the positive one, for a study of few arms.

    The study's plan has the trials of `shorter`.
    """
    rows = [rescaled(store, reference.arm, repair, reference, nested)]
    if why_none(reference.arm.trial) is None:
        rows.append(weaker(measure_arm(store, shorter(reference.arm), repair), reference, nested))
    return rows + left_out(reference.arm)


def left_out(arm: Arm) -> list[Row]:
    """The row of a positive control that cannot be made, with the reason; none where it can."""
    why = why_none(arm.trial)
    return (
        [{"control": UNDERTRAINED, "must": "move dyn and accuracy", "trained": "left out", "why": why}] if why else []
    )


def same(measures: Measures, arm: Measures, nested: bool) -> Row:
    """The identity: training at beta and its two factors at the reference's beta agree but for rounding."""
    row: Row = {"control": IDENTITY, "must": "be 0 but for rounding"} | contrast(measures, arm, nested)
    if "accuracy" not in row:
        return {**row, "passed": None}
    # Rounding grows while a net learns: two runs that are equal on paper may end as far apart as two seeds.
    columns = ("log_loss_total", *DYNAMICS)
    if _worst(row, columns) < AGREES:
        return {**row, "passed": True}
    return {**row, "passed": False if any(excludes_zero(row, c) for c in columns) else None}


DYNAMICS = ("log_loss_dyn", "brier_dyn", "accuracy")


def _worst(row: Mapping[str, float], columns: Sequence[str]) -> float:
    return max(abs(row[name]) for name in columns)


IDENTITY_NOTE = (
    "Identity: training at one beta against the same training written as a head rate and an initial head at the "
    "reference's beta, equal but for rounding"
)


def _identity_note(frame: pd.DataFrame, _: Grid) -> dict[str, str]:
    """What the note says of the identity, where it is among the controls."""
    has_identity = "control" in frame and (frame["control"] == IDENTITY).any()
    return {"identity": IDENTITY_NOTE if has_identity else ""}


TABLE = TableSpec(
    "Controls: comparisons with a known answer",
    (
        "Negative: the reference with rescaled logits, where only confidence was changed, so that dyn and accuracy "
        "must be 0 and total must equal conf",
        "Positive: the reference trained for about an eighth of its epochs, which must not be 0; else the study has no "
        "power",
        "{identity}",
    ),
    names=("model", "variant", "beta", "objective", "control"),
    shown=(*NAMES, "control", "must", "trained", "passed", "seeds", "dropped", *DIFFERENCES),
    fields=_identity_note,
)
"""The controls, each with its expected result and whether it was observed."""


class Says(Sentences):
    """What is said of controls."""

    NONE_SHORTER = "the reference trains published weights for 1 epoch, which leaves no shorter training: give epochs=2"
    FAILED = "{failed} of {of} controls failed ({named}): see Controls."
    PASSED = "All {of} controls passed{weakest}."
    WEAKEST = ", but the effect of under-training on {names} may be 0"
    LEFT_OUT = "Positive control ({model}): left out, since {why}."
    NEGATIVE = (
        "Negative control{where}: rescaling the reference's logits moves dynamics and accuracy by at most {most:.1g}, "
        "{result}."
    )
    POSITIVE = (
        "Positive control{where}: {training} moves repaired log loss by {loss} nats{unsure} "
        "and accuracy by {accuracy}, {result}."
    )
    BRIEF = "training the reference for {trained}"
    UNTRAINED = "leaving the reference untrained"
    WRONG = "should be 0: do not trust the separation"
    WEAK = "may be 0: the study has no power to detect a change of this size"


def outcome(frame: pd.DataFrame) -> tuple[str, ...]:
    """One sentence on how many controls passed or failed; empty until two controls have run."""
    finished = _finished(frame)
    failed = [row["control"] for row in finished if row["passed"] is False]
    if failed:
        return (Says.FAILED.of(failed=len(failed), of=len(finished), named="; ".join(dict.fromkeys(failed))),)
    return (Says.PASSED.of(of=len(finished), weakest=_weakest(finished)),) if len(finished) > 1 else ()


def _weakest(finished: Sequence[Row]) -> str:
    """Text on the measure by which a passed positive control shows no significant effect; empty if both do."""
    names = {"log_loss_dyn": "repaired log loss", "accuracy": "accuracy"}
    rows = [row for row in finished if row["control"] == UNDERTRAINED and row["passed"]]
    weak = [name for column, name in names.items() if any(not excludes_zero(row, column) for row in rows)]
    return Says.WEAKEST.of(names=" and on ".join(weak)) if weak else ""


def _finished(frame: pd.DataFrame) -> list[Row]:
    """The rows of controls that have run."""
    rows: list[Row] = [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]
    return [row for row in rows if not math.isnan(row.get("accuracy", math.nan))]


def without(frame: pd.DataFrame) -> list[str]:
    """A sentence for each control that could not be made."""
    reasons = frame.dropna(subset="why") if "why" in frame else frame.iloc[:0]
    sentences = (Says.LEFT_OUT.of(model=row["model"], why=row["why"]) for row in reasons.to_dict("records"))
    return list(dict.fromkeys(sentences))


def told(frame: pd.DataFrame) -> list[str]:
    """Sentences on the controls: one per control and model, or one per control with more than `MOST` references."""
    finished = _finished(frame)
    by_control = {
        control: [row for row in finished if row["control"] == control] for control in (RESCALED, UNDERTRAINED)
    }
    if max(map(len, by_control.values())) <= MOST:
        return words(frame)
    sentences = []
    if rows := by_control[RESCALED]:
        sentences.append(_negative(rows, f", {len(rows)} references", _all(rows, Says.WRONG)))
    if rows := by_control[UNDERTRAINED]:
        loss, accuracy = (_span([row[column] for row in rows]) for column in ("log_loss_dyn", "accuracy"))
        about = {"where": f", {len(rows)} references", "training": _training(rows), "unsure": ""}
        sentences.append(Says.POSITIVE.of(**about, loss=loss, accuracy=accuracy, result=_all(rows, Says.WEAK)))
    return sentences + without(frame)


def _negative(rows: Sequence[Row], where: str, result: str) -> str:
    return Says.NEGATIVE.of(where=where, most=max(_worst(row, DYNAMICS) for row in rows), result=result)


def _training(rows: Sequence[Row]) -> str:
    """What was done to references: those of one epoch are not trained at all."""
    if all(row["trained"].startswith("0 ") for row in rows):
        return Says.UNTRAINED
    return Says.BRIEF.of(trained=_listed(rows, "trained"))


def _all(rows: Sequence[Row], otherwise: str) -> str:
    failed = [row for row in rows if not row["passed"]]
    return f"which for {_listed(failed, 'model')} {otherwise}" if failed else "as expected"


def _listed(rows: Sequence[Row], column: str) -> str:
    return ", ".join(dict.fromkeys(str(row[column]) for row in rows))


def _span(values: Sequence[float]) -> str:
    low, high = (number(value) for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def words(frame: pd.DataFrame) -> list[str]:
    """One sentence per control and model that says whether it behaved as expected."""
    about = {RESCALED: _rescaled, UNDERTRAINED: _positive, IDENTITY: _identity}
    return [about[row["control"]](row, _where(row)) for row in _finished(frame)] + without(frame)


def _where(row: Row) -> str:
    return f" ({row['model']}{', ' + row['variant'] if row.get('variant') else ''})"


def _rescaled(row: Row, where: str) -> str:
    return _negative([row], where, _result(row, Says.WRONG))


def _result(row: Row, otherwise: str) -> str:
    return "as expected" if row["passed"] else f"which {otherwise}"


def _positive(row: Row, where: str) -> str:
    unsure_loss, unsure = (
        "" if excludes_zero(row, column) else " (may be 0)" for column in ("log_loss_dyn", "accuracy")
    )
    loss, accuracy = cell(row, "log_loss_dyn"), f"{cell(row, 'accuracy')}{unsure}"
    about = {"where": where, "training": _training([row]), "unsure": unsure_loss, "result": _result(row, Says.WEAK)}
    return Says.POSITIVE.of(**about, loss=loss, accuracy=accuracy)


IDENTITIES = {
    None: "not significantly different from 0, as expected up to rounding",
    True: "as expected",
    False: "more than rounding explains: the 2x2 assumes that they are equal",
}
"""What a sentence says of the identity that was inconclusive, passed or failed."""


def _identity(row: Row, where: str) -> str:
    most = _worst(row, ("log_loss_total", *DYNAMICS))
    trained = f"beta={row['beta']:.3g} trained as its two factors at the reference's beta"
    return f"Identity{where}: {trained} differs by at most {most:.1g}, {IDENTITIES[row['passed']]}."
