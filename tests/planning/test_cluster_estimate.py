"""What a study would take elsewhere: by hand where it can be, and proportional where it must be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib_bench import registry
from calib_bench.cli import main
from calib_bench.core.settings import parse
from calib_bench.errors import SettingsError
from calib_bench.planning import cluster_estimate
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store

IMAGENET = ("task=imagenet", "precision=bf16", "beta=0.1,1", "objective=cross_entropy", "lr=0.1", "seed=0", "epochs=2")


def estimate(*words: str, gpus: int = 64) -> cluster_estimate.Scale | None:
    settings = resolve(parse(words))
    return cluster_estimate.estimate(settings, registry.study("separation"), Store(Path("nothing/there"), "peek"), gpus)


def test_imagenet_by_hand() -> None:
    found = estimate(*IMAGENET)
    assert found is not None
    train, read = 1_281_167 - 35_000, 10_000 + 25_000 + 50_000
    forward = 24.6e9 / 3
    # two arms of two epochs with three rows each, and the reference once more for one epoch with two
    examples = 3 * train * (2 + 2 + 1) + 3 * read + 10_000 * (3 + 3 + 2)
    assert found.trials == 3
    assert found.flops == pytest.approx(forward * examples, rel=0.01)
    assert found.gpu_hours == pytest.approx((found.flops / (989e12 * 0.15) + 3 * 60) / 3600)
    assert found.stored == 3 * (4 * 1000 * read + 5_400) + 100 * 8
    assert found.checkpoints == pytest.approx(3 * 2 * 4 * 25.6e6, rel=0.01)
    assert found.wandb_rows == 8
    two, one = estimate(*IMAGENET, gpus=2), estimate(*IMAGENET, gpus=1)
    assert two is not None
    assert one is not None
    assert one.hours == pytest.approx(one.gpu_hours)
    assert found.hours <= two.hours < one.hours


@given(st.lists(st.floats(0.1, 100), max_size=30), st.integers(1, 8))
def test_the_last_job_ends_between_the_bounds(jobs: list[float], machines: int) -> None:
    """Graham (1969): longest first is at most 4/3 of the best, which is at least the mean load and the longest job."""
    found = cluster_estimate.makespan(jobs, machines)
    best = max(sum(jobs) / machines, max(jobs, default=0))
    assert best - 1e-9 <= found <= sum(jobs) / machines + max(jobs, default=0) + 1e-9


def test_the_plan_tells_it_without_data_or_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CALIB_BENCH_DATA", raising=False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert main(["plan", *IMAGENET, f"out={tmp_path}", "gpus=8", "price=2.5"]) == 0
    text = capsys.readouterr().out
    assert "scale: 3 trials" in text
    assert "not measured here" in text
    assert "on 8 of them" in text
    assert "at 2.5 each" in text
    assert main(["plan", "task=digits", "model=mlp_8", "seed=0", "beta=1", f"out={tmp_path}"]) == 0
    assert "scale:" not in capsys.readouterr().out


@pytest.mark.parametrize("word", ["gpus=0", "gpus=1.5", "gpus=many", "price=-1", "price=inf"])
def test_wrong_numbers_are_named(word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *IMAGENET, f"out={tmp_path}", word]) == 2
    assert word.partition("=")[0] in capsys.readouterr().err


def test_no_gpu_is_an_error() -> None:
    with pytest.raises(SettingsError, match="gpus=0"):
        estimate(*IMAGENET, gpus=0)
