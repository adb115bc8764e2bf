"""How much of what training at inverse temperature beta changes is confidence, and how much is learning dynamics?

Every arm is compared with the reference of its family; the modules beside this one have its parts, and those of
`calib_bench.analysis` what it shares with other studies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import best_beta, choice, collapse, controls, interventions, measure
from calib_bench.analysis import seed_spread as seeds
from calib_bench.analysis.contrast import contrast, is_reference
from calib_bench.analysis.measure import Measures, own_tests
from calib_bench.analysis.result_rows import TRAINED, Row, adjusted, drop_single_seed_intervals
from calib_bench.analysis.warnings import untrained as untrained_words
from calib_bench.analysis.warnings import warnings
from calib_bench.core.baseline import Calibrator
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.planning import tuning
from calib_bench.planning.tuning import Arm
from calib_bench.studies.separation import arm_figures, equal_confidence, factorial, figures, page, refinement
from calib_bench.studies.separation.findings import verdict
from calib_bench.studies.separation.summary import summary
from calib_bench.studies.separation.tables import bins, tables

if TYPE_CHECKING:
    import pandas as pd


REPAIR = ("temperature_scaling",)
FRAMES = (
    "separation", "matched", "interventions", "two_by_two", "controls", "refinement", "seeds", "best_beta", "gain",
    "factorial", "factorial_tests", "baselines", "rates", "choice", "intervention_rates", "trials",
)  # fmt: skip


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """The grid and its interventions, tuned, all seeds at the chosen rates, and the controls of each family."""
    wanted: list[Trial] = []
    for family in tuning.tuned(settings, scores, interventions.more(settings)):
        wanted += family.trials()
        wanted += controls.trials(settings, family.arms)
    return tuning.unique(wanted)


@dataclass
class _Study:
    """What is read along the way: the rows of every table, and what figures and W&B want."""

    settings: Settings
    store: Results
    calibrators: Mapping[str, Calibrator]
    nested: bool
    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in FRAMES})
    points: list[Row] = field(default_factory=list)
    moves: factorial.Moves = field(default_factory=dict)
    seeds: list[seeds.Seeds] = field(default_factory=list)
    curves: list[best_beta.Curve] = field(default_factory=list)
    reliability: list[pd.DataFrame] = field(default_factory=list)
    measurements: list[pd.DataFrame] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    cautions: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    arms: list[Arm] = field(default_factory=list)
    begun: dict[int, Callable[[], Measures]] = field(default_factory=dict)
    risks: dict[int, Iterator[refinement.Risks]] = field(default_factory=dict)

    def begin(self, arm: Arm, everything: bool = True) -> None:
        """Has the arm ready for others to go on with: under every calibrator, or temperature scaling alone.

        Arms under every calibrator are cross-validated too, where a choice among families is asked for.
        """

        chosen = self.calibrators if everything else {name: self.calibrators[name] for name in REPAIR}
        self.begun[id(arm)] = measure.begun(self.store, arm, chosen)
        if everything and (arm.trial.objective == CROSS_ENTROPY or arm.trial.beta == self.settings.reference):
            self.risks[id(arm)] = refinement.begun(self.store, arm, self.calibrators)

    def measure(self, arm: Arm, everything: bool = True) -> Measures:
        """The arm under every calibrator, or after temperature scaling alone."""
        if id(arm) not in self.begun:
            self.begin(arm, everything)
        measures = self.begun.pop(id(arm))()
        self.measurements.append(measures.frame)
        self.refused |= {name: reason for name, reason in measures.refused.items() if name not in self.refused}
        self.cautions = {**measures.cautions, **self.cautions}
        self.arms.append(arm)
        return measures


def analyse(settings: Settings, store: Results) -> Analysis:
    """Every arm against the reference of its family.

    One arm's scores under every calibrator are in memory at a time, and a few arms' before and after temperature
    scaling.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    families = tuning.tuned(settings, store.scores(settings.select), interventions.more(settings))
    grid_trials = set(tuning.templates(settings))
    arms = [arm for family in families for arm in family.arms]
    grid, extra = ([arm for arm in arms if (arm.trial in grid_trials) == in_grid] for in_grid in (True, False))
    calibrators = registry.calibrators(REPAIR) | registry.calibrators(settings.calibrator)
    study = _Study(settings, store, calibrators, own_tests(store, arms))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    for family in families:
        _family(study, family.arms, variants[family.arms[0].trial.family()])
    study.rows["factorial"] = factorial.rows(study.points, study.moves)
    study.rows["factorial_tests"] = factorial.tests(study.points)
    study.rows["best_beta"] = best_beta.rows(study.curves)
    study.rows["gain"] = seeds.gain(study.seeds, settings.reference, study.nested)
    frames = {name: drop_single_seed_intervals(pd.DataFrame(rows), settings) for name, rows in study.rows.items()}
    frames["separation"] = adjusted(frames["separation"])
    if len(frames["best_beta"]):
        frames["best_beta"] = adjusted(frames["best_beta"], "result")
    interventions.adjust(frames)
    collapse.mark(frames, settings)
    collected = {"reliability": study.reliability, "measurements": study.measurements}
    data: dict[str, Any] = {
        name: pd.concat(parts, ignore_index=True) if parts else pd.DataFrame() for name, parts in collected.items()
    }
    untrained = untrained_words(arms)
    return Analysis(
        verdict=(*untrained, *verdict(settings, frames)),
        tables=tables(settings, frames, study.nested) | bins(settings, data["reliability"]),
        warnings=(
            *warnings(settings, grid, extra, frames, study.refused, store.provenance()),
            *choice.words(frames["choice"], frames["separation"]),
            *(f"{method}: {caution}." for method, caution in study.cautions.items()),
            *study.left_out,
        ),
        data=data | {"arms": study.arms, "reference": settings.reference, "limit": settings.limit},
        summary=(*untrained, *summary(settings, frames)),
    )


