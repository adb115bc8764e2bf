"""Data: partition, augmentation, splits, cache, and every error that names what is wrong with somebody's folder."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from calib_bench import registry
from calib_bench.core.splits import Request, Split, Splits
from calib_bench.core.task import Hub, SplitSizes
from calib_bench.data import arrays, crop, flip, images, source, streams, texts
from calib_bench.data.cache import cached
from calib_bench.data.decoding import decode
from calib_bench.data.duplicates import digests, note
from calib_bench.data.naming import matched
from calib_bench.data.partition import partition
from calib_bench.data.raw_split import folder_part, parquet_part
from calib_bench.data.source import digest_of
from calib_bench.data.stream import Preprocess, loader_workers, preprocess_for
from calib_bench.data.tensors import DeviceCache, TensorSplit, normalized
from calib_bench.data.text import MARKUP, TextSplit, encode, train_tokenizer, words_of
from calib_bench.errors import DataError, SettingsError
from calib_bench.system import shutdown
from calib_bench.system.random import stream

CPU = torch.device("cpu")
HUB = Hub("owner/toy", "0" * 40, "img", "label", rows={"train": 40, "test": 10})
SIZES = SplitSizes(selection=5, calibration=6)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of each test's own; no data but what a test makes; no loader processes unless a test asks."""
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setenv("CALIB_BENCH_LOADERS", "0")
    monkeypatch.delenv("CALIB_BENCH_DATA", raising=False)


