"""Learning rate, switches, stability, width and depth: planted effects are found, absent ones are not, and all run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packed import unpacked
from synthetic import labels_and_truth, splits_of

from calib_bench import cli, registry
from calib_bench.analysis import best_beta, controls
from calib_bench.core.settings import Settings, parse
from calib_bench.core.study import DETAILS, Analysis
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.errors import SettingsError
from calib_bench.execute.worker import selection_scores
from calib_bench.models.variations import Form, form, variations
from calib_bench.planning.defaults import resolve
from calib_bench.planning.plan import make
from calib_bench.planning.tuning import templates
from calib_bench.report import figures
from calib_bench.store.store import Store
from calib_bench.studies.beta_switch import findings as switch_findings
from calib_bench.studies.beta_switch import rows as switch_rows
from calib_bench.studies.beta_switch import switches as beta_switch
from calib_bench.studies.learning_rate import phase
from calib_bench.system.random import stream

Number = Callable[[Trial], float]
CLASSES, TEST = 4, 300


def planted(
    path: Path, *words: str, noise: Number, frontier: Number = lambda trial: math.inf, curvature: Number = lambda _: 1.0
) -> tuple[Store, Settings]:
    """A whole store whose trials predict the truth plus this much noise, and diverge above these rates.

    Those of a positive control, trained for one epoch instead of two, have as much again and more.
    """
    settings = resolve(parse(["task=digits", "epochs=2", *words]))
    store, plan = Store(path), registry.study(settings.study).plan
    scores = store.scores(settings.select)
    labels, truth = labels_and_truth(TEST, CLASSES)
    splits = splits_of(labels, CLASSES)
    while new := [trial for trial in plan(settings, scores) if not store.has(trial)]:
        for trial in new:
            data = store.write_splits(trial, splits)
            history = {"epoch": [0.0]}
            if trial.probe:
                arrays = {"lambda_max": torch.tensor([curvature(trial), 1.0], dtype=torch.float64)}
                outcome = TrialResult(trial, "done", {}, history, {}, arrays)
                store.write(outcome, data, {"selection": {settings.select: 1.0}})
            elif trial.epochs and trial.lr > frontier(trial):
                store.write(TrialResult(trial, "diverged", {}, history, {"diverged_step": 3}), data, {})
            else:
                much = noise(trial) + (1.5 if trial.epochs == 1 else 0.0)
                z = {split: _logits(trial, split, u, much) for split, u in truth.items()}
                scale = trial.beta ** (-2 / trial.degree) if trial.degree else 1.0
                outcome = TrialResult(trial, "done", z, history, {"lr": trial.lr * scale})
                store.write(outcome, data, {"selection": selection_scores(outcome, splits)})
    store.write_study(settings, settings.command())
    return store, settings


def _logits(trial: Trial, split: str, u: torch.Tensor, noise: float) -> torch.Tensor:
    shared = torch.randn(u.shape, generator=stream("noise", split, trial.seed))
    own = torch.randn(u.shape, generator=stream("own", split, trial.key))
    return ((u + noise * shared + 0.1 * own) / trial.beta).float()


def analysed(store: Store, settings: Settings) -> Analysis:
    """The study's analysis, every figure of it drawn."""
    study = registry.study(settings.study)
    analysis = study.analyse(settings, store)
    with figures.style():
        for draw in study.figures.values():
            assert len(figures.render(draw(analysis), ("svg",))["svg"]) > 3_000
    return analysis


