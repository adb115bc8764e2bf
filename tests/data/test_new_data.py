"""New data in files like a task's own: prepared as its test split, classes by name, labels where there are any."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from calib_bench import registry
from calib_bench.core.splits import Request, Splits
from calib_bench.core.task import SplitSizes
from calib_bench.data import images, texts
from calib_bench.data.new_data import read_new
from calib_bench.errors import DataError
from tests.data.test_loaders import HUB, SIZES, TEXT_HUB, picture, write, write_texts

CPU = torch.device("cpu")
NAMES = ["ant", "bee", "cat", "dog"]
LABELS = [i % 4 for i in range(12)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Splits:
    root = tmp_path / "own"
    write(root / "train.parquet", [picture(i) for i in range(40)], [i % 4 for i in range(40)], NAMES)
    write(root / "test.parquet", [picture(100 + i) for i in range(12)], LABELS, NAMES)
    load = images(HUB, SplitSizes(5, 6), classes=4, mean=(0.4,) * 3, std=(0.3,) * 3)
    return load(Request("toy", data=root))


def inputs(split: object) -> torch.Tensor:
    return split.inputs(torch.arange(len(split)), CPU)  # type: ignore[attr-defined, arg-type, no-any-return]


def test_a_copy_of_the_test_split_is_the_test_split(tmp_path: Path, pictures: Splits) -> None:
    """In parquet with the classes in another order, without labels, in class folders, as images alone."""
    other = [NAMES.index(name) for name in ("dog", "cat", "ant", "bee")]
    moved = [other.index(label) for label in LABELS]
    content = [picture(100 + i) for i in range(12)]
    write(tmp_path / "parquet/test.parquet", content, moved, [NAMES[k] for k in other])
    for i, payload in enumerate(content):
        for folder in (f"folders/test/{NAMES[LABELS[i]]}", "loose/test"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{i:02}.png").write_bytes(payload)
    for form in ("parquet", "folders", "loose"):
        new = read_new(tmp_path / form, "test", pictures, "toy", HUB)
        order = torch.arange(12) if form != "folders" else torch.tensor(LABELS).argsort(stable=True)
        assert torch.equal(inputs(new.split), inputs(pictures.test)[order]), form
        assert new.labelled == (form != "loose")
        if new.labelled:
            assert torch.equal(new.split.labels, pictures.test.labels[order]), form
        assert (new.ids is None) == (form == "parquet")
    assert read_new(tmp_path / "loose", "test", pictures, "toy", HUB).ids[3] == "test/03.png"  # type: ignore[index]


def test_texts_are_read_with_the_words_of_the_training_split(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    own = write_texts(tmp_path / "own")
    load = texts(TEXT_HUB, SIZES, classes=2, names=("no", "yes"), vocabulary=100, length=3)
    splits = load(Request("toy", data=own))
    (tmp_path / "new").mkdir()
    pq.write_table(pq.read_table(own / "test.parquet").select(["text"]), tmp_path / "new" / "test.parquet")
    new = read_new(tmp_path / "new", "test", splits, "toy", TEXT_HUB)
    assert not new.labelled
    for mine, its in zip(inputs(new.split), inputs(splits.test), strict=True):
        assert torch.equal(mine, its)
    pq.write_table(pa.table({"words": ["a"]}), tmp_path / "new" / "test.parquet")
    with pytest.raises(DataError, match="text"):
        read_new(tmp_path / "new", "test", splits, "toy", TEXT_HUB)


def test_what_is_not_like_the_tasks_is_refused(tmp_path: Path, pictures: Splits) -> None:
    write(tmp_path / "wide/test.parquet", [picture(0, 9)], [0], NAMES)
    write(tmp_path / "strange/test.parquet", [picture(0)], [1], ["ant", "emu"])
    write(tmp_path / "fifth/test.parquet", [picture(0)], [4])
    shutil.copytree(tmp_path / "wide", tmp_path / "elsewhere")
    for folder, words in (("wide", r"images of shape \(3, 9, 9\)"), ("strange", "'emu'"), ("fifth", "label 4")):
        with pytest.raises(DataError, match=words):
            read_new(tmp_path / folder, "test", pictures, "toy", HUB)
    with pytest.raises(DataError, match=r"no split 'later'.*It holds: test.parquet"):
        read_new(tmp_path / "elsewhere", "later", pictures, "toy", HUB)


def own_splits(path: Path, **columns: object) -> Splits:
    return registry.task("folder").load(Request("folder", data=path, **columns))  # type: ignore[arg-type]


ROWS = [f"{i},{i % 7},{NAMES[i % 4]}" for i in range(120)]


def test_numbers_of_ones_own_tables_are_scaled_as_those_of_training(tmp_path: Path) -> None:
    """From a table, its columns in any order, with labels or without, and from arrays."""
    (tmp_path / "t.csv").write_text("\n".join(["a,b,label", *ROWS]))
    splits = own_splits(tmp_path / "t.csv")
    rows = [ROWS[i] for i in splits.test.rows]  # type: ignore[attr-defined]
    (tmp_path / "new.csv").write_text("\n".join(["a,b,label", *rows]))
    cells = np.array([row.split(",") for row in rows])
    turned = ["id,label,b,a", *(f"r{i},-1,{b},{a}" for i, (a, b, _) in enumerate(cells))]
    (tmp_path / "turned.csv").write_text("\n".join(turned))
    np.savez(tmp_path / "new.npz", inputs=cells[:, :2].astype(int))
    for form in ("new.csv", "turned.csv", "new.npz"):
        new = read_new(tmp_path / form, "test", splits, "folder", None)
        assert torch.equal(inputs(new.split), inputs(splits.test)), form
        assert new.labelled == (form == "new.csv")
        assert not new.labelled or torch.equal(new.split.labels, splits.test.labels)
        assert (new.ids is not None and new.ids[3] == "r3") == (form == "turned.csv")


SPOILED = {
    "a,c,label\n1,2,ant": "no column 'b'",
    "a,b,label\n1,2,emu": "new.csv has a class 'emu' that the training split lacks, which has ant",
    "a,b\n1,x": "b holds no numbers, as in training",
    "a,b\n": "new.csv: no rows to predict",
    "a,b\n1,2\n1,": "Row 1 of .* has no finite number in column 'b'",
}


@pytest.mark.parametrize("text", SPOILED)
def test_other_tables_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["a,b,label", *ROWS]))
    splits = own_splits(tmp_path / "t.csv")
    (tmp_path / "new.csv").write_text(text)
    with pytest.raises(DataError, match=SPOILED[text]):
        read_new(tmp_path / "new.csv", "test", splits, "folder", None)
    np.savez(tmp_path / "new.npz", inputs=np.array([[1, 2], [np.nan, 0]]))
    with pytest.raises(DataError, match="row 1 of inputs has a number that is not finite"):
        read_new(tmp_path / "new.npz", "test", splits, "folder", None)


def test_empty_labels_are_none_and_arrays_must_be_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["a,b,label", *ROWS]))
    splits = own_splits(tmp_path / "t.csv")
    (tmp_path / "new.csv").write_text("a,b,label\n1,2,\n3,4,\n")
    assert not read_new(tmp_path / "new.csv", "test", splits, "folder", None).labelled
    cells = np.array([[1, 2], [3, 4]])
    np.savez(tmp_path / "new.npz", inputs=cells.astype(">f8"))
    new = read_new(tmp_path / "new.npz", "test", splits, "folder", None)
    assert torch.equal(inputs(new.split), inputs(read_new(tmp_path / "new.csv", "test", splits, "folder", None).split))
    for wrong, message in ((cells.astype(str), "are <U21"), (cells + 1j, "are complex128"), (cells[:0], "no rows")):
        np.savez(tmp_path / "new.npz", inputs=wrong)
        with pytest.raises(DataError, match=message):
            read_new(tmp_path / "new.npz", "test", splits, "folder", None)


def test_new_texts_and_images_are_read_like_ones_own(tmp_path: Path) -> None:
    lines = [f"a {NAMES[i % 4]} ran\t{NAMES[i % 4]}" for i in range(120)]
    (tmp_path / "t.tsv").write_text("\n".join(["text\tlabel", *lines]))
    splits = own_splits(tmp_path / "t.tsv")
    rows = [lines[i] for i in splits.test.rows]  # type: ignore[attr-defined]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "test.tsv").write_text("\n".join(["text\tlabel", *rows]))
    new = read_new(tmp_path / "more", "test", splits, "folder", None)
    for mine, its in zip(inputs(new.split), inputs(splits.test), strict=True):
        assert torch.equal(mine, its)
    with pytest.raises(DataError, match="holds no table of split 'dev'"):
        read_new(tmp_path / "more", "dev", splits, "folder", None)
    for i in range(120):
        (tmp_path / "img" / NAMES[i % 4]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "img" / NAMES[i % 4] / f"{i:03}.png").write_bytes(picture(i))
    splits = own_splits(tmp_path / "img")
    for folder, labelled in (("img", True), ("img/cat", False)):
        new = read_new(tmp_path / folder, "test", splits, "folder", None)
        assert (new.labelled, len(new.split)) == ((True, 120) if labelled else (False, 30))
    with pytest.raises(DataError, match="is no folder of images"):
        read_new(tmp_path / "t.tsv", "test", splits, "folder", None)


def test_arrays_of_another_scale_are_noted(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["a,b,label", *ROWS]))
    splits = own_splits(tmp_path / "t.csv")
    cells = np.array([row.split(",")[:2] for row in ROWS], dtype=float)
    for factor, noted in ((1, False), (2, False), (100, True)):
        np.savez(tmp_path / "new.npz", inputs=factor * cells)
        note = read_new(tmp_path / "new.npz", "test", splits, "folder", None).note
        assert ("they may be of another scale" in note) == noted