def picture(value: int, size: int = 8) -> bytes:
    """A PNG that differs from pixel to pixel and from value to value."""
    pixels = np.random.default_rng(value).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(
    file: Path, inputs: list[Any], labels: list[Any], names: list[str] | None = None, column: str = "img"
) -> Path:
    """A parquet file as the `datasets` library writes it."""
    cells = [{"bytes": value, "path": None} if column == "img" else value for value in inputs]
    table = pa.table({column: cells, "label": labels})
    if names:
        features = {"label": {"names": names, "_type": "ClassLabel"}, column: {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=7)
    return file


def test_cifar_100_takes_the_fine_labels(tmp_path: Path) -> None:
    names = [f"fine {k}" for k in range(100)]
    features = {"fine_label": {"names": names, "_type": "ClassLabel"}, "img": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for split, rows in (("train", 300), ("test", 100)):
        cells = [{"bytes": picture(i, 32), "path": None} for i in range(rows)]
        labels = {"fine_label": [i % 100 for i in range(rows)], "coarse_label": [i % 20 for i in range(rows)]}
        pq.write_table(
            pa.table({"img": cells, **labels}).replace_schema_metadata(metadata), tmp_path / f"{split}.parquet"
        )
    splits = registry.task("cifar100").load(Request("cifar100", tmp_path, limit=60))
    assert splits.classes == 100
    assert splits.class_names == tuple(names)
    assert int(splits.test.labels.max()) > 20


def toy(root: Path, train: int = 40, test: int = 10, size: int = 8, names: list[str] | None = None) -> Path:
    write(root / "train.parquet", [picture(i, size) for i in range(train)], [i % 4 for i in range(train)], names)
    write(root / "test.parquet", [picture(1000 + i, size) for i in range(test)], [i % 4 for i in range(test)], names)
    return root


def load_images(root: Path | None, hub: Hub = HUB, classes: int = 4, **fields: Any) -> Splits:
    load = images(hub, SIZES, classes=classes, mean=MEAN, std=STD, augment=(crop(2), flip()))
    return load(Request("toy", data=root, **fields))


def load_stream(root: Path, hub: Hub = HUB, classes: int = 4, **fields: Any) -> Splits:
    return streams(hub, SIZES, classes=classes)(Request("toy", data=root, **fields))


def rows_of(x: Any) -> list[tuple[Any, ...]]:
    """A batch as a list of comparable rows; padding is cut off texts."""
    if isinstance(x, tuple):
        return [tuple(text[:length].tolist()) for text, length in zip(*x, strict=True)]
    return [tuple(row.flatten().tolist()) for row in x]


def train(split: Split, **fields: Any) -> list[tuple[list[Any], list[int]]]:
    options: dict[str, Any] = {"seed": 3, "epoch": 1, "batch": 6, "device": CPU} | fields
    return [(rows_of(x), y.tolist()) for x, y in split.train_batches(**options)]


def check_contract(split: Split) -> None:
    """What every split promises, whatever it is made of."""
    steps = split.steps(6)
    whole = train(split)
    assert steps == len(split) // 6 == len(whole)
    assert all(len(x) == len(y) == 6 for x, y in whole)
    assert whole == train(split), "a pass is a function of (seed, epoch)"
    assert whole != train(split, epoch=2)
    assert whole != train(split, seed=4)
    assert train(split, skip=2) == whole[2:]
    assert train(split, skip=steps) == []
    parts = [train(split, rank=rank, world=3) for rank in range(3)]
    for step, (x, y) in enumerate(whole):
        for rank in range(3):
            assert parts[rank][step] == (x[rank::3], y[rank::3])
    assert len(train(split, batch=1000)) == split.steps(1000) == 1
    assert len(train(split, batch=1000)[0][1]) == len(split)
    evaluated = [(rows_of(x), index.tolist()) for x, index in split.eval_batches(batch=4, device=CPU)]
    assert sorted(row for _, index in evaluated for row in index) == list(range(len(split)))
    by_row = {row: x for xs, index in evaluated for x, row in zip(xs, index, strict=True)}
    for rank in range(2):
        for x, index in split.eval_batches(batch=4, device=CPU, rank=rank, world=2):
            assert index.dtype == torch.int64
            for value, row in zip(rows_of(x), index.tolist(), strict=True):
                assert by_row.pop(row) == value, "each row goes to one process, and is what one process sees"
    assert not by_row
    assert split.labels.dtype == torch.int64
    assert split.labels.shape == (len(split),)


# Partition


@given(
    rows=st.integers(20, 300),
    selection=st.integers(0, 8),
    calibration=st.integers(0, 8),
    train_rows=st.none() | st.integers(1, 4),
    own_test=st.booleans(),
    limit=st.none() | st.integers(1, 10),
    split=st.integers(0, 5),
)
def test_carve_is_disjoint_and_of_the_size_asked(
    rows: int, selection: int, calibration: int, train_rows: int | None, own_test: bool, limit: int | None, split: int
) -> None:
    if train_rows is None and not own_test:
        own_test = True
    sizes = SplitSizes(selection, calibration, train_rows)
    full = partition(sizes, rows, 30 if own_test else None, task="t", split=split, limit=None)
    taken = torch.cat([full[name] for name in ("train", "selection", "calibration") + (() if own_test else ("test",))])
    assert len(set(taken.tolist())) == len(taken)
    assert taken.min() >= 0
    assert taken.max() < rows
    assert len(full["selection"]) == selection
    assert len(full["calibration"]) == calibration
    assert len(full["train"]) == (train_rows or rows - selection - calibration)
    if own_test:
        assert full["test"].tolist() == list(range(30))
    else:
        assert len(taken) == rows
    small = partition(sizes, rows, 30 if own_test else None, task="t", split=split, limit=limit)
    for name in ("train", "selection", "calibration"):
        assert torch.equal(small[name], full[name][:limit])
    assert set(small["test"].tolist()) <= set(full["test"].tolist())
    assert len(small["test"]) == min(limit or 10**9, len(full["test"]))


def test_carve_depends_on_the_split_seed_and_task_alone() -> None:
    def rows(**fields: Any) -> list[int]:
        options: dict[str, Any] = {"task": "a", "split": 0, "limit": None} | fields
        return partition(SIZES, 100, 10, **options)["selection"].tolist()

    assert rows() == rows()
    assert rows() != rows(split=1)
    assert rows() != rows(task="b")


@pytest.mark.parametrize(
    ("sizes", "own", "words"),
    [
        (SplitSizes(20, 20), 5, ("40", "20 for selection", "at least 1 for train")),
        (SplitSizes(10, 10, 20), None, ("20 for train", "at least 1 for test")),
        (SplitSizes(10, 10, 21), 5, ("21 for train", "40")),
        (SplitSizes(10, 10), None, ("SplitSizes must say",)),
    ],
)
def test_too_few_rows(sizes: SplitSizes, own: int | None, words: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as error:
        partition(sizes, 40, own, task="toy", split=0, limit=None)
    assert all(word in str(error.value) for word in words)


# Augmentation and normalization


def test_crop_cuts_windows_of_the_padded_image() -> None:
    x = torch.randint(1, 256, (50, 3, 6, 7), dtype=torch.uint8, generator=stream("x"))
    drawn = crop(2).draw(50, stream("d"))
    assert set(drawn.flatten().tolist()) == set(range(5))
    out = crop(2)(x, drawn)
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    for image, result, (top, left) in zip(padded, out.numpy(), drawn.tolist(), strict=True):
        assert np.array_equal(result, image[:, top : top + 6, left : left + 7])
    assert torch.equal(crop(2)(x, torch.full((50, 2), 2)), x)


def test_flip_mirrors_half_of_the_images() -> None:
    x = torch.rand(1000, 1, 2, 3, generator=stream("x"))
    drawn = flip().draw(1000, stream("d"))
    out = flip()(x, drawn)
    assert 400 < drawn.sum() < 600
    for image, result, mirrored in zip(x, out, drawn.tolist(), strict=True):
        assert torch.equal(result, image.flip(-1) if mirrored else image)


def test_normalized_is_that_of_torchvision() -> None:
    from torchvision.transforms.v2.functional import normalize, to_dtype

    x = torch.randint(0, 256, (2, 5, 3, 4, 4), dtype=torch.uint8, generator=stream("x"))
    expected = normalize(to_dtype(x, torch.float32, scale=True), list(MEAN), list(STD))
    torch.testing.assert_close(normalized(x, (MEAN, STD)), expected)
    torch.testing.assert_close(normalized(x.float() / 255, (MEAN, STD)), expected)
    assert torch.equal(normalized(x.float(), None), x.float())


# Splits


def test_tensor_split(tmp_path: Path) -> None:
    splits = load_images(toy(tmp_path / "d"))
    for name in ("train", "selection", "calibration", "test"):
        check_contract(splits[name]) if name == "train" else None
    assert {name: len(splits[name]) for name in ("train", "selection", "calibration", "test")} == {
        "train": 29,
        "selection": 5,
        "calibration": 6,
        "test": 10,
    }
    split = splits.train
    assert isinstance(split, TensorSplit)
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(picture(int(row))))).transpose(2, 0, 1) for row in split.rows])
    assert np.array_equal(split.x.numpy(), pixels), "the images of the rows that were drawn"
    assert torch.equal(split.labels, split.rows % 4)
    index = torch.tensor([[3, 1], [0, 7]])
    assert torch.equal(split.inputs(index, CPU), normalized(split.x[index], (MEAN, STD)))
    assert sorted(split.order(0, 0).tolist()) == list(range(29))
    assert splits.selection.base is split.base, "splits of one pool share its memory"  # type: ignore[attr-defined]
    plain = replace(split, augment=())
    for step, (x, y) in enumerate(plain.train_batches(seed=0, epoch=0, batch=5, device=CPU)):
        rows = plain.order(0, 0)[5 * step : 5 * step + 5]
        assert torch.equal(x, plain.inputs(rows, CPU))
        assert torch.equal(y, plain.labels[rows])


def test_augmentation_leaves_evaluation_and_other_splits_alone(tmp_path: Path) -> None:
    splits = load_images(toy(tmp_path / "d"))
    assert all(not splits[name].augment for name in ("selection", "calibration", "test"))  # type: ignore[attr-defined]
    split = splits.train
    assert isinstance(split, TensorSplit)
    for x, index in split.eval_batches(batch=10, device=CPU):
        assert torch.equal(x, split.inputs(index, CPU))
    a, b = (next(iter(split.train_batches(seed=0, epoch=e, batch=29, device=CPU)))[0] for e in (0, 1))
    assert set(rows_of(a)) != set(rows_of(b)), "augmentation changes from epoch to epoch"


@pytest.fixture(scope="module")
def text_split() -> TextSplit:
    lengths = torch.randint(1, 30, (67,), generator=stream("lengths"))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    tokens = torch.arange(2, int(lengths.sum()) + 2, dtype=torch.int32)
    rows = torch.randperm(67, generator=stream("rows"))[:50]
    return TextSplit(DeviceCache(tokens), offsets, rows, rows % 2)