def controlled(store: Store, settings: Settings, analysis: Analysis, power: bool = True) -> None:
    """Every model has both controls, they passed, and nothing else in the analysis knows of them.

    Args:
        power: whether the data are enough to tell an under-trained net from the reference.
    """
    frame = analysis.tables["controls"].frame
    models = list(settings.model or ())
    assert frame["model"].tolist() == [model for model in models for _ in range(2)]
    assert frame["control"].tolist() == [controls.RESCALED, controls.UNDERTRAINED] * len(models)
    must = frame if power else frame[frame["control"] == controls.RESCALED]
    assert must["passed"].tolist() == [True] * len(must)
    assert (frame["log_loss_dyn"][1::2] > 0).all()
    assert (frame["beta"] == settings.reference).all()
    negative = frame[frame["control"] == controls.RESCALED]
    assert negative["log_loss_total"].tolist() == pytest.approx(negative["log_loss_conf"].tolist(), abs=1e-9)
    assert (negative["log_loss_total"].abs() > 1e-6).all()
    text = " ".join(analysis.verdict)
    assert "Negative control" in text
    assert "Positive control" in text
    plan = registry.study(settings.study).plan(settings, store.scores(settings.select))
    (epochs,) = settings.epochs or ()
    short = {trial.key: trial for trial in plan if 0 < trial.epochs < epochs}
    assert len(short) == len(models) * len(settings.seed or ())
    assert {(trial.model, trial.seed) for trial in short.values()} == set(
        itertools.product(models, settings.seed or ())
    )
    seen = {trial.key for arm in analysis.result.arms for trial in arm.trials.values()}  # type: ignore[attr-defined]
    for frame in (*(table.frame for table in analysis.tables.values()), analysis.result.measurements):
        seen |= set(frame["key"]) if frame is not None and "key" in frame else set()  # type: ignore[index]
    assert seen
    assert not seen & set(short)
    # A store of the study as it was without them stays valid.
    before = {t.key for t in plan} - set(short)
    wanted = registry.study(settings.study).plan(
        settings, lambda trial: store.scores(settings.select)(trial) if trial.key in before else None
    )
    assert {t.key for t in wanted} == {t.key for t in plan}


def off(value: float, best: float) -> float:
    """Noise that grows with the distance from the best value, on a log scale."""
    return 0.3 + 0.35 * abs(math.log(value / best))


# the plane of beta and rate

PLANE = ("study=learning_rate", "beta=0.01,0.1,1,10", "lr=0.01,0.03,0.1,0.3,1,3,10,30", "seed=0..3", "extend=3")


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Settings, Analysis]:
    jitter = [0.9, 1.0, 1.1, 1.2]
    store, settings = planted(
        tmp_path_factory.mktemp("plane"),
        *PLANE,
        noise=lambda trial: off(trial.lr, 0.2 * trial.beta**-0.5),
        frontier=lambda trial: 4.5 * jitter[trial.seed] * trial.beta**-0.5,
        curvature=lambda trial: 2 * trial.beta,
    )
    return store, settings, analysed(store, settings)


def slopes(analysis: Analysis, rate: str, where: str = "all") -> dict[str, Any]:
    frame = analysis.tables["slopes"].frame
    some = frame[(frame["rate"] == rate) & (frame["range"] == where)]
    return {row["unit"]: row for row in some.to_dict("records")}


def test_a_planted_ridge_and_frontier_have_their_slopes(plane: tuple[Store, Settings, Analysis]) -> None:
    analysis = plane[2]
    ridge = slopes(analysis, phase.RIDGE)
    for unit, truth in {"lr": -0.5, "lr_eff": 1.5, "lr_rel": 0.5}.items():
        assert ridge[unit]["slope"] == pytest.approx(truth, abs=0.06)
        assert ridge[unit]["slope_low"] - 0.06 < truth < ridge[unit]["slope_high"] + 0.06
    assert slopes(analysis, phase.FRONTIER)["lr"]["slope"] == pytest.approx(-0.5, abs=0.05)
    critical = slopes(analysis, phase.CRITICAL, "beta <= 0.1")["lr"]
    assert (critical["slope"], critical["theory"]) == (pytest.approx(-1), -1)
    rows = analysis.tables["phase"].frame
    geometric = 4.5 * math.prod([0.9, 1.0, 1.1, 1.2]) ** 0.25
    for row in rows.to_dict("records"):
        assert row["failure_lr"] == pytest.approx(geometric * row["beta"] ** -0.5, rel=0.1)
        assert row["critical_rate_lr"] == pytest.approx(1 / row["beta"])
        assert row["failure_lr_rel"] == pytest.approx(row["failure_lr"] * row["beta"])
        assert row["failure_lr_eff"] == pytest.approx(row["failure_lr"] * row["beta"] ** 2)
        assert row["headroom"] == pytest.approx(row["failure_lr"] / row["best_rate_lr"])
    text = " ".join(analysis.verdict)
    assert "depends on beta in each of the 3 units" in text
    assert "above it at beta=0.1, 1, 10 and below it at beta=0.01;" in text


