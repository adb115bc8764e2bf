import subprocess
import sys

import pytest
import torch

from calib_bench import models
from calib_bench.core.splits import InputSpec
from calib_bench.errors import SettingsError, UserError
from calib_bench.models import flops
from calib_bench.models.flops import TRAINING, estimate_seconds, flops_per_example, matmul_speed

CIFAR = InputSpec("image", (3, 32, 32))
TEXT = InputSpec("tokens", (100,), vocabulary=1000)


@pytest.mark.parametrize(
    ("name", "spec", "classes", "giga"),
    [
        ("wrn_16_1", CIFAR, 10, 0.159),
        ("wrn_16_4", CIFAR, 10, 2.355),
        ("wrn_28_10", CIFAR, 10, 31.5),
        ("resnet50", InputSpec("image", (3, 224, 224)), 1000, 24.6),
    ],
)
def test_known_training_flops(name, spec, classes, giga):
    assert TRAINING * flops_per_example(name, spec, classes) / 1e9 == pytest.approx(giga, rel=0.01)


def test_counting_does_without_torchs_compiler():
    code = (
        "import sys; from calib_bench.core.splits import InputSpec; from calib_bench.models.flops import *;"
        "flops_per_example('wrn_10_2', InputSpec('image', (3, 32, 32)), 10); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_large_models_are_counted_on_the_meta_device_alike(monkeypatch):
    here = flops_per_example("wrn_10_2", CIFAR, 7)
    flops_per_example.cache_clear()
    monkeypatch.setattr(flops, "SMALL", 0)
    assert flops_per_example("wrn_10_2", CIFAR, 7) == here


def test_mlp_by_hand():
    expected = 2 * (64 * 128 + 128 * 128 + 128 * 10)
    assert flops_per_example("mlp_128_128", InputSpec("image", (1, 8, 8)), 10) == expected


def test_convolutions_by_hand():
    layers = ((12, 4, 31), (4, 8, 16), (8, 8, 8), (8, 16, 8), (16, 16, 4))
    by_hand = sum(2 * 9 * inputs * outputs * side**2 for inputs, outputs, side in layers)
    stem, head = 2 * 4 * 3 * 12 * 31**2, 2 * 16 * 10
    assert flops_per_example("airbench_4_8_16", CIFAR, 10) == stem + by_hand + head


@pytest.mark.parametrize(("name", "gates"), [("gru_8", 3), ("lstm_8", 4)])
def test_recurrence_by_hand(name, gates):
    assert flops_per_example(name, TEXT, 2) == 100 * gates * 2 * (2 * 8 * 8) + 2 * 8 * 2


def test_bag_by_hand_and_default_length():
    assert flops_per_example("bag_8", TEXT, 2) == 100 * 2 * 8 + 2 * 8 * 2
    assert flops_per_example("bag_8", InputSpec("tokens", vocabulary=9), 2) == 200 * 2 * 8 + 2 * 8 * 2


def test_wrong_names_are_named():
    with pytest.raises(SettingsError, match="wrn_16_4"):
        flops_per_example("wrn_15_4", CIFAR, 10)
    with pytest.raises(SettingsError, match="of kind tokens"):
        flops_per_example("cnn", TEXT, 2)


def test_images_that_a_model_cannot_process_are_named():
    with pytest.raises(UserError, match=r"cannot process images of shape \(3, 30, 30\)"):
        flops_per_example("timm/tresnet_m", InputSpec("image", (3, 30, 30)), 10)


def test_counting_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    flops_per_example("wrn_10_2", CIFAR, 10)
    assert torch.equal(torch.get_rng_state(), state)


def test_seconds_are_proportional_to_work():
    one = estimate_seconds(1e6, 1000, 1)
    assert one is not None
    assert one > 0
    assert estimate_seconds(2e6, 500, 3) == pytest.approx(3 * one)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
def test_speed_is_measured_once(precision):
    speed = matmul_speed("cpu", precision)
    assert speed is not None
    assert 1e8 < speed < 1e15
    assert matmul_speed("cpu", precision) == speed


def test_unknown_devices_have_unknown_cost():
    assert estimate_seconds(1e6, 1000, 1, "mps") is None
    if not torch.cuda.is_available():
        assert estimate_seconds(1e6, 1000, 1, "cuda:0") is None


def test_estimate_is_of_the_right_order():
    """A real training step of a network that keeps the processor busy, against the estimate, within a factor of ten."""
    from time import perf_counter

    model = models.build("wrn_16_1", CIFAR, 10)
    x, y = torch.randn(64, 3, 32, 32), torch.zeros(64, dtype=torch.int64)
    seconds, guesses = [], []
    for _ in range(5):  # in turn and each at its fastest: other processes slow both down
        start = perf_counter()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        seconds.append(perf_counter() - start)
        matmul_speed.cache_clear()
        guess = estimate_seconds(flops_per_example("wrn_16_1", CIFAR, 10), 64, 1)
        assert guess is not None
        guesses.append(guess)
    assert 0.1 < min(seconds) / min(guesses) < 10
