"""What does it gain to tune beta as one more hyperparameter, beside the rate?

Two searches of the same budget, by the same method and on the same selection split: one over beta and the rate, one
over the rate alone at the reference beta. Both winners are trained with every seed and compared on the test split,
which no search has seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import controls
from calib_bench.analysis.result_rows import FEW_CHOSE, Row, few_chose
from calib_bench.core.study import Analysis, Study, Table
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.planning.search import Search, Tried, search, shortened
from calib_bench.planning.tuning import FEWEST_SEEDS
from calib_bench.report import drawing
from calib_bench.studies.tune.options import Options

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from calib_bench.core.settings import Settings
    from calib_bench.store.store import Store

NEAR = 1.05
"""A winner within this factor of a bound of its search is said to be at the edge."""


@dataclass(frozen=True)
class Pair:
    """The two searches of one model and recipe."""

    template: Trial
    rates: tuple[float, float]
    betas: tuple[float, float]
    joint: Search
    plain: Search


def pairs(settings: Settings, scores: Scores) -> list[Pair]:
    """Every model's, recipe's and objective's searches, as far as `scores` lets them come.

    Raises:
        SettingsError: there is nothing to train.
    """
    if any(0 in space["epochs"] for space in (settings.spaces or {}).values()):
        raise SettingsError("study=tune trains what it compares: give epochs=1 or more")
    return [_pair(settings, t, scores) for t in tuning.templates(settings) if t.beta == settings.reference]


def _pair(settings: Settings, template: Trial, scores: Scores) -> Pair:
    space = (settings.spaces or {})[template.model]
    rates, betas = _bounds(space["lr"]), _bounds(space["beta"])
    tuning_seeds = (settings.seed or ())[: settings.tune_seeds]
    joint, plain = (
        search(template, rates, over, Options.of(settings).budget, lambda t: _seeded(settings, t, tuning_seeds), scores)
        for over in (betas, None)
    )
    return Pair(template, rates, betas, joint, plain)


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The span of a grid; of a single value, a factor of ten about it."""
    low, high = min(values), max(values)
    return (low, high) if low < high else (low / 10, high * 10)


def _seeded(settings: Settings, trial: Trial, seeds: Sequence[int]) -> list[Trial]:
    return [trial.model_copy(update={"seed": seed, "split": seed if settings.split == "seed" else 0}) for seed in seeds]


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """What the searches wait for, everything they have tried, and both winners with every seed."""
    wanted: dict[str, Trial] = {}
    seeds = (settings.seed or ())[: settings.tune_seeds]
    for pair in pairs(settings, scores):
        for found in (pair.joint, pair.plain):
            tried = [run for t in found.tried for run in _runs(settings, t, seeds)]
            final = _seeded(settings, found.best.trial, settings.seed or ()) if found.best else []
            for trial in (*tried, *found.wanted, *final):
                wanted.setdefault(trial.key, trial)
        if pair.plain.best:
            control = controls.positive(_final(settings, pair.plain.best))
            wanted |= {trial.key: trial for trial in control if trial.key not in wanted}
    return list(wanted.values())


def _final(settings: Settings, best: Tried) -> tuning.Arm:
    """A winner with every seed."""
    trials = {trial.seed: trial for trial in _seeded(settings, best.trial, settings.seed or ())}
    rate = best.trial.lr
    tuners = tuple(trials.values())[: settings.tune_seeds]
    return tuning.Arm(best.trial, (rate,), {rate: best.scores[-1]}, rate, "tuned", trials, {rate: tuners})


def _runs(settings: Settings, tried: Tried, seeds: Sequence[int]) -> list[Trial]:
    return [run for epochs in tried.epochs for run in _seeded(settings, shortened(tried.trial, epochs), seeds)]


