"""When in training does beta matter?

Training at one inverse temperature goes over to another after a share of its updates, the head's weights rescaled so
that beta z, and with it every prediction and its confidence, goes on unchanged there (Agarwala et al., 2023, arXiv
2010.07344): what differs at the end was learnt at another beta before, or after. Both ways: from the reference to beta,
and from beta to the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis import arms as each
from calib_bench.analysis import controls
from calib_bench.analysis.calibration_variance import fitted_to
from calib_bench.analysis.collapse import two_kinds
from calib_bench.analysis.contrast import contrast
from calib_bench.analysis.measure import Measures, own_tests
from calib_bench.analysis.rate_choice import shift
from calib_bench.analysis.result_rows import (
    Row,
    adjusted,
    cell,
    drop_single_seed_intervals,
    excludes_zero,
    is_significant,
    marks,
    why_loose,
)
from calib_bench.analysis.table_notes import display_columns, table_note
from calib_bench.analysis.trial_predictions import REPAIRED
from calib_bench.analysis.tuned_arms import Reader, intervals
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis, Section, Study, Table
from calib_bench.core.trial import CROSS_ENTROPY, Scores, Trial
from calib_bench.errors import SettingsError
from calib_bench.inference import Fitted, share
from calib_bench.planning import tuning
from calib_bench.planning.tuning import Arm, More
from calib_bench.studies.beta_switch import figures
from calib_bench.studies.beta_switch.options import Options
from calib_bench.train.fusion import OPTIMIZERS, heads

if TYPE_CHECKING:
    import pandas as pd


TO, FROM = "reference to beta", "beta to reference"
NEVER, ALL_ALONG = "never switching", "that beta all along"
MOVES = ("accuracy", "log_loss_dyn")
"""What only learning moves: no temperature after training does."""


@dataclass(frozen=True)
class Switch:
    """One switched arm: which way, at which share of the updates, and its template (rate and seed of no meaning)."""

    beta: float
    way: str
    at: float
    template: Trial


def switches(settings: Settings, grid: Iterable[Trial]) -> list[Switch]:
    """Those of a family's templates of the grid; none of an objective or recipe that does not allow it."""
    planned = []
    for objective, at_beta in _by_objective(grid).items():
        reference = at_beta.get(settings.reference)
        if reference is None or why_not(reference):
            continue
        for beta in sorted(set(at_beta) - {settings.reference}):
            for at in sorted(Options.of(settings).switch_times):
                to = {"beta": beta, "objective": objective, "switch_from": settings.reference, "switch_at": at}
                back = {"switch_from": beta, "switch_at": at}
                planned.append(Switch(beta, TO, at, reference.model_copy(update=to)))
                planned.append(Switch(beta, FROM, at, reference.model_copy(update=back)))
    return planned


def _by_objective(grid: Iterable[Trial]) -> dict[str, dict[float, Trial]]:
    templates: dict[str, dict[float, Trial]] = {}
    for template in grid:
        templates.setdefault(template.objective, {})[template.beta] = template
    return templates


def why_not(template: Trial) -> str:
    """Why beta cannot switch in such a trial; empty when it can."""
    if heads(template, registry.objectives()):
        return f"objective {template.objective} replaces the linear head, whose weights a switch rescales"
    if template.optimizer not in OPTIMIZERS:
        return f"how {template.optimizer}'s state is to be rescaled at a switch is not known"
    if template.clip:
        return "a bound on the gradient's norm depends on the scale of the head"
    if template.eps_scale != "none":
        return "Adam's eps follows beta, of which a switch has two"
    return "" if template.epochs else "it does not train"


def more(settings: Settings) -> More:
    """What is tuned beside the grid."""
    return lambda grid: [switch.template for switch in switches(settings, grid)]


def plan(settings: Settings, scores: Scores) -> list[Trial]:
    """The grid and every switch between its betas and the reference, each with a rate of its own, and controls.

    Raises:
        SettingsError: no arm can switch, or there is nothing to switch to.
    """
    grid = list(tuning.templates(settings))
    if not switches(settings, grid):
        why = next((why for template in grid if (why := why_not(template))), "there is one beta, give beta=0.1,1")
        raise SettingsError(f"study=beta_switch has no arm whose beta can switch: {why}")
    return controls.plan(settings, scores, more(settings))


