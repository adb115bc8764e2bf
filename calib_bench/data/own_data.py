"""Data of the user's own: class folders of images, or tables whose columns say what they hold."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calib_bench.core.splits import Request
from calib_bench.core.task import Content, Hub, SplitSizes
from calib_bench.data.columns import inputs_of, labels_of, numbers_of
from calib_bench.data.naming import listed, matched, natural
from calib_bench.data.raw_split import IMAGE_SUFFIXES, Part, beside, encoded, folder_part
from calib_bench.data.source import Raw, belongs, described, digest_of, find, newest_commit
from calib_bench.data.table_files import SUFFIXES
from calib_bench.errors import DataError, counted, nearest
from calib_bench.system.files import near

NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "val", "valid", "dev"),
}
"""What files and folders of a split may be called."""
LABEL = "label"
"""The column of classes, where the user names none."""
LEAST, LEAST_TEST = 100, 20
"""Rows below which nothing can be held out to choose a rate and to calibrate on, and of a test split."""
SMALL = 64
"""Most pixels of a side of small images."""
SAMPLED = 64
"""Images that are looked at to tell their size and colour."""
GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L")
"""Pillow's modes of grey images."""


@dataclass(frozen=True)
class OwnData:
    """The user's data, read and checked, not yet partitioned.

    Attributes:
        raw: its splits; without one of its own, test is the pool that all four are drawn from.
        sizes: of the splits.
        kind: "image", "tokens" or "vector".
        columns: of inputs; none in class folders.
        mode: of Pillow's, "L" where all images are grey.
        large: whether images are of many sizes, or larger than `SMALL`.
    """

    raw: Raw
    sizes: SplitSizes
    kind: str
    columns: tuple[str, ...]
    mode: str
    large: bool


def look(request: Request) -> Content:
    """What the user's data holds; raises DataError as `open_own`."""
    data = open_own(request)
    return Content(data.kind, data.raw.classes, data.sizes, data.large)


def open_own(request: Request) -> OwnData:
    """Find, read and check the user's data.

    Raises:
        DataError: it is missing, holds too few rows or classes, or what it holds cannot be told.
    """
    root, source = _hub_folder(request) if request.task.startswith("hub") else _named_path(request)
    tables = _tables(root)
    if not tables:
        return _of_folders(root, source)
    if root.is_dir() and (image := next(_images_below(root), None)):
        raise DataError(
            f"{root} holds tables ({tables[0].name}) and class folders of images ({image.relative_to(root)}): which of "
            "them is the data cannot be told. Move one of them away."
        )
    return _of_tables(root, source, tables, request)


def _named_path(request: Request) -> tuple[Path, str]:
    """The folder or table that `data=` names, and where it is, for people."""
    if request.data is None:
        raise DataError("task=folder needs data=PATH: a folder of class folders or tables, or one table.")
    path = request.data.expanduser()
    if not path.exists():
        raise DataError(f"data={path} does not exist{near(path)}: give a table, or a folder of tables or images.")
    if not path.is_file():
        path, _ = find(request, Hub("", "", "", "", {}))
    return path, f"{path} (data=)"


def _hub_folder(request: Request) -> tuple[Path, str]:
    """The same of hub/OWNER/NAME or hub/OWNER/NAME/FOLDER: a local folder of the Hub's layout, or the Hub's copy."""
    parts = request.task.split("/")
    if len(parts) not in (3, 4) or not all(parts):
        raise DataError(
            f"task={request.task} names no data set of the Hub: write task=hub/OWNER/NAME or hub/OWNER/NAME/FOLDER."
        )
    name, inside = "/".join(parts[1:3]), "".join(parts[3:])
    hub = Hub(name, "main" if request.data else newest_commit(name), "", "", {})
    root, origin = find(request, hub)
    if inside and not (root / inside).is_dir():
        raise DataError(f"{root} has no folder '{inside}': {nearest(inside, _folder_names(root))}.")
    place = f"https://huggingface.co/datasets/{name} at {hub.revision}"
    return root / inside, place if origin == "hub" else described(root / inside, origin)


def _folder_names(root: Path) -> list[str]:
    return [child.name for child in root.iterdir() if child.is_dir() and not beside(child)]


def _tables(root: Path) -> list[Path]:
    """The tables in a folder and two levels below it; a single file is a table of its own."""
    if root.is_file():
        if root.suffix not in SUFFIXES:
            raise DataError(f"{root} is no table: expected a name that ends in {', '.join(SUFFIXES)}, or a folder.")
        return [root]
    return sorted(file for file in _below(root, "*", "*/*", "*/*/*") if file.suffix in SUFFIXES)