@pytest.mark.parametrize(("momentum", "side"), [(0.0, "above"), (0.9, "below")])
def test_the_critical_rate_is_that_of_the_heavy_ball(momentum: float, side: str, tmp_path: Path) -> None:
    """Training fails at about 1.4 times 2 / lambda_max: above the limit of plain descent, below the heavy ball's."""
    words = ("study=learning_rate", "beta=0.1,1", "lr=0.1,1,10", "seed=0..5", "extend=2", f"momentum={momentum}")
    store, settings = planted(
        tmp_path,
        *words,
        noise=lambda trial: off(trial.lr, 0.5 / trial.beta),
        frontier=lambda trial: (1.5 if trial.seed % 2 else 1.3) / trial.beta,
        curvature=lambda trial: 2 * trial.beta,
    )
    analysis = registry.study("learning_rate").analyse(settings, store)
    for row in analysis.tables["phase"].frame.to_dict("records"):
        assert row["critical_rate_lr"] == pytest.approx((1 + momentum) / row["beta"])
        assert row["critical_rate_lr_rel"] == pytest.approx(1 + momentum)
        assert row["failure_lr_rel"] == pytest.approx(1.4, rel=0.1)  # its unit stays that of plain descent
    text = " ".join(analysis.verdict)
    assert f"critical rate {phase.LIMIT} at initialization, training begins to fail {side} it at beta=0.1, 1;" in text


def test_rates_in_lr_hom_are_read_as_the_rates_they_were_trained_at(tmp_path: Path) -> None:
    """A ridge and a frontier that stand still in lr_hom fall as beta^-0.5 where L = 4."""
    store, settings = planted(
        tmp_path,
        *("study=learning_rate", "beta=0.01,0.1,1", "lr_hom=0.03,0.1,0.3,1,3", "degree=4", "seed=0..2", "extend=2"),
        noise=lambda trial: off(trial.lr, 0.3),
        frontier=lambda trial: 2.0,
        curvature=lambda trial: 2 * trial.beta,
    )
    analysis = registry.study("learning_rate").analyse(settings, store)
    assert slopes(analysis, phase.RIDGE)["lr"]["slope"] == pytest.approx(-0.5, abs=0.06)
    assert slopes(analysis, phase.FRONTIER)["lr"]["slope"] == pytest.approx(-0.5, abs=0.02)
    for row in analysis.tables["phase"].frame.to_dict("records"):
        assert row["critical_rate_lr"] == pytest.approx(1 / row["beta"])
        assert row["failure_lr"] == pytest.approx(3**0.5 * row["beta"] ** -0.5, rel=0.4)
    cells = analysis.tables["cells"].frame
    assert set((cells["lr"] * cells["beta"] ** 0.5).round(6)) == set(analysis.result.arms[0].rates)


def test_every_cell_has_every_seed_and_its_rate_in_three_units(plane: tuple[Store, Settings, Analysis]) -> None:
    store, settings, analysis = plane
    cells = analysis.tables["cells"].frame
    assert len(cells) == 4 * len(analysis.result.arms[0].rates)
    assert (cells["lr_rel"] / cells["lr"]).tolist() == pytest.approx(cells["beta"].tolist())
    assert set(cells.loc[cells["score"] == math.inf, "failed"]) <= {0.25, 0.5, 0.75, 1.0}
    assert make(settings, registry.study("learning_rate"), store).pending == 0
    controlled(store, settings, analysis)