def test_text_split(text_split: TextSplit) -> None:
    check_contract(text_split)
    tokens = text_split.tokens.on(CPU)
    for (padded, lengths), index in text_split.eval_batches(batch=8, device=CPU):
        assert padded.dtype == lengths.dtype == torch.int64
        assert padded.shape == (len(index), lengths.max())
        assert lengths.tolist() == sorted(lengths.tolist())
        for text, length, row in zip(padded, lengths, text_split.rows[index], strict=True):
            start = text_split.offsets[row]
            assert torch.equal(text[:length], tokens[start : start + length].long())
            assert not text[length:].any()


def test_text_batches_are_bucketed_and_fair(text_split: TextSplit) -> None:
    plan = text_split.plan(0, 0, 5)
    assert sorted(plan.flatten().tolist()) == list(range(50))
    spread = text_split.lengths[plan].max(1).values - text_split.lengths[plan].min(1).values
    assert spread.float().mean() < 6, "a batch holds texts of like lengths"
    firsts = {int(text_split.lengths[text_split.plan(seed, 0, 5)[0]].min()) for seed in range(8)}
    assert len(firsts) > 2, "the first batch is not always the shortest"
    dropped = {tuple(sorted(set(range(50)) - set(text_split.plan(s, 0, 7).flatten().tolist()))) for s in range(8)}
    assert len(dropped) > 1, "no text is always left out"


def test_words_of() -> None:
    assert words_of("One<br /><br />two,  three\n<i>four</i>", 3) == "One two, three"
    assert words_of("<p>", 3) == words_of("", 3) == ""


@pytest.mark.parametrize(
    "text",
    [
        "I <3 this wonderful film, rated 5 > 4",
        "a < b and c > d",
        "a<b and c>d",
        "price < 5 and quality > 3 stars",
        "<grin> < Cough , cough > <-----Minor Spoilers!----->",
        "see <http://example.org/a?b=c> or <me@example.org>",
        "List<String> x, if a <i and b> i then",
        "<unk> <user> <<<>>> <> </> < br >",
    ],
)
def test_text_between_angle_brackets_stays(text: str) -> None:
    assert words_of(text, 99).split() == text.split()


@pytest.mark.parametrize(
    "markup",
    [
        "<br />", "<br>", "<BR/>", "</p>", "<i>", "<h1>", "<a href='x>y'>".replace(">y", ""),
        '<a href="http://example.org/?a=b&c" title=plain>', "<img\nsrc=x.png />", "<!-- a > b -->", "<!DOCTYPE html>",
    ],
)  # fmt: skip
def test_markup_goes(markup: str) -> None:
    assert words_of(f"one{markup}two {markup} three", 9) == "one two three"
    assert words_of(markup, 9) == ""


@settings(deadline=None)
@given(st.text(alphabet="<>/abi =!-\"'3 ", max_size=200))
def test_only_whole_tags_are_ever_taken_out(text: str) -> None:
    """Letters outside of angle brackets stay, and an independent parser sees no element in what is left."""
    from html.parser import HTMLParser

    seen: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: seen.append(tag)  # type: ignore[method-assign]
    kept = MARKUP.sub("", text)
    parser.feed(text)
    if kept != text:
        assert seen or "</" in text or "<!" in text


def test_tokenizer() -> None:
    texts = ["The cat sat.", "the CAT ran!", "A dog"]
    tokenizer = train_tokenizer(texts, 6)
    assert tokenizer == train_tokenizer(iter(texts), 6)
    vocabulary = json.loads(tokenizer)["model"]["vocab"]
    assert vocabulary == {"[PAD]": 0, "[UNK]": 1, "cat": 2, "the": 3, "!": 4, ".": 5}
    tokens, offsets, cut = encode(tokenizer, ["THE cat, the dog.", "", "cat cat cat cat cat"], 4)
    assert offsets.tolist() == [0, 4, 5, 9]
    assert tokens.tolist() == [3, 2, 1, 3, 1, 2, 2, 2, 2]
    assert cut.tolist() == [True, False, True]


TEXT_HUB = replace(HUB, input="text")


def write_texts(root: Path) -> Path:
    for split, count in HUB.rows.items():
        words = [f"{split}word{i} common film {'good' if i % 2 else 'bad'}" for i in range(count)]
        write(root / f"{split}.parquet", words, [i % 2 for i in range(count)], column="text")
    return root


def test_texts_learn_their_words_from_the_training_split_alone(tmp_path: Path) -> None:
    root = write_texts(tmp_path / "d")
    load = texts(TEXT_HUB, SIZES, classes=2, names=("no", "yes"), vocabulary=100, length=3)
    splits = load(Request("toy", data=root))
    check_contract(splits.train)
    assert splits.class_names == ("no", "yes")
    assert splits.spec.vocabulary == 2 + 2 + len(splits.train)
    for name in ("train", "selection", "calibration", "test"):
        split = splits[name]
        assert isinstance(split, TextSplit)
        assert split.lengths.max() == 3
        own_words = split.inputs(torch.arange(len(split)), CPU)[0][:, 0]
        assert bool((own_words == 1).all()) == (name != "train"), "words of other splits are unknown"
    again = load(Request("toy", data=root))
    assert train(again.train) == train(splits.train)
    limited = load(Request("toy", data=root, limit=4))
    assert len(limited.train) == len(limited.test) == 4
    assert limited.notes["limit"]
    assert limited.spec.vocabulary == 2 + 2 + 4


@pytest.mark.parametrize("workers", ["0", "2"])
def test_stream_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("CALIB_BENCH_LOADERS", workers)
    splits = load_stream(toy(tmp_path / "d"))
    splits = replace(splits, train=small(splits.train), test=small(splits.test))
    if workers == "0":
        check_contract(splits.train)
        return
    here = train(small(splits.train))
    monkeypatch.setenv("CALIB_BENCH_LOADERS", "0")
    assert train(small(splits.train)) == here, "the number of workers changes nothing"


def small(split: Split) -> Split:
    """The same rows at 16 x 16, so that a test takes no time."""
    from calib_bench.data.stream import StreamSplit

    assert isinstance(split, StreamSplit)
    return StreamSplit(split._images.part, split.rows, Preprocess(size=16), split._images.greys)


