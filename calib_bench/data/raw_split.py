"""One split as it lies on disk: tables, or class folders of images. Inputs are read in row order, or by row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.data.naming import matched, natural
from calib_bench.data.table_files import batches, class_names, read, rows_in, schema_of
from calib_bench.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

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
    named: bool = True
    """Whether the data carries class names for this split's labels."""
    by_position: bool = False
    """Whether some of its files name their classes and others do not, whose labels are then taken by position."""
    _open: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, row: int) -> Place:
        """A row as people find it again."""
        return Place(self, row)

    def file_of(self, row: int) -> Path:
        """The file that holds a row."""
        if self.input is None:
            return Path(os.fsdecode(self.paths[row]))
        if "ends" not in self._open:
            self._open["ends"] = np.cumsum([rows_in(file) for file in self.files()])
        return list(self.files())[int(np.searchsorted(self._open["ends"], row, side="right"))]

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
        for file in self.files():
            for values in batches(file, self.input):
                yield from (_payload(value) for value in values.to_pylist())

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


@dataclass(frozen=True)
class Place:
    """A row of a split; as text its number, its split and, where there are several files, its file."""

    part: Part
    row: int

    def __str__(self) -> str:
        text = f"row {self.row} of split '{self.part.name}'"
        return f"{text} ({self.part.file_of(self.row)})" if len(self.part.paths) > 1 else text


def parquet_part(name: str, files: list[Path], input: str, label: str, names: tuple[str, ...] = ()) -> Part:
    """A split in parquet files with columns `input` and `label`.

    Each file's labels count the classes that the file names, in its own order; they are returned in one order.

    Args:
        name: the split.
        files: its parquet files, in row order.
        input, label: their columns.
        names: the classes, in the order to return labels in; empty to take that of the first file that names them.

    Raises:
        DataError: a file is truncated or empty, a column is missing, labels are not integers, or a file has a class
            that is none of the names.
    """
    labels: list[np.ndarray] = []
    names_of_files: list[tuple[str, ...]] = []
    rows = 0
    for file in files:
        labels_N, its_names = _labels_of_file(file, input, label, f"of split '{name}' ({file})", rows)
        labels.append(labels_N)
        names_of_files.append(its_names)
        rows += len(labels_N)
    if rows == 0 and len(files) == 1:
        raise DataError(f"{files[0]} is empty: it is a parquet file with no rows. Fetch it again.")
    order = names or next(filter(None, names_of_files), ())
    labels = [
        matched(labels_N, its_names or order, order, str(file))
        for labels_N, its_names, file in zip(labels, names_of_files, files, strict=True)
    ]
    named = any(names_of_files)
    return Part(name, encoded(files), np.concatenate(labels), order, input, named, named and not all(names_of_files))


def _labels_of_file(
    file: Path, input: str, label: str, where: str, first_row: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels int64 [N] of one parquet file, and the class names that it carries.

    Args:
        where: the file and its split, for people.
        first_row: the number of the file's first row within the split, for people.
    """
    import pyarrow.compute as pc

    schema = schema_of(file)
    _check_columns(schema, file, input, label)
    labels = read(file, [label]).column(0)
    if labels.null_count:
        row = first_row + pc.index(pc.is_null(labels), True).as_py()
        raise DataError(f"Row {row} {where} has no label; labels must be integers from 0 to K-1.")
    return labels.to_numpy().astype(np.int64), class_names(schema, label)


def _check_columns(schema: pa.Schema, file: Path, input: str, label: str) -> None:
    """Raises DataError where a parquet file lacks a column, or its labels are no integers."""
    import pyarrow as pa

    for column, what in ((input, "inputs"), (label, "labels")):
        if column not in schema.names:
            columns = ", ".join(schema.names) or "none"
            raise DataError(f"{file} has no column '{column}' for its {what}; it has: {columns}.")
    kind = schema.field(label).type
    if not pa.types.is_integer(kind):
        raise DataError(f"Column '{label}' of {file} holds {kind}; labels must be integers from 0 to K-1.")


def folder_part(name: str, folder: Path, names: tuple[str, ...] = ()) -> Part:
    """A split in class folders of images: folder/<class>/<image>; classes are numbered in the order of `names`.

    Hidden files and folders, and what others keep beside the data (see `beside`), are no part.

    Args:
        name: the split.
        folder: holds a folder for each class.
        names: the classes; empty to take the folders, in their natural order, as timm numbers them.

    Raises:
        DataError: a class folder holds no images, or is not one of `names`.
    """
    folders = {child.name: child for child in folder.iterdir() if child.is_dir() and not beside(child)}
    names = names or tuple(sorted(folders, key=natural))
    if unknown := sorted(set(folders) - set(names), key=natural):
        raise DataError(f"{folder} has a class folder '{unknown[0]}' that the training split lacks.")
    files: list[Path] = []
    labels: list[int] = []
    for index, class_name in enumerate(names):
        if class_name in folders:
            inside = images_in(folders[class_name])
            files += inside
            labels += [index] * len(inside)
    if not files:
        raise DataError(f"{folder} holds no images; expected {folder}/<class>/<image>, such as .jpg or .png.")
    return Part(name, encoded(files), np.asarray(labels, dtype=np.int64), names, None)


def beside(path: Path) -> bool:
    """Whether a file or folder is hidden, or what archives of a Mac and file servers keep beside the data."""
    return path.name.startswith((".", "@")) or path.name in ("__MACOSX", "__pycache__", "lost+found")


def images_in(folder: Path) -> list[Path]:
    """The images of a class folder.

    Raises:
        DataError: there are none, or more in folders within it.
    """
    inside = sorted(path for path in folder.iterdir() if not beside(path))
    images = [*filter(_is_image, inside)]
    if not images:
        holds = ", ".join(f"'{path.name}'" for path in inside[:3]) + (", ..." if len(inside) > 3 else "")
        raise DataError(
            f"The class folder {folder} holds no images ({f'it holds {holds}' if inside else 'it is empty'}); "
            f"expected image files in it, such as .jpg or .png. Put them there, or remove the folder."
        )
    for path in inside:
        if not _is_image(path) and path.is_dir():
            _refuse_images(path)
    return images


def _refuse_images(deeper: Path) -> None:
    """Raises DataError where a folder within a class folder holds images too."""
    if any(map(_is_image, deeper.rglob("*"))):
        raise DataError(
            f"The class folder {deeper.parent} holds images, and more in its folder '{deeper.name}', where none is "
            "read. Put them beside the others, or remove that folder."
        )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not beside(path)


def encoded(files: list[Path]) -> np.ndarray:
    """Names of files as an array of bytes, see `Part.paths`."""
    return np.array([os.fsencode(file) for file in files])


def _payload(value: Any) -> Any:
    """The bytes of an image cell, which the Hub stores as {"bytes", "path"}; anything else as it is."""
    return value.get("bytes") if isinstance(value, dict) else value


def _memory_mapped(files: list[Path], input: str) -> Any:
    """A `datasets.Dataset` over the files, images left encoded."""
    import datasets
    import pyarrow as pa

    progress = sum(file.stat().st_size for file in files) > 1 << 30
    (datasets.enable_progress_bars if progress else datasets.disable_progress_bars)()
    try:
        table = datasets.load_dataset(
            "arrow" if files[0].suffix == ".arrow" else "parquet",
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
