"""What does it gain to tune beta as one more hyperparameter, beside the rate?

Two searches of the same budget, by the same method and on the same selection split: one over beta and the rate, one
over the rate alone at the reference beta. Both winners are trained with every seed and compared on the test split,
which no search has seen. Where enough seeds tune, each of them is compared at the configurations that the others choose
among those trained for their full length (`tuning.cross_fitted`), which have every tuning seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import choice, collapse, controls
from calib_bench.analysis.contrast import contrast
from calib_bench.analysis.format import estimate
from calib_bench.analysis.measure import Measures, measure_arm, own_tests
from calib_bench.analysis.result_rows import FEW_CHOSE, Row, few_chose, marks, revoked
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
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


SEARCHES = ("beta and rate", "rate")
"""What the two searches of a pair are over."""
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
        for side in (pair.joint, pair.plain):
            tried = [run for t in side.tried for run in _runs(settings, t, seeds)]
            final = _final(settings, side, scores).trials.values() if side.best else ()
            for trial in (*tried, *side.wanted, *final):
                wanted.setdefault(trial.key, trial)
        if pair.plain.best:
            control = controls.positive(_final(settings, pair.plain, scores))
            wanted |= {trial.key: trial for trial in control if trial.key not in wanted}
    return list(wanted.values())


def _final(settings: Settings, found: Search, scores: Scores) -> tuning.Arm:
    """The winner of a search that is over, every seed at the configuration that it is reported at.

    The arm's rates stand for configurations; of two at one rate the better counts.
    """
    best = found.best
    assert best is not None, "checked by the caller"
    full = sorted(_full(found), key=lambda t: (t.scores[-1], t.trial.lr), reverse=True)
    configurations = {t.trial.lr: t for t in full}
    seeds = settings.seed or ()
    tried = {r: tuple(_seeded(settings, t.trial, seeds[: settings.tune_seeds])) for r, t in configurations.items()}
    rate = best.trial.lr
    apart = tuning.cross_fitted(tried, rate, scores)
    trials = {s: _seeded(settings, configurations[apart.get(s, rate)].trial, (s,))[0] for s in seeds}
    means = {r: t.scores[-1] for r, t in configurations.items()}
    return tuning.Arm(
        best.trial, tuple(sorted(means)), means, rate, "tuned", trials, tried, settings.select, bool(apart)
    )


def _full(found: Search) -> list[Tried]:
    """The configurations that were trained for their full length, by every tuning seed."""
    return [t for t in found.tried if t.finished and not t.failed and math.isfinite(t.scores[-1])]


def _runs(settings: Settings, tried: Tried, seeds: Sequence[int]) -> list[Trial]:
    return [run for epochs in tried.epochs for run in _seeded(settings, shortened(tried.trial, epochs), seeds)]


def analyse(settings: Settings, store: Results) -> Analysis:
    """The winner over beta and rate against the winner over the rate at the reference.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    paired = pairs(settings, store.scores(settings.select))
    variants = each.variants(pair.template.family() for pair in paired)
    winners: list[tuning.Arm] = []
    rows, control_rows, verdict, warnings = [], [], [], []  # type: list[Row], list[Row], list[str], list[str]
    trials: list[Row] = []
    others: list[Row] = []
    for pair in paired:
        name = _name(pair.template, variants[pair.template.family()])
        if pair.joint.best is None or pair.plain.best is None:
            warnings.append(f"{_named(name)}: a search is not over, or all of its configurations failed.")
            continue
        gain, arms, control, ran, hangs = _gain(settings, store, pair)
        trials += [name | row for row in ran]
        row = name | gain
        others += [name | one for one in hangs]
        control_rows += [name | {"beta": settings.reference} | one for one in control]
        winners += arms
        rows.append(row)
        verdict += _words(settings, row, len(paired) > 1)
        warnings += _edges(pair, row)
        if row["dropped"]:
            warnings.append(f"{_named(row)}: {row['dropped']} seeds are left out, which diverged at a chosen rate.")
    if settings.limit is not None:
        warnings.insert(
            0, f"Smoke mode: at most {settings.limit} examples of each split. These numbers are not results."
        )
    if any(few_chose(row) for row in rows):
        warnings.append(f"Few seeds: {FEW_CHOSE}, so that no gain is established; give tune_seeds={FEWEST_SEEDS}.")
    collapses = collapse.rows(pd.DataFrame(trials), settings)
    warnings += collapse.warnings(collapses)
    if len(settings.seed or ()) == 1:
        warnings.append("One seed: intervals hold for this one initialization and batch order.")
    tried = [
        _name(pair.template, variants[pair.template.family()]) | row for pair in paired for row in _configurations(pair)
    ]
    control = pd.DataFrame(control_rows)
    return Analysis(
        verdict=(*verdict, *collapse.words(collapses), *controls.words(control))
        if verdict
        else ("There is nothing to compare yet.",),
        tables=_tables(settings, pd.DataFrame(rows), pd.DataFrame(tried), control, pd.DataFrame(others))
        | ({"collapse": collapse.table(pd.DataFrame(collapses), settings)} if collapses else {}),
        warnings=tuple(warnings),
        data={"arms": winners, "pairs": paired, "reference": settings.reference, "limit": settings.limit},
    )