def test_stream_epochs_share_workers_and_a_pass_may_be_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = small(load_stream(toy(tmp_path / "d")).train)
    expected = [train(split, epoch=epoch) for epoch in range(3)]
    monkeypatch.setenv("CALIB_BENCH_LOADERS", "1")
    split = small(split)
    next(iter(split.train_batches(seed=3, epoch=0, batch=6, device=CPU)))
    assert [train(split, epoch=epoch) for epoch in range(3)] == expected


def test_signals_to_a_process_group_leave_its_loaders_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are for the process that trains: a loader that died would fail it before it could save."""
    split = small(load_stream(toy(tmp_path / "d")).train)
    expected = train(split)
    monkeypatch.setenv("CALIB_BENCH_LOADERS", "1")
    split = small(split)
    batches = split.train_batches(seed=3, epoch=0, batch=6, device=CPU)
    next(batches)
    assert split._train is not None
    (loader,) = split._train._iterator._workers  # type: ignore[union-attr]
    assert os.getpgid(loader.pid) != os.getpgid(0)
    for number in (signal.SIGINT, *shutdown.WARNINGS):
        os.kill(loader.pid, number)
    batches.close()
    assert train(split) == expected
    assert loader.is_alive()
    loader.terminate()
    loader.join(20)
    assert not loader.is_alive(), "who trains can end it"


def test_stream_leaves_global_random_states_alone(tmp_path: Path) -> None:
    import random

    split = small(load_stream(toy(tmp_path / "d")).train)
    torch.manual_seed(0)
    random.seed(0)
    expected = torch.rand(1), random.random()
    torch.manual_seed(0)
    random.seed(0)
    train(split)
    assert (torch.rand(1), random.random()) == expected


def test_stream_transforms_are_timms() -> None:
    """Evaluation is resize, centre crop and nothing else: a flat image stays as it is, a ramp keeps its middle."""
    flat = Image.new("RGB", (300, 200), (10, 20, 30))
    for training in (True, False):
        out = torch.as_tensor(Preprocess().transform(training)(flat))
        assert out.shape == (3, 224, 224)
        assert out.dtype == torch.uint8
        assert torch.equal(out, torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 224, 224))
    names = {type(step).__name__ for step in Preprocess().transform(True).transforms}
    assert names == {"RandomResizedCropAndInterpolation", "RandomHorizontalFlip", "MaybePILToTensor"}
    assert preprocess_for("wrn_16_4") == preprocess_for(None) == Preprocess()
    assert preprocess_for("timm/resnet50").interpolation == "bicubic"
    assert preprocess_for("timm/no_such_model") == Preprocess()


def test_loader_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB_BENCH_LOADERS", "three")
    with pytest.raises(SettingsError, match="three"):
        loader_workers()
    monkeypatch.delenv("CALIB_BENCH_LOADERS")
    assert 0 <= loader_workers() <= 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "100000")
    assert loader_workers() == 0


# Sources


def image_folder(root: Path, train: int = 10, test: int = 3, classes: tuple[str, ...] = ("a", "b", "c", "d")) -> Path:
    for split, count in (("train", train), ("val", test)):
        for k, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                (root / split / name / f"{i:03}.png").write_bytes(picture(100 * k + i))
    return root


@pytest.mark.parametrize("load", [load_images, load_stream])
def test_image_folder(tmp_path: Path, load: Any) -> None:
    splits = load(image_folder(tmp_path / "d"))
    assert splits.class_names == ("a", "b", "c", "d")
    assert len(splits.test) == 12
    assert (
        sorted(torch.cat([splits[n].labels for n in ("train", "selection", "calibration")]).bincount().tolist())
        == [10] * 4
    )
    assert "12 of 10 rows of test" in splits.notes["subset"]
    assert len(rows_of(next(iter(splits.test.eval_batches(batch=12, device=CPU)))[0])) == 12


def test_parquet_and_folder_hold_the_same_images(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "d", test=2)
    paths = sorted((folder / "train").glob("*/*"))
    write(tmp_path / "p/train-0.parquet", [f.read_bytes() for f in paths], [ord(f.parent.name) - 97 for f in paths])
    paths = sorted((folder / "val").glob("*/*"))
    write(tmp_path / "p/test-0.parquet", [f.read_bytes() for f in paths], [ord(f.parent.name) - 97 for f in paths])
    a, b = load_images(folder), load_images(tmp_path / "p")
    assert train(a.train) == train(b.train)
    a, b = load_stream(folder), load_stream(tmp_path / "p")
    assert train(small(a.train)) == train(small(b.train))


# Class names

COLOURS = ("red", "green", "blue", "grey")


def written_in(root: Path, orders: dict[str, tuple[str, ...] | None], rows: int = 40) -> Path:
    """Row i of every file is of class COLOURS[i % 4]; each file counts the classes in an order of its own."""
    for file, order in orders.items():
        labels = [(order or COLOURS).index(COLOURS[i % 4]) for i in range(rows)]
        write(root / file, [picture(i) for i in range(rows)], labels, list(order) if order else None)
    return root


def classes_of(splits: Splits, split: str) -> list[str]:
    """The class name of each row of the files, in row order."""
    part = splits[split]
    assert isinstance(part, TensorSplit)
    return [splits.class_names[label] for label in part.labels[part.rows.argsort()]]


@pytest.mark.parametrize("order", [COLOURS[::-1], ("green", "grey", "red", "blue")])
def test_splits_that_count_classes_in_other_orders_are_matched_by_name(tmp_path: Path, order: tuple[str, ...]) -> None:
    splits = load_images(written_in(tmp_path / "d", {"train.parquet": COLOURS, "test.parquet": order}))
    assert splits.class_names == COLOURS
    assert classes_of(splits, "test") == [COLOURS[i % 4] for i in range(40)]


def test_shards_that_count_classes_in_other_orders_are_matched_by_name(tmp_path: Path) -> None:
    orders = {"train-0.parquet": COLOURS[::-1], "train-1.parquet": COLOURS, "test.parquet": COLOURS}
    part = parquet_part("train", sorted(written_in(tmp_path, orders).glob("train-*")), "img", "label")
    assert part.names == COLOURS[::-1], "those of the first"
    assert [part.names[label] for label in part.labels] == [COLOURS[i % 4] for i in range(40)] * 2
    assert classes_of(load_images(tmp_path), "test") == [COLOURS[i % 4] for i in range(40)]


@given(st.permutations(range(6)), st.lists(st.integers(0, 5)))
def test_matched_labels_have_the_names_they_had(order: list[int], labels: list[int]) -> None:
    reference = [f"class {k}" for k in range(6)]
    names = [reference[k] for k in order]
    found = matched(np.array(labels, dtype=np.int64), names, reference, "a file")
    assert [reference[label] for label in found] == [names[label] for label in labels]


def test_labels_that_index_no_name_stay_for_the_check(tmp_path: Path) -> None:
    assert matched(np.array([-1, 0, 7]), ("b", "a"), ("a", "b"), "a file").tolist() == [-1, 1, 7]


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (("red", "green", "blue", "black", "grey"), None),
        (("red", "green", "blue", "gray"), ["test.parquet", "'gray'", "red, green, blue, grey"]),
        (("grey", "grey", "blue", "red"), ["'grey'", "twice"]),
    ],
)
def test_names_that_do_not_match_are_refused(tmp_path: Path, order: tuple[str, ...], words: list[str] | None) -> None:
    root = written_in(tmp_path, {"train.parquet": COLOURS})
    write(root / "test.parquet", [picture(0), picture(1)], [0, len(order) - 1], list(order))
    if words is None:  # a class that no row has is no reason
        assert classes_of(load_images(root), "test") == ["red", "grey"]
        return
    with pytest.raises(DataError) as error:
        load_images(root)
    for word in words:
        assert word in str(error.value)


def test_labels_without_names_beside_some_with_are_said_to_be_taken_by_position(tmp_path: Path) -> None:
    orders = {"train.parquet": COLOURS, "test.parquet": None}
    splits = load_images(written_in(tmp_path / "a", orders))
    assert classes_of(splits, "test") == [COLOURS[i % 4] for i in range(40)]
    assert splits.notes["names"].startswith("labels of test carry no class names")
    shards = {"train-0.parquet": COLOURS, "train-1.parquet": None, "test.parquet": COLOURS}
    assert load_images(written_in(tmp_path / "b", shards)).notes["names"].startswith("labels of train carry no")
    assert "names" not in load_images(written_in(tmp_path / "c", {**orders, "test.parquet": COLOURS})).notes
    load = images(HUB, SIZES, classes=4, mean=MEAN, std=STD, names=COLOURS[::-1])
    with pytest.raises(DataError, match=r"'test' carry no class names.*another order"):
        load(Request("toy", data=tmp_path / "a"))


@pytest.mark.parametrize(
    "names",
    [("0", "1", "2", "3", "10", "11", "20", "100"), ("class_10", "class_2", "Class_1", "class_1b"), ("b", "A", "c")],
)
def test_class_folders_are_numbered_as_timm_numbers_them(tmp_path: Path, names: tuple[str, ...]) -> None:
    from timm.data import create_dataset

    root = image_folder(tmp_path / "d", train=3, test=1, classes=names)
    part = folder_part("train", root / "train")
    theirs = create_dataset("", root=str(root / "train")).reader.class_to_idx
    assert {name: k for k, name in enumerate(part.names)} == theirs
    assert [Path(file).parent.name for file in part.files()] == [part.names[label] for label in part.labels]
    test = folder_part("test", root / "val", part.names)
    assert [file.parent.name for file in test.files()] == [part.names[label] for label in test.labels]


def archived_on_a_mac(root: Path) -> Path:
    image_folder(root)
    fork = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(100)
    for split in ("train", "val"):
        (root / split / "a" / "._000.png").write_bytes(fork)
        (root / split / "._a").write_bytes(fork)
        (root / split / "__MACOSX").mkdir()
        (root / split / "__MACOSX" / "._000.png").write_bytes(fork)
        (root / split / "@eaDir").mkdir()
        (root / split / "@eaDir" / "000.png").write_bytes(fork)
    (root / "__MACOSX").mkdir()
    (root / "__MACOSX" / "train.parquet").write_bytes(fork)
    (root / "._train.parquet").write_bytes(fork)
    return root


@pytest.mark.parametrize("load", [load_images, load_stream])
def test_what_a_mac_or_a_file_server_keeps_beside_the_data_is_passed_over(tmp_path: Path, load: Any) -> None:
    assert load(archived_on_a_mac(tmp_path / "mac")).digest == load(image_folder(tmp_path / "plain")).digest
    table = toy(tmp_path / "table")
    (table / "._train.parquet").write_bytes(b"Mac OS X")
    (table / "train").mkdir()
    (table / "train" / "._0.parquet").write_bytes(b"Mac OS X")
    assert load(table).digest == load(toy(tmp_path / "tables")).digest


def test_images_in_a_folder_within_a_class_are_not_left_out_in_silence(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d")
    (root / "train" / "a" / "notes").mkdir()
    assert load_images(root).digest == load_images(image_folder(tmp_path / "plain")).digest
    (root / "train" / "a" / "000.png").rename(root / "train" / "a" / "notes" / "000.png")
    with pytest.raises(DataError, match="more in its folder 'notes', where none is read"):
        load_images(root)


def test_order_of_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(tmp_path / "root" / "toy")
    toy(tmp_path / "named", train=39)
    monkeypatch.setenv("CALIB_BENCH_DATA", str(tmp_path / "root"))
    assert "$CALIB_BENCH_DATA" in load_images(None).source
    assert len(load_images(tmp_path / "named").train) == 28, "a named folder comes first"
    assert len(load_images(tmp_path / "root").train) == 29, "it may hold the data under the task's name"


def test_the_variable_and_a_relative_folder_leave_no_path_of_this_machine_in_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy(tmp_path / "root" / "toy")
    monkeypatch.chdir(tmp_path)
    for folder in ("root", str(tmp_path / "root")):
        monkeypatch.setenv("CALIB_BENCH_DATA", folder)
        assert load_images(None).source == "$CALIB_BENCH_DATA/toy"
    assert load_images(Path("root")).source == "root/toy (data=)"


def test_digest_is_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = toy(tmp_path / "a")
    b = shutil.copytree(a, tmp_path / "elsewhere" / "b")
    first = load_images(a)
    assert first.digest.startswith("sha256:")
    assert load_images(b).digest == first.digest
    assert load_images(b, split=3, limit=2).digest == first.digest, "the partition comes after"
    monkeypatch.setattr(source, "LARGE", 1000)
    ends = load_images(a).digest
    assert ends.startswith("sha256-ends:")
    assert load_images(b).digest == ends
    write(b / "test.parquet", [picture(i) for i in range(10)], [0] * 10)
    assert load_images(b).digest != ends
    monkeypatch.undo()
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))
    assert load_images(b).digest != first.digest


def test_digest_of_a_folder_of_images_follows_classes_and_bytes(tmp_path: Path) -> None:
    a = image_folder(tmp_path / "a")
    digest = load_images(a).digest
    assert load_images(shutil.copytree(a, tmp_path / "b")).digest == digest
    (a / "train/a/000.png").write_bytes(picture(7))
    assert load_images(a).digest != digest


def test_subset_of_the_classes(tmp_path: Path) -> None:
    named = load_stream(
        toy(tmp_path / "named", names=["p", "q", "r", "s"]), replace(HUB, rows={"train": 400, "test": 10}), 1000
    )
    assert named.classes == 4
    assert named.class_names == ("p", "q", "r", "s")
    assert named.notes["classes"] == "subset: 4 of 1,000 classes, not owner/toy"
    assert named.notes["subset"] == "subset: 40 of 400 rows of train"
    assert len(named.selection) == len(named.calibration) == 1, "in proportion, and rounded"
    plain = load_stream(toy(tmp_path / "plain"), classes=1000)
    assert plain.classes == 4
    assert plain.class_names == ("0", "1", "2", "3")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Hub's cache with one snapshot of the toy data, as `snapshot_download` lays it out."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub" / "datasets--owner--toy" / "snapshots" / HUB.revision


def test_hub_snapshot(hub_cache: Path, tmp_path: Path) -> None:
    toy(hub_cache / "plain_text")
    write(hub_cache / "plain_text" / "unsupervised-0.parquet", [picture(0)], [-1])
    splits = load_images(None)
    assert splits.source == f"https://huggingface.co/datasets/owner/toy at {HUB.revision}"
    assert splits.digest == load_images(toy(tmp_path / "local")).digest
    toy(hub_cache / "plain_text", train=39)
    with pytest.raises(DataError, match="39 of 40 rows of train"):
        load_images(None)


def test_nothing_found(hub_cache: Path) -> None:
    with pytest.raises(DataError) as error:
        load_images(None)
    for words in ("data=PATH", "$CALIB_BENCH_DATA/toy (not set)", "owner/toy at 000000000000"):
        assert words in str(error.value)
    assert "hf auth login" not in str(error.value)
    with pytest.raises(DataError) as error:
        load_images(None, replace(HUB, gated=True))
    assert "https://huggingface.co/datasets/owner/toy" in str(error.value)
    assert "`hf auth login`" in str(error.value)
    assert "\n" not in str(error.value)


def spoil_nothing(root: Path) -> None:
    shutil.rmtree(root)


def spoil_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("x")


def spoil_split(root: Path) -> None:
    (root / "test.parquet").rename(root / "other.parquet")


def spoil_column(root: Path) -> None:
    pq.write_table(pa.table({"image": ["x"], "label": [0]}), root / "train.parquet")


def spoil_label_type(root: Path) -> None:
    write(root / "train.parquet", [picture(0)] * 40, [0.5] * 40)


def spoil_label_null(root: Path) -> None:
    write(root / "train.parquet", [picture(0)] * 40, [0] * 9 + [None] + [0] * 30)


def spoil_label_high(root: Path) -> None:
    write(root / "test.parquet", [picture(0)] * 10, [0, 1, 2, 4] + [0] * 6)


def spoil_label_negative(root: Path) -> None:
    write(root / "train.parquet", [picture(0)] * 40, [0] * 39 + [-1])


def spoil_class_count(root: Path) -> None:
    toy(root, names=["a", "b", "c", "d", "e"])


def spoil_empty_file(root: Path) -> None:
    (root / "train.parquet").write_bytes(b"")


def spoil_truncated(root: Path) -> None:
    file = root / "train.parquet"
    file.write_bytes(file.read_bytes()[:-1000])


def spoil_middle(root: Path) -> None:
    file = root / "train.parquet"
    data = bytearray(file.read_bytes())
    data[4:2000] = bytes(1996)
    file.write_bytes(data)


def spoil_no_rows(root: Path) -> None:
    write(root / "train.parquet", [], [])
    pq.write_table(pq.read_table(root / "test.parquet").slice(0, 0), root / "train.parquet")


def spoil_image(root: Path) -> None:
    write(root / "test.parquet", [picture(i) for i in range(7)] + [b"not an image"] * 3, [0] * 10)


def spoil_image_truncated(root: Path) -> None:
    write(root / "train.parquet", [picture(i)[: -60 if i == 11 else None] for i in range(40)], [0] * 40)


def spoil_image_null(root: Path) -> None:
    write(root / "train.parquet", [picture(0)] * 5 + [None] * 35, [0] * 40)


def spoil_image_size(root: Path) -> None:
    write(root / "train.parquet", [picture(0)] * 5 + [picture(0, 9)] * 35, [0] * 40)


def spoil_class_folder(root: Path) -> None:
    shutil.rmtree(root)
    image_folder(root)
    (root / "val" / "a").rename(root / "val" / "z")


def spoil_empty_class(root: Path) -> None:
    shutil.rmtree(root)
    image_folder(root)
    shutil.rmtree(root / "train" / "c")
    (root / "train" / "c" / "inner").mkdir(parents=True)


def spoil_extra_class(root: Path) -> None:
    shutil.rmtree(root)
    image_folder(root, classes=("a", "b", "c", "d", "extra"))


def spoil_file_of_a_folder(root: Path) -> None:
    shutil.rmtree(root)
    image_folder(root)
    (root / "train" / "b" / "004.png").write_bytes(picture(3)[:-60])


def spoil_size_of_a_folder(root: Path) -> None:
    shutil.rmtree(root)
    image_folder(root)
    (root / "val" / "d" / "001.png").write_bytes(picture(3, 9))


def spoil_image_of_a_shard(root: Path) -> None:
    (root / "test.parquet").unlink()
    for shard in range(2):
        cells = [picture(i)[: -60 if shard and i == 2 else None] for i in range(5)]
        write(root / f"test-{shard}.parquet", cells, [0] * 5)


def spoil_no_images(root: Path) -> None:
    shutil.rmtree(root)
    (root / "train" / "a").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_nothing, ["does not exist", "task 'toy'"]),
        (spoil_file, ["is a file", "expected a folder"]),
        (spoil_split, ["no split 'test'", "other.parquet", "train.parquet"]),
        (spoil_column, ["no column 'img'", "image, label", "train.parquet"]),
        (spoil_label_type, ["double", "integers"]),
        (spoil_label_null, ["Row 9", "'train'", "no label"]),
        (spoil_label_high, ["Row 3", "'test'", "label 4", "from 0 to 3"]),
        (spoil_label_negative, ["Row 39", "'train'", "label -1"]),
        (spoil_class_count, ["5 classes", "'toy' has 4"]),
        (spoil_empty_file, ["train.parquet is empty"]),
        (spoil_truncated, ["train.parquet is truncated"]),
        (spoil_middle, ["train.parquet is truncated or not parquet"]),
        (spoil_no_rows, ["train.parquet is empty", "no rows"]),
        (spoil_image, ["row 7 of split 'test'", "cannot be decoded"]),
        (spoil_image_truncated, ["row 11 of split 'train'", "cannot be decoded"]),
        (spoil_image_null, ["row 5 of split 'train'", "no bytes"]),
        (spoil_image_size, ["row 5 of split 'train' is 9 x 9", "8 x 8"]),
        (spoil_class_folder, ["'z'", "training split lacks"]),
        (spoil_no_images, ["holds no images"]),
        (spoil_empty_class, ["train/c holds no images", "inner"]),
        (spoil_extra_class, ["5 classes", "'toy' has 4"]),
        (spoil_file_of_a_folder, ["train/b/004.png", "row 14 of split 'train'", "cannot be decoded"]),
        (spoil_size_of_a_folder, ["val/d/001.png", "is 9 x 9"]),
        (spoil_image_of_a_shard, ["test-1.parquet", "row 7 of split 'test'", "cannot be decoded"]),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_error_names_what_is_wrong(tmp_path: Path, spoil: Any, words: list[str]) -> None:
    root = toy(tmp_path / "d")
    spoil(root)
    with pytest.raises(DataError) as error:
        load_images(root)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_stream_names_the_file_that_cannot_be_decoded(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "d")
    (root / "val" / "c" / "002.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"row 8 of split 'test' \(.*/val/c/002.png\) cannot be decoded"):
        list(small(load_stream(root).test).eval_batches(batch=4, device=CPU))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_stream_names_the_image_that_cannot_be_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    root = toy(tmp_path / "d")
    spoil_image(root)
    monkeypatch.setenv("CALIB_BENCH_LOADERS", workers)
    with pytest.raises(DataError, match=r"^The image in row 7 of split 'test' cannot be decoded"):
        list(small(load_stream(root).test).eval_batches(batch=4, device=CPU))


def test_stream_names_a_file_that_cannot_be_copied(tmp_path: Path) -> None:
    root = toy(tmp_path / "d")
    spoil_middle(root)
    with pytest.raises(DataError, match=r"train.parquet"):
        load_stream(root)


def test_text_that_is_not_text(tmp_path: Path) -> None:
    root = write_texts(tmp_path / "d")
    write(root / "test.parquet", ["a"] * 4 + [None] * 6, [0] * 10, column="text")
    with pytest.raises(DataError, match="Row 4 of split 'test' holds no text"):
        texts(TEXT_HUB, SIZES, classes=2)(Request("toy", data=root))


# Grey images of more than 8 bits

RAMP = np.tile(np.linspace(0, 255, 32).round().astype(np.uint8), (8, 1))


def encoded(array: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("kind", "dtype", "factor"),
    [
        ("PNG", "u1", 1), ("PNG", "u2", 257), ("TIFF", "u2", 257), ("TIFF", ">u2", 257), ("TIFF", "i4", 257),
        ("TIFF", "i4", 1), ("TIFF", "f4", 257), ("TIFF", "f4", 1), ("TIFF", "f4", 1 / 255), ("PPM", "u2", 257),
    ],
)  # fmt: skip
def test_grey_images_keep_their_range(mode: str, kind: str, dtype: str, factor: float) -> None:
    image = np.asarray(decode(encoded((RAMP * float(factor)).astype(dtype), kind), mode, "row 0")).astype(int)
    assert np.abs((image if mode == "L" else image.transpose(2, 0, 1)) - RAMP).max() <= 1


def grey_data(root: Path, dtype: str, factor: float, dark: int = 3) -> Path:
    """Images whose brightness is the row's number, nearly black: only the last of the test split is white."""
    for split, count in HUB.rows.items():
        values = [np.full((8, 8), dark if i + 1 < count or split == "train" else 255) for i in range(count)]
        payloads = [encoded((value * factor).astype(dtype), "TIFF") for value in values]
        write(root / f"{split}.parquet", payloads, [i % 4 for i in range(count)])
    return root