def test_a_ridge_that_stands_still_is_said_to_be_unknown(tmp_path: Path) -> None:
    store, settings = planted(
        tmp_path / "still",
        *("study=learning_rate", "beta=0.1,1,10", "lr=0.03,0.1,0.3,1,3,10", "seed=0..2", "extend=1"),
        noise=lambda trial: off(trial.lr, 0.2 * 1.3 ** ((trial.seed * 7 + round(math.log10(trial.beta))) % 3 - 1)),
        frontier=lambda trial: 5.0,
        curvature=lambda trial: math.nan,
    )
    analysis = analysed(store, settings)
    assert slopes(analysis, phase.RIDGE)["lr"]["slope"] == pytest.approx(0, abs=0.08)
    text = " ".join(analysis.verdict)
    assert "Whether the best value of the rate depends on beta is inconclusive" in text
    assert "lr_rel" not in slopes(analysis, phase.RIDGE)
    assert any("No relative unit" in warning for warning in analysis.warnings)


def test_a_ridge_through_seeds_of_two_kinds_has_no_slope_that_is_established(tmp_path: Path) -> None:
    """One seed of five guesses at beta=0.1, at every rate."""
    store, settings = planted(
        tmp_path / "kinds",
        *("study=learning_rate", "beta=0.1,1,10", "lr=0.03,0.1,0.3,1", "seed=0..4", "extend=1"),
        noise=lambda trial: 60.0 if (trial.beta, trial.seed) == (0.1, 2) else off(trial.lr, 0.2 * trial.beta**-0.5),
        frontier=lambda trial: 4.5 * trial.beta**-0.5,
        curvature=lambda trial: 2 * trial.beta,
    )
    analysis = registry.study("learning_rate").analyse(settings, store)
    ridge = slopes(analysis, phase.RIDGE)["lr"]
    assert (ridge["slope_high"] < 0, ridge["two_kinds"]) == (True, "these betas")
    assert slopes(analysis, phase.FRONTIER)["lr"]["two_kinds"] != "these betas"
    text = " ".join(analysis.verdict)
    assert "inconclusive (not established at the rate" in text
    assert "(some seeds of the arm or its reference collapsed)" in text
    assert "Collapse at the best rate: beta=0.1, 1 of 5 trials, 20% [1%, 72%]." in text
    rows = analysis.tables["phase"].frame.set_index("beta")
    assert rows["collapsed_trials"].dropna().to_dict() == {0.1: "1 of 5"}
    assert any("no slope of the best rate is established" in warning for warning in analysis.warnings)


def test_no_best_rate_lies_where_every_seed_fails(tmp_path: Path) -> None:
    """One seed's huge loss there makes the spread over seeds exceed the mean: draws that widen it would go below 0."""
    store, settings = planted(
        tmp_path / "huge",
        *("study=learning_rate", "beta=0.1,1,10", "lr=0.03,0.1,0.3,1,3,10", "seed=0..3", "extend=1"),
        noise=lambda trial: (2e4 if trial.seed == 0 else 20) if trial.lr > 2 else off(trial.lr, 0.2),
        frontier=lambda trial: 100.0,
        curvature=lambda trial: 2 * trial.beta,
    )
    rows = registry.study("learning_rate").analyse(settings, store).tables["phase"].frame
    assert (rows["best_rate_lr_high"] < 1).all()


def test_a_plane_needs_two_sides() -> None:
    for words, said in {"beta=1": "several values of beta", "lr=0.1": "several values of lr"}.items():
        settings = resolve(parse(["study=learning_rate", words]))
        with pytest.raises(SettingsError, match=said):
            registry.study("learning_rate").plan(settings, lambda trial: None)


# switches

SWITCH = ("study=beta_switch", "lr=0.1", "beta=0.1,1", "seed=0..4", "switch_times=0.02,0.1,0.5")


def switched(path: Path, noise: Number) -> tuple[Analysis, dict[tuple[str, str, float], dict[str, Any]]]:
    store, settings = planted(path, *SWITCH, noise=noise)
    analysis = analysed(store, settings)
    controlled(store, settings, analysis)
    rows = analysis.tables["switches"].frame.to_dict("records")
    return analysis, {(row["way"], row["against"], row["at"]): row for row in rows if row["way"]}


