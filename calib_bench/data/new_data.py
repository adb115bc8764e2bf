"""New data for a model that is trained: inputs as those of its task, with labels or without.

    FILE.npz             inputs [N, *shape], and where they are known labels [N], class_names [K], ids [N]
    FILE.csv, FOLDER     the columns of the user's own tables, or images; numbers are scaled as those of training
    FOLDER/test.parquet  the columns of the task's own files, the labels' left out where they are not known
    FOLDER/test/         class folders of images, or images alone

Classes are matched by name wherever the data names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from calib_bench.core.splits import Columns, Split, Splits
from calib_bench.core.task import Hub
from calib_bench.data.cache import sha256_of
from calib_bench.data.columns import ROW_NAMES, check_columns, has_labels, kind_of, labels_of
from calib_bench.data.naming import listed
from calib_bench.data.own_data import numbers, tables_of
from calib_bench.data.raw_split import IMAGE_SUFFIXES, Part, encoded, folder_part, images_in
from calib_bench.data.shifted_files import Reader
from calib_bench.data.source import check_labels, digest_of, parquet_files, part_of
from calib_bench.data.table_files import read, rows_in, schema_of
from calib_bench.data.tensors import DeviceCache, TensorSplit
from calib_bench.errors import DataError
from calib_bench.system.files import near

OTHER_SCALE = 4.0
"""How many times as large, or as small, as those of training inputs are noted as of another scale."""
WORDS = {"vector": "numbers", "tokens": "texts", "image": "images"}
"""What inputs of each kind are called."""


@dataclass(frozen=True)
class NewData:
    """A split of new data.

    Attributes:
        split: its examples; its labels count only where `labelled`.
        labelled: whether the data says what its classes are.
        ids: [N], what the data calls its rows; None where nothing does.
        digest: SHA-256 of its content.
        source: where it is, for people.
        note: what to know of its inputs; "" where nothing is odd.
    """

    split: Split
    labelled: bool
    ids: np.ndarray | None
    digest: str
    source: str
    note: str = ""


def read_new(source: Path, name: str, splits: Splits, task: str, hub: Hub | None) -> NewData:
    """New data of a file or folder.

    Args:
        source: the .npz file, or the folder.
        name: of the part of the folder to read, such as "test".
        splits: of the task, whose inputs and classes the data takes.
        task: its name, for people.
        hub: how the task's own files are laid out; None where it has none.

    Raises:
        DataError: there is no such data, inputs are not like the task's, or classes cannot be matched.
    """
    reader = Reader(splits, task, None)
    if not source.exists():
        raise DataError(f"data={source} does not exist{near(source)}")
    if source.is_file() and source.suffix == ".npz":
        return _from_npz(source, reader)
    if splits.columns is not None:
        return _like_own(source, name, reader, splits.columns)
    if source.is_file() or hub is None:
        raise DataError(
            f"data={source}: new data of {task} are an .npz file{' or a folder of its files' if hub else ''}"
        )
    return _from_folder(source, name, reader, hub)


def _from_folder(source: Path, name: str, reader: Reader, hub: Hub) -> NewData:
    return _of_part(*_part(source, name, hub), source, reader)


def _of_part(part: Part, labelled: bool, source: Path, reader: Reader) -> NewData:
    if labelled and part.named:
        part = replace(part, labels=reader.labels_of(part))
    elif labelled:
        check_labels(part.name, part.labels, reader.splits.classes)
    ids = np.array([str(file.relative_to(source)) for file in part.files()]) if part.input is None else None
    return NewData(reader.split_of(part), labelled, ids, digest_of(part), str(source))


def _like_own(source: Path, name: str, reader: Reader, columns: Columns) -> NewData:
    """New rows of tables like the user's own, or images in class folders or alone."""
    if not columns.input:
        return _images_like_own(source, name, reader)
    files = tables_of(source, name)
    if not files:
        raise DataError(f"data={source} holds no table of split '{name}': expected {listed(columns.input)} as columns")
    of = source.name if source.is_file() else name
    part, labelled = _rows(of, files, columns, reader.splits.spec.kind)
    if reader.splits.spec.kind != "vector":
        return replace(_of_part(part, labelled, source, reader), ids=_row_names(files, columns))
    split = _numbers(part, columns, reader, labelled)
    return NewData(split, labelled, _row_names(files, columns), digest_of(part), str(source))


