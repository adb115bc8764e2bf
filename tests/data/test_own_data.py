"""Data of the user's own: what its columns hold is told or refused, and it is carved as the package's tasks are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from synthetic import sketched

from calib_bench import models, registry
from calib_bench.cli import main
from calib_bench.commands.stored_run import open_run
from calib_bench.core.settings import parse
from calib_bench.core.splits import Request, Splits
from calib_bench.core.task import Content
from calib_bench.data import look
from calib_bench.errors import DataError, SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.report.tables import read

N, TEST = 120, 30
ANIMALS = np.array(["ant", "bee", "cat"])
LABELS = np.arange(N) % 3
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.getbasetemp() / "datasets"))
    monkeypatch.setenv("CALIB_BENCH_LOADERS", "0")
    monkeypatch.delenv("CALIB_BENCH_DATA", raising=False)


def numbers(rows: int = N) -> pd.DataFrame:
    """Columns a and b, and names of animals as labels."""
    rng = np.random.default_rng(rows)
    x = rng.normal(size=(rows, 2)) * [1, 50] + LABELS[:rows, None]
    return pd.DataFrame(x, columns=["a", "b"]).assign(label=ANIMALS[LABELS[:rows]])


def texts(rows: int = N) -> pd.DataFrame:
    words = np.array(["a good film", "a bad one", "an odd, odd film"])
    return pd.DataFrame({"id": range(rows), "review": words[LABELS[:rows]], "mood": LABELS[:rows] + 1})


def request(data: Path, task: str = "folder", **fields: Any) -> Request:
    return Request(task, data, **fields)


def load(data: Path, task: str = "folder", **fields: Any) -> Splits:
    return registry.task(task).load(request(data, task, **fields))


def sizes(splits: Splits) -> list[int]:
    return [len(splits[name]) for name in ("train", "selection", "calibration", "test")]


WRITERS: dict[str, Callable[[pd.DataFrame, Path], object]] = {
    "csv": lambda frame, file: frame.to_csv(file, index=False),
    "tsv": lambda frame, file: frame.to_csv(file, index=False, sep="\t"),
    "jsonl": lambda frame, file: frame.to_json(file, orient="records", lines=True),
    "parquet": lambda frame, file: frame.to_parquet(file),
    "arrow": lambda frame, file: frame.to_feather(file),
    "feather": lambda frame, file: frame.to_feather(file),
    "CSV.gz": lambda frame, file: frame.to_csv(file, index=False),
    "csv.zip": lambda frame, file: frame.to_csv(file, index=False),
    "tsv.xz": lambda frame, file: frame.to_csv(file, index=False, sep="\t"),
    "jsonl.bz2": lambda frame, file: frame.to_json(file, orient="records", lines=True),
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_table_of_numbers_in_any_format_is_the_same_data(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"table.{suffix}"
    WRITERS[suffix](numbers(), file)
    splits = load(file)
    assert sizes(splits) == [72, 12, 12, 24], "a tenth to select, a tenth to calibrate, a fifth to test"
    assert splits.class_names == tuple(ANIMALS)
    assert splits.spec.kind == "vector"
    rows = torch.cat([splits[name].rows for name in ("train", "selection", "calibration", "test")])  # type: ignore[attr-defined]
    assert sorted(rows.tolist()) == list(range(N))
    test = splits.test
    assert ANIMALS[test.labels].tolist() == numbers()["label"].to_numpy()[test.rows].tolist()  # type: ignore[attr-defined]
    x = splits.train.x  # type: ignore[attr-defined]
    assert torch.allclose(x.mean(0), torch.zeros(2), atol=1e-5)
    assert torch.allclose(x.std(0, correction=0), torch.ones(2), atol=1e-5)


def test_texts_with_a_test_split_of_their_own(tmp_path: Path) -> None:
    texts().to_json(tmp_path / "train.jsonl", orient="records", lines=True)
    texts(TEST).to_json(tmp_path / "test.jsonl.gz", orient="records", lines=True)
    splits = load(tmp_path, input=("review",), label="mood", model="bag_8")
    assert sizes(splits) == [96, 12, 12, TEST]
    assert splits.class_names == ("1", "2", "3"), "whole numbers are names of classes too"
    assert splits.spec.kind == "tokens"
    assert splits.test.labels.tolist() == LABELS[:TEST].tolist()
    assert "30 of 30 test examples also occur" in splits.notes["duplicates"]
    other = load(tmp_path, input=("review",), label="mood", split=1, model="bag_8")
    assert other.digest == splits.digest
    assert other.preparation != splits.preparation


def test_splits_without_labels_and_in_other_formats_are_left_out_with_a_note(tmp_path: Path) -> None:
    numbers().to_csv(tmp_path / "train.csv", index=False)
    numbers(TEST).assign(label="").to_csv(tmp_path / "test.csv", index=False)
    (tmp_path / "dev.xlsx").write_text("")
    splits = load(tmp_path)
    assert len(splits.test) == 24
    assert splits.notes["hidden"] == "split 'test' has no labels (all are -1 or empty), and is left out"
    assert "not read: dev.xlsx" in splits.notes["unread"]


def test_whole_floats_are_classes_and_names_alike_are_noted(tmp_path: Path) -> None:
    numbers().assign(label=LABELS.astype(float)).to_csv(tmp_path / "t.csv", index=False)
    splits = load(tmp_path / "t.csv")
    assert splits.class_names == ("0", "1", "2")
    assert "alike" not in splits.notes
    numbers().replace("ant", " Bee").to_csv(tmp_path / "t.csv", index=False)
    assert load(tmp_path / "t.csv").notes["alike"].endswith("classes of their own: ' Bee', 'bee'")


def test_texts_without_a_word_are_noted(tmp_path: Path) -> None:
    frame = texts()
    frame.loc[[3, 5], "review"] = ("", " ")
    frame.to_csv(tmp_path / "t.csv", index=False)
    notes = load(tmp_path / "t.csv", input=("review",), label="mood", model="bag_8").notes
    assert notes["wordless"] == "2 of 120 texts hold no known word"


def test_another_column_is_another_data_set(tmp_path: Path) -> None:
    numbers().assign(ID=range(N)).to_csv(tmp_path / "t.csv")  # with row numbers and ids, which are no input
    both, one = load(tmp_path / "t.csv"), load(tmp_path / "t.csv", input=("a",))
    assert (both.spec.shape, one.spec.shape) == ((2,), (1,))
    assert both.digest != one.digest
    assert "numbers in 2 columns (a, b), labels in column label; 3 classes (ant, bee, cat)" in both.source
    assert "numbers in 1 column (a), labels" in one.source


def pictures(folder: Path, count: int, side: Callable[[int], int], mode: str = "RGB") -> None:
    for row in range(count):
        place = folder / ANIMALS[row % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.new(mode, (side(row), 12), (row * 2,) * len(mode) if mode == "RGB" else row * 2).save(
            place / f"{row}.png"
        )


@pytest.mark.parametrize(
    ("folder", "side", "mode", "model", "shape"),
    [
        (".", lambda row: 12, "L", "cnn_4", (1, 12, 12)),
        ("train", lambda row: 12, "RGB", "cnn_4", (3, 12, 12)),
        ("train", lambda row: 12 + row % 5, "RGB", "timm/resnet18", (3, 224, 224)),
    ],
)
def test_class_folders(
    folder: str, side: Callable[[int], int], mode: str, model: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    pictures(tmp_path / folder, N, side, mode)
    if folder == "train":
        pictures(tmp_path / "val", TEST, side, mode)
    content = look(request(tmp_path))
    assert (content.kind, content.classes, content.large) == ("image", 3, model.startswith("timm"))
    splits = load(tmp_path, model=model)
    assert splits.spec.shape == shape
    assert splits.class_names == tuple(ANIMALS)
    assert sizes(splits) == ([96, 12, 12, TEST] if folder == "train" else [72, 12, 12, 24])
    x, _ = next(iter(splits.train.train_batches(seed=0, epoch=0, batch=4, device=CPU)))
    assert x.shape == (4, *shape)


def test_the_layout_of_the_hub(tmp_path: Path) -> None:
    """Parquet files in data/ with class names and images, as `push_to_hub` writes them; one folder a configuration."""
    features = Features(
        {"img": ImageFeature(), "kind": ClassLabel(names=["zebra", "ape", "dog"]), "note": Value("string")}
    )
    image = [Image.new("RGB", (8, 8), (row, 0, 0)) for row in range(N)]
    table = Dataset.from_dict({"img": image, "kind": LABELS.tolist(), "note": ["-"] * N}, features=features)
    for config in ("plain", "noisy"):
        (tmp_path / config).mkdir()
        table.to_parquet(tmp_path / config / "train-00000-of-00001.parquet")
        hidden = table.select(range(TEST)).remove_columns("kind").add_column("kind", [-1] * TEST)
        hidden.cast(features).to_parquet(tmp_path / config / "test-00000-of-00001.parquet")
        table.select(range(TEST)).to_parquet(tmp_path / config / "validation-00000-of-00001.parquet")
    columns: dict[str, Any] = {"input": ("img",), "label": "kind"}
    with pytest.raises(DataError, match=r"several data sets \(noisy, plain\).*task=hub/me/beasts/plain"):
        load(tmp_path, "hub/me/beasts", **columns)
    splits = load(tmp_path, "hub/me/beasts/plain", model="cnn_4", **columns)
    assert splits.class_names == ("zebra", "ape", "dog"), "in the order that the data states"
    assert splits.test.labels.tolist() == LABELS[:TEST].tolist()
    assert "split 'test' has no labels" in splits.notes["hidden"]
    with pytest.raises(DataError, match="no folder 'plane': did you mean 'plain'"):
        load(tmp_path, "hub/me/beasts/plane", **columns)
    with pytest.raises(DataError, match="task=hub/me names no data set of the Hub"):
        load(tmp_path, "hub/me")


def test_lists_of_numbers(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [[row, 1.0, -row] for row in range(N)], "label": LABELS == 0})
    frame.to_parquet(tmp_path / "t.parquet")
    splits = load(tmp_path / "t.parquet")
    assert (splits.spec.shape, splits.class_names) == ((3,), ("False", "True"))
    frame.loc[7, "x"] = [1.0]
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"Row 7 of .* has in column 'x' 1 numbers, and row 0 has 3"):
        load(tmp_path / "t.parquet")


def spoiled(column: str, row: int, value: object) -> pd.DataFrame:
    frame = numbers().astype({"label": object})
    frame.loc[row, column] = value
    return frame


def test_constant_numbers_and_absent_classes_are_noted(tmp_path: Path) -> None:
    """A constant that is no binary fraction has a deviation of rounding: nothing is divided by it."""
    (numbers().assign(c=3.3)[["a", "b", "c", "label"]]).to_csv(tmp_path / "train.csv", index=False)
    test = numbers(TEST).assign(c=3.4)
    test[test["label"] != "cat"].to_csv(tmp_path / "test.csv", index=False)
    splits = load(tmp_path)
    assert splits.notes["constant"] == "1 of 3 inputs have one value in all training rows"
    assert splits.notes["absent"] == "no example of cat in test"
    assert torch.allclose(splits.test.x[:, 2], torch.tensor(0.1))  # type: ignore[attr-defined]


def test_inputs_that_seem_to_be_the_label_or_to_name_rows_are_noted(tmp_path: Path) -> None:
    frame = numbers()
    frame.assign(PassengerId=range(7, len(frame) + 7), code=pd.factorize(frame["label"])[0]).to_csv(
        tmp_path / "t.csv", index=False
    )
    notes = load(tmp_path / "t.csv").notes
    assert notes["row numbers among inputs"].startswith("input PassengerId has another whole number in every")
    assert notes["label among inputs"].startswith("input code has one value for each class")
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert not [name for name in load(tmp_path / "t.csv").notes if name.endswith("among inputs")]


def test_csv_of_another_dialect_is_refused_with_the_reason(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    numbers().to_csv(file, index=False, sep=";", decimal=",")
    with pytest.raises(DataError, match="one column, 'a;b;label': its columns must be separated by commas"):
        load(file)
    numbers().replace("ant", "Käfer").to_csv(file, index=False, encoding="latin-1")
    with pytest.raises(DataError, match="not UTF-8"):
        load(file)
    numbers().to_csv(file, index=False, encoding="utf-16")
    with pytest.raises(DataError, match="is text in UTF-16: save it as UTF-8"):
        load(file)
    spoiled("label", 5, "").to_csv(file, index=False)
    with pytest.raises(DataError, match=r"Row 5 of .* has no label"):
        load(file)


REFUSED: dict[str, tuple[pd.DataFrame, dict[str, Any], str]] = {
    "label missing": (numbers().rename(columns={"label": "labels"}), {}, "no column 'label' .did you mean 'labels'"),
    "input missing": (numbers(), {"input": ("aa",)}, "no column 'aa' .did you mean 'a'.*give input=COLUMN"),
    "mixed": (
        texts().assign(year=2020),
        {"label": "mood"},
        "cannot be told from its columns: 'review' .*, 'year' .int64",
    ),
    "both": (numbers(), {"input": ("label",)}, "both input and label"),
    "no input": (numbers()[["label"]], {}, "no column beside its labels"),
    "measurement": (numbers(), {"label": "b", "input": ("a",)}, "holds double: labels are class names or whole"),
    "ids": (texts(), {"label": "id", "input": ("review",)}, "120 classes in 120 rows, as if labels were ids"),
    "no label": (spoiled("label", 5, None).replace("ant", "\tant"), {}, "Row 5 of .* has no label"),
    "no number": (spoiled("a", 9, float("nan")), {}, "Row 9 of .* has no finite number in column 'a'"),
    "one class": (numbers().assign(label="ant"), {}, "has one class, 'ant': at least 2"),
    "few rows": (numbers(60), {}, "has 60 rows in split 'train'; at least 100"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_told_is_refused(case: str, tmp_path: Path) -> None:
    frame, columns, message = REFUSED[case]
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=message):
        load(tmp_path / "t.parquet", **columns)


def test_folders_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(DataError, match=r"holds no data: expected CLASS/image.png.*It holds: notes.txt"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"notes.txt is no table"):
        load(tmp_path / "notes.txt")
    numbers(TEST).to_csv(tmp_path / "test.csv", index=False)
    with pytest.raises(DataError, match="a split 'test' and no split 'train'"):
        load(tmp_path)
    numbers().replace("cat", "dog").to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(
        DataError, match="'test' has a class 'cat' that the training split lacks, which has ant, bee, dog"
    ):
        load(tmp_path)
    pictures(tmp_path / "more", 3, lambda row: 8)
    with pytest.raises(DataError, match=r"tables \(test.csv\) and class folders of images"):
        load(tmp_path)
    with pytest.raises(DataError, match="task=folder needs data=PATH"):
        look(Request("folder"))


@sketched("separation")
def test_a_study_from_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plan and run; reading needs no data, planning does; columns of a task that declares its own are refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_adapted", {})
    numbers().to_csv("t.csv", index=False)
    words = ["task=folder", "data=t.csv", "input=b,a", "model=mlp_8", "beta=1", "objective=cross_entropy", "seed=0"]
    words += ["lr_hom=0.3", "epochs=2", "extend=0", "calibrator=temperature_scaling", "wandb=disabled", "workers=1"]
    assert main(["plan", *words]) == 0
    assert "data: t.csv (data=): numbers in 2 columns (b, a), labels in column label" in capsys.readouterr().out
    assert main(["run", *words]) == 0
    folder = tmp_path / "runs" / "folder-separation"
    assert len(read(folder)["baselines"].frame)
    (tmp_path / "t.csv").unlink()
    registry._adapted.clear()
    open_run(folder, ())
    assert registry.task("folder").classes == 3, "as the run folder tells"
    assert main(["run", *words]) == 2, "a study is planned with its data"
    assert "t.csv" in capsys.readouterr().err
    assert main(["plan", "task=digits", "input=b"]) == 2
    assert "task digits declares its own" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "large"), [("image", False), ("image", True), ("tokens", False), ("vector", False)])
def test_models_and_recipe_are_those_of_the_nearest_task(kind: str, large: bool) -> None:
    generic = registry.task("folder")
    assert generic.adapt is not None
    near = {"tokens": "imdb", "vector": "digits"}.get(kind, "imagenet" if large else "cifar10")
    task = generic.adapt(Content(kind, 7, generic.sizes, large))
    assert (task.recipe, task.beta, task.classes) == (registry.task(near).recipe, registry.task(near).beta, 7)
    models.check(task.models[0], kind)


def test_from_the_hub_itself(tmp_path: Path) -> None:
    """A Hub on this machine serves its newest commit; once it is gone, the copy that was fetched is taken."""
    hub = Path(__file__).parents[1] / "hub.py"
    ended = subprocess.run(
        [sys.executable, str(hub), str(tmp_path), "own"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=True,
    )
    first, again = ended.stdout.strip().splitlines()
    assert first == again
    assert first.startswith("[240, 30, 30, 300] ('0', '1') https://huggingface.co/datasets/own/small at 0123456789ab")
    assert "texts (text), labels in column label" in first


def test_columns_are_settings_errors_elsewhere() -> None:
    with pytest.raises(SettingsError, match="input= and label= name columns of your own data"):
        resolve(parse(["task=digits", "label=x"]))