def test_a_critical_period_is_found(tmp_path: Path) -> None:
    """Only the beta of the updates between 2% and 10% matters: at 0.1, what is learnt is worse."""

    def noise(trial: Trial) -> float:
        during = trial.beta if trial.switch_from is None or trial.switch_at < 0.05 else trial.switch_from
        return 1.5 if during == 0.1 else 0.5

    analysis, rows = switched(tmp_path / "critical", noise)
    begun = {at: rows[beta_switch.FROM, switch_rows.ALL_ALONG, at] for at in (0.02, 0.1, 0.5)}
    assert [switch_findings.moved(row) for row in begun.values()] == [False, True, True]
    assert [round(row["decided_dyn"], 1) + 0 for row in begun.values()] == [0, 1, 1]
    never = {at: rows[beta_switch.FROM, switch_rows.NEVER, at] for at in (0.02, 0.1, 0.5)}
    assert [switch_findings.moved(row) for row in never.values()] == [True, False, False]
    assert never[0.02]["log_loss_dyn"] < 0 < begun[0.5]["log_loss_dyn"]
    text = " ".join(analysis.verdict)
    assert "Beginning at 0.1, against 1 all along, accuracy: established at 0.1, 0.5" in text
    assert "inconclusive at 0.02" in text


def test_switches_that_do_nothing_show_nothing(tmp_path: Path) -> None:
    analysis, rows = switched(tmp_path / "none", lambda trial: 0.5)
    assert not any(switch_findings.moved(row) for row in rows.values())
    assert not any(row["decided_dyn"] == row["decided_dyn"] for row in rows.values() if "decided_dyn" in row)
    text = " ".join(analysis.verdict)
    assert "(inconclusive)." in text
    assert "established" not in text


def test_what_cannot_switch_says_why() -> None:
    settings = resolve(parse(["study=beta_switch", "clip=1"]))
    with pytest.raises(SettingsError, match="norm depends on the scale of the head"):
        registry.study("beta_switch").plan(settings, lambda trial: None)
    settings = resolve(parse(["study=beta_switch", "beta=1"]))
    with pytest.raises(SettingsError, match="there is one beta"):
        registry.study("beta_switch").plan(settings, lambda trial: None)
    grid = list(templates(resolve(parse(["study=beta_switch", "beta=0.1,1,3", "switch_times=0.5"]))))
    found = beta_switch.switches(resolve(parse(["study=beta_switch", "switch_times=0.5"])), grid)
    assert [(s.beta, s.way, s.template.beta, s.template.switch_from) for s in found] == [
        (0.1, "reference to beta", 0.1, 1.0),
        (0.1, "beta to reference", 1.0, 0.1),
        (3.0, "reference to beta", 3.0, 1.0),
        (3.0, "beta to reference", 1.0, 3.0),
    ]


