"""What the columns of a table hold: inputs of one kind, and classes. What cannot be told is refused."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from calib_bench.data.table_files import class_names, read, schema_of
from calib_bench.errors import DataError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

ROW_NAMES = {
    "", "unnamed: 0", "__index_level_0__", "id", "ids", "idx", "index", "row", "row_id", "sample_id", "example_id",
    "uid", "uuid", "guid",
}  # fmt: skip
"""How tables call the names or numbers of their rows, in small letters: no inputs, unless they are asked for."""
_NUMBER = r"(?:u?int\d+|halffloat|float|double|bool)"
KINDS = {
    "image": r"struct<.*\bbytes: .*>|(?:large_)?binary",
    "tokens": r"(?:large_)?string",
    "vector": rf"{_NUMBER}|\w*list<[^<]*: {_NUMBER}(?: not null)?>(?:\[\d+\])?",
}
"""By kind, as in `InputSpec`, the types of Arrow that a column of such inputs has."""
CLASSES = r"u?int\d+|bool|(?:large_)?string"
"""Types of Arrow that a column of classes has."""


def inputs_of(file: Path, chosen: Sequence[str], label: str) -> tuple[str, tuple[str, ...]]:
    """(kind, columns) of a table's inputs.

    Args:
        chosen: columns that the user named; without any, all but the labels and the rows' names.
        label: the column of labels.

    Raises:
        DataError: a column is missing, or what the inputs are cannot be told.
    """
    schema = schema_of(file)
    check_columns(file, [label], ": give label=COLUMN")
    check_columns(file, chosen, ": give input=COLUMN")
    columns = tuple(chosen) or tuple(name for name in schema.names if name != label and name.lower() not in ROW_NAMES)
    if not columns:
        raise DataError(f"{file} has no column beside its labels.")
    if label in columns:
        raise DataError(f"Column '{label}' of {file} is both input and label: name another with input= or label=.")
    if kind := kind_of(file, columns):
        return kind, columns
    what = ", ".join(f"'{column}' ({schema.field(column).type})" for column in columns[:8])
    raise DataError(
        f"What the inputs of {file} are cannot be told from its columns: {what}. Expected one of images or texts, or "
        "columns of numbers: name them with input=COLUMN or input=COLUMN,COLUMN."
    )


def kind_of(file: Path, columns: Sequence[str]) -> str:
    """What columns of a table hold, as in `InputSpec`; empty where it cannot be told."""
    schema = schema_of(file)
    types = [str(schema.field(column).type) for column in columns]
    alike = [kind for kind, pattern in KINDS.items() if all(re.fullmatch(pattern, of) for of in types)]
    return "".join(alike) if alike == ["vector"] or len(types) == 1 else ""


def check_columns(file: Path, columns: Iterable[str], advice: str = "") -> None:
    """Raises DataError, which ends with the advice, where a table lacks a column."""
    names = schema_of(file).names
    for column in columns:
        if column not in names:
            raise DataError(f"{file} has no column '{column}' ({nearest(column, names)}){advice}.")


def has_labels(files: Iterable[Path], label: str) -> bool:
    """Whether any row of tables has a label that is neither empty nor -1; raises DataError without such a column."""
    for file in files:
        check_columns(file, [label], ": give label=COLUMN")
        values = read(file, [label]).column(0).to_pylist()
        if any(value is not None and str(value) not in ("", "-1") for value in values):
            return True
    return False


def labels_of(files: Sequence[Path], label: str, columns: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class names of every row, [N], and their order where all files state the same one, else none.

    Raises:
        DataError: a column or a label is missing, or labels are neither names nor whole numbers.
    """
    words, orders = [np.array([], dtype=object)], set()
    for file in files:
        check_columns(file, [label], ": give label=COLUMN")
        check_columns(file, columns, ": give input=COLUMN")
        names = class_names(schema_of(file), label)
        words.append(_words(read(file, [label]).column(0), names, label, file))
        orders.add(names)
    return np.concatenate(words), orders.pop() if len(orders) == 1 else ()


def _words(labels: pa.ChunkedArray, names: Sequence[str], label: str, file: Path) -> np.ndarray:
    """Labels as class names: those that integers stand for, else themselves."""
    values = labels.to_pylist()
    missing = [value in (None, "") for value in values]
    if True in missing:
        raise DataError(
            f"Row {missing.index(True)} of {file} has no label in column '{label}'. Remove the row, or give it one."
        )
    if str(labels.type).startswith("dictionary"):
        labels = labels.cast(labels.type.value_type)
    if re.fullmatch("float|double", str(labels.type)) and all(map(float.is_integer, values)):
        values, labels = list(map(int, values)), labels.cast("int64")
    if not re.fullmatch(CLASSES, str(labels.type)):
        encoding = " (of text, bytes that are not UTF-8)" if "binary" in str(labels.type) else ""
        raise DataError(
            f"Column '{label}' of {file} holds {labels.type}{encoding}: labels are class names or whole numbers."
        )
    place = dict(enumerate(names)) if "int" in str(labels.type) else {}
    return np.array([str(place.get(value, value)) for value in values], dtype=object)


def numbers_of(file: Path, columns: Sequence[str]) -> np.ndarray:
    """float64 [N, D] of a table's columns, those of lists side by side.

    Raises:
        DataError: a value is missing or not finite, or lists have different lengths.
    """
    table = read(file, list(columns))
    return np.concatenate([_column(table.column(column), column, file) for column in columns], 1)


def _column(values: pa.ChunkedArray, column: str, file: Path) -> np.ndarray:
    """float64 [N, 1], or [N, D] of a column of lists."""
    if "list" in str(values.type):
        rows = [row or [] for row in values.to_pylist()]
        uneven = next((row for row, numbers_D in enumerate(rows) if len(numbers_D) != len(rows[0])), None)
        if uneven is not None:
            sizes = f"{len(rows[uneven])} numbers, and row 0 has {len(rows[0])}"
            raise DataError(f"Row {uneven} of {file} has in column '{column}' {sizes}: every row needs as many.")
        x_ND = np.array(rows, np.float64)
    else:
        x_ND = np.array(values.to_pandas(), np.float64)[:, None]  # a null becomes nan
    wrong_N = ~np.isfinite(x_ND).all(1)
    if wrong_N.any():
        raise DataError(
            f"Row {int(wrong_N.argmax())} of {file} has no finite number in column '{column}'. Fill it in, remove the "
            "row, or name other columns with input=COLUMN,COLUMN."
        )
    return x_ND