def _images_like_own(source: Path, name: str, reader: Reader) -> NewData:
    folder = source / name if (source / name).is_dir() else source
    loose = _loose(name, folder)
    return _of_part(loose or folder_part(name, folder), loose is None, source, reader)


def _numbers(part: Part, columns: Columns, reader: Reader, labelled: bool) -> TensorSplit:
    """Numbers of tables, scaled as those of training."""
    labels_N = torch.from_numpy(reader.labels_of(part) if labelled else part.labels)
    x_ND = columns.scaled(torch.from_numpy(numbers(part, columns.input)))
    if x_ND.shape[1:] != reader.splits.spec.shape:
        here, there = x_ND.shape[1], reader.splits.spec.shape[0]
        raise DataError(f"split '{part.name}' has {here} numbers a row, and the training rows have {there}")
    return TensorSplit(DeviceCache(x_ND), torch.arange(len(x_ND)), labels_N)


def _loose(name: str, folder: Path) -> Part | None:
    """The images that lie in a folder itself; None where there are none."""
    if not folder.is_dir():
        raise DataError(f"data={folder} is no folder of images")
    if not any(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir()):
        return None
    files = images_in(folder)
    return Part(name, encoded(files), np.zeros(len(files), dtype=np.int64), (), None)


def _rows(name: str, files: list[Path], columns: Columns, kind: str) -> tuple[Part, bool]:
    """Rows of tables, and whether they have labels: not where the column is missing, or all are empty or -1."""
    rows = sum(map(rows_in, files))
    if not rows:
        raise DataError(f"{listed([str(file) for file in files])}: no rows to predict")
    for file in files:
        _check_kind(file, columns.input, kind)
    in_all = all(columns.label in schema_of(file).names for file in files)
    if not (in_all and has_labels(files, columns.label)):
        return Part(name, encoded(files), np.zeros(rows, dtype=np.int64), (), columns.input[0]), False
    words, _ = labels_of(files, columns.label, columns.input)
    seen, index_N = np.unique(words, return_inverse=True)
    return Part(name, encoded(files), index_N.astype(np.int64), tuple(seen), columns.input[0]), True


def _check_kind(file: Path, columns: Sequence[str], kind: str) -> None:
    """Raises DataError where a table's columns are missing, or hold other inputs than those of training."""
    check_columns(file, columns)
    if kind_of(file, columns) != kind:
        others = [column for column in columns if kind_of(file, [column]) != kind]
        what = listed(others or columns)
        raise DataError(f"{file}: {what} hold{'s' * (len(others) == 1)} no {WORDS[kind]}, as in training")


def _row_names(files: list[Path], columns: Columns) -> np.ndarray | None:
    """What the tables call their rows; None where they have no such column."""
    shared = set.intersection(*(set(schema_of(file).names) for file in files)) - set(columns.input)
    names = sorted(name for name in shared if name.lower() in ROW_NAMES)
    if not names:
        return None
    return np.concatenate([read(file, names[-1:]).column(0).to_numpy().astype(str) for file in files])


def _part(source: Path, name: str, hub: Hub) -> tuple[Part, bool]:
    """A part of a folder, and whether its labels are there."""
    import pyarrow.parquet as pq

    if (source / name).is_dir() and (loose := _loose(name, source / name)):
        return loose, False
    files = parquet_files(source, name)
    columns = pq.read_schema(files[0]).names if files else []
    if hub.label in columns or hub.input not in columns:
        return part_of(source, name, hub), True
    rows = sum(pq.read_metadata(file).num_rows for file in files)
    return Part(name, encoded(files), np.zeros(rows, dtype=np.int64), (), hub.input), False


