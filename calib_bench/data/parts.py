"""One split as it lies on disk: parquet files, or class folders of images. Inputs are read in row order, or by row."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff")


@dataclass(frozen=True)
class Part:
    """One split of a data set.

    Attributes:
        name: the Hub's name of the split.
        paths: bytes [F]: parquet files, or image files in row order. An array, not a list, so that forked workers share
            the names of a million images.
        labels: int64 [N].
        names: class names where the data carries them, else empty.
        input: column of inputs; None in a folder of images, where a row is a file.
    """

    name: str
    paths: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    input: str | None
    _open: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def files(self) -> Iterator[Path]:
        """Every file, in row order."""
        return (Path(os.fsdecode(path)) for path in self.paths)

    def inputs(self) -> Iterator[Any]:
        """Every row's encoded image (bytes) or text (str), in row order; a null is None.

        Raises:
            DataError: a file cannot be read to its end.
        """
        if self.input is None:
            yield from (file.read_bytes() for file in self.files())
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        for file in self.files():
            try:
                with pq.ParquetFile(file) as table:
                    for batch in table.iter_batches(batch_size=1024, columns=[self.input]):
                        yield from (_payload(value) for value in batch.column(0).to_pylist())
            except (pa.ArrowException, OSError) as error:
                raise unreadable(file, error) from error

    def row(self, index: int) -> Any:
        """One row's encoded image, from memory-mapped Arrow or its own file: constant memory, any order."""
        if self.input is None:
            return Path(os.fsdecode(self.paths[index])).read_bytes()
        return _payload(self._table()[index][self.input])

    def prepare(self) -> None:
        """Write the Arrow copy of parquet files that `row` reads, once, into the folder $HF_DATASETS_CACHE.

        Raises:
            DataError: a file cannot be read to its end, or the copy cannot be written.
        """
        if self.input is not None:
            self._table()

    def _table(self) -> Any:
        if "table" not in self._open:
            self._open["table"] = _memory_mapped(list(self.files()), self.input or "")
        return self._open["table"]


def decode(payload: Any, mode: str, where: str) -> Image:
    """An encoded image as PIL in `mode`, such as "RGB".

    Raises:
        DataError: it cannot be decoded; names `where`, the split and row.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        if not isinstance(payload, bytes):
            raise TypeError("the cell holds no bytes")
        return Image.open(io.BytesIO(payload)).convert(mode)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError) as error:
        raise DataError(
            f"The image in {where} cannot be decoded ({_why(error)}). Replace or remove that row, or fetch the data "
            "again."
        ) from error


def _why(error: Exception) -> str:
    return "no known image format" if "cannot identify image file" in str(error) else str(error)


def parquet_part(name: str, files: list[Path], input: str, label: str) -> Part:
    """A split in parquet files with columns `input` and `label`.

    Raises:
        DataError: a file is truncated or empty, a column is missing, or labels are not integers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    labels: list[np.ndarray] = []
    names: tuple[str, ...] = ()
    start = 0
    for file in files:
        try:
            with pq.ParquetFile(file) as table:
                schema = table.schema_arrow
                for column, what in ((input, "inputs"), (label, "labels")):
                    if column not in schema.names:
                        found = ", ".join(schema.names) or "none"
                        raise DataError(f"{file} has no column '{column}' for its {what}; it has: {found}.")
                if not pa.types.is_integer(schema.field(label).type):
                    kind = schema.field(label).type
                    raise DataError(f"Column '{label}' of {file} holds {kind}; labels must be integers from 0 to K-1.")
                column_of_labels = table.read(columns=[label]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise unreadable(file, error) from error
        if column_of_labels.null_count:
            row = start + pc.index(pc.is_null(column_of_labels), True).as_py()
            raise DataError(
                f"Row {row} of split '{name}' ({file}) has no label; labels must be integers from 0 to K-1."
            )
        if len(column_of_labels) == 0 and len(files) == 1:
            raise DataError(f"{file} is empty: it is a parquet file with no rows. Fetch it again.")
        labels.append(column_of_labels.to_numpy().astype(np.int64))
        names = names or _class_names(schema, label)
        start += len(column_of_labels)
    return Part(name, _encoded(files), np.concatenate(labels), names, input)


def folder_part(name: str, folder: Path, names: tuple[str, ...] = ()) -> Part:
    """A split in class folders of images: folder/<class>/<image>; classes are numbered in the order of `names`.

    Args:
        name: the split.
        folder: holds a folder for each class.
        names: the classes; empty to take the folders found, sorted.

    Raises:
        DataError: there are no images, or a folder is not one of `names`.
    """
    found = tuple(sorted(child.name for child in folder.iterdir() if child.is_dir() and child.name[0] != "."))
    names = names or found
    if unknown := sorted(set(found) - set(names)):
        raise DataError(f"{folder} has a class folder '{unknown[0]}' that the training split lacks.")
    files: list[Path] = []
    labels: list[int] = []
    for index, class_name in enumerate(names):
        if class_name not in found:
            continue
        inside = sorted(path for path in (folder / class_name).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        files += inside
        labels += [index] * len(inside)
    if not files:
        raise DataError(f"{folder} holds no images; expected {folder}/<class>/<image>, such as .jpg or .png.")
    return Part(name, _encoded(files), np.asarray(labels, dtype=np.int64), names, None)


def _encoded(files: list[Path]) -> np.ndarray:
    return np.array([os.fsencode(file) for file in files])


def unreadable(file: Path, error: Exception) -> DataError:
    """The error for a parquet file that cannot be read."""
    size = file.stat().st_size if file.exists() else 0
    why = " ".join(str(error).split())
    what = "empty (0 bytes)" if size == 0 else f"truncated or not parquet ({size:,} bytes; {why})"
    return DataError(f"{file} is {what}. Fetch it again.")


def _payload(value: Any) -> Any:
    """The bytes of an image cell, which the Hub stores as {"bytes", "path"}; anything else as it is."""
    return value.get("bytes") if isinstance(value, dict) else value


def _class_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """Class names from the metadata that the `datasets` library writes into parquet files."""
    text = (schema.metadata or {}).get(b"huggingface")
    feature = json.loads(text).get("info", {}).get("features", {}).get(label, {}) if text else {}
    names = feature.get("names") or ()
    return tuple(names.values()) if isinstance(names, dict) else tuple(names)


def _memory_mapped(files: list[Path], input: str) -> Any:
    """A `datasets.Dataset` over the files, images left encoded."""
    import datasets
    import pyarrow as pa

    progress = sum(file.stat().st_size for file in files) > 1 << 30
    (datasets.enable_progress_bars if progress else datasets.disable_progress_bars)()
    try:
        table = datasets.load_dataset(
            "parquet",
            data_files={"train": [str(file) for file in files]},
            split="train",
            cache_dir=os.environ.get("HF_DATASETS_CACHE"),
        )
    except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, OSError) as error:
        cause = " ".join(str(error.__cause__ or error).split())
        raise DataError(
            f"The parquet files beside {files[0]} could not be copied to memory-mapped Arrow ({cause}). "
            "Fetch them again, or point HF_DATASETS_CACHE at a disk with room for a copy."
        ) from error
    if isinstance(table.features[input], datasets.Image):
        table = table.cast_column(input, datasets.Image(decode=False))
    return table.select_columns([input])