def test_switches_establish_nothing_with_an_arm_of_two_kinds(tmp_path: Path) -> None:
    """One seed of nine guesses at beta=0.1 all along, and one of the switch from it at 10%."""

    def noise(trial: Trial) -> float:
        lost = trial.beta == 0.1 and not trial.switch_from and trial.seed == 3
        lost |= trial.switch_from == 0.1 and trial.switch_at == 0.1 and trial.seed == 5
        return 60.0 if lost else 0.3 if 1.0 in (trial.beta, trial.switch_from) else 1.5

    words = ("study=beta_switch", "lr=0.1", "beta=0.1,0.3,1", "seed=0..8", "switch_times=0.1,0.5")
    store, settings = planted(tmp_path / "kinds", *words, noise=noise)
    analysis = registry.study("beta_switch").analyse(settings, store)
    frame = analysis.tables["switches"].frame.fillna({"two_kinds": ""})
    rows = {(row["beta"], row["way"], row["against"], row["at"]): row for row in frame.to_dict("records")}
    whole = next(row for key, row in rows.items() if key[:3] == (0.1, "", "reference"))
    other = next(row for key, row in rows.items() if key[:3] == (0.3, "", "reference"))
    assert whole["log_loss_dyn_low"] > 0 < other["log_loss_dyn_low"]
    assert (whole["two_kinds"], switch_findings.moved(whole)) == ("this arm", False)
    assert (other["two_kinds"], switch_findings.moved(other)) == ("", True)
    kinds = {at: rows[0.1, beta_switch.FROM, switch_rows.NEVER, at]["two_kinds"] for at in (0.1, 0.5)}
    assert kinds == {0.1: "this arm", 0.5: "reference"}
    assert rows[0.1, beta_switch.FROM, switch_rows.ALL_ALONG, 0.1]["two_kinds"] == "this arm"
    assert rows[0.1, beta_switch.FROM, switch_rows.ALL_ALONG, 0.5]["two_kinds"] == ""
    # Both switches end at the reference's beta: they are told apart by the one they begin at.
    assert [rows[0.3, beta_switch.FROM, switch_rows.NEVER, at]["two_kinds"] for at in (0.1, 0.5)] == ["", ""]
    text = " ".join(analysis.verdict)
    assert "(not established: some seeds of the arm or its reference collapsed)" in text
    assert "0.1 to 1 at 0.1: 1 of 9 trials, 11%" in text
    assert "so that no effect in the row is established" in analysis.tables["switches"].note
    assert set(analysis.tables["collapse"].frame["collapsed_trials"]) == {"1 of 9"}


# stability

STABLE = ("study=stability", "lr=0.1", "beta=0.1,0.3,1", "seed=0..11", "tune_seeds=3")
LUCK = torch.randn(12, generator=stream("luck")).tolist()


def test_a_beta_of_wide_spread_peaks_higher_at_a_cost(tmp_path: Path) -> None:
    def noise(trial: Trial) -> float:
        wide = 6 if trial.beta == 0.1 else 1
        return max(0.02, (0.75 if trial.beta == 0.1 else 1.0) + 0.08 * wide * LUCK[trial.seed])

    store, settings = planted(tmp_path / "wide", *STABLE, noise=noise, frontier=lambda t: 0 if bad(t) else 9)
    analysis = analysed(store, settings)
    controlled(store, settings, analysis)
    peaks = analysis.tables["peaks"].frame
    row = peaks[(peaks["beta"] == 0.1) & (peaks["result"] == "repaired log loss")].iloc[0]
    assert row["best"] < row["mean"] < row["worst"]
    assert (row["of"], row["best_change_holm"] < 0.05, row["best_change"] < 0) == (3, True, True)
    assert row["best_change"] == pytest.approx(row["best"] - peaks[peaks["result"] == row["result"]].iloc[2]["best"])
    spread = analysis.tables["seeds"].frame
    wide = spread[(spread["beta"] == 0.1) & (spread["result"] == "repaired log loss")].iloc[0]
    assert wide["spread_ratio_low"] > 1
    text = " ".join(analysis.verdict)
    assert "at the cost of reliability is established at beta=0.1" in text
    shares = peaks.drop_duplicates("beta").set_index("beta")["failed_trials"]
    assert shares.to_dict() == {0.1: "0 of 9", 0.3: "2 of 9", 1.0: "0 of 9"}


def test_a_peak_of_seeds_of_two_kinds_is_not_established(tmp_path: Path) -> None:
    def noise(trial: Trial) -> float:
        return 60.0 if (trial.beta, trial.seed) == (0.1, 5) else (0.3 if trial.beta < 1 else 1.0)

    analysis = registry.study("stability").analyse(*reversed(planted(tmp_path / "kinds", *STABLE, noise=noise)))
    peaks = analysis.tables["peaks"].frame.fillna({"two_kinds": ""})
    rows = {(row["beta"], row["result"]): row for row in peaks.to_dict("records")}
    mixed, sound = rows[0.1, "repaired log loss"], rows[0.3, "repaired log loss"]
    assert mixed["best_change_high"] < 0 > sound["best_change_high"]
    assert (mixed["two_kinds"], sound["two_kinds"]) == ("this arm", "")
    peak, cost = (next(text for text in analysis.verdict if text.startswith(begin)) for begin in ("Peak:", "Cost:"))
    assert "beta=0.3" in peak
    assert "beta=0.1" not in peak
    assert "seeds spread more at no smaller beta" in cost
    assert analysis.tables["collapse"].frame["collapsed_trials"].tolist() == ["1 of 12"]
    spread = analysis.tables["seeds"].frame
    assert set(spread.loc[spread["beta"] == 0.1, "two_kinds"]) == {"this arm"}
    assert any("Collapse, mlp_128_128 beta=0.1" in text for text in analysis.verdict)


