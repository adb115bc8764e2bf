"""Contract over every task: what it declares is what its data and the rest of the harness give."""

from __future__ import annotations

import importlib
import itertools
import math
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import calib_bench.tasks
from calib_bench import data
from calib_bench.core.splits import Request, Splits
from calib_bench.core.task import Task
from calib_bench.core.trial import Trial
from calib_bench.data.partition import partition
from calib_bench.data.stream import StreamSplit
from calib_bench.data.tensors import TensorSplit
from calib_bench.data.text import TextSplit
from calib_bench.errors import DataError

FOLDER = Path(calib_bench.tasks.__path__[0])
OWN_DATA = ("folder", "hub")
"""Tasks whose data the user brings: see test_own_data.py."""
NAMES = sorted(name for file in FOLDER.glob("*.py") if (name := file.stem)[0] != "_" and name not in OWN_DATA)
FOUR = ("train", "selection", "calibration", "test")
CPU = torch.device("cpu")
EMBEDDED = ("digits",)
SIZES = {
    "digits": (300, 250, 250, 997),
    "cifar10": (45_000, 2_500, 2_500, 10_000),
    "imdb": (20_000, 2_500, 2_500, 25_000),
    "imagenet": (5_836, 47, 117, 1_000),
}
"""Of the whole data; of the 20-class subset for ImageNet."""
_loaded: dict[tuple[Any, ...], Splits] = {}


def task(name: str) -> Task:
    return importlib.import_module(f"calib_bench.tasks.{name}").TASK