def _from_npz(source: Path, reader: Reader) -> NewData:
    arrays = _arrays(source)
    test, x_N = reader.splits.test, _tensor(arrays["inputs"], source)
    x_N = reader.splits.columns.scaled(x_N) if reader.splits.columns else x_N
    if not isinstance(test, TensorSplit):
        raise DataError(f"{source}: task '{reader.task}' does not read inputs from arrays: give a folder of its files")
    base = test.base.on(torch.device("cpu"))
    if x_N.shape[1:] != base.shape[1:] or x_N.is_floating_point() != base.is_floating_point():
        raise DataError(
            f"{source}: inputs are {x_N.dtype} of shape {list(x_N.shape)}, and task '{reader.task}' takes {base.dtype} "
            f"of shape {['N', *base.shape[1:]]}"
        )
    _check_finite(x_N, source)
    labels_N = _labels(source, arrays, reader, len(x_N))
    split = TensorSplit(DeviceCache(x_N.to(base.dtype)), torch.arange(len(x_N)), labels_N, normalize=test.normalize)
    digest, note = f"sha256:{sha256_of(source)}", _of_other_scale(x_N, base)
    return NewData(split, "labels" in arrays, arrays.get("ids"), digest, str(source), note)


def _tensor(x_N: np.ndarray, source: Path) -> torch.Tensor:
    """Numbers as a tensor, in this machine's order of bytes."""
    if x_N.dtype.kind not in "biuf" or x_N.dtype.itemsize > 8:
        raise DataError(f"{source}: inputs are {x_N.dtype}, and must be numbers of at most 64 bits")
    if not len(x_N):
        raise DataError(f"{source}: no rows to predict")
    return torch.from_numpy(x_N.astype(x_N.dtype.newbyteorder("="), copy=False))


def _of_other_scale(x_N: torch.Tensor, base_N: torch.Tensor) -> str:
    """A note where inputs are much larger or smaller than the task's, by their root mean squares; else ""."""
    few_N = base_N[:1000].float()
    size, usual = (float(x.float().square().mean().sqrt()) for x in (x_N, few_N))
    if max(size, usual) <= OTHER_SCALE * min(size, usual):
        return ""
    return (
        f"the size of inputs (root mean square) is {size:.3g}, and that of the task's is {usual:.3g}, from "
        f"{float(few_N.min()):.3g} to {float(few_N.max()):.3g}: they may be of another scale"
    )


def _check_finite(x_N: torch.Tensor, source: Path) -> None:
    finite_N = x_N.isfinite().flatten(1).all(1)
    if not finite_N.all():
        raise DataError(f"{source}: row {int((~finite_N).nonzero()[0])} of inputs has a number that is not finite")


def _arrays(source: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file that have a meaning here."""
    try:
        with np.load(source, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("inputs", "labels", "class_names", "ids") if name in file.files}
            there = ", ".join(file.files) or "nothing"
    except (OSError, ValueError) as error:
        raise DataError(f"{source} cannot be read as an .npz file of arrays: {error}") from None
    if "inputs" not in arrays:
        raise DataError(f"{source} has no array `inputs`; it holds: {there}")
    return arrays


def _labels(source: Path, arrays: dict[str, np.ndarray], reader: Reader, count: int) -> torch.Tensor:
    """Labels int64 [N] of the task's classes; 0 where the file has none."""
    for name in ("labels", "ids"):
        if name in arrays and arrays[name].shape != (count,):
            raise DataError(f"{source}: {name} has shape {list(arrays[name].shape)}, and there are {count:,} inputs")
    labels_N, names = arrays.get("labels", np.zeros(count, dtype=np.int64)), arrays.get("class_names", np.empty(0))
    if labels_N.dtype.kind in "US":
        names, labels_N = np.unique(labels_N, return_inverse=True)
    if labels_N.dtype.kind not in "iu":
        raise DataError(f"{source}: labels are {labels_N.dtype}, and must be whole numbers or class names")
    labels_N, classes = labels_N.astype(np.int64), tuple(map(str, names))
    check_labels(str(source), labels_N, len(classes) or reader.splits.classes)
    if classes:
        labels_N = reader.labels_of(Part(str(source), np.empty(0), labels_N, classes, None))
    return torch.from_numpy(labels_N)