def bad(trial: Trial) -> bool:
    return trial.beta == 0.3 and trial.seed in (10, 11)


def test_seeds_alike_at_every_beta_say_nothing(tmp_path: Path) -> None:
    noise = lambda trial: 1.0 + 0.1 * LUCK[(trial.seed + round(10 * trial.beta)) % 12]  # noqa: E731
    analysis = analysed(*planted(tmp_path / "same", *STABLE, noise=noise))
    assert "is inconclusive: no smaller beta peaks significantly higher" in " ".join(analysis.verdict)
    with pytest.raises(SettingsError, match="three or more"):
        registry.study("stability").plan(resolve(parse(["study=stability", "seed=0,1"])), lambda trial: None)


# architectures

WIDTH = ("study=width_depth", "lr=0.1", "beta=0.01,0.1,1,10,100", "seed=0..2")


def width_study(path: Path, power: float) -> Analysis:
    models = "model=mlp_16,mlp_64,mlp_256,mlp_64_layernorm"
    wide = lambda trial: form(trial.model).width  # type: ignore[union-attr]  # noqa: E731
    shift = lambda trial: 1.1 ** ((trial.seed + round(wide(trial))) % 3 - 1)  # noqa: E731
    noise = lambda t: off(t.beta, shift(t) * 0.8 * (wide(t) / 64) ** power) / 2  # noqa: E731
    store, settings = planted(path, *WIDTH, models, noise=noise)
    analysis = analysed(store, settings)
    controlled(store, settings, analysis)
    return analysis


def test_a_best_beta_that_grows_with_the_width_is_found(tmp_path: Path) -> None:
    analysis = width_study(tmp_path / "grows", 1.0)
    best = analysis.tables["best_beta"].frame
    loss = best[best["result"] == "repaired log loss"].set_index("model")
    assert loss["best_beta"].is_monotonic_increasing or loss["best_beta"].iloc[:3].is_monotonic_increasing
    assert loss.loc["mlp_256", "ratio_low"] > 4
    assert loss.loc["mlp_256", "ratio_holm"] < 0.05
    trends = analysis.tables["trends"].frame
    width = trends[(trends["over"] == "width") & (trends["result"] == "repaired log loss")].iloc[0]
    assert width["models"] == "mlp_16, mlp_64, mlp_256"
    assert width["slope"] == pytest.approx(1.0, abs=0.2)
    norm = trends[(trends["over"] == "norm") & (trends["result"] == "repaired log loss")].iloc[0]
    assert (norm["models"], abs(norm["slope"]) < 0.3) == ("mlp_64, mlp_64_layernorm", True)
    assert any("goes as width^s with s = " in text and "inconclusive" not in text for text in analysis.verdict)


