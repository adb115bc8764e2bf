"""The tuning study: equal budgets, winners trained with every seed, and advice that follows the intervals."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from faulty import unpack

from calib_bench import cli, registry
from calib_bench.analysis import controls
from calib_bench.analysis.contrast import contrast
from calib_bench.analysis.measure import measure_arm
from calib_bench.core.settings import parse
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.planning.defaults import resolve
from calib_bench.planning.plan import make
from calib_bench.planning.search import shortened
from calib_bench.store.store import Store
from calib_bench.studies.tune import findings, searches
from calib_bench.studies.tune import study as tune
from calib_bench.system.random import stream

pytest.importorskip("optuna")

FORMATS = ("svg",)
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
    (pair,) = searches.pairs(settings, store.scores(settings.select))
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


def test_the_choice_of_configurations_is_counted_and_told(folder: Path) -> None:
    settings = resolve(parse([*WORDS, f"out={folder.parent}"]))
    store = Store(folder)
    (pair,) = searches.pairs(settings, store.scores(settings.select))
    analysis = tune.analyse(settings, store)
    gain, told = (analysis.tables[name].frame.iloc[0] for name in ("gain", "choice"))
    repair = registry.calibrators(("temperature_scaling",))
    measured = []
    for found in (pair.joint, pair.plain):
        measured.append(measure_arm(store, searches.final_arm(settings, found, store.scores(settings.select)), repair))
        again = measured[-1].redrawn_choice
        assert again is not None
        assert again.costs == pytest.approx({one.trial.lr: one.scores[-1] for one in found.full_length})
        assert len(again.costs) > 1
        assert set(again.shares) <= set(again.costs)
    for column in ("accuracy", "log_loss_total_low", "log_loss_dyn_high", "log_loss_dyn_p"):
        assert gain[column] == contrast(measured[0], measured[1], False)[column]
    assert told["rate"] == gain["tuned_rate"]
    runner_up = sorted((one.scores[-1], one.trial.lr, one.trial.beta) for one in pair.joint.full_length)[1]
    assert (told["runner_up"], told["runner_up_beta"]) == runner_up[1:]
    assert told["log_loss_dyn_least"] <= told["log_loss_dyn"] <= told["log_loss_dyn_most"]


def test_a_tuning_seed_is_compared_at_the_configurations_that_the_others_choose() -> None:
    settings = resolve(parse(["study=tune", "budget=12", "epochs=3", "seed=0..4", "tune_seeds=3"]))

    def scores(trial: Trial) -> float:
        noise = torch.rand(1, generator=stream("score", trial.seed, trial.lr, trial.beta, trial.epochs)).item()
        return abs(math.log10(trial.lr)) / 5 + noise

    (pair,) = searches.pairs(settings, scores)
    planned = {trial.key for trial in tune.plan(settings, scores)}
    moved = 0
    for found in (pair.joint, pair.plain):
        assert found.best is not None
        arm = searches.final_arm(settings, found, scores)
        full = [one.trial for one in found.full_length]
        for seed, trial in arm.trials.items():
            others = [other for other in (0, 1, 2) if other != seed]
            costs = [sum(scores(one.model_copy(update={"seed": other})) for other in others) for one in full]
            assert (trial.lr, trial.beta) == (full[costs.index(min(costs))].lr, full[costs.index(min(costs))].beta)
            assert trial.key in planned
        moved += len(arm.elsewhere)
    assert moved
    # All that the races take of three seeds, the winners of two more, and the control.
    races = {
        one.model_copy(update={"seed": seed}).key
        for found in (pair.joint, pair.plain)
        for tried in found.tried
        for epochs in tried.epochs
        for one in [shortened(tried.trial, epochs)]
        for seed in (0, 1, 2)
    }
    control = {trial.key for trial, _ in controls.positive(searches.final_arm(settings, pair.plain, scores))}
    assert len(planned - races - control) == 4


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
        ((-0.2, -0.1), (-0.3, 0.1), (-0.01, 0.01), "that beta=0.3 gains more is not established"),
        ((-0.1, 0.1), (-0.02, 0.02), (-0.01, 0.01), "is inconclusive"),
        ((0.1, 0.2), (0.01, 0.02), (-0.01, 0.01), "the search's choice is worse"),
    ],
)
def test_advice_follows_the_intervals(
    total: tuple[float, float], dyn: tuple[float, float], accuracy: tuple[float, float], words: str
) -> None:
    assert words in findings._advice(parse(["study=tune"]), row(total, dyn, accuracy))


def test_advice_is_none_where_a_winner_has_seeds_of_two_kinds() -> None:
    mixed = row((-0.2, -0.1), (-0.1, -0.05), (-0.01, 0.01)) | {"two_kinds": "this arm"}
    said = findings._advice(parse(["study=tune"]), mixed)
    assert said.startswith("stay at beta=1; that tuning beta gains anything is not established, since some seeds")


def test_a_winner_with_a_seed_that_guesses_is_told_with_its_rate(folder: Path, tmp_path: Path) -> None:
    settings = resolve(parse([*WORDS, f"out={folder.parent}"]))
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    unpack(copy)
    store = Store(copy)
    (pair,) = searches.pairs(settings, store.scores(settings.select))
    assert pair.joint.best is not None
    lost = pair.joint.best.trial.model_copy(update={"seed": 2})
    z = {split: torch.zeros_like(values) for split, values in store.logits(lost).items()}
    data = store.record(lost).data
    shutil.rmtree(store.folder(lost))
    store.write(TrialResult(lost, "done", z, {"epoch": [0.0]}, {}), data, {"selection": {settings.select: 2.4}})
    analysis = tune.analyse(settings, Store(copy))
    (gain,) = analysis.tables["gain"].frame.to_dict("records")
    assert gain["two_kinds"] == "this arm"
    (collapse,) = analysis.tables["collapse"].frame.to_dict("records")
    assert (collapse["search"], collapse["collapsed_trials"]) == ("beta and rate", "1 of 3")
    assert any("beta and rate: 1 of 3 trials, 33% [1%, 91%]; mean accuracy" in said for said in analysis.verdict)
    assert any(said.startswith("Trials collapsed") for said in analysis.warnings)
    assert "whose seeds collapsed in part" in analysis.tables["gain"].note