def analyse(settings: Settings, store: Store) -> Analysis:
    """The winner over beta and rate against the winner over the rate at the reference.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    found = pairs(settings, store.scores(settings.select))
    variants = each.variants(pair.template.family() for pair in found)
    winners: list[tuning.Arm] = []
    rows, known, verdict, warnings = [], [], [], []  # type: list[Row], list[Row], list[str], list[str]
    for pair in found:
        name = _name(pair.template, variants[pair.template.family()])
        if pair.joint.best is None or pair.plain.best is None:
            warnings.append(f"{_named(name)}: a search is not over, or all of its configurations failed.")
            continue
        gain, arms, control = _gain(settings, store, pair)
        row = name | gain
        known += [name | {"beta": settings.reference} | one for one in control]
        winners += arms
        rows.append(row)
        verdict += _words(settings, row, len(found) > 1)
        warnings += _edges(pair, row)
        if row["dropped"]:
            warnings.append(f"{_named(row)}: {row['dropped']} seeds are left out, which diverged at a chosen rate.")
    if settings.limit is not None:
        warnings.insert(
            0, f"Smoke mode: at most {settings.limit} examples of each split. These numbers are not results."
        )
    if any(few_chose(row) for row in rows):
        warnings.append(f"Few seeds: {FEW_CHOSE}, so that no gain is established; give tune_seeds={FEWEST_SEEDS}.")
    if len(settings.seed or ()) == 1:
        warnings.append("One seed: intervals hold for this one initialization and batch order.")
    tried = [
        _name(pair.template, variants[pair.template.family()]) | row for pair in found for row in _configurations(pair)
    ]
    control = pd.DataFrame(known)
    return Analysis(
        verdict=(*verdict, *controls.words(control)) if verdict else ("There is nothing to compare yet.",),
        tables=_tables(settings, pd.DataFrame(rows), pd.DataFrame(tried), control),
        warnings=tuple(warnings),
        data={"arms": winners, "pairs": found, "reference": settings.reference, "limit": settings.limit},
    )


def _name(template: Trial, variant: str | None) -> dict[str, Any]:
    name = {"model": template.model, "objective": template.objective}
    return name | ({"variant": variant} if variant else {})


def _gain(settings: Settings, store: Store, pair: Pair) -> tuple[Row, list[tuning.Arm], list[Row]]:
    """The winner against the reference's winner, both arms, and the controls of the latter."""
    from calib_bench.analysis.contrast import contrast
    from calib_bench.analysis.measure import measure_arm, own_tests

    repair = registry.calibrators(("temperature_scaling",))
    measured, row = [], {}  # type: list[Any], Row
    for label, found in (("tuned", pair.joint), ("reference", pair.plain)):
        best = found.best
        assert best is not None, "checked by the caller"
        measured.append(measure_arm(store, _final(settings, best), repair))
        row |= {f"{label}_beta": best.trial.beta, f"{label}_rate": best.trial.lr, f"{label}_epochs_spent": found.cost}
    arms = [one.arm for one in measured]
    nested = own_tests(store, arms)
    row |= {"tuning": tuning.together(arms), "nested": nested} | contrast(measured[0], measured[1], nested)
    return row, arms, controls.both(store, measured[1], repair, nested)


def _words(settings: Settings, row: Mapping[str, Any], several: bool) -> list[str]:
    from calib_bench.analysis.format import estimate

    where = f"{_named(row)}: " if several else ""
    head = (
        f"{where}With {Options.of(settings).budget} configurations each, the search over beta and rate chose beta="
        f"{row['tuned_beta']:.3g} and the search at beta={settings.reference:g} its best rate"
    )
    if "log_loss_total" not in row:
        return [f"{head}; no seed has finished at both."]

    def cell(column: str) -> str:
        return estimate(row[column], row[f"{column}_low"], row[f"{column}_high"])

    said = (
        f"{head}: test log loss changed by {cell('log_loss_total')} nats, by {cell('log_loss_dyn')} once both are "
        f"temperature scaled, accuracy by {cell('accuracy')} (95% intervals, {row['seeds']} seeds)."
    )
    return [said, where + _advice(settings, row)]


def _advice(settings: Settings, row: Mapping[str, Any]) -> str:
    def sign(column: str) -> int:
        return int(row[f"{column}_low"] > 0) - int(row[f"{column}_high"] < 0)

    beta, reference = f"beta={row['tuned_beta']:.3g}", f"beta={settings.reference:g}"
    if few_chose(row):
        return f"Advice: stay at {reference}; that tuning beta gains anything is not established, since {FEW_CHOSE}."
    if sign("log_loss_dyn") < 0 or sign("accuracy") > 0:
        return f"Advice: train at {beta}; what it gains, no temperature after training can give."
    if sign("log_loss_dyn") > 0 or sign("accuracy") < 0:
        return f"Advice: stay at {reference}; on the test split the search's choice is worse."
    if sign("log_loss_total") < 0:
        return f"Advice: stay at {reference} and scale the temperature after training; that gives what {beta} gained."
    return f"Advice: stay at {reference}; the data cannot say that tuning beta gains anything."


def _edges(pair: Pair, row: Mapping[str, Any]) -> list[str]:
    said = []
    for what, value, (low, high) in (
        ("beta", row["tuned_beta"], pair.betas),
        ("rate", row["tuned_rate"], pair.rates),
        ("reference's rate", row["reference_rate"], pair.rates),
    ):
        if value < low * NEAR or value > high / NEAR:
            said.append(
                f"{_named(row)}: the chosen {what}, {value:.3g}, stands at the edge of {low:.3g} to {high:.3g}."
            )
    return said


def _named(row: Mapping[str, Any]) -> str:
    return ", ".join(str(row[key]) for key in ("model", "objective", "variant") if row.get(key))


