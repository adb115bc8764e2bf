"""Does generalization depend strongly on beta and only weakly on the magnitude of the initial logits?

Two designs that move ||Z0|| = beta ||z0|| apart from beta (Agarwala et al., 2023, arXiv 2010.07344): correlated
initialization, the plane beta x ||Z0||; and the 2x2 of head rate and initial head, the two factors that beta is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import controls, interventions
from calib_bench.analysis.measure import Measures, measure_arm, own_tests
from calib_bench.analysis.result_rows import Row, adjusted, drop_single_seed_intervals
from calib_bench.analysis.trial_predictions import REPAIRED
from calib_bench.analysis.warnings import warnings
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis, Section, Study
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning import tuning
from calib_bench.planning.tuning import Arm, More
from calib_bench.studies.logit_magnitude import figures, findings
from calib_bench.studies.logit_magnitude import plane as magnitude

if TYPE_CHECKING:
    import pandas as pd


FACTORS = (interventions.RATE, interventions.MAGNITUDE)
FRAMES = ("plane", "contrasts", "shares", "two_by_two", "controls", "rates", "trials")


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """The model alone and its pairs over beta, and either factor alone: one family, tuned on the same rates; controls.

    Raises:
        SettingsError: nothing would be trained, or there is one correlation only.
    """
    _check(settings)
    return controls.plan(_alone(settings), scores, _more(settings))


def _check(settings: Settings) -> None:
    for space in (settings.spaces or {}).values():
        if 0 in space["epochs"]:
            raise SettingsError("study=logit_magnitude trains what it compares: give epochs=1 or more")
        if len(space["correlation"]) < 2:
            raise SettingsError("study=logit_magnitude compares correlations: give two or more, correlation=-1,0,1")


def _alone(settings: Settings) -> Settings:
    """Settings whose grid is that of the models alone, the 2x2 asked for."""
    spaces = {model: space | {"correlation": (None,)} for model, space in (settings.spaces or {}).items()}
    return settings.model_copy(update={"spaces": spaces, "interventions": "yes"})


def _more(settings: Settings) -> More:
    """The pairs of a family, grid after grid, then its factors alone."""

    def more(grid: list[Trial]) -> list[Trial]:
        correlations = (settings.spaces or {})[grid[0].model]["correlation"]
        pairs = [one.model_copy(update={"correlation": c}) for c in correlations for one in grid]
        return pairs + [part.template for part in _factors(settings, grid)]

    return more


def _factors(settings: Settings, grid: list[Trial]) -> list[interventions.Part]:
    all_parts = interventions.parts(_alone(settings), grid)
    return [part for part in all_parts if part.kind in FACTORS]


@dataclass
class _Reader:
    """What is read along the way."""

    settings: Settings
    store: Results
    nested: bool
    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in FRAMES})
    measurements: list[pd.DataFrame] = field(default_factory=list)

    def measure(self, arm: Arm, name: Row) -> Measures:
        """The arm before and after temperature scaling; its rates and trials go to their tables."""

        measures = measure_arm(self.store, arm, registry.calibrators((REPAIRED,)))
        self.rows["rates"] += [{**name, **row} for row in each.rates(arm, measures.redrawn_choice)]
        self.rows["trials"] += [{**name, **row} for row in each.trials(self.store, measures)]
        self.measurements.append(measures.frame)
        return measures

    def cell(self, arm: Arm, name: Row) -> magnitude.Cell:
        """The arm in the plane, its initial magnitude read from what its trials recorded before their first update."""
        correlation = arm.trial.correlation
        about = {} if correlation is None else {"intervention": f"correlation={correlation:g}"}
        measures = self.measure(arm, {**name, **about})
        trials = {seed: arm.trials[seed] for seed in measures.seeds}
        norms = {seed: float(self.store.history(trial)["logit_norm"].iloc[0]) for seed, trial in trials.items()}
        return magnitude.Cell(arm.trial.beta, correlation, measures, norms)


def analyse(settings: Settings, store: Results) -> Analysis:
    """Every plane and 2x2.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    families = tuning.tuned(_alone(settings), store.scores(settings.select), _more(settings))
    arms = [arm for family in families for arm in family.arms]
    reader = _Reader(settings, store, own_tests(store, arms))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    for family in families:
        variant = variants[family.arms[0].trial.family()]
        _family(reader, family.arms, variant)
        reader.rows["controls"] += controls.read(settings, store, family.arms, variant, reader.nested)
    frames = {name: drop_single_seed_intervals(pd.DataFrame(rows), settings) for name, rows in reader.rows.items()}
    for name, by in (
        ("plane", ()),
        ("contrasts", ("moves",)),
        ("shares", ("other", "metric")),
        ("two_by_two", ("metric",)),
    ):
        if len(frames[name]):
            frames[name] = adjusted(frames[name], *by)
    grid = [arm for family in families for arm in family.arms if _of_grid(arm.trial, family.arms[0].trial)]
    extra = [arm for arm in arms if arm not in grid]
    verdict = findings.verdict(frames, settings)
    return Analysis(
        verdict=(*verdict, *controls.told(frames["controls"])),
        tables=findings.tables(frames, settings),
        warnings=warnings(_alone(settings), grid, extra, frames, {}, store.provenance()),
        data={
            "arms": arms,
            "measurements": pd.concat(reader.measurements, ignore_index=True) if reader.measurements else None,
            "reference": settings.reference,
            "limit": settings.limit,
        },
        summary=(*verdict[:2], *controls.outcome(frames["controls"])),
    )