@pytest.mark.parametrize(("dtype", "factor"), [("i4", 257), ("i4", 1), ("f4", 1 / 255), ("f4", 257), ("u2", 257)])
def test_one_white_for_all_images_of_a_data_set(tmp_path: Path, dtype: str, factor: float) -> None:
    """An image that is nearly black by itself stays so: its own largest value is not white."""
    root = grey_data(tmp_path / "d", dtype, factor)
    splits = load_images(root)
    pixels = splits.test.x  # type: ignore[attr-defined]
    assert pixels[:-1].unique().tolist() == [3]
    assert pixels[-1].unique().tolist() == [255]
    assert splits.train.x.unique().tolist() == [3]  # type: ignore[attr-defined]
    white = {1 / 255: "1", 1: "255", 257: "65,535"}[factor]
    assert splits.notes.get("grey") == (None if dtype == "u2" else f"grey images of 32 bits: white is {white}")
    streamed = load_stream(root)
    assert streamed.notes.get("grey") == splits.notes.get("grey")
    for x, _ in small(streamed.train).eval_batches(batch=29, device=CPU):
        shown = x * torch.tensor(Preprocess().std)[:, None, None] + torch.tensor(Preprocess().mean)[:, None, None]
        torch.testing.assert_close(shown, torch.full_like(shown, 3 / 255), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("values", "words"),
    [([0.0, np.nan], "not finite"), ([-1.0, 2.0], "negative"), ([0.0, 1e6], "reaches 1e.06"), ([0, np.inf], "finite")],
)
def test_grey_images_of_no_known_range_are_refused(tmp_path: Path, values: list[float], words: str) -> None:
    root = toy(tmp_path / "d")
    cells = [picture(i) for i in range(39)] + [encoded(np.resize(values, (8, 8)).astype("f4"), "TIFF")]
    write(root / "train.parquet", cells, [0] * 40)
    with pytest.raises(DataError, match=rf"row 39 of split 'train'.*{words}"):
        load_images(root)