def _images_below(root: Path) -> Iterator[Path]:
    return (file for file in _below(root, "*/*", "*/*/*") if file.suffix.lower() in IMAGE_SUFFIXES)


def _below(root: Path, *patterns: str) -> Iterator[Path]:
    """What is in a folder and not hidden there."""
    paths = (path for pattern in patterns for path in root.glob(pattern))
    return (path for path in paths if not any(beside(Path(part)) for part in path.relative_to(root).parts))


def _of_folders(root: Path, source: str) -> OwnData:
    """Class folders of images, in a folder for each split or in one."""
    if not any(_images_below(root)):
        holds = listed(sorted(child.name for child in root.iterdir() if not beside(child))) or "nothing"
        raise DataError(
            f"{root} holds no data: expected CLASS/image.png, train/CLASS/image.png, or tables that end in "
            f"{', '.join(SUFFIXES)}. It holds: {holds}."
        )
    present = _folder_names(root)
    folders = {split: root / name for split, names in NAMES.items() for name in names if name in present}
    _check_train(root, folders)
    train = folder_part("train", folders.get("train", root))
    test = [folder_part(split, folders[split], train.names) for split in list(NAMES)[1:] if split in folders][:1]
    return _own((train, *test), source, "image", (), "", _unused(folders))


def _check_train(root: Path, splits: Collection[str]) -> None:
    """Raises DataError where there are splits, and none to train on."""
    if splits and "train" not in splits:
        raise DataError(f"{root} has a split '{next(iter(splits))}' and no split 'train': name one train.")


def _unused(splits: Collection[str]) -> dict[str, str]:
    """A note where there is a validation split beside the test split."""
    if not {"test", "validation"} <= set(splits):
        return {}
    return {"unused": "split 'validation' is not used: what chooses rates and calibrates is drawn from train"}


def _of_tables(root: Path, source: str, tables: list[Path], request: Request) -> OwnData:
    """Tables with a column of classes, the splits told by their names."""
    splits = _by_split(root, tables)
    _check_train(root, splits)
    train_files = splits.get("train", tables)
    _check_one_set(root, train_files, request.task)
    label = request.label or LABEL
    kind, columns = inputs_of(train_files[0], request.input, label)
    train_words, order = labels_of(train_files, label, columns)
    names = order or tuple(sorted(set(train_words.tolist()), key=natural))
    parts = [_part("train", train_files, train_words, names, columns)]
    notes = _unused(splits)
    for split in list(NAMES)[1:]:
        words, _ = labels_of(splits.get(split, []), label, columns)
        if set(words.tolist()) == {"-1"}:
            notes = {"hidden": f"split '{split}' has no labels (all are -1), and is left out"}
        elif len(parts) == 1 and len(words):
            parts.append(_part(split, splits[split], words, names, columns))
    return _own(parts, source, kind, columns, label, notes)


def tables_of(root: Path, split: str) -> list[Path]:
    """Tables of a split, or all where no name says one; none where there are no tables, or only those of other splits.

    Args:
        root: a folder, or one table.
        split: its name, or one of those in `NAMES`.
    """
    tables = _tables(root)
    named = [file for file in tables if any(_belongs(file, root, name) for name in NAMES.get(split, (split,)))]
    return named or ([] if _by_split(root, tables) else tables)


def _belongs(file: Path, root: Path, name: str) -> bool:
    return root.is_dir() and belongs(file.relative_to(root), name)


def _by_split(root: Path, tables: list[Path]) -> dict[str, list[Path]]:
    """Tables by the split that their names or folders say; none where no name says one."""
    by_split = {
        split: [file for file in tables if any(_belongs(file, root, name) for name in names)]
        for split, names in NAMES.items()
    }
    return {split: files for split, files in by_split.items() if files}


def _check_one_set(root: Path, files: list[Path], task: str) -> None:
    """Refuse tables in several folders, as data sets with several configurations have them."""
    folders = sorted({file.parent.parent if file.parent.name in NAMES["train"] else file.parent for file in files})
    if len(folders) > 1:
        within = [str(folder.relative_to(root)) for folder in folders]
        way = f"data={root / within[-1]}" if task == "folder" else f"task={'/'.join(task.split('/')[:3])}/{within[-1]}"
        raise DataError(f"{root} holds several data sets ({listed(within)}): name one, for example {way}.")


