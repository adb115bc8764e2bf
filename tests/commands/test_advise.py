"""`advise` on the command line and for any torch module: what is printed, without data; what is refused."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest
import torch
from torch import nn

import calib_bench
from calib_bench.cli import main
from calib_bench.dynamics.scaling_law import HEADROOM
from calib_bench.errors import SettingsError

COUNTED = ("model=mlp_32_32_nobias", "task=digits", "lr=0.3", "weight_decay=1e-3", "clip=2", "beta=0.001,10")


def numbers(text: str, row: str) -> list[float]:
    """The numbers of a row of the printed table."""
    line = next(line for line in text.splitlines() if line.startswith(row))
    return [float(word) for word in line.removeprefix(row).split()]


def network(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs, bias=False), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def test_the_table_of_a_homogeneous_network(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", *COUNTED]) == 0
    text = capsys.readouterr().out
    assert "Euler degree L = 3.000" in text
    assert "training examples of digits" in text
    assert numbers(text, "learning rate") == pytest.approx([0.3, 30, 0.3 * 10 ** (-2 / 3)], rel=1e-3)
    assert numbers(text, "weight decay") == pytest.approx([1e-3, 1e-5, 1e-3 * 10 ** (2 / 3)], rel=1e-3)
    assert numbers(text, "bound of the gradient's norm") == pytest.approx([2, 0.2, 2 * 10 ** (1 / 3)], rel=1e-3)
    assert numbers(text, "initial weights, times") == pytest.approx([1, 10, 10 ** (-1 / 3)], rel=1e-3)
    assert "\neps" not in text  # sgd has none
    assert "factor of {:g} to {:g} with sgd".format(*HEADROOM["sgd"]) in text
    assert "not from the theory" in text
    assert "lr_eff" in text  # what to know above beta = 1
    run = "task=digits model=mlp_32_32_nobias optimizer=sgd lr_hom=0.3 weight_decay=0.001 clip=2 carry=all"
    assert f"In a run: {run}\n" in text


@pytest.mark.parametrize(
    ("model", "inputs"), [("wrn_10_1", "of the shape of cifar10's"), ("bag_8", "of the shape of imdb's")]
)
def test_it_needs_no_data(
    model: str, inputs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CALIB_BENCH_DATA", str(tmp_path))
    assert main(["advise", f"model={model}", "lr=0.1", "optimizer=adam", "beta=0.1", "seeds=2"]) == 0
    text = capsys.readouterr().out
    assert f"random inputs {inputs}" in text
    assert re.search(r"standard deviation \S+ over 2 initializations", text)
    low, high = map(float, re.search(r"its spread +(\S+) to (\S+)\n", text).groups())  # type: ignore[union-attr]
    assert low <= numbers(text, "learning rate")[1] <= high
    assert numbers(text, "eps")[1] < 1e-8
    assert "lr_eff" not in text


def test_betas_are_the_tasks_unless_given_and_the_degree_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "model=mlp", "task=digits", "lr=1", "degree=4"]) == 0
    text = capsys.readouterr().out
    assert "Euler degree L = 4.000: as given" in text
    betas = [1, 0.01, 0.0316227766, 0.1, 0.316227766, 3.16227766, 10]
    assert numbers(text, "learning rate") == pytest.approx([beta**-0.5 for beta in betas], rel=1e-3)
    assert "its spread" not in text


def test_plan_shows_the_degree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "task=digits", "beta=0.1", "lr_hom=0.1", f"out={tmp_path}", "model=mlp_32_nobias,mlp_32"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "Euler degree L of mlp_32_nobias: 2.000, standard deviation" in text
    assert "over 3 initializations" in text
    assert "Euler degree L of mlp_32: " in text
    assert main([*words[:-1], "model=mlp_32", "degree=2.5"]) == 0
    assert "Euler degree L of mlp_32: 2.5, as given" in capsys.readouterr().out
    assert main(["plan", "task=digits", "beta=0.1", "lr=0.1", f"out={tmp_path}"]) == 0
    assert "Euler" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model=mlp",), "advise needs lr="),
        (("lr=0.1", "model=mlp,cnn"), "takes one model"),
        (("lr=0.1,0.2",), "takes one lr"),
        (("lr=0.1", "optimizer=timm/lion"), "timm/lion"),
        (("lr=0.1", "eps=1e-4"), "sgd has none"),
        (("lr=0.1", "model=gru", "task=cifar10"), "takes inputs of kind tokens"),
        (("lr=0.1", "model=mpl"), "unknown model 'mpl'"),
        (("lr=0.1", "beta=0"), "beta=0"),
        (("lr=0.1", "learning_rate=1"), "no option 'learning_rate'"),
    ],
)
def test_what_cannot_be_carried_is_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", *words]) == 2
    assert message in capsys.readouterr().err


def test_any_module_with_groups_of_its_own() -> None:
    model = network(6, 32, 16, 4)
    groups = [{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2:].parameters(), "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.1, eps=1e-6, weight_decay=0.5)
    before = [dict(group) for group in optimizer.param_groups]
    advice = calib_bench.advise(model, torch.randn(32, 6), optimizer, beta=1e-3, clip=1.0)
    assert advice.degree == pytest.approx(3, rel=1e-5)
    first, second = advice.groups
    assert (first.lr, first.weight_decay, first.eps, first.clip) == pytest.approx((2, 0.05, 1e-7, 0.1), rel=1e-4)
    assert (second.lr, second.weight_decay) == pytest.approx((1, 0), rel=1e-4)
    assert advice.cautious_lr == pytest.approx(1, rel=1e-4)
    assert [dict(group) for group in optimizer.param_groups] == before


def test_several_initializations_give_a_range_of_rates() -> None:
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)))
    optimizer = torch.optim.SGD(models[0].parameters(), lr=0.1)
    advice = calib_bench.advise(models, torch.randn(64, 6), optimizer, beta=0.01)
    assert advice.spread > 0
    assert advice.lr_range[0] < advice.lr < advice.lr_range[1]
    given = calib_bench.advise(models, torch.randn(64, 6), optimizer, beta=0.01, degree=2)
    assert given.lr_range == pytest.approx((10, 10))


def test_adam_with_decoupled_decay_is_adamw() -> None:
    model, x = network(6, 32, 4), torch.randn(32, 6)
    decays = []
    for kind, options in ((torch.optim.Adam, {}), (torch.optim.Adam, {"decoupled_weight_decay": True})):
        optimizer = kind(model.parameters(), lr=0.1, weight_decay=0.5, **options)
        decays.append(calib_bench.advise(model, x, optimizer, beta=0.01).groups[0].weight_decay)
    assert decays == pytest.approx([0.005, 0.05], rel=1e-4)


def test_other_optimizers_and_networks_without_a_degree_are_refused() -> None:
    model, x = network(6, 32, 4), torch.randn(32, 6)
    with pytest.raises(SettingsError, match="RMSprop"):
        calib_bench.advise(model, x, torch.optim.RMSprop(model.parameters(), lr=0.1), beta=0.1)
    for beta in (0.0, -1.0, float("nan")):
        with pytest.raises(SettingsError, match=f"beta={beta} is not a positive number"):
            calib_bench.advise(model, x, torch.optim.SGD(model.parameters(), lr=0.1), beta=beta)
    nn.init.zeros_(model[-1].weight)
    with pytest.raises(SettingsError, match="degree"):
        calib_bench.advise(model, x, torch.optim.SGD(model.parameters(), lr=0.1), beta=0.1)