# Duplicates


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=20, max_size=40), st.integers(0, 3), st.none() | st.integers(1, 5))
def test_duplicates_are_those_a_search_finds(values: list[int], split: int, limit: int | None) -> None:
    """Every split drawn from one pool of few values."""
    rows = partition(SplitSizes(3, 4, 6), len(values), None, task="t", split=split, limit=limit)
    own = {name: [values[row] for row in index] for name, index in rows.items()}
    said = note({"train": digests([str(value) for value in values])}, rows).get("duplicates", "")
    others = own["train"] + own["selection"] + own["calibration"]
    count = sum(value in others for value in own["test"])
    assert said.startswith(f"{count} of {len(own['test'])} test examples") if count else said == ""
    for name, where in (("train", "training"), ("selection", "selection"), ("calibration", "calibration")):
        part = sum(value in own[name] for value in own["test"])
        assert (f"{part} in {where}" in said) == bool(part)


def test_digests_are_of_the_content() -> None:
    x = np.arange(12.0).reshape(4, 3)
    assert len(set(digests(x).tolist())) == 4
    assert digests(x[::-1])[0] == digests(x)[3]
    assert digests(["a", "b", "a", ""]).tolist() == digests([b"a", b"b", b"a", b""]).tolist()
    assert len(digests([])) == 0


