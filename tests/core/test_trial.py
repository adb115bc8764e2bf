"""The trial's key: the same for the same run, another for any other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from calib_bench.core.trial import Trial, format_objective, parse_objective

BASE: dict[str, Any] = {
    "task": "digits",
    "model": "mlp_128_128",
    "beta": 1.0,
    "objective": "cross_entropy",
    "optimizer": "sgd",
    "lr": 0.1,
    "lr_unit": "lr",
    "momentum": 0.0,
    "weight_decay": 0.0,
    "schedule": "constant",
    "warmup": 0.0,
    "epochs": 10,
    "batch": 60,
    "seed": 0,
}


def test_golden_key() -> None:
    """A changed key would orphan every stored trial: change it only with a schema upgrade."""
    assert Trial(**BASE).key == "83e41135c2874c5d8c1d"


def test_neutral_defaults_leave_the_key_alone() -> None:
    assert Trial(**BASE, clip=0.0, head_lr=1.0, pretrained=False, limit=None).key == Trial(**BASE).key


@pytest.mark.parametrize(
    "change",
    [
        {"beta": 2.0},
        {"lr": 0.2},
        {"lr_unit": "lr_rel"},
        {"seed": 1},
        {"split": 1},
        {"limit": 10},
        {"precision": "bf16"},
        {"objective": "label_smoothing:0.1"},
        {"head_init": 2.0},
        {"correlation": 0.0},
        {"clip": 1.0},
        {"pretrained": True},
    ],
)
def test_whatever_changes_a_result_changes_the_key(change: dict[str, Any]) -> None:
    assert Trial(**{**BASE, **change}).key != Trial(**BASE).key


def test_equal_numbers_give_equal_keys_however_typed() -> None:
    assert Trial(**{**BASE, "beta": 1}).key == Trial(**BASE).key
    objective = "label_smoothing:0.1+confidence_penalty:0.2"
    assert Trial(**{**BASE, "objective": objective}).objective == "confidence_penalty:0.2+label_smoothing:0.1"


@given(st.dictionaries(st.sampled_from(["a", "b", "c_d"]), st.floats(0, 10), max_size=3))
def test_objective_text_round_trips(terms: dict[str, float]) -> None:
    assert parse_objective(format_objective(terms)) == terms


@pytest.mark.parametrize("bad", ["label_smoothing", "a:x", "a:1+a:2", "a:nan", ":1"])
def test_malformed_objectives_are_rejected(bad: str) -> None:
    with pytest.raises(ValidationError):
        Trial(**{**BASE, "objective": bad})


@pytest.mark.parametrize("field", ["beta", "lr"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_rates_and_beta_must_be_positive_and_finite(field: str, value: float) -> None:
    with pytest.raises(ValidationError):
        Trial(**{**BASE, field: value})


def test_a_copy_has_a_key_of_its_own() -> None:
    trial = Trial(**BASE)
    assert trial.key != trial.model_copy(update={"beta": 5.0}).key == Trial(**{**BASE, "beta": 5.0}).key


def test_an_arm_forgets_rate_and_seed_and_a_family_beta_and_objective() -> None:
    trial = Trial(**BASE)
    other = Trial(**{**BASE, "lr": 3.0, "seed": 5, "split": 5})
    assert trial.arm() == other.arm()
    different = Trial(**{**BASE, "beta": 3.0, "objective": "label_smoothing:0.1"})
    assert trial.arm() != different.arm()
    assert trial.family() == different.family()
    assert trial.family() != Trial(**{**BASE, "momentum": 0.9}).family()
