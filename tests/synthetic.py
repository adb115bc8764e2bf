"""A real store of made-up trials, whose confidence and dynamics are set by hand."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from calib_bench import registry
from calib_bench.core.settings import Settings, parse
from calib_bench.core.splits import InputSpec, Splits
from calib_bench.core.trial import Trial, TrialResult
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store
from calib_bench.system import files
from calib_bench.system.random import stream

SIZES = {"selection": 40, "calibration": 80}
EPOCHS = 8
WORDS = ("task=digits", "lr=0.03,0.1,0.3", f"epochs={EPOCHS}", "interventions=no")


def labels_and_truth(test: int, classes: int, seed: int = 0) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Per split: labels [N] drawn from softmax(truth), and truth [N, K]."""
    truth, labels = {}, {}
    for split, n in {**SIZES, "test": test}.items():
        g = stream("truth", split, *([seed] if seed else []))
        truth[split] = 2 * torch.randn(n, classes, generator=g)
        labels[split] = torch.multinomial(truth[split].softmax(-1), 1, generator=g)[:, 0]
    return labels, truth


Shape = Callable[[Trial, dict[str, torch.Tensor], dict[str, torch.Tensor]], dict[str, torch.Tensor]]
"""(trial, truth, labels) -> Z = beta z of each split."""


def shape(trial: Trial, truth: dict[str, torch.Tensor], labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Z = sharpness * (truth + noise): sharpness grows away from beta = 1, noise above it, and with fewer epochs.

    Of beta as two factors, the head's initial magnitude makes the sharpness and the head's rate the noise.
    """
    magnitude, rate = trial.beta * trial.head_init, round(trial.beta * trial.head_lr**0.5, 12)
    distance = abs(torch.tensor(magnitude).log().item())
    sharp = (1.4 + 0.3 * distance) * (0.6 if trial.terms else 1.0)
    noise = 0.5 + (0.5 if rate > 1 else 0.0) + (1.0 if trial.epochs < EPOCHS else 0.0)
    Z = {}
    for split, u in truth.items():
        g = stream("noise", split, trial.seed)
        whose = (rate,) if magnitude == rate else (rate, magnitude)
        own = stream("own", split, *whose, trial.objective, trial.seed)
        mixed = u + noise * torch.randn(u.shape, generator=g) + 0.1 * torch.randn(u.shape, generator=own)
        Z[split] = sharp * mixed
    return Z


def initial_norm(trial: Trial) -> float:
    """||Z0|| of a model whose own is 1 at beta = 1, as `calib_bench.models.pair` scales it."""
    doubled = 1.0 if trial.correlation is None else (2 * (1 + trial.correlation)) ** 0.5
    return trial.beta * trial.head_init * doubled * (1 + 0.1 * trial.seed)


def outcome(trial: Trial, Z: dict[str, torch.Tensor], diverged: bool) -> TrialResult:
    """A finished or diverged trial with these logits."""
    logits = {split: (values / trial.beta).float() for split, values in Z.items()}
    found = facts(trial)
    loss = found["selection"]["log_loss"]
    history = {
        "epoch": [0.0, 1.0, 2.0],
        "train_loss": [2.3, 1.0, loss],
        "lr": [trial.lr] * 3,
        "logit_norm": [initial_norm(trial)] * 3,
    }
    if diverged:
        return TrialResult(trial, "diverged", {}, history, {"diverged_step": 7})
    return TrialResult(trial, "done", logits, history, found)


def facts(trial: Trial) -> dict[str, Any]:
    """What a loop reports: a selection loss that is lowest at a rate of 0.1."""
    distance = abs(torch.tensor(trial.beta).log().item())
    rate = abs(torch.tensor(trial.lr / 0.1).log().item())
    loss = 0.4 + 0.1 * rate + 0.01 * trial.seed + 0.02 * distance
    selection = {"log_loss": loss, "repaired_log_loss": loss, "error": 0.1}
    return {"selection": selection, "diverged_step": None, "seconds": 0.5}


def make(
    path: Path,
    *words: str,
    diverged: Collection[tuple[float, int]] = (),
    test: int = 120,
    classes: int = 4,
    class_names: tuple[str, ...] | None = None,
    linked: bool = False,
    shape: Shape = shape,
) -> tuple[Store, Settings]:
    """A complete run folder for the command-line words given on top of WORDS.

    Args:
        diverged: (beta, seed) of trials that diverged, at every rate.
        linked: trials of one beta, objective and seed share their files of logits and history (hard links), which
            makes a store of thousands in seconds.
        shape: what logits are made of.
    """
    given = {word.partition("=")[0] for word in words}
    settings = resolve(parse([*(word for word in WORDS if word.partition("=")[0] not in given), *words]))
    store = Store(path)

    scores = store.scores(settings.select)
    plan = registry.study(settings.study).plan
    originals: dict[Trial, Trial] = {}
    while new := [trial for trial in plan(settings, scores) if not store.has(trial)]:
        for trial in new:
            original = originals.setdefault(trial.model_copy(update={"lr": 1.0}), trial)
            if linked and original is not trial:
                link(store, original, trial)
                continue
            labels, truth = labels_and_truth(test, classes, trial.split)
            data = store.write_splits(trial, splits_of(labels, classes, class_names))
            bad = (trial.beta, trial.seed) in diverged
            store.write(outcome(trial, shape(trial, truth, labels), bad), data, {})
    store.write_study(settings, settings.command())
    return store, settings


@contextmanager
def sketched(*names: str, study: str = "separation") -> Iterator[None]:
    """A study's reports with these figures alone, and no details: to draw all takes longer than the rest of a test."""
    module = importlib.import_module(f"calib_bench.studies.{study}.study")
    figures = {name: module.STUDY.figures[name] for name in names}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STUDY", replace(module.STUDY, figures=figures, details=None))
        yield


def splits_of(labels: dict[str, torch.Tensor], classes: int, class_names: tuple[str, ...] | None = None) -> Splits:
    """Splits with these labels and no inputs."""
    parts = {name: SimpleSplit(labels[name]) for name in ("selection", "calibration", "test")}
    train, spec = SimpleSplit(labels["selection"]), InputSpec("vector", (3,))
    names = class_names or tuple(map(str, range(classes)))
    return Splits(
        train, **parts, spec=spec, classes=classes, class_names=names, source="made up", digest="0" * 64, notes={}
    )


def link(store: Store, original: Trial, trial: Trial) -> None:
    """Store a trial as another one's files under its own name, with the selection scores that `outcome` gives."""
    folder = store.folder(trial)
    folder.mkdir()
    for path in store.folder(original).iterdir():
        if path.name != "trial.json":
            os.link(path, folder / path.name)
    content = files.read_sealed(store.folder(original) / "trial.json")
    content |= {"key": trial.key, "trial": trial.model_dump(mode="json")}
    content["facts"] |= facts(trial)
    (folder / "trial.json").write_bytes(files.sealed(content))


class SimpleSplit(SimpleNamespace):
    """Labels without inputs: all that a store keeps of a split."""

    def __init__(self, labels: torch.Tensor) -> None:
        super().__init__(labels=labels)

    def __len__(self) -> int:
        return len(self.labels)