@pytest.mark.parametrize("load", [load_images, load_stream])
def test_test_images_that_occur_in_training_are_noted(tmp_path: Path, load: Any) -> None:
    root = toy(tmp_path / "d")
    assert "duplicates" not in load(root).notes
    shutil.copy(root / "train.parquet", root / "test.parquet")
    assert (
        load(root)
        .notes["duplicates"]
        .startswith(
            "40 of 40 test examples also occur outside the test split, input for input "
            "(29 in training, 5 in selection, 6 in calibration)"
        )
    )
    write(root / "test.parquet", [picture(i) for i in (7, 2000, 9)], [0, 0, 0])
    assert load(root).notes["duplicates"].startswith("2 of 3 test examples")


def test_test_texts_that_occur_in_training_are_noted(tmp_path: Path) -> None:
    root = write_texts(tmp_path / "d")
    load = texts(TEXT_HUB, SIZES, classes=2)
    assert "duplicates" not in load(Request("toy", data=root)).notes
    write(root / "test.parquet", ["trainword3 common film good", "new", "new"], [0, 0, 1], column="text")
    assert load(Request("toy", data=root)).notes["duplicates"].startswith("1 of 3 test examples")


def test_arrays_with_equal_rows_are_noted() -> None:
    def load(x: np.ndarray) -> Splits:
        read = arrays(
            lambda request: (x, np.zeros(30, dtype=np.int64)), SplitSizes(2, 2, 20), classes=1, source="made up"
        )
        return read(Request("toy"))

    x = np.arange(60, dtype=np.float32).reshape(30, 2)
    assert "duplicates" not in load(x).notes
    assert load(np.zeros_like(x)).notes["duplicates"].startswith("6 of 6 test examples")


