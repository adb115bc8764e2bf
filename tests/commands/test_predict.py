"""Chosen trials keep their weights, and `predict` writes their logits of the trial's own and of new data."""

from __future__ import annotations

import re
from pathlib import Path

import driver
import numpy as np
import pandas as pd
import pytest
import torch

from calib_bench import models, registry
from calib_bench.cli import main
from calib_bench.core.settings import parse
from calib_bench.core.trial import Trial
from calib_bench.evaluation.predictions import read
from calib_bench.planning import plan as planning
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store
from calib_bench.train.predict import predict
from tests.train.test_train import CPU, digits, run, trial

WORDS = ("beta=0.5,1", "epochs=2", "batch=20", "objective=cross_entropy", "interventions=no", "workers=1", "limit=60")


def trained(out: Path, *words: str) -> tuple[Store, dict[Trial, str]]:
    """A run folder without a report, and its plan."""
    typed = [*WORDS, *words, "keep=weights", f"out={out}"]
    driver.main(typed)
    settings = resolve(parse(typed))
    store = Store(settings.folder)
    planning.keep(planning.make(settings, registry.study("separation"), store), settings, store, "run")
    return store, planning.read(settings, registry.study("separation"), store)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[Trial, str]]:
    """Rates are tuned, so that chosen trials are trained once more to keep their weights."""
    tuning = ("lr=0.1,0.3", "extend=0", "seed=0..1", "tune_seeds=1")
    return trained(tmp_path_factory.mktemp("tuned"), "model=mlp_16", *tuning)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def place(store: Store, trial: Trial) -> str:
    return f"{store.path}:{trial.key}"


def first(plan: dict[Trial, str], beta: float) -> Trial:
    """The first chosen trial of the grid."""
    return next(one for one, role in plan.items() if role == "chosen" and one.beta == beta)


def test_each_chosen_trial_keeps_its_weights_and_no_other_does(tuned: tuple[Store, dict[Trial, str]]) -> None:
    store, plan = tuned
    chosen = {one for one, role in plan.items() if role == "chosen" and one.keep is None}
    assert len(chosen) == 4
    assert {one for one in plan if store.weights(one)} == {planning.keeping(one) for one in chosen}
    for one in chosen:
        for name, z in store.logits(one).items():
            assert torch.equal(z, store.logits(planning.keeping(one))[name]), "the same training"


def test_a_trial_with_one_rate_keeps_its_weights_without_another_training(tmp_path: Path) -> None:
    typed = resolve(parse([*WORDS, "model=mlp_16", "lr=0.1", "seed=0", "keep=weights"]))
    plan = planning.make(typed, registry.study("separation"), Store(tmp_path / "none", "peek"))
    assert {one.keep for one in plan.trials} == {"weights"}
    assert len(plan.trials) == len({one.model_copy(update={"keep": None}) for one in plan.trials})
    assert "keep" not in trial().canonical()