@pytest.mark.parametrize(("lost", "kind"), [("mlp_64", "this arm"), ("mlp_16", "reference")])
def test_best_betas_that_rest_on_seeds_of_two_kinds_are_not_others(tmp_path: Path, lost: str, kind: str) -> None:
    def noise(t: Trial) -> float:
        if (t.model, t.beta, t.seed) == (lost, 100, 1):
            return 60.0
        return off(t.beta, 0.8 * (form(t.model).width / 64) ** 1.5 * 1.1 ** (t.seed % 3 - 1)) / 2  # type: ignore[union-attr]

    store, settings = planted(tmp_path / lost, *WIDTH, "model=mlp_16,mlp_64", noise=noise)
    analysis = registry.study("width_depth").analyse(settings, store)
    best = analysis.tables["best_beta"].frame
    row = best[(best["model"] == "mlp_64") & (best["result"] == "repaired log loss")].iloc[0]
    assert (row["two_kinds"], row["ratio_low"] > 1, best_beta.ratio(row).is_established) == (kind, True, False)
    text = " ".join(analysis.verdict)
    reason = "(not established: some seeds of the arm or its reference collapsed)"
    assert f"times for mlp_64 {reason}" in text
    assert any("goes as width^s" in sentence and sentence.endswith(f"{reason}.") for sentence in analysis.verdict)
    assert "significantly different from mlp_16's: none" in " ".join(analysis.summary)
    assert "Of what some architectures differ in alone (width), none moves it significantly." in analysis.summary
    assert analysis.tables["collapse"].frame["collapsed_trials"].tolist() == ["1 of 3"]


def test_one_best_beta_for_all_is_not_said_to_move(tmp_path: Path) -> None:
    analysis = width_study(tmp_path / "same", 0.0)
    text = " ".join(analysis.verdict)
    assert any("goes as width^s" in text and text.endswith(" (inconclusive).") for text in analysis.verdict)
    assert "times for mlp_64 (inconclusive)" in text


def test_names_tell_widths_depths_and_variations() -> None:
    assert form("mlp") == Form("mlp", 128, 2, "none")
    assert form("timm/resnet18") is None
    for model in ("mlp_128_128", "cnn_8_16", "wrn_16_4", "wrn_16_4_nonorm", "gru_64", "bag_64"):
        names = variations(model)
        assert len(set(names)) == len(names) >= 3
        assert all(form(name) for name in names)
    assert set(variations("mlp_128_128")) >= {"mlp_128", "mlp_128_128_128_128", "mlp_32_32", "mlp_128_128_layernorm"}
    assert len(resolve(parse(["study=width_depth"])).model or ()) == 6
    with pytest.raises(SettingsError, match="knows no variations"):
        variations("timm/resnet18")
    with pytest.raises(SettingsError, match="there is one, mlp_8"):
        registry.study("width_depth").plan(resolve(parse(["study=width_depth", "model=mlp_8"])), lambda trial: None)


# all of it, small

SMALL = ("epochs=8", "seed=0..2", "tune_seeds=1", "wandb=disabled", "workers=1", "extend=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("study=learning_rate", "model=mlp_8", "lr=0.1,0.5,2", "beta=0.3,1"),
        ("study=beta_switch", "model=mlp_8", "lr=0.3,1", "beta=1,3", "switch_times=0.2,0.5"),
        ("study=stability", "model=mlp_8", "lr=0.3,1", "beta=0.3,1"),
        ("study=width_depth", "model=mlp_8,mlp_16,mlp_8_layernorm", "lr=0.3,1", "beta=0.3,1,3"),
    ],
    ids=lambda words: words[0].partition("=")[2],
)
def test_runs_from_command_to_report(words: tuple[str, ...], tmp_path: Path) -> None:
    assert cli.main(["run", *words, *SMALL, f"out={tmp_path}"]) == 0
    settings = resolve(parse([*words, *SMALL, f"out={tmp_path}"]))
    store, study = Store(settings.folder), registry.study(settings.study)
    assert make(settings, study, store).pending == 0
    page = unpacked((settings.folder / "report" / "report.html").read_text())
    assert all(f'id="{name}-' in page for name in study.figures)
    analysis = study.analyse(settings, store)
    controlled(store, settings, analysis, power=False)
    assert f"of {2 * len(settings.model or ())} controls" in analysis.summary[-1].replace("All", "of")
    named = [item for section in study.sections for item in section.items if item != DETAILS]
    assert {*analysis.tables, *study.figures} <= set(named)
    assert ">Controls</" in page
    if settings.study == "learning_rate":  # lambda_max was stored apart, at each start
        rows = analysis.tables["phase"].frame
        assert (rows["critical_rate_lr"] > 0).all()
        assert rows["critical_rate_lr_rel"].tolist() == pytest.approx([1.0, 1.0])
