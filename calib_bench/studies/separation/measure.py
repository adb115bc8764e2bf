"""What the study of separation reads of each family: every arm against the reference, interventions, controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from calib_bench.analysis import arms as each
from calib_bench.analysis import best_beta, choice, collapse, controls, interventions, measure
from calib_bench.analysis import seed_spread as seeds
from calib_bench.analysis.contrast import contrast, is_reference
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.result_rows import TRAINED, Row
from calib_bench.core.baseline import Calibrator
from calib_bench.core.results import Results
from calib_bench.core.settings import Grid
from calib_bench.core.trial import CROSS_ENTROPY
from calib_bench.planning import tuning
from calib_bench.planning.tuning import Arm
from calib_bench.studies.separation import (
    comparisons,
    decisions,
    ensembles,
    equal_confidence,
    factorial,
    literature,
    over_time,
    refinement,
    reversals,
    shift,
    warm_up,
)

REPAIR = ("temperature_scaling",)
FRAMES = (
    "separation", "matched", "interventions", "two_by_two", "controls", "refinement", "seeds", "best_beta", "gain",
    "factorial", "factorial_tests", "decisions", "comparisons", "baselines", "rates", "choice", "intervention_rates",
    "trials", "over_time", "best_epochs", "shift", "shift_methods", "shift_corruptions", "shift_controls",
    "head_start", "warm_up", "ensembles", "reversals", "repaired_sets", "literature",
)  # fmt: skip


@dataclass
class Reader:
    """What is read along the way: the rows of every table, and what figures and W&B want."""

    grid: Grid
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
    ensembles: list[ensembles.Ensemble] = field(default_factory=list)
    by_warmup: warm_up.ByWarmUp = field(default_factory=warm_up.ByWarmUp)
    begun: dict[int, Callable[[], Measures]] = field(default_factory=dict)
    risks: dict[int, Iterator[refinement.Risks]] = field(default_factory=dict)

    def begin(self, arm: Arm, everything: bool = True) -> None:
        """Has the arm ready for others to go on with: under every calibrator, or temperature scaling alone.

        Arms under every calibrator are cross-validated too, where a choice among families is asked for.
        """
        chosen = self.calibrators if everything else {name: self.calibrators[name] for name in REPAIR}
        self.begun[id(arm)] = measure.begun(self.store, arm, chosen)
        if everything and (arm.trial.objective == CROSS_ENTROPY or arm.trial.beta == self.grid.reference):
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

    def read_shifted(self, arms: Sequence[Arm], variant: str | None) -> None:
        """Reads a family's arms of the grid on shifted test data."""
        rows = shift.family_rows(self.grid, self.store, arms, variant, self.nested, self.calibrators)
        for table, table_rows in rows.items():
            self.rows[table] += table_rows


def read_family(study: Reader, arms: list[Arm], variant: str | None) -> None:
    """Reads a family: the reference, every arm of the grid against it, interventions, controls; then its ensembles."""
    _read_family(study, arms, variant)
    study.rows["reversals"] += reversals.rows(study.ensembles)
    study.ensembles.clear()


def _read_family(study: Reader, arms: list[Arm], variant: str | None) -> None:
    parts = interventions.parts(study.grid, (arm.trial for arm in arms))
    grid_arms, part_arms = arms[: len(arms) - len(parts)], arms[len(arms) - len(parts) :]
    named_arms = [(each.named(arm, variant), arm) for arm in grid_arms]
    references = [arm for name, arm in named_arms if is_reference(name, study.grid)]
    others = [(name, arm) for name, arm in named_arms if arm not in references]
    for arm in [*references[:1], *(arm for _, arm in others)]:
        study.begin(arm)
    if not references:
        _note_family(study, grid_arms, variant, _read_arms(study, others, None, None))
        return
    reference_name = each.named(references[0], variant)
    reference = study.measure(references[0])
    base = _read(study, reference_name, reference, reference)
    by_beta = _read_arms(study, others, reference, base)
    light = reference.light()
    _note_family(study, grid_arms, variant, {**by_beta, light.arm.trial.beta: light})
    by_place: dict[float, dict[str, Arm]] = {}
    for part, arm in zip(parts, part_arms, strict=True):
        by_place.setdefault(part.beta, {})[part.kind] = arm
    for beta, kinds in sorted(by_place.items()):
        _intervene(study, variant, beta, by_beta[beta], kinds, light)
    _control(study, grid_arms, reference_name, light, by_beta)


def _note_family(study: Reader, grid_arms: list[Arm], variant: str | None, by_beta: Mapping[float, Measures]) -> None:
    """What is shown of all betas together: their training curves, and what warm-up changes."""
    study.by_warmup.add(study.grid, by_beta)
    study.curves += _curves(study, grid_arms, variant, by_beta)


def _read_arms(
    study: Reader,
    named_arms: Sequence[tuple[Row, Arm]],
    reference: Measures | None,
    base: tuple[refinement.Refined, seeds.Seeds] | None,
) -> dict[float, Measures]:
    """Reads every arm beside the reference; what interventions are compared with, by beta, of cross-entropy's."""
    by_beta = {}
    reference_trajectory = comparisons.read(study.store, reference) if reference else None
    for name, arm in named_arms:
        measures = study.measure(arm)
        difference = contrast(measures, reference, study.nested)
        study.rows["separation"].append({**name, **difference})
        trajectory = comparisons.read(study.store, measures) if reference_trajectory else None
        study.rows["comparisons"] += comparisons.rows(
            study.store, trajectory, reference_trajectory, difference, name, study.nested
        )
        study.rows["decisions"] += decisions.rows(measures, reference, name, study.nested)
        study.rows["choice"] += choice.rows(measures, reference, name)
        _read(study, name, measures, reference, base)
        if arm.trial.objective == CROSS_ENTROPY:
            by_beta[arm.trial.beta] = measures.light()
    return by_beta