def _family(study: _Study, arms: list[Arm], variant: str | None) -> None:
    """Reads a family: the reference, every arm of the grid against it, interventions, controls."""
    parts = interventions.parts(study.settings, (arm.trial for arm in arms))
    grid, parted = arms[: len(arms) - len(parts)], arms[len(arms) - len(parts) :]
    names = [each.named(arm, variant) for arm in grid]
    references = [arm for name, arm in zip(names, grid, strict=True) if is_reference(name, study.settings)]
    for arm in [*references[:1], *(arm for arm in grid if arm not in references)]:
        study.begin(arm)
    reference = study.measure(references[0]) if references else None
    base = _read(study, each.named(references[0], variant), reference, reference) if references and reference else None
    by_beta = {}
    for name, arm in zip(names, grid, strict=True):
        if arm in references:
            continue
        measures = study.measure(arm)
        study.rows["separation"].append({**name, **contrast(measures, reference, study.nested)})
        study.rows["choice"] += choice.rows(measures, reference, name)
        _read(study, name, measures, reference, base)
        if arm.trial.objective == CROSS_ENTROPY:
            by_beta[arm.trial.beta] = _light(measures)
    light = _light(reference) if reference is not None else None
    study.curves += _curves(
        study, grid, variant, by_beta if light is None else {**by_beta, light.arm.trial.beta: light}
    )
    if light is None:
        return
    for beta in sorted({part.beta for part in parts}):
        mine = {part.kind: arm for part, arm in zip(parts, parted, strict=True) if part.beta == beta}
        _intervene(study, variant, beta, by_beta[beta], mine, light)
    _control(study, grid, each.named(references[0], variant), light, by_beta)


def _read(
    study: _Study,
    name: Row,
    measures: Measures,
    reference: Measures | None,
    base: tuple[refinement.Refined, seeds.Seeds] | None = None,
) -> tuple[refinement.Refined, seeds.Seeds]:
    """The rows of one arm in every table; what others of its family are compared with, if it is the reference."""
    store, settings, nested = study.store, study.settings, study.nested
    refined = refinement.refine(measures, study.risks.pop(id(measures.arm), None))
    sown = seeds.read(measures, store, settings, name)
    rows: dict[str, list[Row]] = {
        "baselines": each.methods(measures, nested),
        "trials": each.trials(store, measures),
        "rates": each.rates(measures.arm, measures.redrawn_choice),
    }
    for table, table_rows in rows.items():
        study.rows[table] += [{**name, **row} for row in table_rows]
    study.rows["refinement"] += refinement.rows(base[0] if base else None, refined, name, nested)
    study.rows["seeds"] += seeds.rows(base[1] if base else None, sown)
    study.points += factorial.points(measures, name)
    study.moves |= factorial.moves(measures, name)
    if reference is not None:
        matched = equal_confidence.compare(reference, measures, store)
        study.rows["matched"] += equal_confidence.rows_of(matched, name, nested) if measures is not reference else []
        study.points += equal_confidence.points(matched, name)
    study.seeds.append(sown)
    if len(measures.reliability):
        study.reliability.append(measures.reliability.assign(**name))
    return refined, sown


