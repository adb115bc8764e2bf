"""How does the best inverse temperature beta move with the architecture, within one task?

The same grid of beta for models that differ in width, depth or normalization, every arm with a rate of its own. That
the best beta depends on the architecture is a finding of Agarwala et al. (2023, arXiv 2010.07344).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.analysis import arms as each
from calib_bench.analysis import best_beta, beta_rate_plane, controls
from calib_bench.analysis.collapse import two_kinds
from calib_bench.analysis.measure import own_tests
from calib_bench.analysis.result_rows import (
    TWO_KINDS,
    Row,
    adjusted,
    cell,
    excludes_zero,
    fields,
    is_significant,
    marks,
    revoked,
    why_loose,
)
from calib_bench.analysis.table_notes import display_columns, table_note
from calib_bench.analysis.tuned_arms import Reader
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
from calib_bench.core.study import DETAILS, Analysis, Detail, Section, Study, Table
from calib_bench.core.task import Task
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.inference import percentile
from calib_bench.models.variations import Form, form, variations
from calib_bench.planning import tuning
from calib_bench.planning.tuning import Arm
from calib_bench.studies.width_depth import figures

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


def models(task: Task) -> tuple[str, ...]:
    """The task's own model and its variations.

    Raises:
        SettingsError: there are none that are known.
    """
    return variations(task.models[0])


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """Every model over beta, tuned, all seeds at the chosen rates, and the positive control of each model.

    Raises:
        SettingsError: there is one model, or one with fewer than three betas, or nothing is trained.
    """
    spaces = settings.spaces or {}
    if len(spaces) < 2:
        raise SettingsError(
            f"study=width_depth compares architectures, and there is one, {', '.join(spaces)}: give two"
        )
    for model, space in spaces.items():
        if len(space["beta"]) < 3:
            raise SettingsError(f"study=width_depth looks for the best of at least three betas, and {model} has fewer")
        if 0 in space["epochs"]:
            raise SettingsError("study=width_depth trains what it compares: give epochs=1 or more")
    return controls.plan(settings, scores)


def analyse(settings: Settings, store: Results) -> Analysis:
    """Every architecture over beta, and its best beta beside that of the first.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    families = tuning.tuned(settings, store.scores(settings.select))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    reader = Reader(settings, store, own_tests(store, [arm for family in families for arm in family.arms]))
    curves, points, messages = [], [], []  # type: list[best_beta.Curve], list[Row], list[str]
    for family in families:
        variant = variants[family.arms[0].trial.family()]
        reader.control(family.arms, variant)
        for objective in dict.fromkeys(arm.trial.objective for arm in family.arms):
            objective_arms = [arm for arm in family.arms if arm.trial.objective == objective]
            new_curves, rows, warned = _curves(reader, objective_arms, variant)
            curves, points, messages = curves + new_curves, points + rows, messages + warned
    best = pd.DataFrame(best_beta.rows(curves))
    trends = pd.DataFrame(_trends(curves))
    best, trends = (adjusted(f, "result") if "result" in f else f for f in (best, trends))
    data: dict[str, Any] = {"best": best, "points": pd.DataFrame(points)}
    tables = _tables(settings, best, trends, data["points"])
    return reader.analysis(verdict(best, trends), tables, messages, _summary(best, trends), **data)


