"""Early learning: times and paths against dense algebra and the real loop, the lazy limit, fates, and the study."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import driver
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from calib_bench import cli, registry
from calib_bench.core.settings import parse
from calib_bench.core.splits import InputSpec
from calib_bench.dynamics.curvature import lambda_max
from calib_bench.dynamics.gradient_flow import crossing, early_time, follow
from calib_bench.dynamics.tangent_kernel import Tangent
from calib_bench.errors import SettingsError, UserError
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store
from calib_bench.studies.early_learning import claims, probes
from calib_bench.studies.early_learning import rows as early_rows
from calib_bench.studies.early_learning.descent import COARSE, _alone, descend, fate, frontier, label_entropy
from calib_bench.train import initialize
from tests.dynamics.test_curvature import VECTOR, dense, problem
from tests.dynamics.test_tangent_kernel import jacobian
from tests.train.test_train import CPU, digits, run, trial


@pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
def test_the_early_time_is_that_of_the_dense_kernel(beta: float) -> None:
    model, x, y = problem("mlp_7_5")
    z, J = jacobian(model, x)
    residual = F.one_hot(y, 4) - (beta * z).softmax(-1)
    speed = J @ (J.T @ residual.flatten()) / len(y)
    tangent = Tangent(model, x)
    assert early_time(tangent, y, beta * z) == pytest.approx(float((beta * z).norm() / speed.norm()), rel=1e-10)
    path = follow(model, x, y, beta, tangent, first=1e-7, longest=1e-7, most=1)
    assert path.moved[1] / path.tau[1] == pytest.approx(float(speed.norm()), rel=1e-4)
    assert path.moved_linear[1] / path.tau[1] == pytest.approx(float(speed.norm()), rel=1e-9)


@pytest.mark.parametrize("beta", [0.3, 3.0])
def test_a_path_is_what_the_real_loop_trains(beta: float) -> None:
    one = trial(
        beta=beta, batch=240, epochs=8, lr=0.02, schedule="constant", warmup=0.0, momentum=0.0, weight_decay=0.0,
        precision="fp64",
    )  # fmt: skip
    model = initialize.initial_model(one, digits(), CPU)
    x, y = next(iter(digits().train.train_batches(seed=0, epoch=0, batch=240, device=CPU)))
    step = one.lr * beta**2
    path = follow(model, x.double(), y, beta, Tangent(model, x.double()), step, step, 8)
    assert path.tau == pytest.approx([k * step for k in range(9)])
    assert run(one).history["train_loss"][1:] == pytest.approx(path.loss[:8], rel=1e-9)


def test_the_tangent_is_the_lazy_limit_of_training() -> None:
    """From equal initial logits the departure falls as 1 / beta, and with it what the losses differ by."""
    model, x, y = problem("mlp_40", n=12)
    tangent = Tangent(model, x)
    step = 0.2 / float(lambda_max(model, x, y, 1.0).value)
    paths = {
        beta: follow(model, x, y, beta, tangent, step, step, 60, shift=(1 - beta) * tangent.z)
        for beta in (1.0, 10.0, 100.0, 1000.0)
    }
    ends = {beta: path.departure() for beta, path in paths.items()}
    assert ends[100.0] / ends[1000.0] == pytest.approx(10, rel=0.1)
    assert ends[1000.0] < 1e-3 < ends[1.0]
    assert paths[1000.0].loss[-1] == pytest.approx(paths[1.0].loss_linear[-1], rel=1e-3)
    assert paths[1000.0].loss_linear == pytest.approx(paths[1.0].loss_linear, rel=1e-9)
    assert paths[1000.0].loss[-1] < 0.8 * paths[1000.0].loss[0]


def test_real_training_at_large_beta_follows_the_linearized_path() -> None:
    fields: dict[str, Any] = {"schedule": "constant", "warmup": 0.0, "momentum": 0.0, "weight_decay": 0.0}
    gaps = []
    for beta in (1.0, 300.0):
        one = trial(model="mlp_32", beta=beta, batch=240, epochs=20, lr=0.05, lr_unit="lr_eff", precision="fp64")
        one = one.model_copy(update={**fields, "head_init": 1 / beta})
        model = initialize.initial_model(one, digits("mlp_32"), CPU)
        x, y = next(iter(digits("mlp_32").train.train_batches(seed=0, epoch=0, batch=240, device=CPU)))
        linear = follow(model, x.double(), y, beta, Tangent(model, x.double()), 0.05, 0.05, 20).loss_linear
        trained = run(one).history["train_loss"][1:]
        gaps.append(max(abs(a - b) for a, b in zip(trained, linear, strict=False)))
        assert trained[-1] < trained[0] - 0.1
    assert gaps[1] < 1e-3 < gaps[0]


def test_curvature_of_shifted_logits_is_that_of_the_dense_hessian() -> None:
    model, x, y = problem()
    with torch.no_grad():
        shift = -2.0 * model(x)
    zero = lambda_max(model, x, y, 2.0, tol=1e-8, shift=shift)
    assert zero.converged
    assert zero.value != pytest.approx(lambda_max(model, x, y, 2.0, tol=1e-8).value, rel=1e-3)
    before, model.forward = model.forward, lambda x, f=model.forward: f(x) + shift / 2.0  # type: ignore[method-assign]
    assert zero.value == pytest.approx(torch.linalg.eigvalsh(dense(model, x, y, 2.0))[-1].item(), rel=1e-7)
    model.forward = before  # type: ignore[method-assign]


def test_a_path_with_batch_norm_leaves_the_model_as_it_was() -> None:
    model, x, y = problem("wrn_10_1", InputSpec("image", (1, 4, 4)), n=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = follow(model, x, y, 1.0, Tangent(model, x), 1e-4, 1e-4, 4)
    assert len(path.tau) == 5
    assert path.loss[-1] < path.loss[0]
    assert path.apart[-1] < 0.1 * path.moved[-1]
    assert bool(descend(model, x, y, 1.0, [0.01, 0.02], 2).isfinite().all())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_crossings() -> None:
    assert crossing([0, 1, 2, 3], [0, 1, 3, 2], 2.0) == pytest.approx(1.5)
    assert crossing([0, 1], [5, 6], 2.0) == 0.0
    assert math.isnan(crossing([0, 1, 2], [0, 1, 1.9], 2.0))


@pytest.mark.parametrize(
    ("losses", "word"),
    [
        ([2.0, 1.0, 0.5], "steady"),
        ([2.0, 2.0, 2.09, 2.05], "steady"),
        ([2.0, 8.0, 3.0, 1.0], "catapult"),
        ([2.0, 8.0, 2.3, 2.3], "lost"),
        ([2.0, math.inf, math.inf], "lost"),
        ([2.0, math.nan, 1.0], "lost"),
        ([2.31, 2.3, 2.3, 2.3], "lost"),  # every unit has died
        ([2.31, 2.3, 2.29, 2.28], "steady"),  # slow
        ([2.0, 8.0, 2.3, 2.1], "catapult"),  # 2.185 is 95% of guessing
        ([2.0, 8.0, 2.3, 2.2], "lost"),
    ],
)
def test_fates(losses: list[float], word: str) -> None:
    assert fate(losses, constant=2.3) == word


def test_the_entropy_of_labels() -> None:
    assert label_entropy(torch.tensor([0, 0, 1, 1]), 3) == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("name", "spec"),
    [("mlp_7_5", VECTOR), ("cnn_3_4", InputSpec("image", (1, 8, 8))), ("gru_3", InputSpec("tokens", vocabulary=5))],
)
def test_descent_at_many_rates_is_descent_at_each(name: str, spec: InputSpec) -> None:
    model, x, y = problem(name, spec, n=8)
    losses = descend(model, x, y, 2.0, [0.01, 0.3, 1e200], 5)
    for rate, row in zip([0.01, 0.3], losses, strict=False):
        copy, _, _ = problem(name, spec, n=8)
        optimizer = torch.optim.SGD(copy.parameters(), lr=rate)
        for value in row[:5]:
            loss = F.cross_entropy(2.0 * copy(x), y)
            assert float(value) == pytest.approx(loss.item(), rel=1e-8)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert losses[2, 0] == losses[0, 0]
    assert fate(losses[2], label_entropy(y, 4)) == "lost"  # some networks saturate at finite, enormous logits instead
    torch.testing.assert_close(_alone(model, x, y, 2.0, 0.3, 5), losses[1])


def test_the_frontier_is_looked_for_between_the_last_rate_and_the_first_that_is_lost() -> None:
    model, x, y = problem("mlp_16_16", n=30)
    critical = 2 / lambda_max(model, x, y, 1.0).value
    relative, losses = frontier(model, x, y, 1.0, critical, 60)
    assert set(COARSE) <= set(relative.tolist())
    assert relative.tolist() == sorted(relative.tolist())
    row = early_rows.frontier(
        early_rows.stability(
            {
                "relative": relative, "losses": losses, "lambda_max": torch.tensor(2 / critical),
                "entropy": torch.tensor(label_entropy(y, 4)),
            }
        )
    )  # fmt: skip
    if math.isfinite(row["relative"]):
        assert len(relative) == len(COARSE) + 3
        assert row["frontier"] == pytest.approx(row["relative"] * critical)


def runs(*words: str) -> list[dict[str, Any]]:
    return [{"relative": 4.0**i, "rate": 3 * 4.0**i, "fate": word} for i, word in enumerate(words)]


def test_a_frontier_lies_between_its_neighbours() -> None:
    found = early_rows.frontier(runs("steady", "catapult", "lost", "catapult"))
    assert found["relative"] == pytest.approx(8.0)
    assert found["frontier"] == pytest.approx(24.0)
    assert (found["catapults"], found["beyond"]) == (2, 64.0)
    assert early_rows.frontier(runs("lost", "steady", "lost"))["relative"] == pytest.approx(8.0)
    assert math.isnan(early_rows.frontier(runs("steady", "steady"))["relative"])
    assert math.isnan(early_rows.frontier(runs("lost", "lost"))["frontier"])


@pytest.mark.parametrize(
    ("values", "word"),
    [([0.9, 1.1], "met"), ([0.9, 1.2], "not met"), ([], "not measured"), ([math.nan], "not measured")],
)
def test_a_claim_is_met_only_when_every_value_is_within(values: list[float], word: str) -> None:
    assert claims.judged(claims.CLAIMS[0], values)["met"] == word


def test_slopes_over_beta() -> None:
    frame = pd.DataFrame({"beta": [0.1, 1.0, 10.0], "a": [2.0, 200.0, 20000.0], "b": [1.0, math.nan, 0.1]})
    assert early_rows.slope(frame, "a") == pytest.approx(2)
    assert early_rows.slope(frame, "b") == pytest.approx(-0.5)
    assert math.isnan(early_rows.slope(frame[:1], "a"))


def test_what_draws_random_numbers_has_no_path() -> None:
    one = trial(model="mlp_8")
    model = torch.nn.Sequential(torch.nn.Linear(64, 10), torch.nn.Dropout(0.5))
    with pytest.raises(UserError, match="draws random numbers"):
        probes.curvature(one, model, digits(), CPU)


def test_zero_logits_have_no_early_time() -> None:
    one = trial(model="mlp_8", correlation=-1.0, precision="fp64", epochs=0)
    model = initialize.initial_model(one, digits("mlp_8"), CPU)
    with pytest.raises(UserError, match="initial logits of mlp_8 are zero"):
        probes.paths(one, model, digits("mlp_8"), CPU)
    found = probes.curvature(one, model, digits("mlp_8"), CPU)
    assert float(found["norm"]) == 0
    assert bool(found["converged"])
    assert float(found["residual"]) <= probes.TOLERANCE


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("lr=0.1", "leave out lr="),
        ("momentum=0.9", "leave out momentum="),
        ("epochs=3", "knows only epochs=0"),
        ("objective=label_smoothing", "knows only objective=cross_entropy"),
        ("precision=bf16", "leave out precision=bf16"),
    ],
)
def test_settings_that_mean_nothing_are_refused(word: str, said: str) -> None:
    settings = resolve(parse(["study=early_learning", word]))
    with pytest.raises(SettingsError, match=said):
        registry.study("early_learning").plan(settings, lambda trial: None)


def test_every_measurement_is_one_trial_that_trains_nothing() -> None:
    settings = resolve(parse(["study=early_learning", "beta=0.1,1,10", "seed=0,1"]))
    wanted = registry.study("early_learning").plan(settings, lambda trial: None)
    kinds = pd.Series([one.probe for one in wanted]).value_counts()
    assert kinds["early_learning/paths"] == kinds["early_learning/stability"] == 3 * 2
    assert kinds["early_learning/curvature"] == (3 + 2) * 2 * 2
    assert kinds["early_learning/common"] == 3 * 2
    assert {one.epochs for one in wanted} == {0}
    assert {one.precision for one in wanted if not str(one.probe).endswith("stability")} == {"fp64"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study's run, measured and not reported."""
    out = tmp_path_factory.mktemp("early")
    words = ["study=early_learning", "model=mlp_16", "batch=60", "beta=0.1,1", "seed=0,1", f"out={out}"]
    driver.main([*words, "wandb=disabled", "workers=1"])
    return out / "digits-early_learning"


@pytest.mark.slow
@pytest.mark.plain
def test_the_study_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "numbers that the theory of early learning gives" in said
    drawn = {path.stem for path in (folder / "report" / "figures").glob("*.png")}
    assert drawn == {"collapse", "curvature", "frontier", "timescales"}


@pytest.mark.slow
def test_the_study_finds_what_theory_gives(folder: Path) -> None:
    settings = Store(folder, "read").settings()
    tables = registry.study("early_learning").analyse(settings, Store(folder, "read")).tables
    claims = tables["acceptance"].frame.set_index("claim")
    assert claims.loc["time to move by ||Z0||/10, over tau_z/10", "met"] == "met"
    assert claims.loc["slope of tau_nl over beta", "met"] == "not measured"
    rows = tables["timescales"].frame
    assert list(rows["beta"]) == [0.1, 1.0]
    assert (rows["tenth_low"] <= rows["tenth"]).all()
    assert tables["frontier"].frame["relative"].notna().any()