def _read(
    study: Reader,
    name: Row,
    measures: Measures,
    reference: Measures | None,
    base: tuple[refinement.Refined, seeds.Seeds] | None = None,
) -> tuple[refinement.Refined, seeds.Seeds]:
    """The rows of one arm in every table; what others of its family are compared with, if it is the reference."""
    store, grid, nested = study.store, study.grid, study.nested
    refined = refinement.refine(measures, study.risks.pop(id(measures.arm), None))
    sown = seeds.read(measures, store, grid, name)
    rows: dict[str, list[Row]] = {
        "baselines": each.methods(measures, nested),
        "trials": each.trials(store, measures),
        "rates": each.rates(measures.arm, measures.redrawn_choice),
    }
    for table, table_rows in rows.items():
        study.rows[table] += [{**name, **row} for row in table_rows]
    study.rows["refinement"] += refinement.rows(base[0] if base else None, refined, name, nested)
    study.rows["seeds"] += seeds.rows(base[1] if base else None, sown)
    study.rows["repaired_sets"] += literature.set_rows(measures, grid, name, nested)
    study.points += factorial.points(measures, name)
    study.moves |= factorial.moves(measures, name)
    if reference is not None:
        matched = equal_confidence.compare(reference, measures, store)
        study.rows["matched"] += equal_confidence.rows_of(matched, name, nested) if measures is not reference else []
        study.points += equal_confidence.points(matched, name)
    study.seeds.append(sown)
    _read_where_stored(study, name, measures)
    return refined, sown


def _read_where_stored(study: Reader, name: Row, measures: Measures) -> None:
    """What only some runs hold of an arm: its predictions over time, an ensemble of its seeds, bins."""
    if (in_time := over_time.rows(study.store, measures, name)) is not None:
        study.rows["over_time"] += in_time[0]
        study.rows["best_epochs"] += in_time[1]
    elif over_time.LACKING not in study.left_out:
        study.left_out.append(over_time.LACKING)
    ensemble = ensembles.read(study.store, measures, name, study.nested)
    if ensemble is not None:
        study.rows["ensembles"] += ensembles.rows(ensemble)
        study.ensembles.append(ensembles.light(ensemble))
    if len(measures.reliability):
        study.reliability.append(measures.reliability.assign(**name))


def _curves(
    study: Reader, grid_arms: Sequence[Arm], variant: str | None, by_beta: Mapping[float, Measures]
) -> list[best_beta.Curve]:
    """The family's results over beta, trained with cross-entropy, of the betas at which every seed finished."""
    model = grid_arms[0].trial.model
    if not grid_arms[0].trial.epochs:  # nothing was learned
        return []
    full = {beta: measures for beta, measures in by_beta.items() if measures.seeds == study.grid.seed}
    if len(by_beta) >= best_beta.FEWEST:
        study.left_out += best_beta.left_out(model, [beta for beta in by_beta if beta not in full], len(full))
    name: Row = {"model": model, "variant": variant, "objective": CROSS_ENTROPY}
    name["tuning"] = tuning.together(one.arm for one in by_beta.values())
    name |= next(filter(None, map(collapse.two_kinds, full.values())), {})
    results, choices, fits = (
        {beta: of(measures) for beta, measures in full.items()}
        for of in (best_beta.results, best_beta.moves, best_beta.refits)
    )
    return best_beta.curves(name, results, study.nested, choices, fits)


def _intervene(
    study: Reader, variant: str | None, beta: float, trained: Measures, arms: Mapping[str, Arm], reference: Measures
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


def _control(
    study: Reader, grid_arms: list[Arm], name: Row, reference: Measures, by_beta: Mapping[float, Measures]
) -> None:
    """The negative control, the positive one and, where there are interventions, the identity they rest on."""
    rows = study.rows["controls"]
    repair = {name: study.calibrators[name] for name in REPAIR}
    rows.append({**name, **controls.rescaled(study.store, reference.arm, repair, reference, study.nested)})
    rows += [{**name, **row} for row in controls.left_out(reference.arm)]
    short = controls.undertrained(study.grid, grid_arms)
    if short is not None:
        measures = study.measure(short, False)
        rows.append({**name, **controls.weaker(measures, reference, study.nested)})
        about = {**name, "intervention": controls.UNDERTRAINED}
        study.rows["trials"] += [{**about, **row} for row in each.trials(study.store, measures)]
    pair = controls.identity(study.grid, grid_arms)
    if pair is not None:
        beta = pair[0].trial.beta
        measures = study.measure(pair[1], False)
        rows.append({**name, "beta": beta, **controls.same(measures, by_beta[beta], study.nested)})
        about = {**name, "beta": beta, "intervention": controls.IDENTITY}
        study.rows["trials"] += [{**about, **row} for row in each.trials(study.store, measures)]
