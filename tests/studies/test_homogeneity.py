"""The study of the homogeneity law: what it plans, how it judges, and one true small run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from calib_bench import cli, registry
from calib_bench.core.settings import Settings, parse
from calib_bench.core.study import Analysis
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.planning.plan import make
from calib_bench.store.store import Store
from calib_bench.studies.homogeneity import figures, findings, measure, nets
from calib_bench.studies.homogeneity.findings import SUBJECTS
from calib_bench.studies.homogeneity.measure import BEST, EQUIVALENT, FAILURE, INCONCLUSIVE, MISSED, SUGGESTIVE
from calib_bench.studies.homogeneity.options import Options
from calib_bench.studies.homogeneity.result import HomogeneityResult
from calib_bench.studies.homogeneity.tables import law_tables

WORDS = (
    "study=homogeneity", "model=mlp_8_nobias", "optimizer=sgd", "momentum=0", "beta=0.01,0.1,1", "lr_hom=0.25,0.5,1,2",
    "epochs=12", "seed=0..4", "tune_seeds=3", "limit=60", "workers=1", "wandb=disabled",
)  # fmt: skip


def settings(*words: str) -> Settings:
    typed = {word.partition("=")[0] for word in words}
    return resolve(parse([*(word for word in WORDS if word.partition("=")[0] not in typed), *words]))


def planned(trial: Trial, best: float = 0.5, fails: float = 1.5) -> float:
    """A selection score that is lowest at one rate in lr_hom, and that of guessing above another."""
    return math.log(10) if trial.lr > fails else 0.1 + math.log(trial.lr / best) ** 2


def test_the_plan_brackets_failure_and_judges_the_carried_rate_on_fresh_seeds() -> None:
    own = settings()
    wanted = registry.study("homogeneity").plan(own, planned)
    assert wanted == registry.study("homogeneity").plan(own, planned)
    grid = [t for t in wanted if t.lr_unit == "lr_hom" and t.precision == "fp32"]
    assert {t.seed for t in grid if t.lr == 0.5} == {0, 1, 2, 3, 4}
    assert max(t.lr for t in grid if planned(t) < 2) / min(t.lr for t in grid if t.lr > 1.5) > 0.84  # to a 2^(1/4)
    starts = [t for t in wanted if t.probe == "homogeneity/degree"]
    assert [t.epochs for t in starts] == [0] * 5
    scaled = [t for t in wanted if t.init_scale != 1 and t.precision == "fp32"]
    assert {(t.beta, t.init_scale, t.lr_unit) for t in scaled} == {(1, 0.1, "lr"), (1, 0.316227766, "lr")}
    assert {t.seed for t in scaled} == {0, 1, 2}
    same = [t for t in wanted if t.lr_unit == "lr" and t.beta < 1]
    assert {(t.beta, t.lr, t.seed) for t in same} == {(b, 0.5, s) for b in (0.01, 0.1) for s in (3, 4)}
    one, other = (t for t in wanted if t.precision == "fp64")
    assert (one.beta, other.beta, other.init_scale, other.degree) == (1, 0.01, pytest.approx(10), 2)
    assert not [t for t in registry.study("homogeneity").plan(settings("initial_scales=no"), planned) if t in scaled]


def test_each_optimizer_has_its_own_grid_and_power() -> None:
    own = settings("optimizer=sgd,adam", "momentum=0,0.9", "model=mlp_8,mlp_8_layernorm")
    every = nets.nets(own, lambda trial: None)
    first = {net.optimizer: net.arms[0].rates[0] for net in every}
    assert first == {"sgd": 0.25, "sgd momentum=0.9": pytest.approx(0.025), "adam": 0.25 / 64}
    assert {net.optimizer: net.power for net in every} == {"sgd": -2, "sgd momentum=0.9": -2, "adam": -1}
    assert len(every) == 6
    assert all(nets.exact(net) is None for net in every)
    starts = {trial.key for net in every for trial in nets.starts(net)}
    assert len(starts) == 2 * 5  # one for all optimizers of a model


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("reference=0.1",), "leave reference= out"),
        (("lr=0.1,0.2,0.3",), "give rates as lr_hom="),
        (("beta=0.1,0.3,1",), "two such betas"),
        (("lr_hom=0.1,0.3",), "three rates"),
        (("split=seed",), "leave split at shared"),
        (("epochs=0",), "epochs=1 or more"),
    ],
)
def test_what_cannot_be_judged_is_refused(words: tuple[str, ...], said: str) -> None:
    dropped = ("lr_hom=",) if words[0].startswith("lr=") else ()
    kept = [word for word in WORDS if not word.startswith((*dropped, *(w.partition("=")[0] + "=" for w in words)))]
    with pytest.raises(SettingsError, match=said):
        nets.check(resolve(parse([*kept, *words])))


def reading(slope: float, noise: float, model: str = "mlp_8_nobias") -> measure.Reading:
    """A reading whose rates go as beta to a slope, which differs between seeds by `noise`."""
    (net,) = nets.nets(settings(f"model={model}"), planned)
    apart = noise * np.array([-1.2, -0.5, 0.0, 0.6, 1.1])[:, None]
    log_SB = (slope + apart) * np.log(net.betas)
    start_SB = np.where(np.array([True, True, True, False, False])[:, None], log_SB, np.nan)
    return measure.Reading(net, np.full(5, 2.0), log_SB, log_SB + 0.5, start_SB + 0.5)


def test_the_declared_rule() -> None:
    rows = [reading(-1.02, 0.02), reading(-0.7, 0.05), reading(-0.8, 0.4), reading(-1.0, 0.4, "mlp_4_nobias")]
    judged = [row for row in measure.slope_rows(rows, 0.1) if row["range"] == nets.RANGE and row["rate"] == BEST]
    assert [row["verdict"] for row in judged] == [EQUIVALENT, MISSED, INCONCLUSIVE, INCONCLUSIVE]
    assert judged[0]["slope"] == pytest.approx(-1.02)
    assert judged[0]["slope_hom"] == pytest.approx(-0.02)
    values = np.array([-1.2, -0.5, 0.0, 0.6, 1.1]) * 0.05
    half = 2.7764451 * values.std(ddof=1) / math.sqrt(5)  # of t with four degrees of freedom
    assert (judged[1]["slope_low"], judged[1]["slope_high"]) == pytest.approx((-0.7 - half, -0.7 + half))
    limits = {"x": 0.15, "x_low": 0.01, "x_high": 0.29}
    assert measure.verdict({**limits, "x_holm": 0.2}, "x", 0.1) == SUGGESTIVE
    assert measure.verdict({**limits, "x_holm": 0.04}, "x", 0.1) == MISSED
    assert measure.verdict({"x": 0.05, "x_low": 0.01, "x_high": 0.09, "x_holm": 0.001}, "x", 0.1) == EQUIVALENT
    assert measure.verdict({"x": math.nan}, "x", 0.1) == INCONCLUSIVE


def test_holm_counts_every_net_of_a_rate() -> None:
    rows = [reading(-0.8, 0.12), *[reading(-1.0, 0.4)] * 9]
    alone = [row for row in measure.slope_rows(rows[:1], 0.1) if row["range"] == nets.RANGE]
    among = [row for row in measure.slope_rows(rows, 0.1) if row["range"] == nets.RANGE]
    assert {row["verdict"] for row in alone} == {MISSED}
    assert {row["verdict"] for row in among[:2]} == {SUGGESTIVE}


def test_a_seed_without_a_rate_is_left_out_and_a_beta_that_most_lack() -> None:
    one = reading(-1.0, 0.02)
    one.best_SB[0, 0] = np.nan
    one.failure_SB[1:4, 1] = np.nan
    rows = {row["rate"]: row for row in measure.slope_rows([one], 0.1) if row["range"] == nets.RANGE}
    assert (rows[BEST]["seeds"], rows[BEST]["left_out"], rows[BEST]["verdict"]) == (4, 1, EQUIVALENT)
    assert (rows[FAILURE]["betas"], rows[FAILURE]["verdict"]) == (1, INCONCLUSIVE)
    frames = {"slopes": pd.DataFrame(rows.values())}
    told = findings.warnings(settings(), frames, 0)
    assert any("best rate: 1 seeds and 0 betas are left out" in text for text in told)
    assert any("failure: 0 seeds and 1 betas are left out" in text for text in told)


def frames_of(readings: list[measure.Reading]) -> dict[str, pd.DataFrame]:
    name = {"model": "mlp_8_nobias", "optimizer": "sgd"}
    cost: dict[str, Any] = {**name, "seeds": 2, "ratio": 1.0, "failed": 0, "tuned_failed": 0, "same_rate": 1.0}
    late = {**name, "scale": 0.1, "degree": 2.0, "seeds": 5, "never": 1, "law": 0.0, "steps": 40.0}
    return {
        "slopes": pd.DataFrame(measure.slope_rows(readings, 0.1)),
        "rates": pd.DataFrame(measure.rate_rows(readings)),
        "scaled_start": pd.DataFrame(measure.start_rows(readings)),
        "exact": pd.DataFrame([{**name, "beta": 0.01, "difference": 3e-3, "passed": False}]),
        "regret": pd.DataFrame(
            [
                {**cost, "beta": 0.01, "test": 0.2, "test_low": 0.1, "test_high": 0.3, "verdict": MISSED},
                {**cost, "beta": 0.1, "test": 0.0, "test_low": 0.0, "test_high": 0.0, "verdict": EQUIVALENT},
            ]
        ),
        "saddle": pd.DataFrame([{**late, "beta": 0.01, "share": 0.4}, {**late, "beta": 0.1, "share": 0.1, "never": 0}]),
    }


def test_sentences_and_tables_say_what_the_rows_hold() -> None:
    frames = frames_of([reading(-1.02, 0.02), reading(-0.7, 0.05, "mlp_4_nobias")])
    said = findings.verdict(frames, Options())
    text = "\n".join(said)
    assert "equivalent within ±0.1 in the slope over beta <= 0.1, for mlp_8_nobias (sgd) −1.020" in text
    assert "misses the law (established, after Holm's correction) for mlp_4_nobias (sgd) −0.700" in text
    assert "(L = 2.00, predicted −1)" in text
    assert "mlp_8_nobias (sgd) at beta=0.01 (its start takes 40% of the run, 1 of 5 seeds never)" in text
    assert "A late start does not explain why the law is missed, or may be, by mlp_4_nobias (sgd)." in text
    assert "in 1 of 2 cases of net and beta (1 because both are the same rate); it surely costs more" in text
    assert "The median cost is 0.1 nats, the largest 0.2;" in text
    assert "equivalent for mlp_8_nobias (sgd)" in text
    assert "FAILED for mlp_8_nobias (sgd)" in text
    (first, second) = findings.summary(frames, Options())
    assert "the best rate: 1 net equivalent, 1 net established miss" in first
    assert second in said
    tables = law_tables(settings(), frames, Options())
    assert set(tables) == set(frames)
    assert "equivalent: the 95% interval lies within ±0.1" in tables["slopes"].note
    assert "±0.05 nats on the test split" in tables["regret"].note
    rate = tables["rates"].frame.set_index(["model", "beta"]).loc[("mlp_8_nobias", 0.01)]
    assert rate["best_rate_lr"] / rate["best_rate_lr_hom"] == pytest.approx(100)
    assert rate["headroom"] == pytest.approx(math.exp(0.5))


def test_more_failures_of_carried_runs_are_never_equivalent() -> None:
    row = {"verdict": EQUIVALENT, "failed": 1, "tuned_failed": 0}
    assert measure._unless_failed(row)["verdict"] == INCONCLUSIVE
    assert measure._unless_failed({**row, "tuned_failed": 1})["verdict"] == EQUIVALENT


def test_the_degree_that_a_name_tells() -> None:
    known = {name: nets.degree_by_name(name) for name in ("linear", "mlp", "cnn_8_16", "mlp_8_layernorm", "gru_8")}
    assert known == {"linear": 1, "mlp": 3, "cnn_8_16": 3, "mlp_8_layernorm": 2, "gru_8": None}


def test_softmax_regression_is_judged_by_its_best_rate_alone() -> None:
    own = settings("model=linear,linear_nobias")
    with_bias, without = nets.nets(own, planned)
    assert not any(nets.scaled(net) for net in (with_bias, without))
    wanted = [trial for net in (with_bias, without) for trial, _ in nets.wanted(net, planned)]
    assert {t.lr for t in wanted if t.lr_unit == "lr_hom" and t.precision == "fp32"} == {0.25, 0.5, 1, 2}
    assert nets.exact(with_bias) is None
    one, other = nets.exact(without) or ()
    assert (one.degree, other.degree, other.init_scale) == (1, 1, pytest.approx(100))
    rows = measure.slope_rows([reading(-2.0, 0.02, "linear"), reading(-1.0, 0.02)], 0.1)
    assert {row["rate"] for row in rows if row["model"] == "linear"} == {BEST}
    first, *_ = findings.summary({"slopes": pd.DataFrame(rows[:2]), "regret": pd.DataFrame()}, Options())
    assert SUBJECTS[FAILURE] not in first


def test_ten_nets_can_be_told_apart_in_a_legend_that_fits() -> None:
    names = [f"mlp_{'_'.join(['32'] * depth)}{end}" for depth in range(1, 6) for end in ("", "_nobias")]
    rows = [
        {"model": name, "optimizer": "sgd", "scale": scale, "share": 0.1, "law": 0.0}
        for name in names
        for scale in (0.1, 1)
    ]
    empty = pd.DataFrame()
    result = HomogeneityResult(
        None,
        slopes=empty,
        rates=empty,
        regret=empty,
        saddle=pd.DataFrame(rows),
        margin=0.1,
        regret_margin=0.05,
        arms=[],
    )
    figure = figures.saddle(Analysis((), {}, (), result))
    figure.draw_without_rendering()
    lines = figure.axes[0].get_lines()
    assert len({(line.get_color(), line.get_marker()) for line in lines if line.get_marker() != "None"}) == 10
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


@pytest.mark.slow
def test_a_small_run_is_reported_and_its_controls_hold(tmp_path: Path) -> None:
    assert cli.main(["run", *WORDS, f"out={tmp_path}"]) == 0
    own, study = settings(f"out={tmp_path}"), registry.study("homogeneity")
    store = Store(tmp_path / "digits-homogeneity")
    assert make(own, study, store).pending == 0
    analysis = study.analyse(own, store)
    frames = {name: table.frame for name, table in analysis.tables.items()}
    (exact,) = frames["exact"].to_dict("records")
    assert exact["passed"]
    assert exact["difference"] < 1e-12
    (start,) = frames["scaled_start"].to_dict("records")
    assert start["verdict"] == EQUIVALENT  # the same runs but for rounding
    slopes = frames["slopes"]
    assert set(slopes["degree"]) == {2.0}
    assert np.allclose(slopes["slope_hom"].dropna(), (slopes["slope"] + 1).dropna())
    assert len(frames["regret"]) == 2
    assert set(frames["regret"]["seeds"]) == {2}
    folder = tmp_path / "digits-homogeneity" / "report"
    assert set(frames) == {path.stem for path in (folder / "tables").glob("*.csv")}
    for name in study.figures:
        assert (folder / "figures" / f"{name}.png").stat().st_size > 8_000


def test_a_store_without_trials_gives_an_inconclusive_page(tmp_path: Path) -> None:
    study = registry.study("homogeneity")
    analysis = study.analyse(settings(f"out={tmp_path}"), Store(tmp_path / "empty"))
    assert analysis.verdict == ("Whether rates follow the law is inconclusive: no net has all its rates yet.",)
    assert not analysis.tables
    assert any("1 nets have trials that are missing" in text for text in analysis.warnings)
    assert all(draw(analysis) is not None for draw in study.figures.values())
