"""The study of initial logit magnitude: what it plans, what it says of known truths, and one run of it all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic
import torch

from calib_bench import registry
from calib_bench.analysis import controls
from calib_bench.cli import main
from calib_bench.core.settings import parse
from calib_bench.core.study import Analysis
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.inference import variance_shares
from calib_bench.planning.defaults import resolve
from calib_bench.report import figures
from calib_bench.store.store import Store
from calib_bench.studies.logit_magnitude.findings import _answer, answer
from calib_bench.studies.logit_magnitude.plane import BETA, MAGNITUDE, equal_norms
from calib_bench.system.random import stream

STUDY = registry.study("logit_magnitude")
SPLIT = dict[str, torch.Tensor]


def made(path: Path, driver: Any, *words: str) -> tuple[Analysis, Store]:
    """The analysis of a made-up store in which errors grow with `driver` of a trial, and with nothing else."""

    def shape(trial: Trial, truth: SPLIT, labels: SPLIT) -> SPLIT:
        Z = {}
        for split, u in truth.items():
            shared, own = (stream("noise", split, *who) for who in ((), (trial.seed, trial.beta, trial.correlation)))
            noise = torch.randn(u.shape, generator=shared) + 0.05 * torch.randn(u.shape, generator=own)
            Z[split] = 1.4 * (u + (driver(trial) + (trial.epochs < synthetic.EPOCHS)) * noise)
        return Z

    given = ("study=logit_magnitude", "seed=0..4", "lr=0.1", *words)
    store, settings = synthetic.make(path, *given, shape=shape, test=300)
    return STUDY.analyse(settings, store), store


def of_beta(trial: Trial) -> float:
    return 1.0 + 0.4 * abs(math.log10(trial.beta * trial.head_lr**0.5))


def of_norm(trial: Trial) -> float:
    return 1.0 + 0.5 * math.log1p(synthetic.initial_norm(trial) / (1 + 0.1 * trial.seed))


@pytest.fixture(scope="module")
def beta_matters(tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    return made(tmp_path_factory.mktemp("beta"), of_beta)[0]


def test_the_plane_and_the_factors_are_one_family_on_the_same_rates() -> None:
    settings = resolve(parse(["study=logit_magnitude", "beta=0.1,1", "seed=0", "lr=0.1,0.2", "correlation=-1,1"]))
    trials = STUDY.plan(settings, lambda trial: None)
    arms = {(t.beta, t.correlation, round(t.head_lr, 9), t.head_init) for t in trials}
    assert arms == {
        *((beta, c, 1.0, 1.0) for beta in (0.1, 1.0) for c in (None, -1.0, 1.0)),
        (1.0, None, 0.01, 1.0),
        (1.0, None, 1.0, 0.1),
    }
    assert len(trials) == 8 * 2
    chosen = STUDY.plan(settings, lambda trial: abs(math.log(trial.lr / 0.4)) + 0.1 * (trial.beta < 1))
    by_arm: dict[Any, set[float]] = {}
    short = [t for t in chosen if t.epochs < 80]
    assert [(t.beta, t.correlation, t.head_lr, t.head_init, t.lr, t.epochs) for t in short] == [
        (1, None, 1, 1, 0.4, 10)
    ]
    for t in chosen:
        if t not in short:
            by_arm.setdefault(t.arm(), set()).add(t.lr)
    assert len(by_arm) == 8
    assert {frozenset(rates) for rates in by_arm.values()} == {frozenset({0.1, 0.2, 0.4, 0.8})}


@pytest.mark.parametrize(("words", "says"), [(["correlation=0"], "two or more"), (["epochs=0"], "epochs=1 or more")])
def test_what_has_nothing_to_compare_says_so(words: list[str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        STUDY.plan(resolve(parse(["study=logit_magnitude", *words])), lambda trial: None)


def test_an_effect_of_beta_is_found_to_be_one(beta_matters: Analysis) -> None:
    shares = beta_matters.tables["shares"].frame
    for row in shares[shares["other"] == BETA].to_dict("records"):
        assert row["other_share_low"] > 0.5 > row["magnitude_share_high"]
        assert answer(row).startswith(("yes, on beta", "it depends more on beta"))
        assert row["seeds"] == 5
    contrasts = beta_matters.tables["contrasts"].frame
    moved = contrasts[contrasts["moves"] == BETA]
    assert (moved["initial_norm"] / moved["from_norm"]).dropna().between(0.9, 1.1).all()
    far = moved[(moved["beta"] / moved["from_beta"]).apply(lambda ratio: abs(math.log10(ratio))) > 0.9]
    assert (far["repaired_log_loss_low"] > 0).all()
    assert len(far) >= 2
    own = contrasts[contrasts["moves"] == MAGNITUDE]
    assert list(own["beta"]) == pytest.approx([0.1, 10**-0.5, 1, 10**0.5, 10])
    assert (own["repaired_log_loss"].abs() < far["repaired_log_loss"].min() / 2).all()


def test_the_factors_of_beta_are_told_apart(beta_matters: Analysis) -> None:
    frame = beta_matters.tables["two_by_two"].frame
    row = frame[(frame["metric"] == "repaired log loss") & (frame["beta"] == 10)].iloc[0]
    assert row["head_rate_low"] > 0.02
    assert abs(row["initial_magnitude"]) < row["head_rate"] / 4
    assert row["total"] == pytest.approx(row["head_rate"] + row["initial_magnitude"])
    shares = beta_matters.tables["shares"].frame
    design = shares[(shares["design"] == "2x2 of beta=10") & (shares["metric"] == "repaired log loss")].iloc[0]
    assert design["other_share"] > 0.9 > 0.1 > design["magnitude_share"]


def test_the_initial_magnitude_is_read_from_the_trials(beta_matters: Analysis) -> None:
    plane = beta_matters.tables["plane"].frame
    doubled = (2 * (1 + plane["correlation"].fillna(-0.5))) ** 0.5
    assert plane["initial_norm"].tolist() == pytest.approx((1.2 * plane["beta"] * doubled).tolist())
    own = plane[plane["correlation"].isna() & (plane["beta"] == 1)].iloc[0]
    assert math.isnan(own["accuracy_change"])
    some = plane[(plane["correlation"] == -1) & (plane["beta"] == 10)].iloc[0]
    assert some["accuracy_change"] == pytest.approx(some["accuracy"] - own["accuracy"])
    assert plane["accuracy_high"].max() <= 1


def test_controls_are_no_cells_of_the_plane(beta_matters: Analysis) -> None:
    frame = beta_matters.tables["controls"].frame
    assert frame["control"].tolist() == [controls.RESCALED, controls.UNDERTRAINED]
    assert frame["passed"].tolist() == [True, True]
    assert (frame["beta"] == 1).all()
    assert len(beta_matters.tables["plane"].frame) == 5 * 4
    assert set(beta_matters.tables["trials"].frame["key"]) == {
        trial.key
        for arm in beta_matters.result.arms
        for trial in arm.trials.values()  # type: ignore[attr-defined]
    }
    assert {trial.epochs for arm in beta_matters.result.arms for trial in arm.trials.values()} == {synthetic.EPOCHS}  # type: ignore[attr-defined]
    assert beta_matters.summary[-1] == "All 2 controls passed."


def test_an_effect_of_the_magnitude_is_not_taken_for_one_of_beta(tmp_path: Path) -> None:
    analysis, _ = made(tmp_path, of_norm)
    shares = analysis.tables["shares"].frame
    for row in shares[shares["other"] == BETA].to_dict("records"):
        assert row["magnitude_share_low"] > 0.1
        assert not answer(row).startswith("yes")
    contrasts = analysis.tables["contrasts"].frame
    loss = contrasts.groupby("moves")["repaired_log_loss"].apply(lambda values: values.abs().max())
    assert loss[BETA] < loss[MAGNITUDE] / 4


def test_what_diverged_is_left_out_and_said(tmp_path: Path) -> None:
    store, settings = synthetic.make(
        tmp_path,
        "study=logit_magnitude",
        "beta=0.1,1,10",
        "seed=0..2",
        "lr=0.1",
        diverged={(10.0, 0), (10.0, 1), (10.0, 2)},
    )
    analysis = STUDY.analyse(settings, store)
    design = set(analysis.tables["shares"].frame["design"])
    assert "2 betas x 3 correlations" in design
    assert "2x2 of beta=10" not in design
    assert any("beta=10" in said for said in analysis.warnings)
    with figures.style():
        for draw in STUDY.figures.values():
            assert figures.render(draw(analysis))["png"]


def row(**values: Any) -> dict[str, Any]:
    shares = {"other_share": 0.5, "other_share_low": 0.4, "other_share_high": 0.6}
    return {**shares, "magnitude_share": 0.1, "magnitude_share_low": 0.0, "magnitude_share_high": 0.2, **values}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (row(magnitude_share_high=0.09), "yes, on beta, and on the initial magnitude weakly"),
        (row(), "more on beta than on the initial magnitude, on which no dependence is established"),
        (row(magnitude_share_holm=0.01), "on which it depends too"),
        (row(magnitude_share_high=0.45), "inconclusive on which of the two it depends more"),
        (row(magnitude_share_high=0.45, other_share_holm=0.01), "does depend on beta"),
        (row(magnitude_share_low=0.7, magnitude_share_high=0.9), "no, it depends more on the initial magnitude"),
        (row(other_share_low=math.nan), "no intervals"),
    ],
)
def test_answers_follow_the_intervals(found: dict[str, Any], says: str) -> None:
    assert says in answer(found)


def test_a_share_that_one_seed_does_not_tell_is_no_number() -> None:
    about = {"metric": "accuracy", "design": "2 betas x 3 correlations", "seeds": 1, "tuning": "few seeds"}
    said = _answer({**about, "other_share": math.nan, "magnitude_share": math.nan})
    assert said.endswith("share of variance of beta –, of ||Z0|| at fixed beta –.")


def test_cells_of_equal_magnitude_are_found() -> None:
    class Cell:
        def __init__(self, beta: float, norm: float) -> None:
            self.beta, self.norm = beta, norm

    cells = [Cell(1, 0.0), Cell(10, 1e-9), Cell(1, 1.0), Cell(10, 1.05), Cell(1, 3.0), Cell(1, 3.1), Cell(10, 9.0)]
    assert equal_norms(cells) == [cells[:2], cells[2:4]]  # type: ignore[arg-type]


def test_shares_given_the_other_factor_are_main_effect_and_interaction() -> None:
    values = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0)).numpy()
    found = variance_shares(values, draws=9)
    assert found.second_given_first.mean == pytest.approx(found.second.mean + found.interaction.mean)
    assert found.first_given_second.mean == pytest.approx(found.first.mean + found.interaction.mean)
    assert found.second_given_first.low <= found.second_given_first.mean <= found.second_given_first.high


@pytest.mark.slow
def test_the_study_runs_from_words_to_report(tmp_path: Path) -> None:
    tiny = ("model=mlp_16", "beta=1,10", "correlation=-1,1", "seed=0..2", "epochs=6", "lr_rel=0.25,1", "tune_seeds=1")
    more = ("objective=cross_entropy,label_smoothing:0.1", "extend=0", "wandb=disabled", "workers=1")
    assert main(["run", "study=logit_magnitude", *tiny, *more, f"out={tmp_path}"]) == 0
    report = tmp_path / "digits-logit_magnitude" / "report"
    assert {path.stem for path in (report / "figures").glob("*.png")} == set(STUDY.figures)
    plane = pd.read_csv(report / "tables" / "plane.csv")
    for _, some in plane.groupby("objective"):
        norms = some.set_index(["beta", "correlation"])["initial_norm"]
        assert norms[1, -1] == norms[10, -1] == 0
        assert norms[10, 1] == pytest.approx(10 * norms[1, 1], rel=1e-4)
        assert norms[1, 1] > 0.1
    assert plane["objective"].nunique() == 2
    known = pd.read_csv(report / "tables" / "controls.csv")
    assert known["passed"].tolist() == [True, True]
    page = (report / "report.html").read_text()
    assert "label_smoothing:0.1: Does generalization depend" in page