def _name(template: Trial, variant: str | None) -> dict[str, Any]:
    name = {"model": template.model, "objective": template.objective}
    return name | ({"variant": variant} if variant else {})


def _gain(
    settings: Settings, store: Results, pair: Pair
) -> tuple[Row, list[tuning.Arm], list[Row], list[Row], list[Row]]:
    """The winner against the reference's winner, both arms, the controls of the latter, both arms' trials, and the rows
    of `_hangs`."""

    repair = registry.calibrators(("temperature_scaling",))
    measured, row = [], {}  # type: list[Any], Row
    for label, side in (("tuned", pair.joint), ("reference", pair.plain)):
        best = side.best
        assert best is not None, "checked by the caller"
        measured.append(measure_arm(store, _final(settings, side, store.scores(settings.select)), repair))
        row |= {f"{label}_beta": best.trial.beta, f"{label}_rate": best.trial.lr, f"{label}_epochs_spent": side.cost}
    arms = [one.arm for one in measured]
    nested = own_tests(store, arms)
    row |= {"tuning": tuning.together(arms), "nested": nested} | contrast(measured[0], measured[1], nested)
    row |= {"elsewhere": _elsewhere(arms)} | collapse.two_kinds(*measured)
    searched = [{"beta": one.arm.trial.beta, "search": s} for one, s in zip(measured, SEARCHES, strict=True)]
    ran = [about | trial for about, one in zip(searched, measured, strict=True) for trial in each.trials(store, one)]
    return row, arms, controls.both(store, measured[1], repair, nested), ran, _hangs(pair, measured)


def _elsewhere(arms: Sequence[tuning.Arm]) -> str | None:
    """The seeds that are reported at another configuration than the one that all chose."""
    moved = [
        f"seed {seed} at beta={arm.trials[seed].beta:.3g}, {rate:.3g}"
        for arm in arms
        for seed, rate in arm.elsewhere.items()
    ]
    return "; ".join(moved) or None


def _hangs(pair: Pair, measured: Sequence[Measures]) -> list[Row]:
    """What the gain is at the runner-up, and at configurations that might have been chosen, see `choice.rows`."""
    betas = {t.trial.lr: t.trial.beta for t in _full(pair.joint)}
    found = choice.rows(measured[0], measured[1], {"beta": measured[0].arm.trial.beta})
    return [{**row, **({"runner_up_beta": betas[row["runner_up"]]} if "runner_up" in row else {})} for row in found]


def _words(settings: Settings, row: Mapping[str, Any], several: bool) -> list[str]:

    where = f"{_named(row)}: " if several else ""
    head = (
        f"{where}With {Options.of(settings).budget} configurations each, the search over beta and rate chose beta="
        f"{row['tuned_beta']:.3g} and the search at beta={settings.reference:g} its best rate"
    )
    if "log_loss_total" not in row:
        return [f"{head}; no seed has finished at both."]

    def cell(column: str) -> str:
        return estimate(row[column], row[f"{column}_low"], row[f"{column}_high"])

    sentence = (
        f"{head}: test log loss changed by {cell('log_loss_total')} nats, by {cell('log_loss_dyn')} once both are "
        f"temperature scaled, accuracy by {cell('accuracy')} (95% intervals, {row['seeds']} seeds)."
    )
    return [sentence, where + _advice(settings, row)]


