"""Tables as people write them, to Arrow tables: compression, encodings, delimiters, decimal commas, JSON, Feather.

What a file is called says of which kind it is; how it is written is told by what is in it, and said in a note where
there was a choice. Nothing read can run code.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import json as arrow_json
from pyarrow import parquet

from calib_bench.errors import counted
from calib_bench.evaluation import Array
from calib_bench.evaluation.class_names import by_label
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.vocabulary import ANSWER, UNORDERED, kind_of, not_used
from calib_bench.system.compression import contents, unpacked

TEXT = {".csv": ",", ".tsv": "\t", ".txt": ","}
"""Text tables, and the delimiter that each is looked at for first."""
JSON = (".jsonl", ".ndjson", ".json")
ARROW = (".arrow", ".feather", ".ipc")
TABLES = (*TEXT, *JSON, *ARROW, ".parquet")
OTHERWISE = {".pq": ".parquet", ".parq": ".parquet", ".ftr": ".feather"}
DELIMITERS = (",", "\t", ";", "|", " ")
MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"),
    (b"\xef\xbb\xbf", "utf-8-sig"),
)  # fmt: skip
"""Byte order marks, the longer first, and what each says of the text behind it (Unicode standard, 23.8)."""
BATCH = 1024
"""Rows of lists that are read at a time."""
SAMPLE = 20
"""Rows by which delimiters are told apart."""
DECIMAL = r"^\s*[-+]?\d+,\d+([eE][-+]?\d+)?\s*$"
"""A number that is written with a decimal comma, or with one that separates thousands."""
THOUSANDS = r"^\s*[-+]?[1-9]\d{0,2}(,\d{3})+\s*$"
"""A number whose commas could separate thousands."""


def table_suffix(path: Path) -> str:
    """The suffix that says what a table is: `.csv` of `a.csv` and of `a.csv.gz`; that of the path for other files."""
    suffix = unpacked(path, (*TEXT, *JSON)).suffix.lower()
    return OTHERWISE.get(suffix, suffix)


@dataclass(frozen=True)
class Parts:
    """A table as record batches.

    Attributes:
        schema: pyarrow's.
        rows: in all batches.
        batches: pyarrow RecordBatches, read from the file as they are asked for where that saves memory.
        notes: how the file was read, where there was a choice.
    """

    schema: Any
    rows: int
    batches: Iterable[Any]
    notes: tuple[str, ...] = ()


def arrow_parts(path: Path) -> Parts:
    """The table in a file.

    Raises:
        DataError: the rows are ragged, or the text is of no form that is known.
        ArrowException, OSError, ValueError and others: what the libraries raise for files that are damaged.
    """
    suffix = table_suffix(path)
    if suffix == ".parquet":
        return _parquet(path)
    notes: list[str] = []
    if suffix in ARROW:
        table = _arrow(path)
    else:
        data = _utf8(contents(path), path)
        table, notes = _json(data, path) if suffix in JSON else _text(data, TEXT[suffix], path)
    return _flat(table, notes)


def _flat(table: Any, notes: Sequence[str] = ()) -> Parts:
    """The table with a column for every key of its columns of objects."""
    named = [part for pair in zip(table.column_names, table.columns, strict=True) for part in _by_key(*pair)]
    flat = pa.Table.from_arrays([column for _, column in named], [name for name, _ in named])
    is_unordered = any(_is_of_numbers(kind) or _is_of_answers(kind) for kind in table.schema.types)
    return Parts(flat.schema, len(flat), flat.to_batches(), (*notes, *([UNORDERED] if is_unordered else [])))


def _by_key(name: str, column: Any) -> list[tuple[str, Any]]:
    """A column by its name; one of objects that hold numbers as a column a key.

    It is `probabilities.cat`, or `cat` where the column's name says no kind of prediction.
    What a pipeline gives of all classes, a list of {"label": "cat", "score": 0.9} a row, counts as an object.
    """
    if _is_of_answers(column.type):
        column = pa.array([by_label(row or (), name) for row in column.to_pylist()])
    if not _is_of_numbers(column.type):
        return [(name, column)]
    start = f"{name}." if kind_of(name) else ""
    return [(f"{start}{key}", pc.struct_field(column, key)) for key in sorted(field.name for field in column.type)]


def _is_of_numbers(kind: Any) -> bool:
    return pa.types.is_struct(kind) and all(map(_is_number, (field.type for field in kind)))


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_of_answers(kind: Any) -> bool:
    is_of_objects = pa.types.is_list(kind) and pa.types.is_struct(kind.value_type)
    return is_of_objects and {field.name for field in kind.value_type} == ANSWER


def _parquet(path: Path) -> Parts:
    """Lists are read a few rows at a time: a whole column of them takes five times the memory of its numbers."""
    file = parquet.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    nested = any(pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) for kind in file.schema_arrow.types)
    rows = file.metadata.num_rows
    if any(_is_of_numbers(kind) or _is_of_answers(kind) for kind in file.schema_arrow.types):
        return _flat(file.read())
    return Parts(file.schema_arrow, rows, file.iter_batches(BATCH) if nested else file.read().to_batches())


def _utf8(data: bytes, path: Path) -> bytes:
    """Text in UTF-8, without a byte order mark."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:400]:
        encoding = {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(
            (not any(data[:400:2]), not any(data[1:400:2]))
        )
    if encoding is None:
        return data
    try:
        return data.decode(encoding).encode()
    except UnicodeDecodeError as error:
        raise Refusal.ENCODING.of(path, encoding=encoding.upper(), error=error) from None


def _arrow(path: Path) -> Any:
    """Feather (version 2), or a file or a stream of the Arrow format, as `datasets` saves them."""
    with pa.OSFile(str(path)) as source:
        magic = source.read(6)
        source.seek(0)
        if magic.startswith(b"FEA1"):
            raise Refusal.FEATHER_1.of(path)
        table = (pa.ipc.open_file(source) if magic == b"ARROW1" else pa.ipc.open_stream(source)).read_all()
    table.validate(full=True)  # offsets are taken from the file as they are
    return table


def _json(data: bytes, path: Path) -> tuple[Any, list[str]]:
    """One object a line; in a .json also a list of such objects, or one object of columns."""
    if data.lstrip().startswith(b"[") or table_suffix(path) == ".json":
        with suppress(json.JSONDecodeError):  # a .json of lines, or what the reader of lines tells more about
            return _columns(json.loads(data), path)
    try:
        return arrow_json.read_json(pa.BufferReader(data), arrow_json.ReadOptions(block_size=_block(data))), []
    except pa.ArrowInvalid as error:
        raise Refusal.NO_JSON_LINES.of(path, error=" ".join(str(error).split())[:200]) from None


def _columns(content: Any, path: Path) -> tuple[Any, list[str]]:
    """A table of what a JSON document holds, and notes: objects, an object of columns, or pandas' "split" form."""
    columns, keys = {}, []
    if isinstance(content, dict):
        columns, keys = _named_columns(content), [*content]
    elif isinstance(content, list) and all(isinstance(row, dict) for row in content):
        columns = _columns_of_rows(content)
    if not columns:
        raise Refusal.NO_JSON_COLUMNS.of(path)
    _refuse_lengths(columns, path)
    return pa.table(columns), not_used([name for name in keys if name not in (*columns, *SPLIT)])


def _refuse_lengths(columns: Mapping[str, list[Any]], path: Path) -> None:
    """Raises DataError where columns differ in length."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise Refusal.LENGTHS.of(path, lengths=", ".join(f"{name}: {n}" for name, n in lengths.items()))


SPLIT = ("columns", "index", "data")
"""Keys of what `DataFrame.to_json(orient="split")` writes."""


def _named_columns(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns by name: lists; objects with the same keys, the rows; or names of columns beside rows of data."""
    if _is_split(content):
        return {str(name): [row[k] for row in content["data"]] for k, name in enumerate(content["columns"])}
    lists = {name: column for name, column in content.items() if isinstance(column, list)}
    return lists or _columns_of_objects({name: one for name, one in content.items() if isinstance(one, dict)})


def _is_split(content: Mapping[str, Any]) -> bool:
    """Whether an object holds names of columns beside rows of as many values."""
    if set(content) != set(SPLIT) or not all(isinstance(content[key], list) for key in SPLIT):
        return False
    K = len(content["columns"])
    return all(isinstance(row, list) and len(row) == K for row in content["data"])


def _block(data: bytes) -> int:
    """A size of block that takes all the data at once, so that types are those of all rows."""
    return min(len(data) + 1, 2**31 - 1)


# text


def _text(original: bytes, expected: str, path: Path) -> tuple[Any, list[str]]:
    """The table in a text, and notes: delimiter, comments and decimal marks are told by what is in it.

    Args:
        expected: the delimiter that the file's name says.
    """
    data, delimiter, notes = _start(original, expected)
    skipped = original.count(b"\n") - data.count(b"\n")
    delimiter = delimiter or _delimiter(list(_lines(data)), expected)
    data, comments = _without_comments(data, delimiter)
    if comments:
        notes.append(f"{_lines_of_comment(comments)} among the rows left out")
    if delimiter == " ":  # of any number, as in what is printed; a missing number is then a row too short
        data = b"\n".join(b" ".join(line.split()) for line in data.splitlines())
    if delimiter != expected:
        notes.append(f"columns are separated by {_called(delimiter)}")
    table = _parsed(data, delimiter, ".", path, skipped)
    if not _has_commas(table):
        return table, notes
    with_commas = _parsed(data, delimiter, ",", path, skipped)
    numbers = _texts(table) - _texts(with_commas)
    if not numbers or _texts(with_commas) - _texts(table):
        return table, notes
    _never_thousands([table.column(i) for i in sorted(numbers)], table.column_names[min(numbers)], path)
    return with_commas, [*notes, "commas are read as decimal marks"]


def _texts(table: Any) -> set[int]:
    """The places of a table's columns that are texts."""
    return {i for i, kind in enumerate(table.schema.types) if is_text(kind)}


def _lines_of_comment(count: int) -> str:
    return f"{counted(count, 'line')} of comment"


def _without_comments(data: bytes, delimiter: str) -> tuple[bytes, int]:
    """Lines of blanks alone, and those that begin with # and are no row, made empty; and how many were comments.

    A line that begins with # is a row if it has as many fields as the header.
    """
    data = re.sub(rb"(?m)^ +(?=\r?$)", b"", data)
    if b"\n#" not in data or b'"' in data:
        return data, 0
    lines = data.split(b"\n")
    columns = len(_fields(lines[0].decode("utf-8", "replace"), delimiter))
    comments = 0
    for i, line in enumerate(lines):
        if line.startswith(b"#") and len(_fields(line.decode("utf-8", "replace"), delimiter)) != columns:
            lines[i] = b""
            comments += 1
    return b"\n".join(lines), comments


def _start(data: bytes, expected: str) -> tuple[bytes, str | None, list[str]]:
    """Take off what stands before the header: `sep=;`, as spreadsheets write it, and lines that begin with #.

    The last of those is the header if it has as many fields as the line of numbers below it, as in what
    `numpy.savetxt(header=...)` writes.
    """
    data = re.sub(rb"\A(?:[ \t]*\r?\n)+", b"", data)
    if match := re.match(rb'"?sep=(.)"?\r?\n', data):
        return data[match.end() :], match[1].decode("latin-1"), []
    comments: list[bytes] = []
    while data.startswith(b"#"):
        line, _, data = data.partition(b"\n")
        data = data.lstrip(b"\r\n")
        comments.append(line)
    if not comments:
        return data, None, []
    sample = [comments[-1].lstrip(b"# ").decode("utf-8", "replace").strip(), *_lines(data)]
    delimiter = _delimiter(sample, expected)
    header, first = (_fields(line, delimiter) for line in (*sample, "")[:2])
    if len(header) == len(first) > 1 and any(map(is_number, first)) and not all(map(is_number, header)):
        return comments[-1].lstrip(b"# ") + b"\n" + data, None, ["the column names are those behind the first #"]
    return data, None, [f"{_lines_of_comment(len(comments))} before the header left out"]


def _lines(data: bytes) -> Iterator[str]:
    """The first lines that are not blank, none of them cut."""
    start = data[:1_000_000]
    lines = [line for line in start.decode("utf-8", "replace").splitlines() if line.strip()]
    yield from (lines[:-1] if len(lines) > 1 and len(start) < len(data) else lines)[:SAMPLE]


def _fields(line: str, delimiter: str) -> list[str]:
    if delimiter == " ":
        return [] if '"' in line else line.split()
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=delimiter != "\t"), [])
    except csv.Error:
        return []


