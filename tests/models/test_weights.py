"""Weights of a file: read without running code, put in by name, the head kept where it is of as many classes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from calib_bench import models
from calib_bench.core.settings import Settings, parse
from calib_bench.core.splits import InputSpec
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError, UserError
from calib_bench.execute import worker
from calib_bench.models import weights
from calib_bench.models.weights import name_of, read
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import plan
from calib_bench.train.initialize import initial_model
from tests.train.test_train import CPU

SPEC = InputSpec("vector", (64,))
DIGITS = [str(k) for k in range(10)]


def state(classes: int = 10, seed: int = 7) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return dict(models.build("mlp_16", SPEC, classes).state_dict())


def started(path: Path, classes: int = 10, model: str = "mlp_16") -> tuple[dict[str, Tensor], bool]:
    """What a model starts from with a file's weights, and whether its head is the file's."""
    torch.manual_seed(0)
    made, kept = models.from_file(model, SPEC, classes, name_of(path))
    return dict(made.state_dict()), kept


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


LAYOUTS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda tensors: tensors,
    "data parallel": lambda tensors: {f"module.{name}": value for name, value in tensors.items()},
    "lightning": lambda tensors: {
        "state_dict": {f"model.{name}": value for name, value in tensors.items()}, "epoch": 3, "callbacks": {},
    },
    "compiled in a wrapper": lambda tensors: {"model": {f"model._orig_mod.{name}": v for name, v in tensors.items()}},
    "a wrapper of one's own": lambda tensors: {f"net.{name}": value for name, value in tensors.items()},
    "tutorial": lambda tensors: {"model_state_dict": tensors, "optimizer_state_dict": {"state": {}}, "loss": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_usual_checkpoints_are_read(tmp_path: Path, layout: str) -> None:
    torch.save(LAYOUTS[layout](state()), tmp_path / "a.ckpt")
    tensors, kept = started(tmp_path / "a.ckpt")
    assert kept
    assert same(tensors, state())


def test_a_head_of_other_classes_or_none_is_a_new_one(tmp_path: Path) -> None:
    """The new head is the one of a run without weights, drawn from the same seed."""
    torch.manual_seed(0)
    fresh = models.build("mlp_16", SPEC, 10).state_dict()
    save_file(state(classes=3), tmp_path / "three.safetensors")
    save_file({name: v for name, v in state().items() if "head" not in name}, tmp_path / "none.safetensors")
    for name, body in (("three", state(classes=3)), ("none", state())):
        tensors, kept = started(tmp_path / f"{name}.safetensors")
        assert not kept
        for key, value in tensors.items():
            assert torch.equal(value, fresh[key] if "head" in key else body[key]), key


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {name.replace(old, new): value for name, value in tensors.items()}


FIRST = next(name for name in state() if "head" not in name)
MISFITS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "renamed": (lambda t: renamed(t, FIRST, FIRST + "s"), f"has no '{FIRST}' .the nearest name is '{FIRST}s'.*1 more"),
    "surplus": (
        lambda t: t | {"extra.weight": t[FIRST].clone()},
        "has 'extra.weight', which the model lacks .the nearest",
    ),
    "wider": (lambda t: t | {FIRST: torch.zeros(17, 64)}, r"is of shape \[17, 64\], and the model's is \[16, 64\]"),
    "nan": (lambda t: t | {FIRST: t[FIRST] * math.nan}, "numbers that are not finite"),
    "quantized": (lambda t: t | {FIRST: t[FIRST].to(torch.int8)}, "is torch.int8, and the model's is torch.float32"),
    "half a head": (lambda t: {n: v for n, v in t.items() if n != "head.bias"}, "has no 'head.bias'"),
}


def test_near_names_are_searched_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches for each of the hundreds of names of a large model took minutes."""
    searches: list[str] = []
    monkeypatch.setattr(weights, "_nearest", lambda name, _: searches.append(name) or "")
    save_file({f"{name}s": value for name, value in state().items()}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"has no '{FIRST}', and 5 more such"):
        started(tmp_path / "a.safetensors")
    assert searches == [FIRST]


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_refused_with_the_nearest_name(tmp_path: Path, misfit: str) -> None:
    change, words = MISFITS[misfit]
    save_file(change(state()), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=f"does not fit mlp_16: .*{words}"):
        started(tmp_path / "a.safetensors")


