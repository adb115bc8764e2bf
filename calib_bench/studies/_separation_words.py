"""The separation study in words: tables with their notes, and sentences that say no more than the intervals allow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.report.tables import estimate
from calib_bench.study import Table
from calib_bench.trial import CROSS_ENTROPY

if TYPE_CHECKING:
    import pandas as pd

    from calib_bench.settings import Settings
    from calib_bench.tuning import Arm

Row = Mapping[str, Any]
ALPHA = 0.05
ROUNDING = 1e-6


def verdict(settings: Settings, frames: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """What the contrasts say, most important first; the same for every model."""
    contrasts = frames["separation"].to_dict("records")
    known = [row for row in contrasts if _known(row, "log_loss_total")]
    if not known:
        return (
            f"There is nothing to compare: no other arm shares a finished seed with the reference "
            f"(beta={settings.reference:g}, cross-entropy).",
        )
    sentences = []
    families = dict.fromkeys((row["model"], row.get("variant")) for row in contrasts)
    for model, variant in families:
        rows = [row for row in known if (row["model"], row.get("variant")) == (model, variant)]
        where = "" if len(families) == 1 else f"{model} ({variant}): " if variant else f"{model}: "
        sentences += _family(where, rows, settings.reference)
    return (*sentences, *_control(frames["controls"].to_dict("records")))


def _family(where: str, rows: list[Row], reference: float) -> list[str]:
    betas = [row for row in rows if row["objective"] == CROSS_ENTROPY]
    others = [row for row in rows if row["objective"] != CROSS_ENTROPY and row["beta"] == reference]
    sentences = []
    if betas:
        largest = max(betas, key=lambda row: abs(row["log_loss_total"]))
        change = f"training at {_listed([largest])} instead of {reference:g}"
        sentences.append(f"{where}Over beta, test log loss changed most for {change}: {_split(largest)}")
        sentences.append(f"{where}Over beta with cross-entropy, {_census(betas)}")
        sentences.append(f"{where}Kappa (1 is neither over- nor underconfident): {_confidence(betas)}")
    for row in others:
        flag = "" if row["tuning"] == "tuned" else f" ({row['tuning']})"
        change = f"Training with {row['objective']}{flag} instead of cross-entropy at beta={reference:g}"
        sentences.append(f"{where}{change} changed test log loss {_split(row)}")
    return sentences


def _split(row: Row) -> str:
    text = f"by {_cell(row, 'log_loss_total')} nats"
    text += _unsaid(row, "log_loss_total", ", in which direction the data cannot say")
    text += f". Confidence, which temperature scaling repairs, is {_cell(row, 'log_loss_conf')} nats of it"
    text += _unsaid(row, "log_loss_conf", " (the data cannot say with which sign)")
    text += f"; dynamics, which no temperature repairs, {_cell(row, 'log_loss_dyn')}"
    text += _unsaid(row, "log_loss_dyn", " (the data cannot say with which sign)")
    part = share(row)
    text += f": {part:.0%} of the change is dynamics" if part is not None else ""
    text += f". Accuracy changed by {_cell(row, 'accuracy')}"
    return text + _unsaid(row, "accuracy", ", in which direction the data cannot say") + "."


def _unsaid(row: Row, column: str, words: str) -> str:
    """Nothing where the sign is established, else the words: the row may have been picked as the largest of many."""
    if _firm(row, column):
        return ""
    return f"{words}, after Holm's correction" if excludes_zero(row, column) and not words.endswith(")") else words


def share(row: Row, score: str = "log_loss") -> float | None:
    """The part of delta_total that is dynamics; None unless total, conf and dyn are all of one, established sign."""
    columns = [f"{score}_{part}" for part in ("total", "conf", "dyn")]
    if not all(_firm(row, column) for column in columns):
        return None
    if len({math.copysign(1.0, row[column]) for column in columns}) > 1:
        return None
    return float(row[columns[2]] / row[columns[0]])


def _census(betas: Sequence[Row]) -> str:
    parts = []
    for column, name in (("log_loss_dyn", "dynamics"), ("log_loss_conf", "confidence"), ("accuracy", "accuracy")):
        firm = [row for row in betas if _firm(row, column)]
        hints = [row for row in betas if excludes_zero(row, column) and not _firm(row, column)]
        silent = [row for row in betas if not excludes_zero(row, column)]
        said = []
        if firm:
            said.append(f"differs at {_listed(firm)}")
        if hints:
            said.append(f"may differ at {_listed(hints)} (not after Holm's correction)")
        if silent:
            said.append(f"the data cannot say at {_listed(silent)}")
        parts.append(f"{name}: {', '.join(said)}")
    return "; ".join(parts) + "."


def _confidence(betas: Sequence[Row]) -> str:
    return ", ".join(f"{_cell(row, 'kappa')} at {_listed([row])}" for row in betas) + "."


def _control(rows: Iterable[Row]) -> list[str]:
    sentences = []
    for row in rows:
        if not _known(row, "log_loss_dyn"):
            continue
        worst = max(abs(row[name]) for name in ("log_loss_dyn", "brier_dyn", "accuracy"))
        passed = worst < ROUNDING
        result = "as it must" if passed else "which it must not: the separation is not to be trusted"
        sentences.append(
            f"Negative control ({row['model']}): rescaling the reference's logits moves dynamics and accuracy by at "
            f"most {worst:.1g}, {result}."
        )
    return sentences


def warnings(
    settings: Settings, arms: Sequence[Arm], frames: Mapping[str, pd.DataFrame], provenance: Mapping[str, Any]
) -> tuple[str, ...]:
    """What a reader must know before quoting a number."""
    found = []
    if settings.limit is not None:
        found.append(f"Smoke mode: at most {settings.limit} examples of each split. These numbers are not results.")
    if not any(_is_reference(arm, settings) for arm in arms):
        found.append(
            f"No reference: no arm has beta={settings.reference:g} with cross-entropy, so nothing was compared."
        )
    said = {
        "edge": "the best rate stands at the edge of its grid, so a better one may lie beyond",
        "fixed": "one rate was given, not tuned: a difference from a tuned arm may be a difference of tuning",
        "diverged": "no rate trains every tuning seed",
        "pending": "not trained yet, and missing from every comparison",
    }
    for status, meaning in said.items():
        arms_said = [arm for arm in arms if arm.status == status and (status != "fixed" or arm.trial.epochs > 0)]
        names = [f"{arm.trial.model} {arm.label}" for arm in arms_said]
        if names:
            everything = "every arm" if len(names) == len(arms) and len(arms) > 1 else ", ".join(names)
            found.append(f"{status.capitalize()}: {everything} ({meaning}).")
    for status, text in (("diverged", "diverged at the chosen rate"), ("missing", "not run yet")):
        rows = [row for row in frames["trials"].to_dict("records") if row["status"] == status]
        if rows:
            which = ", ".join(
                f"{row['model']} beta={row['beta']:.3g} {row['objective']} seed {row['seed']}" for row in rows
            )
            found.append(f"Left out with their pairs, {text}: {len(rows)} of {len(frames['trials'])} trials ({which}).")
    stopped = [row for row in frames["trials"].to_dict("records") if row.get("at_bound") is True]
    if stopped:
        found.append(
            f"Temperature at a bound, where the calibration data have no optimum: {len(stopped)} of "
            f"{len(frames['trials'])} trials; their kappa is that bound."
        )
    if len(settings.seed or ()) == 1:
        found.append(
            "One seed: intervals hold for this one initialization and batch order, not for training in general."
        )
    for split in provenance.get("splits", ()):
        found += [f"Data: {note}." for note in split.get("notes", {}).values()]
    return tuple(dict.fromkeys(found))


def _is_reference(arm: Arm, settings: Settings) -> bool:
    return arm.trial.beta == settings.reference and arm.trial.objective == CROSS_ENTROPY


def _known(row: Row, column: str) -> bool:
    return isinstance(row.get(column), float) and math.isfinite(row[column])


def excludes_zero(row: Row, column: str) -> bool:
    """Whether the 95% interval lies on one side of zero."""
    low, high = row.get(f"{column}_low", math.nan), row.get(f"{column}_high", math.nan)
    return bool(low > 0 or high < 0)


def _firm(row: Row, column: str) -> bool:
    return excludes_zero(row, column) and row[f"{column}_holm"] < ALPHA


def _cell(row: Row, column: str) -> str:
    return estimate(row[column], row.get(f"{column}_low", math.nan), row.get(f"{column}_high", math.nan))


def _listed(rows: Sequence[Row]) -> str:
    """Betas; a word after one whose rate was not tuned says why."""
    flags = [f" ({row['tuning']})" if row["tuning"] != "tuned" else "" for row in rows]
    return "beta=" + ", ".join(f"{row['beta']:.3g}{flag}" for row, flag in zip(rows, flags, strict=True))


def tables(settings: Settings, frames: Mapping[str, pd.DataFrame], nested: bool) -> dict[str, Table]:
    """The study's tables in reading order, from the frames of its rows."""
    interval = (
        "95% t intervals over seeds (each seed has its own test examples, which may overlap)"
        if nested
        else "95% intervals over seeds and test examples together"
        if len(settings.seed or ()) > 1
        else "95% intervals over test examples only, since there is one seed"
    )
    against = f"Each arm minus beta={settings.reference:g} with cross-entropy, paired by seed and example; {interval}"
    star = "* Holm-adjusted p < .05 over the arms of this table"
    split = "total = conf + dyn: conf is what temperature scaling repairs, dyn what it cannot"
    contrasts = frames["separation"]
    names = [c for c in ("model", "variant", "beta", "objective", "tuning") if c in contrasts]

    def columns(frame: pd.DataFrame, *stems: str) -> pd.DataFrame:
        return frame[[c for c in frame if c in names or c in ("control", "seeds", "dropped") or _stem(c) in stems]]

    if settings.limit is not None:
        frames = {name: frame.assign(limit=settings.limit) for name, frame in frames.items()}
        contrasts, names = frames["separation"], [*names, "limit"]
        against = f"SMOKE RUN, limit={settings.limit}, not a result. {against}"
    log_loss, brier = ([f"{score}_{part}" for part in ("total", "conf", "dyn")] for score in ("log_loss", "brier"))
    return {
        "separation": Table(
            "Confidence and dynamics: change of test log loss (nats) and accuracy",
            columns(contrasts, "accuracy", *log_loss, "kappa"),
            f"{against}. {star}. {split}. kappa > 1 is overconfident, < 1 underconfident: a geometric mean, its "
            "interval over seeds and calibration examples.",
            paper=True,
        ),
        "separation_brier": Table(
            "Confidence and dynamics: change of the Brier score",
            columns(contrasts, *brier),
            f"{against}. {star}. {split}.",
            paper=True,
        ),
        "controls": Table(
            "Negative control: the reference with rescaled logits",
            columns(frames["controls"], "accuracy", *log_loss),
            "Only confidence was changed, so dyn and accuracy must be 0 and total must equal conf.",
        ),
        "baselines": Table(
            "Every arm under every post-hoc method, test split",
            frames["baselines"],
            f"Means over seeds. Accuracy, log loss, Brier: {interval}. ECE raw and after temperature scaling: a "
            "basic bootstrap of seeds and examples. All else: t intervals over seeds for this test set. "
            "ECE null: the mean ECE that a perfectly calibrated model with these probabilities would show.",
        ),
        "rates": Table(
            "Learning rates tried",
            frames["rates"],
            f"Mean {settings.select.replace('_', ' ')} on the selection split over the tuning seeds; inf: diverged.",
        ),
        "trials": Table(
            "Trials at the chosen rates, test split", frames["trials"], "repaired: after temperature scaling."
        ),
    }


def _stem(column: str) -> str:
    for end in ("_low", "_high", "_holm", "_p"):
        column = column.removesuffix(end)
    return column
