"""Online, with servers that refuse, hang or fail half-way: nothing is lost, one warning, offline from then on, soon."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from synthetic import make, sketched
from wandb_reader import read
from wandb_server import serving

from calib_bench.cli import main
from calib_bench.core.settings import Settings
from calib_bench.core.study import Analysis
from calib_bench.store.store import Store
from tests.tracking.test_wandb import WORDS, analysed, log

pytestmark = pytest.mark.slow

Run = tuple[Store, Settings, Analysis]
SMALL = (*WORDS[:2], "seed=0", "lr=0.1", "calibrator=temperature_scaling")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Run:
    store, settings = make(tmp_path_factory.mktemp("online") / "run", *SMALL)
    return store, settings, analysed(store, settings)


@pytest.fixture
def run(original: Run, tmp_path: Path) -> Run:
    store, *others = original
    return Store(shutil.copytree(store.path, tmp_path / "run"), "write"), *others


@pytest.fixture(autouse=True)
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "f" * 40)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")
    monkeypatch.setenv("WANDB_ENTITY", "us")


def online(run: Run, wait: float) -> tuple[list[str], float]:
    """The warnings of logging online, and how long it took."""
    store, settings, analysis = run
    before = {path: path.read_bytes() for path in store.path.glob("trials/*/*")}
    start = time.monotonic()
    count, warnings = log(store, settings, analysis, wandb="online", wandb_wait=wait)
    took = time.monotonic() - start
    assert {path: path.read_bytes() for path in store.path.glob("trials/*/*")} == before
    assert count >= 5
    found = read(store.path)
    assert {r["job_type"] for r in found.values()} == {"train", "positive-control", "calibrate", "analyse"}
    assert {r["project"] for r in found.values()} == {"elsewhere"}
    return warnings, took


def only(warnings: list[str]) -> str:
    (warning,) = warnings
    assert "offline" in warning
    assert "calib_bench sync" in warning
    return warning


def test_no_server_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(0) as server:
        address = server.url
    monkeypatch.setenv("WANDB_BASE_URL", address)
    warnings, took = online(run, 30)
    assert "refused" in only(warnings)
    assert took < 240


def test_no_login(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with serving(1e9) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        warnings, _ = online(run, 30)
    assert only(warnings).startswith("there is no API key for Weights & Biases: give one with `wandb login`")
    assert server.runs == {}


@pytest.mark.parametrize(
    ("good", "then"), [*(pytest.param(n, "hang", marks=pytest.mark.soak) for n in (0, 6)), (6, "fail")]
)
def test_a_server_that_hangs_or_fails_half_way(run: Run, monkeypatch: pytest.MonkeyPatch, good: int, then: str) -> None:
    with serving(good, then) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        warnings, took = online(run, 12 if then == "hang" else 60)
    only(warnings)
    assert took < 240
    if then == "fail":  # of one that hangs, the patience may be over before it has seen a run, on a busy machine
        assert server.runs
    assert all(fields["entity"] == "us" and fields["project"] == "elsewhere" for fields in server.runs.values())


@sketched("over_beta")
def test_sync_without_a_server_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(0) as server:
        address = server.url
    monkeypatch.setenv("WANDB_BASE_URL", address)
    store = run[0]
    assert main(["sync", str(store.path), "wandb=offline"]) == 0
    assert "runs logged offline" in capsys.readouterr().out
    assert len(read(store.path)) >= 5
    folders = len(read(store.path))
    assert main(["sync", str(store.path)]) == 2
    error = capsys.readouterr().err
    assert "cannot be reached" in error
    assert "refused" in error
    monkeypatch.delenv("WANDB_API_KEY")
    assert main(["sync", str(store.path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: there is no API key for Weights & Biases: give one with `wandb login`")
    assert "0 runs logged; the same command logs the others. wandb=offline" in error
    assert len(read(store.path)) == folders
    assert main(["sync", str(store.path), "wandb=disabled"]) == 2
    assert "logs nothing" in capsys.readouterr().err
    assert main(["sync", str(store.path), "beta=1"]) == 2
    assert "sync has no option 'beta'" in capsys.readouterr().err
    assert main(["sync"]) == 2
