"""How much of what training at inverse temperature beta changes is confidence, and how much is learning dynamics?

Temperature scaling splits a proper score R of an arm a in two: conf(a) = R(raw) - R(repaired), what a temperature
fitted after training repairs, and dyn(a) = R(repaired), what none can. Against a reference arm, delta_total =
delta_conf + delta_dyn exactly, and accuracy is entirely in the second, since a temperature never changes an argmax
(Guo et al., 2017, arXiv 1706.04599; the dynamics of beta: Agarwala et al., 2023, arXiv 2010.07344).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calib_bench import discover, tuning
from calib_bench.report import plots
from calib_bench.study import Analysis, Study
from calib_bench.trial import CROSS_ENTROPY, Trial

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from calib_bench.baseline import Calibrator
    from calib_bench.measure import Measures
    from calib_bench.settings import Settings
    from calib_bench.store import Store
    from calib_bench.tuning import Arm

Row = dict[str, Any]
SCORES = ("log_loss", "brier")
PARTS = ("total", "conf", "dyn")
MEANS = {"accuracy": "correct", "log_loss": "log_loss", "brier": "brier"}
"""Metrics that are means over examples, and the per-example score each is the mean of."""


@dataclass
class _Found:
    """Rows of every table, and the warnings, as the arms are read."""

    rows: dict[str, list[Row]] = field(
        default_factory=lambda: {n: [] for n in ("separation", "baselines", "rates", "trials", "controls")}
    )
    reliability: list[pd.DataFrame] = field(default_factory=list)
    measurements: list[pd.DataFrame] = field(default_factory=list)


def analyse(settings: Settings, store: Store) -> Analysis:
    """Every arm against the reference of its family, one arm in memory at a time (besides the reference).

    Raises:
        StoreError: a stored trial cannot be read.
    """
    import pandas as pd

    from calib_bench.studies._separation_words import tables, verdict, warnings

    arms = tuning.arms(settings, store.scores(settings.select))
    repair = discover.calibrators(("temperature_scaling",))
    calibrators = repair | discover.calibrators(settings.calibrator)
    found = _Found()
    nested = _own_tests(store, arms)
    for family in _families(arms):
        _read_family(settings, store, family, calibrators, nested, found)
    frames = {name: pd.DataFrame(rows) for name, rows in found.rows.items()}
    _adjust(frames["separation"])
    data = {
        "reliability": pd.concat(found.reliability, ignore_index=True) if found.reliability else pd.DataFrame(),
        "measurements": pd.concat(found.measurements, ignore_index=True) if found.measurements else pd.DataFrame(),
        "reference": settings.reference,
        "limit": settings.limit,
    }
    return Analysis(
        verdict=verdict(settings, frames),
        tables=tables(settings, frames, nested),
        warnings=warnings(settings, arms, frames, store.provenance()),
        data=data,
    )


def _own_tests(store: Store, arms: Iterable[Arm]) -> bool:
    """Whether seeds have test examples of their own: they differ in their split, and the test set is carved too."""
    splits = {trial.split: trial for arm in arms for trial in arm.trials.values() if store.has(trial)}
    tests = {store.labels(trial)["test"].numpy().tobytes() for trial in splits.values()}
    return len(tests) > 1


def _families(arms: Iterable[Arm]) -> list[list[tuple[Row, Arm]]]:
    """Arms that are compared with each other, each with the columns that name it."""
    groups: dict[Trial, list[Arm]] = {}
    for arm in arms:
        groups.setdefault(arm.trial.family(), []).append(arm)
    dumps = [family.model_dump() for family in groups]
    varying = [key for key in (dumps[0] if dumps else {}) if key != "model" and len({d[key] for d in dumps}) > 1]
    named = []
    for family, members in groups.items():
        variant = ", ".join(f"{key}={getattr(family, key)}" for key in varying) or None
        named.append(
            [
                (
                    {
                        "model": a.trial.model,
                        "variant": variant,
                        "beta": a.trial.beta,
                        "objective": a.trial.objective,
                        "tuning": a.status,
                    },
                    a,
                )
                for a in members
            ]
        )
    return named


def _read_family(
    settings: Settings,
    store: Store,
    family: list[tuple[Row, Arm]],
    calibrators: Mapping[str, Calibrator],
    nested: bool,
    found: _Found,
) -> None:
    from calib_bench.measure import measure_arm

    reference = None
    for name, arm in family:
        if is_reference(name, settings):
            reference = measure_arm(store, arm, calibrators)
            only_repair = {"temperature_scaling": calibrators["temperature_scaling"]}
            doubled = measure_arm(store, arm, only_repair, scale=2.0)
            found.rows["controls"].append(
                {**name, "control": "reference logits times 2", **contrast(doubled, reference, nested)}
            )
    for name, arm in family:
        own = reference is not None and is_reference(name, settings)
        measures = reference if own and reference is not None else measure_arm(store, arm, calibrators)
        if not own:
            found.rows["separation"].append({**name, **contrast(measures, reference, nested)})
        found.rows["baselines"] += [{**name, **row} for row in _methods(measures, nested)]
        found.rows["trials"] += [{**name, **row} for row in _trials(store, measures)]
        found.rows["rates"] += [{**name, **row} for row in _rates(arm)]
        found.measurements.append(measures.frame)
        if len(measures.reliability):
            found.reliability.append(measures.reliability.assign(**name))


def is_reference(name: Mapping[str, Any], settings: Settings) -> bool:
    """Whether the arm so named is the one that others of its family are compared with."""
    return name["beta"] == settings.reference and name["objective"] == CROSS_ENTROPY


def contrast(arm: Measures, reference: Measures | None, nested: bool) -> Row:
    """The arm minus the reference, over the seeds that finished in both.

    Returns:
        For log loss (nats) and Brier: `<score>_total`, `_conf`, `_dyn`, and `accuracy` (raw), each with `_low`,
        `_high`, `_p`; kappa of the arm; seeds used, and dropped because either side has none.
    """
    mine = {seed: i for i, seed in enumerate(arm.seeds)}
    theirs = {seed: i for i, seed in enumerate(reference.seeds)} if reference is not None else {}
    seeds = [seed for seed in mine if seed in theirs]
    either = {*arm.arm.trials, *(reference.arm.trials if reference is not None else ())}
    row: Row = {"seeds": len(seeds), "dropped": len(either) - len(seeds)}
    if reference is None or not seeds:
        return row
    ours, others = [mine[s] for s in seeds], [theirs[s] for s in seeds]

    def difference(method: str, score: str) -> Tensor:
        return arm.examples[method][score][ours] - reference.examples[method][score][others]

    row |= _interval("accuracy", difference("raw", "correct"), nested)
    for score in SCORES:
        total, dyn = difference("raw", score), difference("temperature_scaling", score)
        for part, values in zip(PARTS, (total, total - dyn, dyn), strict=True):
            row |= _interval(f"{score}_{part}", values, nested)
    return row | _kappa(arm, ours)


def _interval(name: str, d_SN: Tensor, nested: bool) -> Row:
    from calib_bench.inference import crossed_interval

    found = crossed_interval(d_SN, nested=nested)
    return {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high, f"{name}_p": found.p}


def _kappa(arm: Measures, rows: list[int]) -> Row:
    """Geometric mean of kappa over some seeds, its interval over seeds and calibration examples; none at a bound."""
    from calib_bench.inference import crossed_interval

    if arm.log_kappa is None or not rows:
        return {}
    shared = len({trial.split for trial in arm.arm.trials.values()}) == 1
    found = crossed_interval(arm.log_kappa[rows], nested=not shared)
    if {arm.seeds[i] for i in rows} & set(arm.at_bound):
        return {"kappa": math.exp(found.mean)}
    return {"kappa": math.exp(found.mean), "kappa_low": math.exp(found.low), "kappa_high": math.exp(found.high)}


def _over_seeds(name: str, values: list[float]) -> Row:
    """Mean with a t interval over seeds, for this test set."""
    import torch

    if len(values) < 2:
        return {name: values[0] if values else None}
    row = _interval(name, torch.tensor(values, dtype=torch.float64)[:, None], nested=True)
    del row[f"{name}_p"]
    return row


def _methods(measures: Measures, nested: bool) -> list[Row]:
    """One row per method: every metric's mean over seeds."""
    from calib_bench.inference import ece_interval
    from calib_bench.measure import METRICS

    rows = []
    counts = {"seeds": len(measures.seeds), "diverged": len(measures.diverged), "missing": len(measures.missing)}
    for method, scores in measures.examples.items():
        frame = measures.frame[measures.frame["method"] == method]
        row: Row = {"method": method, **counts}
        for metric in METRICS:
            if metric not in frame:
                continue
            if metric in MEANS and bool(scores[MEANS[metric]].isfinite().all()):
                row |= _interval(metric, scores[MEANS[metric]], nested)
                del row[f"{metric}_p"]
            elif metric == "ece" and method in ("raw", "temperature_scaling") and not nested:
                found = ece_interval(scores["confidence"], scores["correct"])
                row |= {"ece": found.mean, "ece_low": found.low, "ece_high": found.high}
            else:
                row |= _over_seeds(metric, frame[metric].tolist())
        if "ece_null" in frame and frame["ece_null"].notna().any():
            row["ece_null"] = frame["ece_null"].mean()
        if method == "temperature_scaling":
            row |= _kappa(measures, list(range(len(measures.seeds))))
        rows.append(row)
    return rows