def _advice(settings: Settings, row: Mapping[str, Any]) -> str:
    def sign(column: str) -> int:
        return int(row[f"{column}_low"] > 0) - int(row[f"{column}_high"] < 0)

    beta, reference = f"beta={row['tuned_beta']:.3g}", f"beta={settings.reference:g}"
    if why := revoked(row):
        return f"Advice: stay at {reference}; that tuning beta gains anything is not established, since {why}."
    if sign("log_loss_dyn") < 0 or sign("accuracy") > 0:
        return f"Advice: train at {beta}; what it gains, no temperature after training can give."
    if sign("log_loss_dyn") > 0 or sign("accuracy") < 0:
        return f"Advice: stay at {reference}; on the test split the search's choice is worse."
    if sign("log_loss_total") < 0:
        return f"Advice: stay at {reference} and scale the temperature after training; that gives what {beta} gained."
    return f"Advice: stay at {reference}; the data cannot say that tuning beta gains anything."


def _edges(pair: Pair, row: Mapping[str, Any]) -> list[str]:
    messages = []
    for what, value, (low, high) in (
        ("beta", row["tuned_beta"], pair.betas),
        ("rate", row["tuned_rate"], pair.rates),
        ("reference's rate", row["reference_rate"], pair.rates),
    ):
        if value < low * NEAR or value > high / NEAR:
            messages.append(
                f"{_named(row)}: the chosen {what}, {value:.3g}, stands at the edge of {low:.3g} to {high:.3g}."
            )
    return messages


def _named(row: Mapping[str, Any]) -> str:
    return ", ".join(str(row[key]) for key in ("model", "objective", "variant") if row.get(key))


def _configurations(pair: Pair) -> list[dict[str, Any]]:
    rows = []
    for name, side in zip(SEARCHES, (pair.joint, pair.plain), strict=True):
        for order, tried in enumerate(side.tried):
            row = {"search": name, "order": order, "beta": tried.trial.beta, "rate": tried.trial.lr}
            row |= {"unit": tried.trial.lr_unit, "epochs": tried.epochs[-1] if tried.epochs else 0}
            row |= {"score": tried.scores[-1] if tried.scores else math.nan, "chosen": tried is side.best}
            rows.append(row)
    return rows


def _tables(
    settings: Settings, gains: pd.DataFrame, tried: pd.DataFrame, control: pd.DataFrame, others: pd.DataFrame
) -> dict[str, Table]:
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
            f"{smoke}Test split, paired by seed and example, {how}, which count the choice of both configurations "
            "among those trained for their full length, not how the searches came to them. Elsewhere: the seeds "
            "that helped to choose and are reported at the configuration that the other tuning seeds choose "
            f"(cross-fitting, where {FEWEST_SEEDS} or more tune). "
            f"conf is what temperature scaling repairs, dyn what it cannot. Budget "
            f"{Options.of(settings).budget} configurations a search; epochs spent are over all tuning seeds."
            + "".join(f" {text}." for text in marks(gains)),
            paper=True,
        ),
        "gain_brier": Table(
            "The same for the Brier score",
            gains[[c for c in gains if str(c).startswith("brier") or c in ("model", "objective", "seeds")]],
            smoke,
        ),
        **({"choice": _choice(settings, others)} if len(others) else {}),
        "controls": controls.table(control, settings),
        "configurations": Table(
            "Configurations tried",
            tried,
            f"{smoke}{settings.select.replace('_', ' ')} on the selection split, mean over the tuning seeds, at the "
            "longest length that each was trained for; inf: diverged.",
        ),
    }


def _choice(settings: Settings, others: pd.DataFrame) -> Table:
    table = choice.table(others, settings)
    return replace(
        table,
        title="Does the gain hang on the choice of configuration?",
        note=f"{table.note} A rate stands for its configuration, of both searches those trained for their full length.",
    )


def landscape(analysis: Analysis) -> Figure:
    """Every configuration of the joint search in the plane of beta and rate, the chosen ones marked."""
    from matplotlib.colors import LogNorm
    from matplotlib.pyplot import subplots

    paired: Any = analysis.data["pairs"]
    figure, axes = subplots(1, max(1, len(paired)), figsize=(5.2 * max(1, len(paired)), 4.2), squeeze=False)
    for pair, axis in zip(paired, axes[0], strict=False):
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
