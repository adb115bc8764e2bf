"""The best beta of an architecture: the same whichever study is asked, and of betas that are whole alone."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
from synthetic import make

from calib_bench import registry
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis
from calib_bench.models.variations import form
from calib_bench.store.store import Store
from tests.studies.test_dynamics_studies import off, planted

GRID = ("model=mlp_16,mlp_256", "lr=0.1", "beta=0.01,0.1,1,10,100", "seed=0..2", "objective=cross_entropy")


def noise(trial) -> float:
    """Least at beta = width / 64, a little elsewhere for each seed."""
    width = form(trial.model).width  # type: ignore[union-attr]
    return off(trial.beta, 0.8 * 1.1 ** ((trial.seed + round(width)) % 3 - 1) * width / 64) / 2


def stored(path: Path, *words: str) -> tuple[Store, Settings]:
    more = ("calibrator=temperature_scaling", "interventions=no")
    return planted(path, "study=separation", *more, *words, noise=noise)


def separation(store: Store, settings: Settings) -> Analysis:
    return registry.study("separation").analyse(settings, store)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Settings]:
    return stored(tmp_path_factory.mktemp("best") / "run", *GRID)


@pytest.fixture(scope="module")
def found(whole: tuple[Store, Settings]) -> Analysis:
    return separation(*whole)


def test_two_studies_of_the_same_trials_agree(found: Analysis, tmp_path: Path) -> None:
    store, settings = planted(tmp_path, "study=width_depth", *GRID, noise=noise)
    other = registry.study("width_depth").analyse(settings, store)
    pd.testing.assert_frame_equal(found.tables["best_beta"].frame, other.tables["best_beta"].frame)
    said = [text for text in other.verdict if "best beta by" in text and "Among" not in text]
    assert len(said) == 4
    assert [text for text in found.verdict if text in said] == said


def test_a_best_beta_lies_where_it_was_planted(found: Analysis) -> None:
    best = found.tables["best_beta"].frame
    loss = best[best["result"] == "repaired log loss"].set_index("model")
    assert loss["inside"].all()
    for model, width in (("mlp_16", 16), ("mlp_256", 256)):
        planted_at = 0.8 * width / 64
        assert loss.loc[model, "best_beta_low"] < loss.loc[model, "best_beta"] < loss.loc[model, "best_beta_high"]
        assert abs(math.log(loss.loc[model, "best_beta"] / planted_at)) < math.log(10) / 2
    assert loss.loc["mlp_256", "ratio_low"] > 4
    assert loss.loc["mlp_256", "ratio_holm"] < 0.05


def test_two_betas_have_no_best_one(tmp_path: Path) -> None:
    words = ("model=mlp_16", "lr=0.1", "beta=0.1,1", "seed=0..2", "objective=cross_entropy")
    analysis = separation(*stored(tmp_path, *words))
    assert "best_beta" not in analysis.tables
    assert "best beta by" not in " ".join(analysis.verdict)


def test_nothing_trained_has_no_best_beta(tmp_path: Path) -> None:
    words = ("model=mlp_16", "lr=0.1", "beta=0.1,1,10", "seed=0..1", "objective=cross_entropy", "epochs=0")
    store, settings = make(tmp_path, "calibrator=temperature_scaling", *words)
    analysis = registry.study("separation").analyse(settings, store)
    assert len(analysis.tables["separation"].frame) == 2
    assert "best_beta" not in analysis.tables


def test_the_note_says_what_was_resampled(found: Analysis, tmp_path: Path) -> None:
    assert "the same resamples for every architecture" in found.tables["best_beta"].note
    words = ("model=mlp_16", "lr=0.1", "beta=0.1,1,10", "seed=0", "objective=cross_entropy")
    note = separation(*stored(tmp_path, *words)).tables["best_beta"].note
    assert "1 seed, test split; 95% percentile intervals, test examples resampled, since there is one seed" in note
    assert "ratio" not in note


def test_a_beta_that_lacks_a_seed_is_not_among_them(whole: tuple[Store, Settings], tmp_path: Path) -> None:
    store, settings = Store(shutil.copytree(whole[0].path, tmp_path / "run")), whole[1]
    plan = registry.study("separation").plan(settings, store.scores(settings.select))
    (lost,) = [t for t in plan if (t.model, t.beta, t.seed, t.epochs) == ("mlp_16", 0.1, 2, 2)]
    shutil.rmtree(store.folder(lost))
    store.failures.record(lost, "raised", "ZeroDivisionError: a cause for this test")
    analysis = separation(Store(store.path, "read"), settings)
    assert "Left out of the best beta, mlp_16 beta=0.1: not every seed finished." in analysis.warnings
    best = analysis.tables["best_beta"].frame
    loss = best[best["result"] == "repaired log loss"].set_index("model")
    assert loss["betas"].to_dict() == {"mlp_16": 4, "mlp_256": 5}
