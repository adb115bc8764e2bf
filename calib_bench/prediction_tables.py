"""Tables of predictions (CSV, TSV, parquet) to named arrays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.errors import DataError
from calib_bench.prediction_files import LABELS, UNREADABLE, kind_of, once, unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ROW_NAMES = ("", "id", "idx", "index", "row", "unnamed: 0", "__index_level_0__")


def read_table(path: Path) -> dict[str, Array]:
    """Columns by name, numbers only; a missing entry is NaN."""
    import pyarrow as pa

    try:
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet

            table = parquet.ParquetFile(path).read()
        else:
            from pyarrow import csv

            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            whole = csv.ReadOptions(block_size=min(path.stat().st_size + 1, 2**31 - 1))  # types are those of all rows
            table = csv.read_csv(path, read_options=whole, parse_options=csv.ParseOptions(delimiter=delimiter))
        names = [str(name) for name in table.column_names]
    except (pa.ArrowException, *UNREADABLE) as error:
        raise unreadable(path, error) from None
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise DataError(f"{path} has one column, {names[0]!r}: separate columns by commas (tabs in a .tsv)")
    if any(_is_number(name) and not name.strip().isdigit() for name in names):
        raise DataError(
            f"{path} has no header: its first row, {', '.join(names[:4])}..., is numbers; "
            f"name the columns: logit_0,logit_1,...,label"
        )
    once(names, path, "column")
    return {name: _column(table.column(i), name, path) for i, name in enumerate(names)}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _column(column: Any, name: str, path: Path) -> Array:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        rows = column.to_pylist()
        lengths = {len(row) if row is not None else 0 for row in rows}
        if len(lengths) > 1:
            raise DataError(f"{path}: the lists of column {name!r} have {min(lengths)} to {max(lengths)} entries")
        kind, column = kind.value_type, pa.chunked_array([part.flatten() for part in column.chunks], kind.value_type)
        shape: tuple[int, ...] = (len(rows), *(lengths or {0}))
    else:
        shape = (len(column),)
    if pa.types.is_null(kind):
        return np.full(shape, np.nan)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return np.full(shape, f"is {kind}")  # refused by name only if it is needed
    if column.null_count and not pa.types.is_floating(column.type):
        column = column.cast(pa.float64(), safe=False)
    return column.to_numpy().reshape(shape)


def stack(columns: Mapping[str, Array], origin: str, kind: str | None) -> tuple[dict[str, Array], list[str]]:
    """Columns of classes as one array per kind; the others as they are.

    Raises:
        DataError: a class is missing, or what the class columns are cannot be told.
    """
    classes: dict[str, dict[int, str]] = {}
    rest: list[str] = []
    arrays: dict[str, Array] = {}
    for name in columns:
        match = re.fullmatch(r"(.*?)[_ .]?(\d{1,7})", name.strip().lower())
        of = kind_of(match[1]) if match else None
        if match and of:
            clash = classes.setdefault(of, {}).setdefault(int(match[2]), name)
            if clash != name:
                raise DataError(f"{origin}: columns {clash!r} and {name!r} are the same class: remove one")
        elif kind_of(name) or name.strip().lower() in LABELS:
            arrays[name] = columns[name]
        else:
            rest.append(name)
    for of, members in classes.items():
        if of in arrays:
            raise DataError(f"{origin} has a column {of!r} beside {next(iter(members.values()))!r}: keep one form")
        arrays[of] = _side_by_side(columns, [members[k] for k in _whole(members, origin)], origin)
    if kind is None or any(kind_of(name) for name in arrays):
        if rest and not any(kind_of(name) for name in arrays):
            raise DataError(
                f"{origin}: what its columns {', '.join(map(repr, rest[:4]))}{'...' * (len(rest) > 4)} are cannot be "
                f"told: name them logit_0, logit_1... or probability_0..., or say --kind logits (or probabilities)"
            )
        return arrays, [f"not used: {', '.join(rest)}"] if rest else []
    strange = [name for name in rest if name.strip().lower() in ROW_NAMES]
    if strange:
        raise DataError(
            f"{origin}: column {strange[0]!r} looks like a name of rows, not like a class: remove it, or name the "
            f"class columns logit_0, logit_1..."
        )
    if rest and all(name.strip().isdigit() for name in rest):
        members = {int(name): name for name in rest}
        rest = [members[k] for k in _whole(members, origin)]
    if rest:
        arrays[kind] = _side_by_side(columns, rest, origin)
    shown = ", ".join(rest[:10]) + (f"... {rest[-1]}" if len(rest) > 10 else "")
    return arrays, [f"classes 0 to {len(rest) - 1} are the columns {shown}"]


def _whole(members: Mapping[int, str], origin: str) -> range:
    for k in range(len(members)):
        if k not in members:
            first = next(iter(members.values()))
            raise DataError(
                f"{origin}: class {k} has no column beside {first!r}: {len(members)} classes are numbered 0 to "
                f"{len(members) - 1}"
            )
    return range(len(members))


def _side_by_side(columns: Mapping[str, Array], names: list[str], origin: str) -> Array:
    for name in names:
        if columns[name].dtype.kind not in "fiub" or columns[name].ndim != 1:
            what = columns[name].flat[0] if columns[name].dtype.kind == "U" and columns[name].size else "is not numbers"
            raise DataError(f"{origin}: column {name!r} {what}, and the column of a class holds one number a row")
    return np.stack([columns[name].astype(np.float64) for name in names], 1)
