"""How long trials take, before they run: arithmetic, with the clock stopped."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from calib_bench.core.splits import InputSpec, Splits
from calib_bench.execute import trial_time
from calib_bench.models import flops
from calib_bench.train import distributed
from tests.baselines.test_identities import words
from tests.train.test_train import digits, trial

SPEED = 1e6


@pytest.fixture(autouse=True)
def speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flops, "matmul_speed", lambda kind, precision: SPEED * (2 if precision == "bf16" else 1))


def by_operations(model: str, splits: Splits, spec: InputSpec, examples: float) -> float:
    one = flops.TRAINING * flops.flops_per_example(model, spec, splits.classes)
    return one * examples / (SPEED * flops.UTILISATION["cpu"])


def test_images_are_counted_by_operations_each_precision_for_itself() -> None:
    splits = digits("mlp_16")
    kept = sum(len(splits[name]) for name in ("selection", "calibration", "test"))
    expected = by_operations("mlp_16", splits, splits.spec, 3 * len(splits.train) + kept / 3)
    one, half = (trial(model="mlp_16", epochs=3, precision=precision) for precision in ("fp32", "bf16"))
    assert trial_time.seconds([one, half], splits, "cpu") == pytest.approx([expected, expected / 2])
    assert trial_time.seconds([one], splits, "mps") == [None]


def test_texts_are_as_long_as_they_are_on_average() -> None:
    splits, slow = words(), trial(model="gru_6", epochs=2, batch=20)
    length = round(float(splits.train.lengths.double().mean()))  # type: ignore[attr-defined]
    assert 3 < length < 10
    expected = by_operations("gru_6", splits, InputSpec("tokens", (length,), 22), 2 * 40 + 120 / 3)
    assert trial_time.seconds([slow], splits, "cpu") == pytest.approx([expected])


def test_small_models_of_texts_are_timed_once_for_all_that_take_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_time, "WORTH", float("inf"))
    runs: list[tuple[str, int]] = []

    def run(plain: Any, splits: Any, examples: int) -> float:
        runs.append((plain.optimizer, examples))
        return 100.0 + 7.0 * examples

    monkeypatch.setattr(trial_time, "_run_seconds", run)
    alike = [trial(model="gru_6", epochs=2, batch=20, lr=lr, beta=beta) for lr in (0.1, 0.2) for beta in (0.1, 1.0)]
    other = trial(model="gru_6", epochs=2, batch=20, optimizer="adam")
    expected = 7.0 * (2 * 40 + 120 / 3)
    assert trial_time.seconds([*alike, other], words(), "cpu") == pytest.approx([expected] * 5)
    assert runs == [(name, 20 * n) for name in (alike[0].optimizer, "adam") for n in (2, 2, 10)]


def test_under_torchrun_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_time, "WORTH", float("inf"))
    monkeypatch.setattr(distributed, "world", lambda: 2)
    monkeypatch.setattr(trial_time, "_run_seconds", lambda *_: pytest.fail("a run of one process alone"))
    assert trial_time.seconds([trial(model="gru_6", batch=20)], words(), "cpu") != [None]


def test_a_short_run_is_one_and_leaves_the_data_alone() -> None:
    splits = words()
    before = splits.train.labels.clone()
    plain = trial(model="gru_6", epochs=2, batch=20).model_copy(update=trial_time.PLAIN)
    assert trial_time._run_seconds(plain, splits, 40) > 0
    assert splits.train.labels.equal(before)


def test_the_process_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_time, "WORTH", float("inf"))
    torch.set_flush_denormal(False)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    trial_time.seconds([trial(model="gru_6", batch=20)], words(), "cpu", threads + 1)
    assert (torch.full((), 2.0**-1060, dtype=torch.float64) * 1).item() > 0
    assert (torch.get_num_threads(), torch.get_rng_state().tolist()) == (threads, state.tolist())


def test_where_a_model_fails_its_operations_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_time, "WORTH", float("inf"))

    def fail(*about: Any) -> float:
        raise ValueError("the plug-in's own")

    monkeypatch.setattr(trial_time, "_run_seconds", fail)
    (seconds,) = trial_time.seconds([trial(model="gru_6", batch=20)], words(), "cpu")
    assert seconds is not None
    assert seconds > 0
