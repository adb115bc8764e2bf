"""Tables on disk: parquet, Arrow, CSV, TSV and JSON lines, read by column."""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from calib_bench.errors import DataError
from calib_bench.system.compression import COMPRESSED, contents, unpacked

if TYPE_CHECKING:
    import pyarrow as pa

TEXT = (".csv", ".tsv", ".jsonl", ".ndjson")
SUFFIXES = (".parquet", ".arrow", ".feather", *TEXT)
"""How the names of tables end, where they are not packed."""
NAMES = f"{', '.join(SUFFIXES)} (of text also .csv.gz and others: {', '.join(COMPRESSED)})"
"""How they may end, for people."""
ROWS = 1024
"""Rows of a batch."""


def suffix_of(file: Path) -> str:
    """The suffix that says what a table is, in small letters: `.csv` of `a.csv.gz`."""
    return unpacked(file, TEXT).suffix.lower()


def schema_of(file: Path) -> pa.Schema:
    """A table's columns, with what the `datasets` library says of them.

    Raises:
        DataError: the file cannot be read.
    """
    if suffix_of(file) != ".parquet":
        return read(file).schema
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error) from error


def read(file: Path, columns: list[str] | None = None) -> pa.Table:
    """A table with these columns, or all.

    Raises:
        DataError: the file cannot be read to its end.
    """
    import pyarrow as pa

    try:
        table = _READERS[suffix_of(file)](file, columns)
        return table if columns is None else table.select(columns)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error) from error


def batches(file: Path, column: str) -> Iterator[pa.Array]:
    """One column in parts, of `ROWS` rows or fewer.

    Raises:
        DataError: the file cannot be read to its end.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if suffix_of(file) != ".parquet":
        yield from read(file, [column]).column(0).chunks
        return
    try:
        with pq.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=ROWS, columns=[column]):
                yield batch.column(0)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error) from error


def rows_in(file: Path) -> int:
    """Number of rows."""
    import pyarrow.parquet as pq

    return pq.read_metadata(file).num_rows if suffix_of(file) == ".parquet" else len(read(file))


def class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Class names from the metadata that the `datasets` library writes into its files."""
    text = (schema.metadata or {}).get(b"huggingface")
    feature = json.loads(text).get("info", {}).get("features", {}).get(label, {}) if text else {}
    names = feature.get("names") or ()
    return tuple(names[key] for key in sorted(names, key=int)) if isinstance(names, dict) else tuple(names)


def unreadable(file: Path, error: Exception) -> DataError:
    """The error for a table that cannot be read."""
    size = file.stat().st_size if file.exists() else 0
    why = " ".join(str(error).split())
    what = "empty (0 bytes)" if size == 0 else f"truncated or not {suffix_of(file)[1:]} ({size:,} bytes; {why})"
    return DataError(f"{file} is {what}. Fetch it again.")


def _parquet(file: Path, columns: list[str] | None) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        return table.read(columns=columns)


def _arrow(file: Path, _: list[str] | None) -> pa.Table:
    """Both layouts of Arrow: that with an index at its end, and the stream that `datasets` writes."""
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(file))).read_all()
    except pa.ArrowInvalid:
        return pa.ipc.open_stream(pa.memory_map(str(file))).read_all()


def _csv(file: Path, _: list[str] | None) -> pa.Table:
    from pyarrow import csv

    delimiter, mark = ("\t", "tabs") if suffix_of(file) == ".tsv" else (",", "commas")
    with _opened(file) as source:
        first = source.readline()
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{file} is text in UTF-16: save it as UTF-8.")
        header = first.decode("utf-8", "replace").strip()
        if delimiter not in header and re.search(r"[;,\t|]", header):
            raise DataError(f"{file} has one column, '{header}': its columns must be separated by {mark}.")
        source.seek(0)
        return csv.read_csv(source, parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True))


def _json_lines(file: Path, _: list[str] | None) -> pa.Table:
    from pyarrow import json as lines

    with _opened(file) as source:
        return lines.read_json(source)


def _opened(file: Path) -> BinaryIO:
    """The text of a table, unpacked where its name says that it is packed."""
    return file.open("rb") if unpacked(file, TEXT) == file else io.BytesIO(contents(file))


_READERS = {".parquet": _parquet} | dict.fromkeys((".arrow", ".feather"), _arrow)
_READERS |= dict.fromkeys((".csv", ".tsv"), _csv) | dict.fromkeys((".jsonl", ".ndjson"), _json_lines)
