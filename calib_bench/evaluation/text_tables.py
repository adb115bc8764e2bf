"""Tables of predictions (CSV, TSV, JSON lines, parquet, Arrow) to named arrays."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from calib_bench.evaluation import Array
from calib_bench.evaluation.dialects import arrow_parts, is_number, is_text, no_numbers
from calib_bench.evaluation.refusals import UNREADABLE, Refusal, refuse_repeated, unreadable

LONGEST = 200
"""Letters of a text that can still be a name: of a row, of a class. Longer ones are not read."""


def read_table(path: Path) -> tuple[dict[str, Array], list[str]]:
    """Columns by name, numbers (a missing entry NaN) or short texts; and notes on how the file was read.

    Memory is about that of the numbers, and once more that of what a file of text holds.
    """
    try:
        parts = arrow_parts(path)
        names = [_column_name(name) for name in parts.schema.names]
        _check_header(names, path)
        columns = [_Lists(parts.rows) if _is_lists(kind) else _Flat(kind) for kind in map(_plain, parts.schema.types)]
        for batch in parts.batches:
            for column, part in zip(columns, batch.columns, strict=True):
                column.add(_storage(part))
        return {name: columns.pop(0).array() for name in names}, list(parts.notes)
    except (pa.ArrowException, *UNREADABLE) as error:
        raise unreadable(path, error) from None


def _column_name(name: object) -> str:
    """A column's name in Unicode's composed form, a whole number without the decimals of a float."""
    return re.sub(r"^(\d+)\.0$", r"\1", unicodedata.normalize("NFC", str(name)))


def _check_header(names: list[str], path: Path) -> None:
    if len(names) == 1 and any(mark in names[0] for mark in ";,:\t| "):
        raise Refusal.ONE_COLUMN.of(path, name=names[0])
    if any(is_number(name) and not name.strip().isdigit() for name in names):
        raise Refusal.NO_HEADER.of(path, names=", ".join(names[:4]))
    refuse_repeated(names, path, "column")


def _plain(kind: Any) -> Any:
    """The type that holds the values of a type of pyarrow's: what an extension stores, what a dictionary stands for."""
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _storage(part: Any) -> Any:
    """An array of pyarrow's as one of its plain type."""
    if isinstance(part.type, pa.BaseExtensionType):
        return _storage(part.storage)
    return part.dictionary_decode() if pa.types.is_dictionary(part.type) else part


def _is_lists(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


class _Flat:
    """A column of one value a row."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.parts: list[Any] = []

    def add(self, part: Any) -> None:
        self.parts.append(part)

    def array(self) -> Array:
        """[N]: numbers, texts as objects, or a text that says what the column is where it is neither."""
        column = pa.chunked_array(self.parts, self.kind)
        if is_text(column.type):
            longest = pc.max(pc.utf8_length(column)).as_py()
            if not column.null_count and longest is not None and longest <= LONGEST:
                return np.array(pc.utf8_normalize(column, "NFC").to_pylist(), dtype=object)
        return _numbers(column)


class _Lists:
    """A column of lists of one length: [N, K], filled batch by batch."""

    def __init__(self, rows: int) -> None:
        self.rows, self.at = rows, 0
        self.filled: Array | None = None
        self.trouble = ""

    def add(self, part: Any) -> None:
        start, self.at = self.at, self.at + len(part)
        if self.trouble or not len(part):
            return
        if part.null_count:
            row = start + pc.index(part.is_null(), pa.scalar(True)).as_py()
            self.trouble = f"has no list in row {row}"
            return
        lengths = pc.unique(pc.list_value_length(part)).to_pylist()
        K = lengths[0] if self.filled is None else self.filled.shape[1]
        if lengths != [K]:
            self.trouble = f"has lists of {min(K, *lengths)} to {max(K, *lengths)} entries"
            return
        values = _numbers(pa.chunked_array([part.flatten()]))
        if values.dtype.kind == "U":
            self.trouble = f"has lists whose entries are no numbers ({part.type.value_type})"
            return
        if self.filled is None:
            self.filled = np.empty((self.rows, K), values.dtype)
        elif self.filled.dtype != values.dtype:  # only some batches lack a number
            self.filled = self.filled.astype(np.result_type(self.filled, values))
        self.filled[start : self.at] = values.reshape(-1, K)

    def array(self) -> Array:
        """[N, K], or a text that says why there is none."""
        if self.trouble:
            return _words(self.trouble, self.rows)
        return np.empty((self.rows, 0)) if self.filled is None else self.filled


def _numbers(column: Any) -> Array:
    """A flat chunked array of pyarrow's, a missing entry NaN; a text that says what it is if it is not numbers."""
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if pa.types.is_decimal(kind):
        column = column.cast(pa.float64())
    elif not _holds_numbers(kind):
        words = no_numbers(scalar.as_py() for scalar in column) if is_text(kind) else f"is {kind}"
        return _words(words, len(column))  # refused by name only if it is needed
    if column.null_count and not pa.types.is_floating(column.type):
        column = column.cast(pa.float64(), safe=False)
    return column.chunk(0).to_numpy(zero_copy_only=False) if column.num_chunks == 1 else column.to_numpy()


def _holds_numbers(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _words(text: str, rows: int) -> Array:
    """[N], all of them one text, in the memory of one."""
    return np.broadcast_to(np.array(text), (rows,))