def _configurations(pair: Pair) -> list[dict[str, Any]]:
    rows = []
    for name, found in (("beta and rate", pair.joint), ("rate", pair.plain)):
        for order, tried in enumerate(found.tried):
            row = {"search": name, "order": order, "beta": tried.trial.beta, "rate": tried.trial.lr}
            row |= {"unit": tried.trial.lr_unit, "epochs": tried.epochs[-1] if tried.epochs else 0}
            row |= {"score": tried.scores[-1] if tried.scores else math.nan, "chosen": tried is found.best}
            rows.append(row)
    return rows


def _tables(settings: Settings, gains: pd.DataFrame, tried: pd.DataFrame, control: pd.DataFrame) -> dict[str, Table]:
    nested = "nested" in gains and bool(gains["nested"].any())
    how = (
        "95% t intervals over seeds, each with its own test examples"
        if nested
        else "95% intervals over seeds and test examples together"
        if len(settings.seed or ()) > 1
        else "95% intervals over test examples only, since there is one seed"
    )
    smoke = f"SMOKE RUN, limit={settings.limit}, not a result. " if settings.limit is not None else ""
    shown = [c for c in gains if not str(c).startswith("brier") and c != "nested"]
    return {
        "gain": Table(
            "Beta and rate tuned together, minus the rate tuned at the reference",
            gains[shown],
            f"{smoke}Test split, paired by seed and example, {how}, for the two configurations that were chosen: the "
            "choice itself is not counted. "
            f"conf is what temperature scaling repairs, dyn what it cannot. Budget "
            f"{Options.of(settings).budget} configurations a search; epochs spent are over all tuning seeds.",
            paper=True,
        ),
        "gain_brier": Table(
            "The same for the Brier score",
            gains[[c for c in gains if str(c).startswith("brier") or c in ("model", "objective", "seeds")]],
            smoke,
        ),
        "controls": controls.table(control, settings),
        "configurations": Table(
            "Configurations tried",
            tried,
            f"{smoke}{settings.select.replace('_', ' ')} on the selection split, mean over the tuning seeds, at the "
            "longest length that each was trained for; inf: diverged.",
        ),
    }


def landscape(analysis: Analysis) -> Figure:
    """Every configuration of the joint search in the plane of beta and rate, the chosen ones marked."""
    from matplotlib.colors import LogNorm
    from matplotlib.pyplot import subplots

    found: Any = analysis.data["pairs"]
    figure, axes = subplots(1, max(1, len(found)), figsize=(5.2 * max(1, len(found)), 4.2), squeeze=False)
    for pair, axis in zip(found, axes[0], strict=False):
        tried = [t for t in (*pair.joint.tried, *pair.plain.tried) if t.scores]
        finite = [t for t in tried if math.isfinite(t.scores[-1]) and not t.failed]
        sizes = [20 + 60 * t.epochs[-1] / max(1, t.trial.epochs) for t in finite]
        points = axis.scatter(
            [t.trial.beta for t in finite],
            [t.trial.lr for t in finite],
            c=[t.scores[-1] for t in finite],
            s=sizes,
            norm=LogNorm(),
            cmap="viridis_r",
        )
        lost = [t for t in tried if t not in finite]
        if lost:
            betas, rates = [t.trial.beta for t in lost], [t.trial.lr for t in lost]
            axis.scatter(betas, rates, c="0.4", marker="x", label="failed")
        for best, marker in ((pair.joint.best, "*"), (pair.plain.best, "P")):
            if best is not None:
                _mark(axis, best, marker, pair)
        axis.set(xscale="log", yscale="log", xlabel="beta", ylabel=f"rate ({pair.template.lr_unit})")
        drawing.plain(axis.xaxis)
        drawing.plain(axis.yaxis)
        axis.set_title(_named(pair.template.model_dump()), loc="left")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, markerscale=0.6)
        if finite:
            bar = figure.colorbar(points, ax=axis, label="selection score (larger dots: longer runs)")
            drawing.plain(bar.ax.yaxis)
    return figure


def _mark(axis: Axes, best: Tried, marker: str, pair: Pair) -> None:
    label = "chosen" if best is pair.joint.best else f"chosen at beta={pair.template.beta:g}"
    axis.scatter(
        [best.trial.beta], [best.trial.lr], marker=marker, s=220, facecolor="none", edgecolor="C3", linewidth=1.8,
        label=label,
    )  # fmt: skip


STUDY = Study(
    question="What does tuning beta beside the learning rate gain over tuning the rate at beta = 1, at equal budgets?",
    plan=plan,
    analyse=analyse,
    figures={"landscape": landscape},
    defaults={"objective": (CROSS_ENTROPY,)},
    options=Options,
)
