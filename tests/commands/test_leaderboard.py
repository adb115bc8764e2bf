"""The leaderboard: standings over run folders against sums by hand, what its units are, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata, t
from synthetic import make

import calib_bench
from calib_bench import registry
from calib_bench.cli import main
from calib_bench.commands import leaderboard, table_ties
from calib_bench.evaluation import standings
from calib_bench.store.store import Store

CALIBRATORS = "temperature_scaling,vector_scaling,histogram_binning"
WORDS = ("seed=0..2", "lr=0.1", f"calibrator={CALIBRATORS}", "tune_seeds=1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, of one model and of another, and the board over both."""
    folder = tmp_path_factory.mktemp("runs")
    make(folder / "one", *WORDS, "beta=0.1,1", "objective=cross_entropy,label_smoothing", "model=mlp_8")
    make(folder / "other", *WORDS, "beta=1", "model=mlp_16", "objective=cross_entropy", diverged={(1.0, 2)})
    assert main(["leaderboard", str(folder / "one"), str(folder / "other"), f"out={folder / 'board'}"]) == 0
    return folder


def losses_by_hand(store: Store) -> pd.DataFrame:
    """Log loss of every experiment, a row each, after every calibrator fitted to its calibration split."""
    rows = {}
    arms = table_ties.arms_by_key(store, store.settings())
    for trial in (trial for arm in arms.values() for trial in arm.trials.values()):
        if store.state(trial) != "done":
            continue
        Z, y = {k: trial.beta * z.double() for k, z in store.logits(trial).items()}, store.labels(trial)
        by_method = {"raw": Z["test"].log_softmax(-1)}
        for name, one in registry.calibrators(tuple(CALIBRATORS.split(","))).items():
            by_method[name] = one.apply(one.fit(Z["calibration"], y["calibration"]), Z["test"])
        rows[trial.model, trial.beta, trial.objective, trial.seed] = {
            name: -float(logp.gather(1, y["test"][:, None]).mean()) for name, logp in by_method.items()
        }
    return pd.DataFrame(rows).T


def test_the_board_is_what_its_experiments_say(runs: Path) -> None:
    losses = pd.concat([losses_by_hand(Store(runs / name, "read")) for name in ("one", "other")])
    board = calib_bench.load_results(runs / "board", "standings").set_index("method")
    assert len(losses) == 2 * 2 * 3 + 2
    models = losses.index.get_level_values(0)
    by_model = losses.groupby(models).mean()
    assert board["log_loss"].to_dict() == pytest.approx(by_model.mean().to_dict(), rel=1e-6)
    ranks = losses.rank(axis=1).groupby(models).mean().mean()
    assert board["mean_rank"].to_dict() == pytest.approx(ranks.to_dict())
    assert board["win_rate"].to_dict() == pytest.approx(((4 - ranks) / 3).to_dict())
    repaired = losses.sub(losses["temperature_scaling"], axis=0).groupby(models).mean()["histogram_binning"]
    row = board.loc["histogram_binning"]
    assert row["from_temperature_scaling"] == pytest.approx(repaired.mean(), rel=1e-5)
    half = t.ppf(0.975, 1) * repaired.std() / np.sqrt(2)
    assert row["from_temperature_scaling_high"] - repaired.mean() == pytest.approx(half, rel=1e-4)
    beats = (losses["vector_scaling"] < losses["raw"]).groupby(models).mean().mean()
    assert board.loc["vector_scaling", "beats_raw"] == pytest.approx(beats)
    assert (board["fit_seconds"].drop("raw") > 0).all()
    at_one = calib_bench.load_results(runs / "board", "by_beta").query("beta == 1").set_index("method")
    alone = losses[losses.index.get_level_values(1) == 1.0]
    of_model = alone.groupby(alone.index.get_level_values(0)).mean().mean()
    assert at_one["log_loss"].to_dict() == pytest.approx(of_model.to_dict(), rel=1e-6)


def test_the_page_says_what_its_units_are_and_what_is_left_out(runs: Path) -> None:
    page = (runs / "board" / "report.html").read_text()
    for words in ("14 experiments with 2 models on one data set", "Few models (2)", "no better than guessing: 1"):
        assert words in page
    assert (runs / "board" / "figures" / "standings.png").is_file()
    assert (runs / "board" / "figures" / "by_beta.svg").is_file()


def test_a_trial_counts_once_and_what_was_measured_is_read(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(runs / "one", tmp_path / "copy")
    monkeypatch.setattr(table_ties, "begun", None)  # nothing is measured again
    words = ["leaderboard", str(runs / "one"), str(tmp_path / "copy"), f"out={tmp_path / 'board'}"]
    assert main(words) == 0
    assert "in several of the runs, and count once: 12" in capsys.readouterr().out
    one = calib_bench.load_results(tmp_path / "board", "standings")
    assert "12 experiments with 3 seeds of one model" in (tmp_path / "board" / "report.html").read_text()
    assert main([*words[:2], f"out={tmp_path / 'alone'}"]) == 0
    pd.testing.assert_frame_equal(calib_bench.load_results(tmp_path / "alone", "standings"), one)
    assert main(["report", str(tmp_path / "alone")]) == 0


def test_what_is_no_finished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
    make(
        tmp_path / "dead",
        *WORDS,
        "beta=1",
        "objective=cross_entropy",
        "model=mlp_8",
        diverged=[(1.0, seed) for seed in range(6)],
    )
    assert main(["leaderboard", str(tmp_path / "dead")]) == 2
    assert "there is nothing to rank" in capsys.readouterr().err
    make(tmp_path / "run", *WORDS, "beta=1", "objective=cross_entropy", "model=mlp_8")
    shutil.rmtree(tmp_path / "run" / "trials")
    assert main(["leaderboard", str(tmp_path / "run")]) == 2
    assert "finish it with" in capsys.readouterr().err


def test_units_are_the_coarsest_of_which_there_are_several() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"dataset": d, "model": m, "seed": s, "key": f"{d}{m}{s}{b}", "method": method, "log_loss": rng.random()}
        | dict.fromkeys(("accuracy", "brier", "ece"), 0.5)
        for d in ("a", "b") for m in ("x", "y") for s in (0, 1) for b in (0, 1) for method in ("raw", "p", "q")
    ]  # fmt: skip
    frame = pd.DataFrame(rows)
    assert standings.units(frame) == ("data sets", 2)
    assert standings.units(frame[frame["dataset"] == "a"]) == ("models", 2)
    alone = frame[(frame["dataset"] == "a") & (frame["model"] == "x")]
    assert standings.units(alone) == ("seeds", 2)
    table = standings.standings(alone)[0].set_index("method")
    wide = alone.pivot(index=["seed", "key"], columns="method", values="log_loss")
    ranks = pd.DataFrame(rankdata(wide, axis=1), wide.index, wide.columns).groupby("seed").mean().mean()
    assert table["mean_rank"].to_dict() == pytest.approx(ranks.to_dict())


def test_the_users_own_data_are_told_apart_by_their_digest() -> None:
    """All of them are of the task `folder`: two runs would have counted as one, their equal trials once."""
    store: Any = SimpleNamespace(split_info=lambda _: {"digest": "sha256:a2ee9556474de9a5"})
    content: Any = "numbers"
    trial: Any = SimpleNamespace(task="folder", limit=50)
    assert leaderboard._dataset(store, content, trial) == "folder-a2ee9556 limit=50"
    assert leaderboard._dataset(store, None, trial) == "folder limit=50"