def _family(reader: _Reader, arms: list[Arm], variant: str | None) -> None:
    """The planes of a family, one an objective, and the 2x2 of cross-entropy."""
    parts = _factors(reader.settings, [arm.trial for arm in arms if _of_grid(arm.trial, arms[0].trial)])
    plane, parted = arms[: len(arms) - len(parts)], arms[len(arms) - len(parts) :]
    alone: dict[float, Measures] = {}
    for objective in dict.fromkeys(arm.trial.objective for arm in plane):
        mine = [arm for arm in plane if arm.trial.objective == objective]
        names = [each.named(arm, variant) for arm in mine]
        cells = [reader.cell(arm, name) for arm, name in zip(mine, names, strict=True)]
        about = {key: names[0][key] for key in ("model", "variant", "objective")}
        rows = reader.rows
        base = next((c for c in cells if c.correlation is None and c.beta == reader.settings.reference), None)
        rows["plane"] += [{**n, **magnitude.row(c, base, reader.nested)} for n, c in zip(names, cells, strict=True)]
        contrast_rows = magnitude.contrasts(cells, reader.settings.reference, reader.nested)
        rows["contrasts"] += [{**about, **row} for row in contrast_rows]
        rows["shares"] += [{**about, **row} for row in magnitude.plane_shares(cells)]
        if objective == CROSS_ENTROPY:
            alone = {cell.beta: cell.measures for cell in cells if cell.correlation is None}
    for beta in sorted({part.beta for part in parts}):
        mine = [arm for part, arm in zip(parts, parted, strict=True) if part.beta == beta]
        _two_by_two(reader, variant, beta, mine, alone)


def _of_grid(trial: Trial, first: Trial) -> bool:
    """Whether a template is of the models alone, given one that is."""
    return trial.correlation is None and (trial.head_lr, trial.head_init) == (first.head_lr, first.head_init)


def _two_by_two(
    reader: _Reader, variant: str | None, beta: float, arms: list[Arm], alone: dict[float, Measures]
) -> None:
    name: Row = {"model": arms[0].trial.model, "variant": variant, "objective": CROSS_ENTROPY, "beta": beta}
    by_kind = {interventions.TRAINED: alone[beta]}
    for kind, arm in zip(FACTORS, arms, strict=True):
        by_kind[kind] = reader.measure(arm, {**name, "tuning": arm.tuning, "intervention": kind})
    reference = alone[reader.settings.reference]
    design = {key: name[key] for key in ("model", "variant", "beta")}
    reader.rows["two_by_two"] += interventions.two_by_two(by_kind, reference, design, reader.nested)
    rate, init = (by_kind[kind] for kind in FACTORS)
    square = {(False, False): reference, (True, False): rate, (False, True): init, (True, True): alone[beta]}
    about: dict[str, Any] = {key: name[key] for key in ("model", "variant", "objective")}
    reader.rows["shares"] += [{**about, **row} for row in magnitude.factor_shares(beta, square)]


STUDY = Study(
    question="Does generalization depend strongly on beta and only weakly on the magnitude of the initial logits?",
    plan=plan,
    analyse=analyse,
    figures={
        "plane": figures.plane,
        "shares": figures.shares,
        "two_by_two": figures.factors,
    },
    defaults={
        "objective": (CROSS_ENTROPY,),
        "beta": (0.1, 0.316227766, 1.0, 3.16227766, 10.0),
        "correlation": (-1.0, -0.8, 1.0),
    },
    sections=(
        Section("The plane of beta and initial logit magnitude", ("plane", "contrasts", "collapse")),
        Section("Whose the variance is", ("shares",)),
        Section("Beta as head rate and initial head", ("two_by_two",)),
        controls.SECTION,
        Section("Trials", ("rates", "trials")),
    ),
    references=("agarwala2023temperature", "guo2017"),
)