def _curves(
    study: _Study, grid: Sequence[Arm], variant: str | None, by_beta: Mapping[float, Measures]
) -> list[best_beta.Curve]:
    """The family's results over beta, trained with cross-entropy, of the betas at which every seed finished."""
    seeds = list(study.settings.seed or ())
    name = {"model": grid[0].trial.model, "variant": variant, "objective": CROSS_ENTROPY}
    name["tuning"] = tuning.together(one.arm for one in by_beta.values())
    if not grid[0].trial.epochs:  # nothing was learned
        return []
    full = {beta: best_beta.results(one) for beta, one in by_beta.items() if list(one.seeds) == seeds}
    if len(by_beta) >= best_beta.FEWEST:
        study.left_out += best_beta.left_out(str(name["model"]), [b for b in by_beta if b not in full], len(full))
    name |= next((kinds for beta in full if (kinds := collapse.two_kinds(by_beta[beta]))), {})
    choices, fits = ({beta: of(by_beta[beta]) for beta in full} for of in (best_beta.moves, best_beta.refits))
    return best_beta.curves(name, full, study.nested, choices, fits)


def _light(measures: Measures) -> Measures:
    """Only what comparisons need: scores before and after temperature scaling."""
    kept = {method: scores for method, scores in measures.examples.items() if method in ("raw", *REPAIR)}
    return replace(measures, examples=kept)


def _intervene(
    study: _Study, variant: str | None, beta: float, trained: Measures, arms: Mapping[str, Arm], reference: Measures
) -> None:
    """The interventions at one beta, beside training at it."""
    by_kind = {TRAINED: trained, **{kind: study.measure(arm, False) for kind, arm in arms.items()}}
    names = {kind: {**each.named(measures.arm, variant), "beta": beta} for kind, measures in by_kind.items()}
    study.rows["interventions"] += interventions.rows(by_kind, reference, names, study.nested)
    name = {key: names[TRAINED][key] for key in ("model", "variant", "beta")}
    study.rows["two_by_two"] += interventions.two_by_two(by_kind, reference, name, study.nested)
    for kind, arm in arms.items():
        about = {**names[kind], "intervention": kind}
        study.rows["intervention_rates"] += [{**about, **row} for row in each.rates(arm, by_kind[kind].redrawn_choice)]
        study.rows["trials"] += [{**about, **row} for row in each.trials(study.store, by_kind[kind])]


def _control(study: _Study, grid: list[Arm], name: Row, reference: Measures, by_beta: Mapping[float, Measures]) -> None:
    """The negative control, the positive one and, where there are interventions, the identity they rest on."""
    rows = study.rows["controls"]
    repair = {name: study.calibrators[name] for name in REPAIR}
    rows.append({**name, **controls.rescaled(study.store, reference.arm, repair, reference, study.nested)})
    rows += [{**name, **row} for row in controls.left_out(reference.arm)]
    short = controls.undertrained(study.settings, grid)
    if short is not None:
        measures = study.measure(short, False)
        rows.append({**name, **controls.weaker(measures, reference, study.nested)})
        about = {**name, "intervention": controls.UNDERTRAINED}
        study.rows["trials"] += [{**about, **row} for row in each.trials(study.store, measures)]
    pair = controls.identity(study.settings, grid)
    if pair is not None:
        beta = pair[0].trial.beta
        measures = study.measure(pair[1], False)
        rows.append({**name, "beta": beta, **controls.same(measures, by_beta[beta], study.nested)})
        about = {**name, "beta": beta, "intervention": controls.IDENTITY}
        study.rows["trials"] += [{**about, **row} for row in each.trials(study.store, measures)]


STUDY = Study(
    question=(
        "When a model is trained at softmax inverse temperature beta, how much of what changes is confidence, which "
        "temperature scaling could repair, and how much is learning dynamics, which nothing after training can?"
    ),
    plan=plan,
    analyse=analyse,
    figures={
        "over_beta": arm_figures.over_beta,
        "separation": arm_figures.separation,
        "interventions": figures.interventions,
        "reliability": arm_figures.reliability,
        "learning_rates": arm_figures.learning_rates,
    },
    sections=page.SECTIONS,
    details=page.details,
    references=("agarwala2023temperature", "guo2017", "berta2025", "satterthwaite1946", "holm1979", "fieller1954"),
)
