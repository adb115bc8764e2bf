"""Does constant-rate SGD behave as a system at a temperature eta0 = rate / ((1 - momentum) batch)?

Theory is of batches drawn independently and of a loss with a minimum: the stationary loss lies (eta0 / 4) E||g_b||^2
above it, whatever batch size and momentum make eta0; a model that fits every label has no heat capacity. The trials are
those of `calib_bench.studies.sgd_temperature.arms`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from calib_bench.analysis.format import estimate
from calib_bench.analysis.result_rows import SOME_COLLAPSED, cell, marks, revoked
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis, Probe, Section, Study, Table
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.dynamics import stationary
from calib_bench.inference import Interval
from calib_bench.planning.tuning import unique
from calib_bench.studies.sgd_temperature import arms, probes, tables
from calib_bench.studies.sgd_temperature import figures as plots
from calib_bench.studies.sgd_temperature.read import Density, read, read_gibbs, read_minimum

if TYPE_CHECKING:
    import pandas as pd


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """Every family's minimum and arms, and the one-parameter model."""
    wanted = [trial for family in arms.families(settings) for trial in family.trials()]
    return unique([*wanted, *(trial for arm in arms.gibbs(settings) for trial in arm.trials)])


def analyse(settings: Settings, store: Results) -> Analysis:
    """Stationary losses against theory.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    results, lost = [], []
    for family in arms.families(settings):
        minimum = read_minimum(store, family)
        if minimum is None:
            lost.append(
                f"{family.minimum.model}, beta={family.minimum.beta:g}: its minimum could not be found, so that "
                "there is nothing to measure its runs from; failures tell why."
            )
            continue
        results.append(tables.Found(family, minimum, [read(store, arm, minimum) for arm in family.arms]))
    densities = [density for arm in arms.gibbs(settings) if (density := read_gibbs(store, arm)) is not None]
    accepted = pd.DataFrame(tables.acceptance(results, densities))
    return Analysis(
        verdict=tuple(sentence for one in results for sentence in _verdict(one, len(results) > 1)) + _gibbs(densities),
        tables=_tables(settings, results, densities, accepted),
        warnings=(*lost, *_warnings(settings, results)),
        data={"found": results, "densities": densities, "limit": settings.limit},
        summary=_summary(results, accepted),
    )


def _summary(results: list[tables.Found], accepted: pd.DataFrame) -> tuple[str, ...]:
    if not len(accepted):
        return ("Nothing that theory gives could be measured.",)
    met = int((accepted["verdict"] == tables.MET).sum())
    sentences = [f"Of {len(accepted)} numbers that theory gives, {met} are met within their tolerance."]
    for one in results:
        measured = tables.slope(one)
        if measured is not None and one.family.convex and one.minimum.converged:
            sentences.append(f"{_slope(one, measured)}")
            break
    return tuple(sentences)


def _slope(one: tables.Found, measured: object) -> str:

    assert isinstance(measured, Interval)
    text = estimate(measured.mean, measured.low, measured.high)
    return (
        f"{one.name['model']}: the stationary loss rises by {text} nats per unit of eta0 at small rates, where the "
        f"heat capacity E||g||^2 / 4 at the minimum is {one.minimum.capacity:.3g}."
    )


def _verdict(one: tables.Found, several: bool) -> list[str]:
    where = f"{one.name['model']}, beta={one.name['beta']:g}: " if several else ""
    if one.minimum.interpolates:
        sentences = [
            f"{where}Theory does not apply: the model fits every training label (loss {one.minimum.loss:.2g} at its "
            "minimum), the gradients of single examples vanish there, and the heat capacity is zero."
        ]
    elif not one.minimum.converged:
        sentences = [
            f"{where}No minimum was reached (gradient norm {one.minimum.gradient:.2g}), so that there is nothing to "
            "measure the excess from: give more weight_decay=."
        ]
    else:
        measured = tables.slope(one)
        sentences = [_slope(one, measured)] if measured is not None else [f"{where}No rate has reached a plateau."]
    shuffled = tables.suppression(one)
    if shuffled and math.isfinite(shuffled[0]):
        sentences.append(
            f"{where}Shuffled epochs, in which each example comes once, are colder than theory's independent batches: "
            f"{shuffled[0]:.2g} of the excess loss at the smallest rate, {shuffled[-1]:.2g} at the largest."
        )
    sentences += [f"{where}{sentence}" for sentence in (*_break(one), *_cooling(one), *_adam(one))]
    return sentences


def _break(one: tables.Found) -> list[str]:
    """Where the collapse over batch sizes ends."""
    grown = [r for r in one.part(arms.BATCHES) if r.arm.trial.momentum == 0]
    base = {r.arm.temperature: r.mean for r in one.part(arms.HEAT)}
    if not grown or one.minimum.interpolates:
        return []
    if any(r.mixed for r in (*grown, *one.part(arms.HEAT))):
        return [f"Where the collapse over batch size ends is not established, since {SOME_COLLAPSED}."]
    hottest = max(r.arm.temperature for r in grown)
    mine = sorted((r for r in grown if r.arm.temperature == hottest), key=lambda r: r.batch)
    broken = [r for r in mine if r.state == "diverged" or abs(r.mean / base[hottest] - 1) > tables.COLLAPSE]
    curvature = one.minimum.noise_curvature
    tenth = stationary.breaking_batch(mine[0].eta0, one.family.arms[0].trial.momentum, curvature)
    seen = (
        f"first seen off by more than 10% at B={broken[0].batch}"
        if broken
        else f"not seen to break up to B={mine[-1].batch}"
    )
    return [f"At eta0={mine[0].eta0:.3g} the collapse over batch size is {seen}; theory gives 10% at B={tenth:.0f}."]


def _cooling(one: tables.Found) -> list[str]:
    sentences = []
    for row in tables.cooling_rows(one):
        cold, again = cell(row, "cold_over_hot"), cell(row, "reheated_over_control")
        low, high = row.get("reheated_over_control_low", math.nan), row.get("reheated_over_control_high", math.nan)
        back = "hysteresis" if low > 1 + tables.REHEATED or high < 1 - tables.REHEATED else "no hysteresis to speak of"
        if not row["stationary"]:
            back = "the time lost in the cold: nothing can be said of hysteresis"
        if why := revoked(row):
            back = f"nothing can be said of hysteresis, since {why}"
        moves = "" if row["stationary"] else ", while runs never cooled go on falling all along"
        sentences.append(
            f"{arms.COLD:g} of the rate at eta0={row['eta0']:.3g} takes the excess loss to {cold} of what it was"
            f"{moves}; with the rate restored it is {again} of that of runs never cooled ({back})."
        )
    return sentences


def _adam(one: tables.Found) -> list[str]:
    spread = tables.rule_spread(one)
    if len(spread) < 2 or not all(math.isfinite(value) for value in spread.values()):
        return []
    if why := next((why for row in tables.adam_rows(one) if (why := revoked(row))), ""):
        return [f"Which rule Adam's stationary loss follows over batch sizes is not established, since {why}."]
    better = min(spread, key=lambda rule: spread[rule])
    return [
        f"Adam's stationary loss follows the {better} rule over batch sizes: log excess moves by "
        f"{spread['square root']:.2f} (root mean square) under the square-root rule and by {spread['linear']:.2f} "
        "under the linear one."
    ]


def _gibbs(densities: list[Density]) -> tuple[str, ...]:
    if not densities:
        return ()
    near = [f"{one.fit.distance:.3f} at eta0={one.eta0:g} (chance {one.fit.noise:.3f})" for one in densities]
    return (f"One parameter: total variation distance of the histogram from exp(-2L / (eta0 s2)): {', '.join(near)}.",)


def _warnings(settings: Settings, results: list[tables.Found]) -> tuple[str, ...]:
    messages = []
    if settings.limit is not None:
        messages.append(f"Smoke mode: at most {settings.limit} examples of each split. These numbers are not results.")
    if len(settings.seed or ()) == 1:
        messages.append("One seed: there are no intervals over seeds.")
    for one in results:
        settling = [r for r in one.readings if r.arm.part not in (arms.COOLED, arms.UNCOOLED)]
        unsettled = [r for r in settling if r.state == stationary.DRIFTS]
        lost = [r for r in settling if r.state == "diverged"]
        short = [r for r in settling if r.state == "too short"]
        failed = [r for r in settling if r.state == "failed"]
        kinds = [(unsettled, "still drift"), (lost, "diverged"), (failed, "failed"), (short, "are too short to judge")]
        kinds += [([r for r in settling if r.mixed], "have some seeds that collapsed and some that did not")]
        for affected, what in kinds:
            if affected:
                named = ", ".join(f"{r.arm.part} B={r.batch} eta0={r.eta0:.3g}" for r in affected[:4])
                more = ", ..." if len(affected) > 4 else ""
                messages.append(f"{one.name['model']}: {len(affected)} of {len(settling)} arms {what} ({named}{more}).")
    return tuple(messages)


def _tables(
    settings: Settings, results: list[tables.Found], densities: list[Density], accepted: pd.DataFrame
) -> dict[str, Table]:
    import pandas as pd

    smoke = f"SMOKE RUN, limit={settings.limit}, not a result. " if settings.limit is not None else ""
    over = f"{smoke}95% t intervals over {len(settings.seed or ())} seeds. "
    held = "The mean over the second half of each run of the objective of all training examples, less the minimum's. "

    def rows(*parts: str) -> pd.DataFrame:
        return pd.DataFrame([row for one in results for row in tables.stationary_rows(one, *parts)])

    def told(frame: pd.DataFrame) -> str:
        return "".join(f" {text}." for text in marks(frame))

    every = {
        "acceptance": Table(
            "What theory claims and what was measured", accepted,
            f"{over}A claim is met when the measured value, not its interval, is within the tolerance (relative, but "
            f"for distances); undecided where seeds of two kinds made it.{told(accepted)}", paper=True,
            names=("model", "claim"),
        ),
        "minima": Table(
            "Minima of the training objective", pd.DataFrame([tables.minimum_row(one) for one in results]),
            f"{smoke}By L-BFGS in float64. mean_square is E||g_b||^2 over single examples, weight decay's gradient "
            "included; capacity is a quarter of it; noise_curvature is tr(CH) / tr(C).",
        ),
        "heat": Table(
            "Excess loss over eta0", heat := rows(arms.HEAT, arms.SHUFFLED),
            f"{over}{held}theory is capacity times eta0; theory_finite_rate divides it by 1 - rate "
            f"noise_curvature / (2 (1 + momentum)). ratio is excess over theory.{told(heat)}", paper=True,
        ),
        "collapse": Table(
            "Excess loss over batch size and momentum at equal eta0", same := rows(arms.BATCHES, arms.MOMENTA),
            f"{over}{held}{told(same)}",
        ),
        "cooling": Table(
            "The rate lowered for a third of the run and restored",
            cooling := pd.DataFrame([row for one in results for row in tables.cooling_rows(one)]),
            f"{over}Excess loss in the second half of each third; control: the last third of runs with the same "
            f"batches at the unchanged rate; stationary: whether those had settled before.{told(cooling)}",
        ),
        "adam": Table(
            "Adam over batch sizes", adam := pd.DataFrame([row for one in results for row in tables.adam_rows(one)]),
            f"{over}{held}relative is to the first batch size at the same rate_at_first (Malladi et al., 2022)."
            f"{told(adam)}",
        ),
        "gibbs": Table(
            "The one-parameter model", pd.DataFrame(tables.gibbs_rows(densities)),
            f"{smoke}Total variation distance between the histogram of the parameter and its Gibbs density, in 20 bins "
            "of equal probability; chance is what as many samples would give; the normal is that of the minimum's "
            "curvature.",
        ),
    }  # fmt: skip
    return {name: table for name, table in every.items() if len(table.frame)}


STUDY = Study(
    question="Is the rate over the batch size a temperature: does it alone set the loss at which SGD settles?",
    plan=plan,
    analyse=analyse,
    figures={
        "heat": plots.heat,
        "collapse": plots.collapse,
        "cooling": plots.cooling,
        "adam": plots.adam,
        "gibbs": plots.gibbs,
    },
    defaults={
        "model": ("linear", "mlp_32"),
        "beta": (1.0,),
        "objective": (CROSS_ENTROPY,),
        "optimizer": ("sgd", "adam"),
        "lr": (0.016, 0.032, 0.064, 0.128),
        "momentum": (0.0, 0.5, 0.9),
        "batch": (4, 1, 16, 64),
        "epochs": (240,),
        "schedule": ("constant",),
        "warmup": (0.0,),
        "label_noise": (0.2,),
        "sampling": ("independent",),
        "seed": (0, 1, 2, 3),
    },
    sections=(
        Section(
            "Against theory",
            ("acceptance", "minima"),
            "Known answers play the part of controls. What must change nothing: another batch size or momentum at "
            "equal eta0, a rate lowered and restored. What must move, and by how much: the loss with eta0, by the heat "
            "capacity of the minimum; the loss of a cooled run; the density of the one-parameter model.",
        ),
        Section("Heat capacity", ("heat",), "The loss at which SGD settles, over eta0."),
        Section("One temperature", ("collapse", "adam"), "The same eta0 by other batch sizes, momenta, and in Adam."),
        Section("Cooling and reheating", ("cooling",)),
        Section("The Gibbs density", ("gibbs",)),
    ),
    references=("mandt2017", "yaida2018", "malladi2022"),
    probes={
        "whole": Probe(columns=probes.whole),
        "minimum": Probe(arrays=probes.minimum),
        "logit": Probe(columns=probes.logit, arrays=probes.first_half),
    },
)