def _curves(
    reader: Reader, arms: Sequence[Arm], variant: str | None
) -> tuple[list[best_beta.Curve], list[Row], list[str]]:
    """An architecture's curves, a row an arm, and which arms are left out."""
    seeds = list(reader.settings.seed or ())
    name = {"model": arms[0].trial.model, "variant": variant, "objective": arms[0].trial.objective}
    choices: dict[float, dict[str, Array]] = {}
    fits: dict[float, dict[str, Array]] = {}
    values: dict[float, dict[str, Array]] = {}
    kinds: Row = {}
    rows = []
    for arm in sorted(arms, key=lambda arm: arm.trial.beta):
        measures = reader.measure(arm, each.named(arm, variant))
        row: Row = {**name, "beta": arm.trial.beta, "tuning": arm.tuning, "seeds": len(measures.seeds)}
        for result, interval in best_beta.levels(measures, reader.nested).items():
            row |= {k: v for k, v in fields(result.replace(" ", "_"), interval).items() if k[-2:] != "_p"}
        rows.append(row | two_kinds(measures))
        if list(measures.seeds) == seeds:
            kinds |= two_kinds(measures)
            beta = arm.trial.beta
            values[beta], choices[beta] = best_beta.results(measures), best_beta.moves(measures)
            fits[beta] = best_beta.refits(measures)
    lacking = [arm.trial.beta for arm in arms if arm.trial.beta not in values]
    messages = best_beta.left_out(str(name["model"]), lacking, len(values))
    about = {**name, "tuning": tuning.together(arms), **kinds}
    return best_beta.curves(about, values, reader.nested, choices, fits), rows, messages


def _trends(curves: Sequence[best_beta.Curve]) -> list[Row]:
    """Among architectures that differ in one of width, depth and normalization: the log-log slope of the best beta over
    the first two, and the ratio with and without the third."""

    rows = []
    forms = [(one, curve) for curve in curves if (one := form(str(curve.name["model"])))]
    for over in ("width", "depth", "norm"):
        groups: dict[Any, list[tuple[Form, best_beta.Curve]]] = {}
        for one, curve in forms:
            rest = tuple(getattr(one, key) for key in ("kind", "width", "depth", "norm") if key != over)
            curve_key = (curve.result, curve.name["objective"], curve.name["variant"])
            groups.setdefault((curve_key, rest), []).append((one, curve))
        for members in groups.values():
            values = [getattr(one, over) for one, _ in members]
            if len(set(values)) < 2:
                continue
            x = [float(value != "none") if over == "norm" else math.log(value) for value in values]
            bests = [curve.best() for _, curve in members]
            slope = beta_rate_plane.slope(x, [place for place, _, _ in bests])
            slopes = beta_rate_plane.slope(x, np.stack([drawn for _, drawn, _ in bests], -1))
            curve = members[0][1]
            row = {"over": over, "models": ", ".join(str(one.name["model"]) for _, one in members)}
            row |= {"objective": curve.name["objective"], "result": curve.result}
            row["tuning"] = ", ".join(dict.fromkeys(str(one.name.get("tuning", "tuned")) for _, one in members))
            if any(TWO_KINDS in one.name for _, one in members):
                row[TWO_KINDS] = "these arms"
            rows.append(row | fields("slope", percentile(float(slope), slopes, curve.found)))
    return rows


def verdict(best: pd.DataFrame, trends: pd.DataFrame) -> list[str]:
    """Where the best beta is and how it moves, no more than the intervals allow.

    Args:
        best, trends: rows of `analyse`, Holm-adjusted within each result.
    """
    if not len(best):
        return ["There is nothing to compare: no architecture has three betas at which every seed finished."]
    several = best["objective"].nunique() > 1
    return best_beta.words(best) + [
        f"{row['objective']}: {_trend(row)}" if several else _trend(row) for row in trends.to_dict("records")
    ]


def _summary(best: pd.DataFrame, trends: pd.DataFrame) -> list[str]:
    """What to read first, of one objective: the range of best betas, and what surely moves them."""
    if not len(best) or best["objective"].nunique() > 1:
        return []
    sentences = []
    for result, result_rows in best.groupby("result", sort=False):
        rows = result_rows.sort_values("best_beta").to_dict("records")
        low, high = (f"{cell(row, 'best_beta')} ({best_beta.named(row)})" for row in (rows[0], rows[-1]))
        first = best_beta.named(next(iter(result_rows.to_dict("records"))))
        sure = [best_beta.named(row) for row in rows if best_beta.differs(row)]
        sentences.append(
            f"By {result}, the best beta of {len(rows)} architectures lies between {low} and {high}; that it is "
            f"another than {first}'s is established for {', '.join(sure) or 'none'}."
        )
    firmly = [row for row in trends.to_dict("records") if is_significant(row, "slope")]
    moves = [f"{row['over']} (by {row['result']})" for row in firmly]
    sentences.append(f"Of width, depth and normalization, {' and '.join(moves) or 'none'} is shown to move it.")
    return sentences if len(trends) else sentences[:-1]