class Rogue:
    """What would run code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


def test_no_code_is_run_and_files_of_something_else_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": state(), "config": Rogue()}, tmp_path / "rogue.pt")
    (tmp_path / "text.pt").write_text("weights")
    (tmp_path / "text.safetensors").write_text("weights")
    torch.save({"epoch": 3}, tmp_path / "empty.pt")
    for name, words in (
        ("rogue.pt", "Nothing that could run code is read: .*save_file"),
        ("rogue.pt", r"tensors alone \(it holds exec\)"),
        ("text.pt", r"cannot be read as a checkpoint that holds tensors alone \(it is damaged, or no such file\)"),
        ("text.safetensors", "cannot be read as safetensors"),
        ("empty.pt", r"no tensors by name \(it holds: epoch\)"),
    ):
        with pytest.raises(UserError, match=words):
            read(tmp_path / name)


# In a run

RUN = ("task=digits", "model=mlp_16", "beta=1", "seed=0", "objective=cross_entropy")


def planned(*words: str) -> tuple[Settings, Trial]:
    settings = resolve(parse([*RUN, *words]))
    assert resolve(settings) == settings
    return settings, next(iter(plan(settings, lambda trial: None)))


def saved(path: Path, names: list[str] | None = None, classes: int = 10) -> Path:
    save_file(state(classes), path, {"class_names": json.dumps(names)} if names else None)
    return path


def test_the_digest_is_part_of_the_key(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.safetensors")
    settings, trial = planned(f"weights={file}")
    assert (trial.epochs, trial.pretrained, settings.weights) == (0, True, file)
    (tmp_path / "b.safetensors").write_bytes(file.read_bytes())
    assert planned(f"weights={tmp_path / 'b.safetensors'}")[1].key == trial.key, "where a file lies changes nothing"
    save_file(state(seed=8), file)
    assert planned(f"weights={file}")[1].key != trial.key
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(UserError, match=r"b\.safetensors is not a file of SHA-256"):
        models.build("mlp_16", SPEC, 10, pretrained=True, weights=trial.weights)
    assert "weights" not in planned("lr=0.1")[1].canonical()


def test_a_run_starts_from_the_file_and_says_what_became_of_the_head(tmp_path: Path) -> None:
    settings, trial = planned(f"weights={saved(tmp_path / 'a.safetensors')}")
    splits = worker.load_splits(settings, trial)
    assert "a.safetensors" in splits.notes["weights"]
    assert "its head of 10 classes too" in splits.notes["weights"]
    assert same(dict(initial_model(trial, splits, CPU).state_dict()), state())
    scaled: Any = SimpleNamespace(train=SimpleNamespace(normalize=((0.5,), (0.25,))))
    assert "normalized by means 0.5 and deviations 0.25" in worker._normalization(scaled)["normalize"]
    assert "normalize" not in splits.notes, "digits are taken as they are"
    three = saved(tmp_path / "three.safetensors", classes=3)
    settings, trial = planned(f"weights={three}", "epochs=1", "lr=0.1")
    assert "a new head of 10 classes" in worker.load_splits(settings, trial).notes["weights"]
    settings, trial = planned(f"weights={three}")
    with pytest.raises(SettingsError, match=r"no head for the 10 classes .*give epochs= .*'class_names'"):
        worker.load_splits(settings, trial)


def test_classes_are_matched_by_the_names_in_the_file(tmp_path: Path) -> None:
    """A head that counts the classes the other way round, one of more classes, and one of others."""
    settings, trial = planned(f"weights={saved(tmp_path / 'same.safetensors', DIGITS)}")
    before = worker.load_splits(settings, trial.model_copy(update={"pretrained": False, "weights": None}))
    assert torch.equal(worker.load_splits(settings, trial).test.labels, before.test.labels)
    settings, trial = planned(f"weights={saved(tmp_path / 'back.safetensors', DIGITS[::-1])}")
    after = worker.load_splits(settings, trial)
    assert torch.equal(after.test.labels, 9 - before.test.labels)
    assert after.class_names == tuple(DIGITS[::-1])
    animals = saved(tmp_path / "animals.safetensors", [f"animal {k}" for k in range(10)])
    settings, trial = planned(f"weights={animals}", "epochs=1", "lr=0.1")
    with pytest.raises(SettingsError, match=r"animals\.safetensors names 10 classes, .*leave the head's tensors out"):
        worker.load_splits(settings, trial)


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "weights.safetensors")
    for words, match in (
        ([f"weights={tmp_path / 'weight.safetensors'}"], f"does not exist .did you mean '{file}'"),
        ([f"weights={tmp_path}"], "is a folder"),
        ([f"weights={file}", "correlation=0.5"], "correlation draws a new head"),
        (["pretrained=true"], "give model=timm/NAME, model=hf/NAME, or weights=FILE"),
    ):
        with pytest.raises(SettingsError, match=match):
            planned(*words)
    with pytest.raises(SettingsError, match="weights= is of one model, and there are several"):
        resolve(parse(["model=mlp_16,mlp_8", f"weights={file}"]))