@pytest.mark.parametrize("model", ["mlp_16", "wrn_10_1"])
def test_weights_are_those_at_the_end(model: str) -> None:
    """Alone and in a stack: batch norm's moments too."""
    one = trial(model=model, keep="weights", epochs=1, precision="fp64")
    result = run(one)
    made = models.build(model, digits(model).spec, 10).double()
    made.load_state_dict(result.weights)
    z = predict(made, one, digits(model), digits(model).test, CPU)
    torch.testing.assert_close(z, result.logits["test"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("split", ["test", "calibration"])
def test_the_trials_own_split_gives_the_stored_logits(tuned: tuple[Store, dict[Trial, str]], split: str) -> None:
    """As `evaluate` reads them: times beta, with labels."""
    store, plan = tuned
    one = first(plan, 0.5)
    assert main(["predict", place(store, one), f"split={split}", "out=own.npz"]) == 0
    written, stored = read("own.npz")[0], read(place(store, one), split)[0]
    torch.testing.assert_close(written.Z_NK, stored.Z_NK, rtol=1e-4, atol=1e-5)
    assert torch.equal(written.y_N, stored.y_N)
    facts = np.load("own.npz")
    assert float(facts["beta"]) == 0.5
    assert str(facts["trial"]) == planning.keeping(one).key
    assert str(facts["data_digest"]) == store.record(one).data["digest"]


def test_new_data_go_from_predict_to_apply(tuned: tuple[Store, dict[Trial, str]]) -> None:
    store, plan = tuned
    trial_place, test = place(store, first(plan, 0.5)), digits().test
    x = test.inputs(torch.arange(30), CPU).numpy()
    names = np.array([str(k) for k in range(9, -1, -1)])
    np.savez("new.npz", inputs=x[::-1], labels=9 - test.labels[:30].numpy()[::-1], class_names=names, ids=np.arange(30))
    np.savez("bare.npz", inputs=x)
    assert main(["predict", trial_place, "data=new.npz", "out=new-logits.npz"]) == 0
    assert main(["predict", trial_place, "data=bare.npz", "out=bare.csv"]) == 0
    assert main(["predict", trial_place, "out=own.npz", "split=test"]) == 0
    new, bare = np.load("new-logits.npz"), pd.read_csv("bare.csv")
    assert np.array_equal(new["labels"], test.labels[:30].numpy()[::-1]), "matched by the names of classes"
    assert new["ids"].tolist() == list(range(30))
    assert list(bare.columns) == [f"logit_{k}" for k in range(10)]
    np.testing.assert_allclose(new["logits"][::-1], bare.to_numpy(), rtol=1e-5, atol=1e-6)
    assert main(["apply", f"{trial_place}:temperature_scaling", "test=bare.csv", "out=p.npz"]) == 0
    assert np.allclose(np.load("p.npz")["probabilities"].sum(1), 1)


BAD = {
    "data=none.npz": "does not exist",
    "data=wide.npz": r"inputs are torch.float32 of shape .5, 8, 8., and task 'digits' takes torch.float32 of shape",
    "data=eleventh.npz": "Row 2 of split 'eleventh.npz' has label 10",
    "data=animal.npz": "has a class 'cat'",
    "data=short.npz": "labels has shape .2., and there are 3 inputs",
    "data=x.npz": "has no array `inputs`; it holds: x",
    "data=text.npz": "cannot be read as an .npz file",
    "data=.": "new data of digits are an .npz file",
    "split=tests": "no split of a trial's data: did you mean 'test'",
    "out=own.parquet": "neither .npz nor .csv",
}


@pytest.mark.parametrize("word", BAD)
def test_bad_input_is_refused(
    tuned: tuple[Store, dict[Trial, str]], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.zeros((3, 64), dtype=np.float32)
    np.savez("wide.npz", inputs=np.zeros((5, 8, 8), dtype=np.float32))
    np.savez("eleventh.npz", inputs=x, labels=np.array([0, 1, 10]))
    np.savez("animal.npz", inputs=x, labels=np.array(["1", "2", "cat"]))
    np.savez("short.npz", inputs=x, labels=np.array([0, 1]))
    np.savez("x.npz", x=x)
    Path("text.npz").write_text("numbers")
    assert main(["predict", place(tuned[0], first(tuned[1], 0.5)), word]) == 2
    assert re.search(BAD[word], " ".join(capsys.readouterr().err.split()))


def test_a_trial_without_weights_is_refused_with_those_that_have_some(
    tuned: tuple[Store, dict[Trial, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, plan = tuned
    bare = next(one for one, role in plan.items() if role == "control")
    assert main(["predict", place(store, bare)]) == 2
    assert "run the study's command again with keep=weights; those that did: " in " ".join(
        capsys.readouterr().err.split()
    )
    assert main(["predict", str(store.path)]) == 2
    assert "is not a stored trial" in capsys.readouterr().err