def details(analysis: Analysis) -> list[Detail]:
    """Each architecture: its best betas, and its results over beta."""
    import pandas as pd

    points, best = (pd.DataFrame(analysis.data[name]) for name in ("points", "best"))
    model_details = []
    for keys, rows in points.fillna({"variant": ""}).groupby(["model", "variant", "objective"], sort=False):
        best_rows = best.fillna({"variant": ""}) if len(best) else best
        for key, value in zip(("model", "variant", "objective"), keys, strict=True):
            best_rows = best_rows[best_rows[key] == value] if len(best_rows) else best_rows
        records = best_rows.to_dict("records")
        parts = [f"{cell(row, 'best_beta')} by {row['result']}{best_beta.edge(row)}" for row in records]
        title = " ".join(str(key) for key in keys[: 3 if points["objective"].nunique() > 1 else 2] if key)
        kept = [c for c in rows if c not in ("model", "variant", "objective")]
        table = Table("Over beta, test split", rows[kept], names=("beta",))
        model_details.append(Detail(title, f"best beta {', '.join(parts)}" if parts else "", table=table))
    return model_details


def _trend(row: Mapping[Any, Any]) -> str:
    among = f"Among {row['models']}, the best beta by {row['result']}"
    why = f" ({why_loose([row])})" if revoked(row) and excludes_zero(row, "slope") else ""
    if row["over"] == "norm":
        moved = is_significant(row, "slope")
        ratio = {f"x{end}": math.exp(row[f"slope{end}"]) for end in ("", "_low", "_high") if f"slope{end}" in row}
        tail = "" if moved else f": whether normalization moves it the data cannot say{why}"
        return f"{among} is {cell(ratio, 'x')} times as large with normalization{tail}."
    tail = "" if is_significant(row, "slope") else f": whether {row['over']} moves it the data cannot say{why}"
    return f"{among} goes as {row['over']}^s with s = {cell(row, 'slope')}{tail}."


def _tables(settings: Settings, best: pd.DataFrame, trends: pd.DataFrame, points: pd.DataFrame) -> dict[str, Table]:
    n = f"{len(settings.seed or ())} seeds, test split"
    tables = {"best_beta": best_beta.table(best, settings)}
    if len(trends):
        tables["trends"] = Table(
            "How the best beta moves with width, depth and normalization",
            display_columns(trends, settings),
            table_note(
                settings,
                "architectures that differ in that alone; slope: of log best beta over log width or log depth, and for "
                f"norm the log of the ratio with normalization to without; {best_beta.how(best)}",
                "* Holm-adjusted p < .05 that it is 0, for each result",
                *marks(trends),
            ),
            paper=True,
        )
    tables["curves"] = Table(
        "Every architecture over beta",
        display_columns(points, settings),
        table_note(
            settings,
            f"{n}; error: 1 - accuracy",
            "choices of rates and calibration examples are counted",
            *marks(points),
        ),
    )
    return tables


STUDY = Study(
    question="How does the best inverse temperature beta move with the architecture: its width, its depth, "
    "its normalization?",
    plan=plan,
    analyse=analyse,
    figures={"over_beta": figures.over_beta, "best_beta": figures.best_beta},
    defaults={"objective": (CROSS_ENTROPY,), "model": models},
    sections=(
        Section("The best beta of each architecture", ("best_beta", "collapse")),
        Section("Width, depth, normalization", ("trends",)),
        Section("Each architecture over beta", ("over_beta", DETAILS, "curves")),
        controls.SECTION,
        Section("Tuning and trials", ("rates", "trials")),
    ),
    details=details,
    references=("agarwala2023temperature", "guo2017", "holm1979"),
)