def analyse(settings: Settings, store: Results) -> Analysis:
    """Every switched arm against never switching, and against the beta it ends at all along.

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    families = tuning.tuned(settings, store.scores(settings.select), more(settings))
    variants = each.variants(family.arms[0].trial.family() for family in families)
    reader = Reader(settings, store, own_tests(store, [arm for family in families for arm in family.arms]))
    rows, left_out = [], []  # type: list[Row], list[str]
    for family in families:
        rows += _family(reader, family.arms, variants[family.arms[0].trial.family()])
        reader.control(family.arms, variants[family.arms[0].trial.family()])
        templates = {arm.trial.objective: arm.trial for arm in family.arms}
        left_out += [f"Left out, {t.model}: {why}." for t in templates.values() if (why := why_not(t))]
    frame = drop_single_seed_intervals(pd.DataFrame(rows), settings)
    frame = adjusted(frame, "against") if len(frame) else frame
    data: dict[str, Any] = {"switches": frame}
    tables = _tables(frame, settings, reader.nested)
    return reader.analysis(verdict(frame, settings), tables, left_out, _summary(frame, settings), **data)


def _family(reader: Reader, arms: Sequence[Arm], variant: str | None) -> list[Row]:
    """Rows of one family: of each beta, training at it, then its switches."""
    settings = reader.settings
    switched = switches(settings, [arm.trial for arm in arms if not arm.trial.switch_from])
    switch_of = {switch.template: switch for switch in switched}
    at: dict[tuple[str, float], Arm] = {(a.trial.objective, a.trial.beta): a for a in arms if a.trial not in switch_of}
    rows = []
    for objective in dict.fromkeys(trial_objective for trial_objective, _ in at):
        if (objective, settings.reference) not in at:
            continue
        name = {"model": arms[0].trial.model, "variant": variant, "objective": objective}
        reference = _light(_read(reader, at[objective, settings.reference], name))
        for beta in sorted(beta for kind, beta in at if kind == objective and beta != settings.reference):
            trained = _light(_read(reader, at[objective, beta], name))
            about = {**name, "beta": beta}
            unswitched = {"way": "", "at": None, "against": "reference", "tuning": trained.arm.tuning}
            rows.append({**about, **unswitched, **_difference(trained, reference, reader.nested)})
            mine = [arm for arm in arms if arm.trial in switch_of and switch_of[arm.trial].beta == beta]
            for arm in (arm for arm in mine if arm.trial.objective == objective):
                switch = switch_of[arm.trial]
                begun, ended = (reference, trained) if switch.way == TO else (trained, reference)
                betas = " to ".join(f"{one.arm.trial.beta:g}" for one in (begun, ended))
                measures = _read(reader, arm, name | {"switch": f"{betas} at {switch.at:g}"})
                row = {**about, "way": switch.way, "at": switch.at, "tuning": arm.tuning}
                rows.append({**row, "against": NEVER, **_difference(measures, begun, reader.nested)})
                last = {"against": ALL_ALONG, **_difference(measures, ended, reader.nested)}
                rows.append({**row, **last, **_decided(measures, begun, ended, reader.nested)})
    return rows


def _read(reader: Reader, arm: Arm, name: Row) -> Measures:
    return reader.measure(arm, {**name, "beta": arm.trial.beta, "tuning": arm.tuning})


def _light(measures: Measures) -> Measures:
    """Only what differences need, of an arm that is kept."""
    return replace(
        measures, examples={m: measures.examples[m] for m in ("raw", "temperature_scaling") if measures.seeds}
    )


def _difference(arm: Measures, other: Measures, nested: bool) -> Row:
    contrast_row = contrast(arm, other, nested)
    keep = ("seeds", "dropped", "accuracy", "log_loss_total", "log_loss_dyn", "doubtful")
    return {key: value for key, value in contrast_row.items() if key.startswith(keep)} | two_kinds(arm, other)


def _decided(arm: Measures, begun: Measures, ended: Measures, nested: bool) -> Row:
    """What share of the difference between both betas the updates before the switch had decided (Fieller's limits).

    With last and first the arms that are all along at the beta it ends at and at the one it begins at, the share is
    (arm - last) / (first - last). The choices of the three rates count, and the calibration examples of temperatures.
    """
    import math

    seeds = [seed for seed in arm.seeds if seed in begun.seeds and seed in ended.seeds]
    row: Row = {}
    for name, (method, score) in {"accuracy": ("raw", "correct"), "dyn": ("temperature_scaling", "log_loss")}.items():
        if not seeds:
            continue
        places = [[m.seeds.index(seed) for seed in seeds] for m in (arm, begun, ended)]
        y, first, last = (m.examples[method][score][at] for m, at in zip((arm, begun, ended), places, strict=True))

        def fit(part: float, whole: float, score: str = score, places: list[list[int]] = places) -> Fitted | None:
            weights = (part, whole, -part - whole)
            return fitted_to(score, *zip(weights, (arm, begun, ended), places, strict=True))

        moves = shift(arm, ended, (method, score, 1.0)), shift(begun, ended, (method, score, 1.0))
        choice = None if moves[0] is None or moves[1] is None else (moves[0], moves[1])
        fits = fit if method == REPAIRED else None
        ratio = share(y - last, first - last, nested=nested, fit=fits, choice=choice)
        if math.isfinite(ratio.low) and math.isfinite(ratio.high):
            row |= {f"decided_{name}": ratio.mean, f"decided_{name}_low": ratio.low, f"decided_{name}_high": ratio.high}
    return row


def verdict(frame: pd.DataFrame, settings: Settings) -> list[str]:
    """When beta matters, no more than the intervals allow.

    Args:
        frame: rows of `analyse`, Holm-adjusted.
    """
    if not len(frame) or "accuracy" not in frame:
        return ["There is nothing to compare: no switched arm shares a finished seed with one that never switches."]
    sentences = []
    keys = [frame[key].fillna("") for key in ("model", "variant", "objective")]
    several = frame.groupby(keys, sort=False).ngroups > 1
    for (*name, beta), beta_rows in frame.groupby([*keys, "beta"], sort=False):
        where = f"{' '.join(part for part in name if part)}: " if several else ""
        rows = [row for row in beta_rows.to_dict("records") if row["accuracy"] == row["accuracy"]]
        sentences.append(where + _whole(rows, float(beta), settings))
        sentences += [where + text for way in (FROM, TO) if (text := _way(rows, way, float(beta), settings))]
    return sentences


def _summary(frame: pd.DataFrame, settings: Settings) -> list[str]:
    """What to read first: in how many switches either part of training surely made a difference, and where."""
    if not len(frame) or "accuracy" not in frame or frame.groupby(["model", "objective"]).ngroups > 1:
        return []
    rows = frame[frame["accuracy"].notna()].to_dict("records")
    sentences = []
    for against, part in ((ALL_ALONG, "before"), (NEVER, "after")):
        compared = [row for row in rows if row["against"] == against]
        sure = [row for row in compared if moved(row)]
        where = [
            f"{_shares(group)} from {first} to {last}"
            for beta in sorted({row["beta"] for row in sure})
            for way, first, last in (
                (FROM, f"beta={beta:.3g}", f"{settings.reference:g}"),
                (TO, f"beta={settings.reference:g}", f"{beta:.3g}"),
            )
            if (group := [row for row in sure if (row["beta"], row["way"]) == (beta, way)])
        ]
        at_shares = f", at the shares {'; '.join(where)}" if where else ""
        sentences.append(
            f"What was learnt {part} the switch surely made a difference in {len(sure)} of {len(compared)}{at_shares}."
        )
    return sentences


def _whole(rows: Sequence[Mapping[str, Any]], beta: float, settings: Settings) -> str:
    plain = next((row for row in rows if row["against"] == "reference"), None)
    begin = f"All along at beta={beta:.3g} instead of {settings.reference:g}"
    if plain is None:
        return f"{begin}: no seed has finished at both."
    loose = "" if moved(plain) else "; whether that is an effect the data cannot say"
    if loose and _hints([plain]):
        loose += f" ({why_loose([plain])})"
    return (
        f"{begin}, accuracy changes by {cell(plain, 'accuracy')} and repaired log loss by {cell(plain, 'log_loss_dyn')}"
        f"{loose}."
    )


def _way(rows: Sequence[Mapping[str, Any]], way: str, beta: float, settings: Settings) -> str:
    """From when on the beginning counts, and until when the rest does."""
    first, last = (f"{beta:.3g}", f"{settings.reference:g}")
    first, last = (first, last) if way == FROM else (last, first)
    begun = [row for row in rows if row["way"] == way and row["against"] == ALL_ALONG]
    rest = [row for row in rows if row["way"] == way and row["against"] == NEVER]
    if not begun or not rest:
        return ""
    return (
        f"From beta={first} to {last}. Having begun at {first} {_times(begun, f'{last} all along')}. "
        f"Going over to {last} {_times(rest, 'never switching')}."
    )


def _times(rows: Sequence[Mapping[str, Any]], than: str) -> str:
    """At which times of the switch there is a difference, with the largest."""
    sure, silent = ([row for row in rows if moved(row) == wanted] for wanted in (True, False))
    if not sure:
        return f"makes no difference to {than} that the data show, at any time of the switch{_why(silent)}"
    most = max(sure, key=lambda row: abs(row["log_loss_dyn"]))
    rest = f"; at {_shares(silent)} the data cannot say{_why(silent)}" if silent else ""
    return (
        f"makes a difference to {than} with the switch at {_shares(sure)} of the updates (at {most['at']:.3g}: "
        f"accuracy {cell(most, 'accuracy')}, repaired log loss {cell(most, 'log_loss_dyn')}){rest}"
    )


def _why(rows: Sequence[Mapping[str, Any]]) -> str:
    """Why nothing is established in rows that do not move, where some interval leaves 0 out."""
    hints = _hints(rows)
    return f" (at {_shares(hints)} it may, {why_loose(hints)})" if hints else ""


def _hints(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [row for row in rows if any(excludes_zero(row, column) for column in MOVES)]


def _shares(rows: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{row['at']:.3g}" for row in sorted(rows, key=lambda row: float(row["at"])))


def moved(row: Mapping[str, Any]) -> bool:
    """Whether accuracy or repaired log loss surely differs."""
    return any(is_significant(row, column) for column in MOVES)


def _tables(frame: pd.DataFrame, settings: Settings, nested: bool) -> dict[str, Table]:
    ref = f"beta={settings.reference:g}"
    return {
        "switches": Table(
            "Switching beta in the course of training",
            display_columns(frame, settings),
            table_note(
                settings,
                f"beta switches between {ref} and beta after the share `at` of the updates, and no prediction changes "
                f"there; {intervals(settings, nested)}, up to {len(settings.seed or ())} seeds",
                f"against {NEVER}: minus the arm that stays where it began, what the rest of training changes; against "
                f"{ALL_ALONG}: minus the arm that was from the start where this one ends, what the beginning changes; "
                f"against reference: beta minus {ref}, both all along",
                "decided: the share of the difference between both betas that was settled before the switch, where the "
                "data bound it (Fieller's interval; the choices of rates and the calibration examples are counted)",
                "one rate throughout a run, tuned for each arm with the same budget; dyn: after temperature scaling; * "
                "Holm-adjusted p < .05 over the rows with the same `against`",
                *marks(frame),
            ),
            paper=True,
        )
    }


STUDY = Study(
    question="When in training does the inverse temperature beta matter?",
    plan=plan,
    analyse=analyse,
    figures={"switches": figures.switches},
    defaults={"objective": (CROSS_ENTROPY,), "beta": (0.01, 0.1, 1.0, 10.0)},
    sections=(
        Section(
            "What each part of training decides",
            ("switches", "collapse"),
            "No prediction changes at the switch: what differs afterwards was learnt at another beta.",
        ),
        controls.SECTION,
        Section("Tuning and trials", ("rates", "trials")),
    ),
    references=("agarwala2023temperature", "guo2017", "holm1979", "fieller1954"),
    options=Options,
)