@pytest.fixture(scope="module", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CALIB_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setenv("CALIB_BENCH_LOADERS", "0")
        yield
    _loaded.clear()


def marked(slow: tuple[str, ...]) -> list[Any]:
    data, long = pytest.mark.data, pytest.mark.slow
    return [pytest.param(n, marks=[data] * (n not in EMBEDDED) + [long] * (n in slow)) for n in NAMES]


def with_data(request: pytest.FixtureRequest) -> str:
    """The task of a fixture; skips where its data is not there."""
    if request.param not in EMBEDDED and not (request.getfixturevalue("data_root") / request.param).is_dir():
        pytest.skip(f"no data of {request.param} in $CALIB_BENCH_DATA")
    return request.param


@pytest.fixture(params=marked(slow=("imdb",)))
def whole(request: pytest.FixtureRequest) -> str:
    """A task of which all the data is loaded."""
    return with_data(request)


@pytest.fixture(params=marked(slow=()))
def name(request: pytest.FixtureRequest) -> str:
    return with_data(request)


def load(name: str, **fields: Any) -> Splits:
    """A task's data from $CALIB_BENCH_DATA, read once for each request."""
    key = (name, *sorted(fields.items()))
    if key not in _loaded:
        _loaded[key] = task(name).load(Request(name, **fields))
    return _loaded[key]


@pytest.mark.parametrize("name", NAMES)
def test_declaration(name: str) -> None:
    declared = task(name)
    assert declared.title
    assert declared.licence.endswith(".")
    assert re.fullmatch(r"[a-z]+\d{4}[a-z]?", declared.reference)
    assert declared.models
    assert 1.0 in declared.beta, "the reference arm"
    assert list(declared.beta) == sorted(declared.beta)
    assert math.isclose(declared.beta[0], 1 / declared.beta[-1]) or declared.beta[0] < 1 < declared.beta[-1]
    assert "cross_entropy" in declared.objectives
    assert len(set(declared.seeds)) == len(declared.seeds)
    assert (declared.tune_seeds or 1) <= len(declared.seeds)
    recipe = declared.recipe
    assert list(recipe.lr) == sorted(recipe.lr)
    assert importlib.import_module(f"calib_bench.tasks.{name}").__doc__
    Trial(
        task=name,
        model=declared.models[0],
        beta=1.0,
        objective="cross_entropy",
        optimizer=recipe.optimizer,
        lr=recipe.lr[0],
        lr_unit=recipe.lr_unit,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        schedule=recipe.schedule,
        warmup=recipe.warmup,
        epochs=recipe.epochs,
        batch=recipe.batch,
        seed=declared.seeds[0],
    )
    if declared.source:
        assert re.fullmatch(r"[0-9a-f]{40}", declared.source.revision), "pinned to a commit"
        assert len(declared.source.rows) == 2


def test_sizes_classes_and_labels(whole: str) -> None:
    declared, splits = task(whole), load(whole)
    assert tuple(len(splits[split]) for split in FOUR) == SIZES[whole]
    assert splits.classes == len(splits.class_names) == (20 if whole == "imagenet" else declared.classes)
    for split in FOUR:
        labels = splits[split].labels
        assert labels.dtype == torch.int64
        assert labels.shape == (len(splits[split]),)
        assert labels.min() >= 0
        assert labels.max() < splits.classes
        balance = labels.bincount(minlength=splits.classes) / len(labels) * splits.classes
        assert len(labels) < 200 or (balance.min() > 0.5 and balance.max() < 1.6), "every class is in every split"
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", splits.digest)
    assert splits.source
    assert ("subset" in splits.notes) == (whole == "imagenet")


def test_splits_are_disjoint_rows(whole: str) -> None:
    splits = load(whole)
    rows = {split: splits[split].rows for split in FOUR}  # type: ignore[attr-defined]
    pools = ("train", "selection", "calibration") + (("test",) if whole in EMBEDDED else ())
    for a, b in itertools.combinations(pools, 2):
        assert not set(rows[a].tolist()) & set(rows[b].tolist())
    assert all(len(set(index.tolist())) == len(index) for index in rows.values())


def test_request_decides_everything(name: str) -> None:
    full, a, again, other = (
        load(name, limit=64),
        load(name, limit=16),
        task(name).load(Request(name, limit=16)),
        load(name, split=1, limit=16),
    )
    for split in FOUR:
        assert len(a[split]) == 16
        assert torch.equal(a[split].rows, again[split].rows)  # type: ignore[attr-defined]
        assert set(a[split].rows.tolist()) <= set(full[split].rows.tolist())  # type: ignore[attr-defined]
    assert a.digest == other.digest == full.digest
    assert not torch.equal(a.train.rows, other.train.rows)  # type: ignore[attr-defined]
    assert "limit" in a.notes
    assert "limit" not in load("digits").notes
    for split in FOUR:
        for one, two in zip(batches(a, split), batches(again, split), strict=True):
            assert all(torch.equal(x, y) for x, y in zip(one, two, strict=True))


def batches(splits: Splits, split: str) -> list[tuple[torch.Tensor, ...]]:
    """Every evaluation batch, flat."""
    return [flat(x, index) for x, index in splits[split].eval_batches(batch=8, device=CPU)]


def flat(x: Any, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (*x, y) if isinstance(x, tuple) else (x, y)


def test_training_batches(name: str) -> None:
    splits = load(name, limit=16)
    options: dict[str, Any] = {"seed": 1, "epoch": 2, "batch": 6, "device": CPU}
    whole = [flat(x, y) for x, y in splits.train.train_batches(**options)]
    assert len(whole) == splits.train.steps(6) == 2
    resumed = [flat(x, y) for x, y in splits.train.train_batches(**options, skip=1)]
    shares = [[flat(x, y) for x, y in splits.train.train_batches(**options, rank=r, world=2)] for r in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(resumed[0], whole[1], strict=True))
    for step, tensors in enumerate(whole):
        for part, tensor in enumerate(tensors):
            for rank in range(2):
                assert torch.equal(shares[rank][step][part], tensor[rank::2])


def test_inputs_are_as_the_spec_says(name: str) -> None:
    splits = load(name, limit=16)
    x, y = next(iter(splits.train.train_batches(seed=0, epoch=0, batch=16, device=CPU)))
    assert y.shape == (16,)
    if splits.spec.kind == "tokens":
        tokens, lengths = x
        assert tokens.shape == (16, lengths.max())
        assert tokens.max() < splits.spec.vocabulary
        return
    assert x.shape == (16, *splits.spec.shape)
    assert x.dtype == torch.float32
    assert x.isfinite().all()
    assert 0.3 < x.std() < 1.7


def test_digits_come_as_the_model_wants_them() -> None:
    vectors, pictures = load("digits", model="mlp_128_128"), load("digits", model="cnn_8_16")
    assert vectors.spec.shape == (64,)
    assert pictures.spec.shape == (1, 8, 8)
    assert isinstance(vectors.test, TensorSplit)
    assert isinstance(pictures.test, TensorSplit)
    assert torch.equal(vectors.test.x, pictures.test.x.flatten(1))
    assert vectors.test.x.min() == 0
    assert vectors.test.x.max() == 1
    assert vectors.digest == pictures.digest


@pytest.mark.data
def test_cifar10_is_normalized_and_learnable(data_root: Path) -> None:
    train = load("cifar10").train
    assert isinstance(train, TensorSplit)
    x = train.inputs(torch.arange(5000), CPU)
    assert x.mean((0, 2, 3)).abs().max() < 0.03
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.03
    test = load("cifar10").test
    assert isinstance(test, TensorSplit)
    means = torch.stack([x[train.labels[:5000] == k].mean(0) for k in range(10)]).flatten(1)
    nearest = torch.cdist(test.inputs(torch.arange(2000), CPU).flatten(1), means).argmin(1)
    assert (nearest == test.labels[:2000]).float().mean() > 0.22, "labels belong to their images"


@pytest.mark.data
@pytest.mark.slow
def test_imdb_words_predict_its_labels(data_root: Path) -> None:
    splits = load("imdb")
    train, test = splits.train, splits.test
    assert isinstance(train, TextSplit)
    assert isinstance(test, TextSplit)
    assert splits.spec.vocabulary == 20_000
    assert train.lengths.max() == test.lengths.max() == 200
    assert train.lengths.min() >= 1

    def counts(split: TextSplit, index: torch.Tensor) -> torch.Tensor:
        tokens, _ = split.inputs(index, CPU)
        present = torch.zeros(len(index), 20_000).scatter_(1, tokens, 1.0)
        present[:, :2] = 0
        return present

    x, y = counts(train, torch.arange(2000)), train.labels[:2000]
    odds = ((x[y == 1].sum(0) + 1) / (x[y == 0].sum(0) + 1)).log()
    index = torch.randperm(25_000, generator=torch.Generator().manual_seed(0))[:1000]
    assert (((counts(test, index) @ odds) > 0) == test.labels[index]).float().mean() > 0.75


@pytest.mark.data
def test_imagenet_follows_the_model(data_root: Path) -> None:
    splits = load("imagenet", model="timm/resnet50", limit=4)
    assert isinstance(splits.train, StreamSplit)
    assert splits.notes["preprocess"] == "224 x 224, bicubic, centre crop 0.95"
    assert splits.notes["classes"] == "subset: 20 of 1,000 classes, not ILSVRC/imagenet-1k"
    assert load("imagenet", model="timm/tf_efficientnet_b3", limit=4).spec.shape == (3, 300, 300)


@pytest.mark.data
@pytest.mark.slow
def test_streaming_takes_constant_memory(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setenv("CALIB_BENCH_LOADERS", "1")
    split = load("imagenet", model="resnet").train
    used = []
    for step, _ in enumerate(split.train_batches(seed=0, epoch=0, batch=32, device=CPU)):
        if step in (10, 80):
            memory = psutil.Process().memory_info()  # not the unique set: it grows as a forked loader ends
            used.append(memory.rss - getattr(memory, "shared", 0))
        if step == 80:
            break
    assert used[1] - used[0] < 100e6, "70 batches of 19 MB as float32"


def test_imagenet_carves_what_the_paper_sizes_need() -> None:
    declared = task("imagenet")
    rows = partition(declared.sizes, 1_281_167, 50_000, task="imagenet", split=0, limit=None)
    assert [len(rows[split]) for split in FOUR] == [1_246_167, 10_000, 25_000, 50_000]


def test_missing_data_of_a_gated_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("CALIB_BENCH_DATA", str(tmp_path))
    with pytest.raises(DataError) as error:
        task("imagenet").load(Request("imagenet"))
    for words in (
        "data=PATH (not given)",
        "$CALIB_BENCH_DATA/imagenet (no such folder)",
        "ILSVRC/imagenet-1k at 49e2ee26f381",
        "https://huggingface.co/datasets/ILSVRC/imagenet-1k",
        "`hf auth login`",
    ):
        assert words in str(error.value)


def test_declaring_tasks_imports_no_heavy_library() -> None:
    imports = "; ".join(f"import calib_bench.tasks.{name}" for name in NAMES)
    heavy = ["torch", "timm", "datasets", "tokenizers", "sklearn", "numpy", "pandas", "pyarrow", "PIL"]
    code = f"{imports}; import sys; print(*[name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_what_tasks_declare_with_stays_callable_once_data_is_loaded() -> None:
    """No module takes a name that task files import: loading data would put it in the function's place."""
    for module in pkgutil.iter_modules(data.__path__, "calib_bench.data."):
        importlib.import_module(module.name)
    assert all(callable(getattr(data, name)) for name in data.__all__)
