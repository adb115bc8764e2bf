"""The tuning study: equal budgets, winners trained with every seed, and advice that follows the intervals."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib_bench import cli, registry
from calib_bench.core.settings import parse
from calib_bench.planning.defaults import resolve
from calib_bench.planning.plan import make
from calib_bench.store.store import Store
from calib_bench.studies.tune import study as tune

pytest.importorskip("optuna")

WORDS = ("study=tune", "budget=8", "epochs=3", "seed=0..2", "tune_seeds=2", "wandb=disabled", "workers=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tune")
    assert cli.main(["run", *WORDS, f"out={out}"]) == 0
    return out / "digits-tune"


def test_a_search_is_run_reported_and_over(folder: Path) -> None:
    settings = resolve(parse([*WORDS, f"out={folder.parent}"]))
    store, study = Store(folder), registry.study("tune")
    plan = make(settings, study, store)
    assert plan.pending == 0
    (pair,) = tune.pairs(settings, store.scores(settings.select))
    assert len(pair.joint.tried) == len(pair.plain.tried) == 8
    assert pair.template.objective == "cross_entropy"
    for found in (pair.joint, pair.plain):
        assert found.best is not None
        finals = [t for t in plan.trials if (t.lr, t.beta, t.epochs) == (found.best.trial.lr, found.best.trial.beta, 3)]
        assert {t.seed for t in finals} == {0, 1, 2}
    analysis = study.analyse(settings, store)
    gain = analysis.tables["gain"].frame.iloc[0]
    assert gain["seeds"] == 3
    assert gain["log_loss_total"] == pytest.approx(gain["log_loss_conf"] + gain["log_loss_dyn"])
    control = analysis.tables["controls"].frame.set_index("control")
    assert list(control["must"]) == ["leave dyn and accuracy at 0", "move dyn and accuracy"]
    assert control.iloc[0]["passed"]
    assert control.iloc[0]["log_loss_total"] != 0 == pytest.approx(control.iloc[0]["log_loss_dyn"], abs=1e-6)
    assert any(said.startswith("Negative control") for said in analysis.verdict)
    assert len(analysis.tables["configurations"].frame) == 16
    assert (folder / "report" / "report.html").exists()


def test_a_winner_that_few_seeds_chose_is_no_advice(folder: Path) -> None:
    settings = resolve(parse([*WORDS, f"out={folder.parent}"]))
    analysis = tune.analyse(settings, Store(folder))
    assert set(analysis.tables["gain"].frame["tuning"]) == {"few seeds"}
    assert any("stay at beta=1" in said and "fewer than 3 seeds chose the rate" in said for said in analysis.verdict)
    assert any("give tune_seeds=3" in said for said in analysis.warnings)


def row(total: tuple[float, float], dyn: tuple[float, float], accuracy: tuple[float, float]) -> dict[str, float]:
    found = {"tuned_beta": 0.3}
    for name, (low, high) in {"log_loss_total": total, "log_loss_dyn": dyn, "accuracy": accuracy}.items():
        found |= {name: (low + high) / 2, f"{name}_low": low, f"{name}_high": high}
    return found


@pytest.mark.parametrize(
    ("total", "dyn", "accuracy", "words"),
    [
        ((-0.2, -0.1), (-0.1, -0.05), (-0.01, 0.01), "train at beta=0.3"),
        ((-0.2, -0.1), (-0.1, 0.05), (0.01, 0.02), "train at beta=0.3"),
        ((-0.2, -0.1), (-0.02, 0.02), (-0.01, 0.01), "stay at beta=1 and scale the temperature"),
        ((-0.1, 0.1), (-0.02, 0.02), (-0.01, 0.01), "cannot say"),
        ((0.1, 0.2), (0.01, 0.02), (-0.01, 0.01), "the search's choice is worse"),
    ],
)
def test_advice_follows_the_intervals(
    total: tuple[float, float], dyn: tuple[float, float], accuracy: tuple[float, float], words: str
) -> None:
    assert words in tune._advice(parse(["study=tune"]), row(total, dyn, accuracy))