def test_large_data_is_not_searched_for_duplicates_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = toy(tmp_path / "d")
    monkeypatch.setattr(source, "LARGE", 1000)
    assert "not looked for" in load_stream(root).notes["duplicates"]


# Cache


def build_slowly(log: Path) -> dict[str, np.ndarray]:
    import time

    with log.open("a") as file:
        file.write("built\n")
    time.sleep(0.3)
    return {"a": np.arange(1000), "b": np.ones((2, 3), dtype=np.uint8)}


def use_cache(log: Path, queue: Any) -> None:
    queue.put(int(cached("x", ("v", 1), lambda: build_slowly(log))["a"].sum()))


def test_processes_that_race_make_an_entry_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    log = tmp_path / "log"
    workers = [context.Process(target=use_cache, args=(log, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=30) for _ in workers] == [499500] * 3
    for worker in workers:
        worker.join()
    assert log.read_text() == "built\n"


def entries(folder: Path) -> Iterator[Path]:
    return (entry for entry in (folder / "cache").iterdir() if entry.is_dir())


@pytest.mark.parametrize("harm", ["flip", "truncate", "delete", "sums"])
def test_corrupt_entry_is_made_again(tmp_path: Path, harm: str) -> None:
    log = tmp_path / "log"
    cached("x", 1, lambda: build_slowly(log))
    (entry,) = entries(tmp_path)
    file = entry / ("sums.json" if harm == "sums" else "a.npy")
    data = bytearray(file.read_bytes())
    if harm == "delete":
        file.unlink()
    elif harm == "flip":
        data[-100] ^= 1
        file.write_bytes(data)
    else:
        file.write_bytes(data[:-9])
    again = cached("x", 1, lambda: build_slowly(log))
    assert np.array_equal(again["a"], np.arange(1000))
    assert log.read_text() == "built\n" * 2
    cached("x", 1, lambda: build_slowly(log))
    assert log.read_text() == "built\n" * 2, "and is whole again"
    assert [entry.name for entry in entries(tmp_path)] == [entry.name], "nothing temporary is left"


def test_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="Not cached"):
        made = cached("x", 1, lambda: build_slowly(tmp_path / "log"))
    assert made["a"][-1] == 999


def test_cached_pixels_are_those_decoded(tmp_path: Path) -> None:
    root = toy(tmp_path / "d")
    first, second = load_images(root), load_images(root)
    assert train(first.train) == train(second.train)
    assert len(list(entries(tmp_path))) == 2, "pixels, and digests of them"


def test_digest_counts_rows_of_every_part(tmp_path: Path) -> None:
    part = parquet_part("train", [toy(tmp_path) / "train.parquet"], "img", "label")
    assert digest_of(part, part) != digest_of(part)
