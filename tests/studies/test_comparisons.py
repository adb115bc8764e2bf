"""Each beta against the reference at equal epochs, equal training loss and best epochs; the settling design."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch

from calib_bench.analysis.findings import Evidence
from calib_bench.analysis.measure import Measures
from calib_bench.analysis.rate_choice import RedrawnChoice
from calib_bench.core.results import Results
from calib_bench.core.settings import Settings, parse
from calib_bench.core.study import Analysis, StudyResult
from calib_bench.core.trial import Score, Snapshot, Trial
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import Arm
from calib_bench.registry import study
from calib_bench.studies.separation import settling, speed
from calib_bench.studies.separation.comparisons import COMPARISONS, Trajectory, at_loss, read, rows
from calib_bench.studies.separation.snapshots import AtLoss, common_level
from calib_bench.studies.separation.summary import summary

SEEDS = range(5)
PLAN = study("separation").plan
TEMPLATE = next(iter(PLAN(resolve(parse(["beta=1", "objective=cross_entropy", "lr=0.1"])), {}.get)))


def settled(*words: str) -> Settings:
    return resolve(parse(["task=digits", *words]))


def history(train_loss: Sequence[float], selection: Sequence[float]) -> pd.DataFrame:
    """Epochs 0, 1, ..., the repaired loss .1 below the raw one."""
    values = np.array(selection)
    return pd.DataFrame(
        {
            "epoch": np.arange(len(values), dtype=float),
            "train_loss": train_loss,
            "selection_log_loss": values,
            "selection_repaired_log_loss": values - 0.1,
        }
    )


def test_a_history_is_interpolated_in_the_logarithm_of_training_loss() -> None:
    one = history([math.nan, 1.0, 0.01, 0.0001], [2.3, 1.0, 0.4, 0.6])
    assert at_loss(one, 0.1, "selection_log_loss") == pytest.approx(0.7)
    assert at_loss(one, 0.001, "epoch") == pytest.approx(2.5)
    assert at_loss(one, 1.0, "epoch") == at_loss(one, 2.0, "epoch") == 1.0
    assert at_loss(one, 0.0001, "selection_log_loss") == 0.6
    assert at_loss(one, 1e-9, "selection_log_loss") == 0.6  # it never gets there
    back = history([math.nan, 1.0, 0.01, 0.5, 0.001], [2.3, 1.0, 0.4, 0.9, 0.6])
    assert at_loss(back, 0.01, "epoch") == 2.0  # where it first gets there
    zero = history([math.nan, 1.0, 0.0], [2.3, 1.0, 0.4])
    assert at_loss(zero, 1e-15, "selection_log_loss") == pytest.approx(0.7)


def trajectory(beta: float, histories: Mapping[int, pd.DataFrame], again: RedrawnChoice | None = None) -> Trajectory:
    """An arm's, at a rate of 1; with a choice made again the first three seeds have the same histories at a rate of 2,
    .3 higher."""
    template = TEMPLATE.model_copy(update={"beta": beta})
    trials = {seed: template.model_copy(update={"lr": 1.0, "seed": seed}) for seed in histories}
    by_key = {trials[seed].key: one for seed, one in histories.items()}
    tried = {}
    if again:
        other = {seed: trials[seed].model_copy(update={"lr": 2.0}) for seed in (0, 1, 2)}
        for seed, trial in other.items():
            one = histories[seed]
            by_key[trial.key] = one.assign(**{column: one[column] + 0.3 for column in one if "log_loss" in column})
        tried = {1.0: tuple(trials[s] for s in other), 2.0: tuple(other.values())}
    arm = Arm(template, (1.0, 2.0), {}, 1.0, "tuned" if again else "fixed", trials, tried)
    measures = cast("Measures", SimpleNamespace(arm=arm, seeds=tuple(histories), redrawn_choice=again))
    losses = {kind: {seed: np.array([0.1, 0.5, 0.3]) * beta for seed in histories} for kind in ("raw", "repaired")}
    return Trajectory(measures, by_key, losses)


STORE = cast("Results", SimpleNamespace(record=lambda trial: SimpleNamespace(metadata={})))
NAME = {"model": "mlp", "variant": None, "beta": 10.0, "objective": "cross_entropy", "tuning": "tuned"}
FAST = {seed: history([math.nan, 0.1, 0.001], [2.3, 0.5 + 0.01 * seed, 0.9]) for seed in SEEDS}
SLOW = {seed: history([math.nan, 1.0, 0.01], [2.3, 1.0, 0.4]) for seed in SEEDS}


def test_runs_are_compared_at_the_training_loss_that_both_reach_and_at_their_best() -> None:
    at_end = {"log_loss_total": 0.5, "log_loss_total_low": 0.4, "log_loss_total_high": 0.6, "log_loss_total_p": 0.01}
    (row,) = rows(STORE, trajectory(10.0, FAST), trajectory(1.0, SLOW), at_end, NAME, nested=False)
    assert (row["equal_epochs_raw"], row["equal_epochs_raw_p"]) == (0.5, 0.01)
    assert row["training_loss"] == pytest.approx(0.01)
    assert (row["epochs_to_it"], row["reference_epochs_to_it"]) == (pytest.approx(1.5), 2.0)
    assert row["equal_loss_repaired"] == pytest.approx(np.mean([(0.5 + 0.01 * s + 0.9) / 2 - 0.4 for s in SEEDS]))
    assert row["best_epoch_raw"] == pytest.approx(np.mean([0.5 + 0.01 * s - 0.4 for s in SEEDS]))
    assert (row["equal_loss_on"], row["choice"]) == ("selection", "none")
    # Examples vary as at the end, by 9 times their losses; seeds vary by what histories say. t quantiles of 2 and 4 df.
    examples = np.var([0.9, 4.5, 2.7], ddof=1) / 3
    seeds = np.var([0.01 * s for s in SEEDS], ddof=1) / 5
    half = math.hypot(4.302652729911275 * math.sqrt(examples), 2.7764451051977987 * math.sqrt(seeds))
    assert row["best_epoch_raw_high"] - row["best_epoch_raw"] == pytest.approx(half)


def test_nothing_is_read_of_an_arm_whose_training_loss_is_no_log_loss() -> None:
    measures = trajectory(10.0, FAST).measures
    smoothed = measures.arm.trial.model_copy(update={"objective": "label_smoothing:0.1"})
    other = SimpleNamespace(arm=replace(measures.arm, trial=smoothed), seeds=SEEDS, redrawn_choice=None)
    nothing = cast("Results", SimpleNamespace())
    assert read(nothing, cast("Measures", other)) is None
    with pytest.raises(AttributeError, match="history"):
        read(nothing, measures)


def test_the_interval_counts_rates_that_other_selection_data_would_have_chosen() -> None:
    again = RedrawnChoice({1.0: 0.75, 2.0: 0.25}, {"raw": {"log_loss": np.zeros((1, 4, 3))}}, {1.0: 0.1, 2.0: 0.2})
    draws = {"together": np.array([0, 0, 0, 1])}
    chosen = RedrawnChoice(again.shares, again.shifts, again.costs, **draws)
    sure = RedrawnChoice(again.shares, again.shifts, again.costs, together=np.zeros(4, int))
    with_choice, without = (
        rows(STORE, trajectory(10.0, FAST, one), trajectory(1.0, SLOW, sure), {}, NAME, nested=False)[0]
        for one in (chosen, sure)
    )
    assert with_choice["choice"] == "counted"
    for column in ("best_epoch_repaired", "equal_loss_raw"):
        before, after = (row[f"{column}_high"] - row[column] for row in (without, with_choice))
        assert after == pytest.approx(math.hypot(before, 1.959963984540054 * math.sqrt(0.3**2 / 4)))


def row(*means: float, half: float = 0.05, holm: float = 0.001, **more: Any) -> dict[str, Any]:
    """A Holm-adjusted row whose repaired losses change by so much in the three comparisons."""
    out = {**NAME, "choice": "counted", "equal_loss_on": "test", "warmup": 1.0, "epochs": 240, **more}
    for name, mean in zip(COMPARISONS, means, strict=True):
        out |= {f"{name}_repaired": mean, f"{name}_repaired_low": mean - half, f"{name}_repaired_high": mean + half}
        out[f"{name}_repaired_holm"] = holm
    return out


@pytest.mark.parametrize(
    ("one", "word"),
    [
        (row(0.2, 0.1, 0.1), "generalization"),
        (row(-0.2, -0.1, -0.1), "generalization"),
        (row(0.2, 0.01, 0.01), "trainability"),
        (row(0.2, 0.0, 0.0, half=0.009), "trainability"),
        (row(0.2, 0.1, 0.01), "inconclusive"),
        (row(0.2, -0.1, 0.1), "inconclusive"),
        (row(0.01, 0.1, 0.1), "inconclusive"),
        (row(0.2, 0.1, 0.1, holm=0.2), "inconclusive"),
        (row(0.2, 0.1, 0.1, tuning="few seeds"), "suggestive: generalization"),
        (row(0.2, 0.1, 0.1, two_kinds="reference"), "suggestive: generalization"),
        (row(0.2, 0.01, 0.01, choice="left out"), "suggestive: trainability"),
    ],
)
def test_the_verdict_follows_the_rule(one: dict[str, Any], word: str) -> None:
    assert speed.verdict(one) == word


def test_holm_is_over_the_arms_within_each_comparison() -> None:
    frame = pd.DataFrame([row(0.2, 0.1, 0.1), row(0.2, 0.1, 0.1, beta=3.0)])
    frame["equal_loss_repaired_p"], frame["best_epoch_repaired_p"] = [0.03, 0.04], [0.001, 0.001]
    frame["equal_epochs_repaired_p"] = [0.001, 0.02]
    judged = speed.judged(frame)
    assert judged["equal_loss_repaired_holm"].tolist() == [0.06, 0.06]
    assert judged["best_epoch_repaired_holm"].tolist() == [0.002, 0.002]
    assert judged["verdict"].tolist() == ["inconclusive", "inconclusive"]


@pytest.mark.parametrize(
    ("log_loss", "said"),
    [
        (0.2, "after temperature scaling: trainability (only equal epochs differ, so that it may be speed alone)."),
        (0.01, "temperature scaling, and no change of it is established there. Elsewhere, log loss"),
    ],
)
def test_the_summary_says_whether_it_is_speed_where_log_loss_changes(log_loss: float, said: str) -> None:
    """Where accuracy alone is established, the comparisons of log loss say nothing about it."""
    arms = [
        NAME
        | {"model": model, "beta": beta, "log_loss_total": 0.2}
        | interval("log_loss_dyn", log_loss * (beta == 10.0))
        | interval("accuracy", -0.2 * (beta == 10.0))
        | interval("log_loss_conf", 0.0)
        for model in ("other", "mlp")
        for beta in (0.1, 10.0)
    ]
    compared = pd.DataFrame([row(0.2, 0.01, 0.01), row(0.2, 0.01, 0.01, model="other")])
    compared["verdict"] = ["trainability", "inconclusive"]
    frames = {"separation": pd.DataFrame(arms), "comparisons": compared, "controls": pd.DataFrame()}
    sentences = summary(settled("beta=0.1,1,10").grid, frames)
    (sentence,) = [text for text in sentences if text.startswith("mlp: Beta changes what is learned")]
    assert said in sentence


def interval(name: str, mean: float) -> dict[str, float]:
    """Columns of a change with a narrow interval, established where it is above 0.05."""
    return {name: mean, f"{name}_low": mean - 0.05, f"{name}_high": mean + 0.05, f"{name}_holm": 0.001}


def test_sentences_table_and_figure_say_what_was_compared() -> None:
    grid = settled("beta=1,3,10").grid
    records = [row(0.2, 0.1, 0.1), row(0.2, 0.01, 0.01, beta=3.0), row(0.01, 0.01, 0.01, beta=0.1)]
    raw = [{name.replace("repaired", "raw"): value for name, value in one.items()} for one in records]
    frame = pd.DataFrame([one | other | {"seeds": 5} for one, other in zip(records, raw, strict=True)])
    frame["verdict"] = [speed.verdict(one) for one in frame.to_dict("records")]
    (sentence,) = speed.words(frame, grid)
    assert (
        "generalization (the change has one sign in all three comparisons) at beta=10 (0.200 [0.150, 0.250] nats at"
        in (sentence)
    )
    assert sentence.endswith("inconclusive at beta=0.1.")
    other = frame.assign(model="other", verdict="inconclusive")
    families = pd.concat([other, frame], ignore_index=True)
    remarks = [speed.remark(families, {**records[0], "beta": beta}) for beta in (10.0, 3.0, 0.1, 2.0)]
    begin = " Speed or generalization, of log loss after temperature scaling: "
    assert remarks == [
        f"{begin}generalization (the change has one sign in all three comparisons).",
        f"{begin}trainability (only equal epochs differ, so that it may be speed alone).",
        f"{begin}inconclusive.",
        "",
    ]
    assert speed.remark(families, {"model": "other", "beta": 10.0, "variant": math.nan}) == f"{begin}inconclusive."
    assert speed.remark(pd.DataFrame(), records[0]) == ""
    table = speed.TABLE.table(frame, grid)
    assert "leave out" in table.note
    assert "temperatures from the calibration split" in table.note
    falling = "the run that reaches a training loss first is taken at another share of its peak rate"
    assert falling not in table.note
    assert falling in speed.TABLE.table(frame, settled("beta=1,3,10", "schedule=cosine").grid).note
    drawn = speed.figure(Analysis((), {"comparisons": table}, result=StudyResult()))
    assert drawn is not None
    assert len(drawn.axes) == 2
    assert all(0.0 in line.get_ydata() for axis in drawn.axes for line in axis.lines[:3])  # the reference itself


def test_budgets_train_the_grid_for_longer_with_rates_of_their_own() -> None:
    words = ("beta=1,10", "objective=cross_entropy", "lr=0.1,0.2", "interventions=no", "seed=0..2", "epochs=8")
    default, longer = settled(*words), settled(*words, "budgets=1,2,4")
    assert settled(*words, "budgets=1").spaces == default.spaces
    trials = {trial.key for trial in PLAN(default, {}.get)}
    wanted = PLAN(longer, lambda trial: Score(trial.lr * (1 if trial.epochs == 8 else -1), lambda: False))
    assert trials <= {trial.key for trial in wanted}
    grid = [trial for trial, role in wanted.items() if role == "chosen" and trial.epochs in (8, 16, 32)]
    assert {trial.epochs for trial in grid} == {8, 16, 32}
    assert {trial.lr for trial in grid if trial.epochs == 16} != {trial.lr for trial in grid if trial.epochs == 8}


def test_the_settling_design_is_one_setting() -> None:
    settings = settled("design=settling", "beta=1,10", "lr_hom=0.25,0.5,1", "epochs=8")
    (space,) = settings.spaces.values()
    assert space["lr"] == (0.125, 0.25, 0.5, 1.0, 2.0)
    assert (space["warmup"], space["epochs"], space["keep"]) == ((0.0, 1.0), (8, 24), ("losses",))
    assert (space["lr_unit"], space["objective"]) == (("lr_hom",), ("cross_entropy",))
    assert (settings.seed, settings.interventions) == (tuple(range(10)), "no")
    assert resolve(settings) is settings


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("lr_rel=0.5",), "homogeneity law"),
        (("lr_hom=0.5", "seed=0..4"), "10 seeds or more"),
        (("lr_hom=0.5", "budgets=1,2"), "leave budgets= out"),
        (("lr_hom=0.5", "epochs=0"), "epochs=0 trains nothing"),
    ],
)
def test_what_contradicts_the_settling_design_is_refused(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        settled("design=settling", *words)


@pytest.mark.parametrize(
    ("one", "evidence"),
    [
        (row(0.2, 0.1, 0.1), Evidence.ESTABLISHED),
        (row(0.2, 0.1, 0.1, holm=0.2), Evidence.SUGGESTIVE),
        (row(0.2, 0.01, 0.1), Evidence.INCONCLUSIVE),
        (row(0.2, 0.1, 0.1, choice="left out"), Evidence.REVOKED),
        (row(0.2, 0.1, 0.1, equal_loss_on="selection"), Evidence.REVOKED),
    ],
)
def test_generalization_is_established_by_the_rule_alone(one: dict[str, Any], evidence: Evidence) -> None:
    assert settling.finding(one).evidence is evidence


def test_the_long_run_with_warmup_decides() -> None:
    grid = settled("design=settling", "lr_hom=0.5").grid
    cells = [row(0.2, 0.1, 0.1), row(0.2, 0.9, 0.1, warmup=0.0), row(0.2, 0.9, 0.1, epochs=80)]
    (sentence,) = settling.words(pd.DataFrame(cells), grid)
    assert sentence.endswith("Generalization: changed by 0.100 [0.050, 0.150] nats at beta=10.")
    assert not settling.words(pd.DataFrame(cells), settled("lr_hom=0.5").grid)


def test_a_trial_is_measured_where_it_kept_its_logits() -> None:
    far, near = (TEMPLATE.model_copy(update={"seed": seed}) for seed in (0, 1))
    kept = {far.seed: (1.0, 0.1, 0.01), near.seed: (1.0, 0.1)}
    z = torch.zeros(2, 3)

    def snapshots(trial: Trial) -> list[Snapshot]:
        logits = [dict.fromkeys(("selection", "calibration", "test"), z + level) for level in kept[trial.seed]]
        return [Snapshot(level, 1, 5, level, one) for level, one in zip(kept[trial.seed], logits, strict=True)]

    def record(trial: Trial) -> SimpleNamespace:
        return SimpleNamespace(metadata={"snapshots": [{"level": level} for level in kept[trial.seed]]})

    stored = SimpleNamespace(record=record, snapshots=snapshots, has=lambda _: True, fate=lambda _: "done")
    stored.logits = lambda trial: {"selection": z}
    store = cast("Results", stored)
    assert common_level(store, [far]) == 0.01
    assert common_level(store, [far, near]) == 0.1
    view = AtLoss(store, 0.01)
    assert (view.has(far), view.fate(far)) == (True, "done")
    assert (view.has(near), view.fate(near)) == (False, "missing")
    logits = view.logits(far)
    assert torch.equal(logits["test"], z + 0.01)
    assert torch.equal(logits["selection"], z)  # rates were chosen at the end