def _trials(store: Store, measures: Measures) -> list[Row]:
    """One row per trial of the chosen rate, finished or not."""
    from calib_bench.measure import state

    keep = ("accuracy", "log_loss", "brier", "ece", "ece_null", "ece_p")
    rows = []
    for seed, trial in sorted(measures.arm.trials.items()):
        row: Row = {"seed": seed, "lr": trial.lr, "lr_unit": trial.lr_unit, "status": state(store, trial)}
        if seed in measures.seeds:
            mine = measures.frame[measures.frame["seed"] == seed].set_index("method")
            raw, repaired = mine.loc["raw"], mine.loc["temperature_scaling"]
            row |= {name: raw[name] for name in keep}
            row |= {f"repaired_{name}": repaired[name] for name in keep if name != "accuracy"}
            row |= {"kappa": repaired["kappa"], "at_bound": repaired["at_bound"]}
        rows.append({**row, "key": trial.key})
    return rows


def _rates(arm: Arm) -> list[Row]:
    return [
        {
            "rate": rate,
            "unit": arm.trial.lr_unit,
            "score": arm.scores.get(rate),
            "chosen": rate == arm.chosen,
        }
        for rate in arm.rates
    ]


def _adjust(frame: pd.DataFrame) -> None:
    """Adds Holm-adjusted p-values, each quantity over all contrasts of the study."""
    from calib_bench.inference import holm

    for column in [c for c in frame.columns if c.endswith("_p")]:
        frame[f"{column[:-2]}_holm"] = holm(frame[column])


STUDY = Study(
    question=(
        "When a model is trained at softmax inverse temperature beta, how much of what changes is confidence, which "
        "temperature scaling could repair, and how much is learning dynamics, which nothing after training can?"
    ),
    plan=tuning.plan,
    analyse=analyse,
    figures={
        "over_beta": plots.over_beta,
        "separation": plots.separation,
        "reliability": plots.reliability,
        "learning_rates": plots.learning_rates,
    },
)