def _delimiter(lines: Sequence[str], expected: str) -> str:
    """The delimiter that cuts all lines into as many fields; else one that is in the first line, else the expected."""
    in_first = None
    for mark in dict.fromkeys((expected, *DELIMITERS)):
        counts = [len(_fields(line, mark)) for line in lines]
        if not counts or counts[0] < 2:
            continue
        if len(set(counts)) == 1:
            return mark
        if in_first is None and mark != " ":
            in_first = mark
    return in_first or expected


def _called(delimiter: str) -> str:
    return {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars", " ": "spaces"}.get(delimiter, repr(delimiter))


def _parsed(data: bytes, delimiter: str, decimal: str, path: Path, skipped: int) -> Any:
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(block_size=_block(data)),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=b'"' in data),
            convert_options=arrow_csv.ConvertOptions(decimal_point=decimal),
        )
        table.column_names  # noqa: B018, it is only now that they are decoded
        return table
    except UnicodeDecodeError:
        raise Refusal.HEADER_ENCODING.of(path) from None
    except pa.ArrowInvalid:
        _refuse_ragged(data, delimiter, path, skipped)
        raise


def is_text(kind: Any) -> bool:
    """Whether a type of pyarrow's is that of texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def no_numbers(values: Iterable[object]) -> str:
    """The problem with a column of texts that should hold numbers, for people: "is string, as 'x' in row 1"."""
    for row, value in enumerate(values):
        if value is not None and not is_number(str(value)):
            return f"is string, as {str(value)[:40]!r} in row {row}"
    return "is string"


def not_numbers(values: Array) -> str:
    """The problem with a column that should hold numbers, for people; empty where it holds numbers."""
    if values.dtype.kind == "O":
        return no_numbers(values)
    return str(values.flat[0]) if values.dtype.kind == "U" and values.size else ""


def is_number(text: str) -> bool:
    """Whether a text is a number and nothing else."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refuse_ragged(data: bytes, delimiter: str, path: Path, skipped: int) -> None:
    """Raises DataError where a row is longer or shorter than the header.

    Args:
        skipped: lines of the file before the header.
    """
    rows = csv.reader(io.StringIO(data.decode("utf-8", "replace"), newline=""), delimiter=delimiter)
    try:
        header = next(rows, [])
        odd = next((row for row in rows if row and len(row) != len(header)), None)
    except csv.Error:
        return
    if odd is None:
        return
    hint = ""
    if len(odd) == len(header) + 1:
        hint = "; does a first column of row names lack its name?" if odd[-1] else "; do rows end in a delimiter?"
    raise Refusal.RAGGED.of(
        path,
        suffix=table_suffix(path)[1:],
        delimiter=_called(delimiter),
        names=f"{counted(len(header), 'column')} ({delimiter.join(header)[:60]})",
        line=rows.line_num + skipped,
        number=len(odd),
        row=delimiter.join(odd)[:60].replace("\n", " "),  # quotes may hold line ends
        hint=hint,
    )


def _columns_of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _columns_of_objects(objects: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Columns that are objects with the same keys, the rows, in the same order; nothing of others."""
    rows = {tuple(column) for column in objects.values()}
    return {name: list(column.values()) for name, column in objects.items()} if len(rows) == 1 else {}


def _never_thousands(columns: Sequence[Any], name: str, path: Path) -> None:
    """Raises DataError where every comma in a number could separate thousands as well."""
    for column in columns:
        commas = column.filter(pc.match_substring(column, ","))
        if not pc.all(pc.match_substring_regex(commas, THOUSANDS)).as_py():
            return
    raise Refusal.THOUSANDS.of(path, name=name)


def _has_commas(table: Any) -> bool:
    """Whether any text of a table may be a number with a decimal comma."""
    return any(pc.any(pc.match_substring_regex(table.column(i), DECIMAL)).as_py() for i in _texts(table))