def _part(name: str, files: list[Path], words: np.ndarray, names: tuple[str, ...], columns: Sequence[str]) -> Part:
    """A split of tables; raises DataError where it has a class that `names` lacks."""
    seen, index_N = np.unique(words, return_inverse=True)
    labels_N = matched(index_N.astype(np.int64), tuple(seen), names, f"split '{name}'")
    return Part(name, encoded(files), labels_N, names, columns[0])


def _own(
    parts: Sequence[Part], source: str, kind: str, columns: tuple[str, ...], label: str, notes: dict[str, str]
) -> OwnData:
    """The data of these splits, the first of which is the pool to train on; a second one is to test."""
    train, names = parts[0], parts[0].names
    _check_classes(train, source)
    sizes = _sizes(parts, source)
    mode, large, images = _images_of(train) if kind == "image" else ("RGB", False, "")
    what = {"image": images, "tokens": "texts", "vector": f"numbers in {counted(len(columns), 'column')}"}[kind]
    where = f"({listed(columns)}), labels in column {label}" if columns else "in class folders"
    drawn = f"test is split '{parts[1].name}'" if len(parts) > 1 else "test is drawn from the same rows"
    about = f"{source}: {what} {where}; {len(names)} classes ({listed(names)}); {drawn}"
    prefix, _, content = digest_of(*parts).partition(":")
    digest = hashlib.sha256(repr((content, columns, label)).encode()).hexdigest()
    raw = Raw(train, parts[-1], len(names), names, about, f"{prefix}:{digest}", 1.0, notes)
    return OwnData(raw, sizes, kind, columns, mode, large)


def _check_classes(train: Part, source: str) -> None:
    """Refuse data of one class, and labels that are hardly classes."""
    counts_K = np.bincount(train.labels)
    present = int((counts_K > 0).sum())
    if present < 2:
        raise DataError(f"{source} has one class, '{train.names[int(counts_K.argmax())]}': at least 2 are needed.")
    if present > len(train) / 2 and len(train) >= LEAST:
        raise DataError(
            f"{source} has {present:,} classes in {len(train):,} rows, as if labels were ids or measurements: name the "
            "column of classes with label=COLUMN."
        )


def _sizes(parts: Sequence[Part], source: str) -> SplitSizes:
    """A tenth of the pool for selection and for calibration, and a fifth to test where there is no test split."""
    for part, least in zip(parts, (LEAST, LEAST_TEST), strict=False):
        if len(part) < least:
            raise DataError(
                f"{source} has {len(part):,} rows in split '{part.name}'; at least {least} are needed, so that there "
                "are some to choose rates on, to calibrate on and to test."
            )
    rows = len(parts[0])
    held = rows // 10
    return SplitSizes(held, held, rows - 2 * held - (rows // 5 if len(parts) == 1 else 0))


def _images_of(part: Part) -> tuple[str, bool, str]:
    """(mode, large, words) of a split's images, by a sample of them; raises DataError where one cannot be read."""
    rows = np.unique(np.linspace(0, len(part) - 1, SAMPLED).astype(int)).tolist()
    headers = [_header(payload, part, row) for row, payload in _payloads(part, rows)]
    sizes = {size for size, _ in headers}
    width, height = max(sizes)
    mode = "L" if all(of in GREY for _, of in headers) else "RGB"
    if len(sizes) > 1:
        return "RGB", True, "images of many sizes"
    if max(width, height) > SMALL:
        return "RGB", True, f"images of {width} x {height}"
    return mode, False, f"{'grey' if mode == 'L' else 'colour'} images of {width} x {height}"


def _header(payload: Any, part: Part, row: int) -> tuple[tuple[int, int], str]:
    """(size, mode) of an encoded image."""
    from PIL import Image as pillow

    try:
        with pillow.open(io.BytesIO(payload)) as image:
            return image.size, image.mode
    except (OSError, TypeError) as error:
        raise DataError(f"The image in {part.where(row)} cannot be decoded. Replace or remove that row.") from error


def _payloads(part: Part, rows: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Encoded images of these rows, ascending; those of tables are read in order."""
    if part.input is None:
        yield from ((row, part.row(row)) for row in rows)
        return
    wanted = set(rows)
    yield from ((row, payload) for row, payload in enumerate(part.inputs()) if row in wanted)


def numbers(part: Part, columns: Sequence[str]) -> np.ndarray:
    """float64 [N, D] of a split of tables; raises DataError as `columns.numbers_of`."""
    return np.concatenate([numbers_of(file, columns) for file in part.files()])
