"""Where data is found and what is checked before anything trains on it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from calib_bench.core.splits import Request
from calib_bench.core.task import Hub
from calib_bench.data.cache import sha256_of
from calib_bench.data.naming import listed
from calib_bench.data.raw_split import Part, beside, folder_part, parquet_part
from calib_bench.data.table_files import SUFFIXES, TEXT
from calib_bench.errors import DataError
from calib_bench.system.compression import COMPRESSED, unpacked
from calib_bench.system.files import near

ALIASES = {"validation": ("validation", "val", "valid", "test"), "test": ("test", "validation", "val", "valid")}
"""Names under which a local folder may hold a split."""
LARGE = 2 << 30
"""Bytes beyond which a digest reads the ends of files only."""
WHOLE, ENDS = "sha256:", "sha256-ends:"
"""How digests begin, of whole files and of their ends."""
PATIENCE, LEAST = 300.0, 100_000
"""A download that brings fewer than so many bytes in so many seconds is given up."""
ANSWER = 5.0
"""Seconds that the Hub has to answer at all."""
END = 1 << 20
"""Bytes read at either end of a file then."""


@dataclass(frozen=True)
class Raw:
    """A data set found and checked, not yet partitioned.

    Attributes:
        train, test: its two splits; one and the same where test is drawn from it too.
        classes: number of classes K.
        names: K class names.
        source: where it was found, for people.
        digest: SHA-256 of the content; independent of where it lies.
        fraction: rows present in `train` over rows declared; 1 when nothing is declared.
        notes: what departs from the declaration.
    """

    train: Part
    test: Part
    classes: int
    names: tuple[str, ...]
    source: str
    digest: str
    fraction: float
    notes: dict[str, str]

    @property
    def pools(self) -> dict[str, Part]:
        """What splits are drawn from: "train", and "test" where it is another."""
        return {"train": self.train} | ({} if self.test is self.train else {"test": self.test})


def open_source(request: Request, hub: Hub, classes: int, names: tuple[str, ...] = (), subset: bool = False) -> Raw:
    """Find and check a task's data.

    Args:
        request: the user's wishes; `request.data` may be the data folder or one that holds it under the task's name.
        hub: what is declared; the first split of `hub.rows` is partitioned, the last is the test set.
        classes: K, declared.
        names: class names for data that carries none.
        subset: whether a local folder may have fewer classes than declared; K is then the number of class names it
            carries or, without names, its largest label plus one.

    Raises:
        DataError: nothing is found, or it is not as declared.
    """
    root, origin = find(request, hub)
    local = origin != "hub"
    first, *_, last = hub.rows
    train = part_of(root, first, hub)
    test = part_of(root, last, hub, train.names)
    class_names = train.names or test.names or names
    notes = {}
    if subset and local:
        K = len(class_names) or _largest_label(train, test) + 1
        if classes > K:
            notes["classes"] = f"subset: {K} of {classes:,} classes, not {hub.name}"
    else:
        K = classes
        _check_class_names(class_names, names, K, f"{root} has", request.task)
    notes |= _by_position(train, test, names)
    if len(class_names) != K:
        class_names = tuple(map(str, range(K)))
    notes |= _checked_rows((train, test), K, hub, None if local else root)
    source = described(root, origin) if local else f"https://huggingface.co/datasets/{hub.name} at {hub.revision}"
    fraction = min(1.0, len(train) / hub.rows[first])
    return Raw(train, test, K, class_names, source, digest_of(train, test), fraction, notes)


def _check_class_names(present: Sequence[str], declared: Sequence[str], K: int, holder: str, task: str) -> None:
    """Raises DataError where data names another number of classes than its task has."""
    if len(present) in (0, K):
        return
    strange = [name for name in present if name not in declared] if declared else []
    which = f"; not of the task: {listed(strange)}" if strange else ""
    raise DataError(f"{holder} {len(present)} classes where task '{task}' has {K}{which}.")


def _checked_rows(parts: Iterable[Part], K: int, hub: Hub, copy: Path | None) -> dict[str, str]:
    """A note, under "subset", where splits have other numbers of rows than the Hub declares.

    Args:
        copy: the folder of the Hub's own copy, which must be whole; None for the user's data.

    Raises:
        DataError: a label is not in [0, K), or rows are missing in the Hub's copy.
    """
    counts = []
    for part in parts:
        check_labels(part.name, part.labels, K)
        declared = hub.rows[part.name]
        if len(part) != declared:
            counts.append(f"{len(part):,} of {declared:,} rows of {part.name}")
        if copy is not None and counts:
            raise DataError(f"The copy of {hub.name} in {copy} has {counts[0]}. Delete that folder and fetch it again.")
    return {"subset": f"subset: {'; '.join(counts)}"} if counts else {}


def _largest_label(train: Part, test: Part) -> int:
    return int(max(train.labels.max(), test.labels.max()))


def _by_position(train: Part, test: Part, names: tuple[str, ...]) -> dict[str, str]:
    """A note, under "names", where some labels have class names and others have none, which are taken by position.

    Raises:
        DataError: the names are the task's in another order, so that which of the two orders the others have is open.
    """
    bare = [part.name for part in (train, test) if part.by_position]
    if train.named != test.named:
        bare.append((test if train.named else train).name)
    if not bare:
        return {}
    order = train.names or test.names
    if set(order) == set(names) and order != names:
        raise DataError(
            f"Labels of split '{bare[0]}' carry no class names, and those that do count the classes in another order "
            f"({listed(order)}) than the task ({listed(names)}): which of the two they have cannot be told. Store the "
            "class names with every file."
        )
    splits = " and ".join(bare)
    return {"names": f"labels of {splits} carry no class names, and are taken by position as those that do"}


def find(request: Request, hub: Hub) -> tuple[Path, str]:
    """The folder that holds the data and how it was found: "data=", "$CALIB_BENCH_DATA" or "hub".

    A folder that data= names is kept as it was written, so that a relative one puts no path of this machine on record.

    Raises:
        DataError: the named folder does not exist, or none of the three places has the data.
    """
    if request.data is not None:
        folder = request.data.expanduser()
        if not folder.is_dir():
            what = "is a file" if folder.exists() else f"does not exist{near(folder)}"
            raise DataError(f"data={request.data} {what}; expected a folder with the data of task '{request.task}'.")
        inner = folder / request.task
        return inner if inner.is_dir() else folder, "data="
    variable = os.environ.get("CALIB_BENCH_DATA")
    if variable and (folder := Path(variable).expanduser() / request.task).is_dir():
        return folder, "$CALIB_BENCH_DATA"
    return _fetch(request, hub, variable), "hub"


def described(root: Path, origin: str) -> str:
    """Where local data lie, for people and records: below the variable that names their folder, or as typed."""
    variable = "CALIB_BENCH_DATA"
    if origin != f"${variable}":
        return f"{root} ({origin})"
    return f"{origin}/{root.relative_to(Path(os.environ[variable]).expanduser())}"


GATED = " The data is gated: accept its licence at https://huggingface.co/datasets/{name}, then run `hf auth login`."


def _fetch(request: Request, hub: Hub, variable: str | None) -> Path:
    """The Hub's files at the pinned revision, downloaded once into its own cache."""
    import huggingface_hub as hf
    from huggingface_hub import constants

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # one paragraph at the end, not one a retry
    cached = not (request.fetch and _answers(hub))
    try:
        folder = Path(constants.HF_HUB_CACHE) / f"datasets--{hub.name.replace('/', '--')}"

        def download() -> str:
            return hf.snapshot_download(
                hub.name,
                repo_type="dataset",
                revision=hub.revision,
                allow_patterns=_patterns(hub),
                local_files_only=cached,
            )

        return Path(patiently(download, folder))
    except Exception as error:  # of the Hub, of its transport, of the disk: they have no common base
        silent = ", and it does not answer" if request.fetch else ""
        why = f"no copy on this machine{silent}" if cached else _first_line(error)
        raise _nowhere(request, hub, variable, why) from error


def _patterns(hub: Hub) -> list[str]:
    """The files that are wanted: those of the splits, or, where these have no names, every table."""
    patterns = [pattern for split in hub.rows for pattern in (f"{split}-*.parquet", f"*/{split}-*.parquet")]
    return patterns or [f"*{suffix}" for suffix in (*SUFFIXES, *(of + by for of in TEXT for by in COMPRESSED))]


def _nowhere(request: Request, hub: Hub, variable: str | None, why: str) -> DataError:
    tried = f"$CALIB_BENCH_DATA/{request.task} ({'no such folder' if variable else 'not set'})"
    return DataError(
        f"No data for task '{request.task}'. Tried: data=PATH (not given); {tried}; the Hub's {hub.name} at "
        f"{hub.revision[:12]} ({why}).{GATED.format(name=hub.name) if hub.gated else ''} "
        "Name a folder with data=PATH, or connect to the Hub."
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0]}"


def newest_commit(name: str) -> str:
    """The newest commit of a data set on the Hub; that of its cache where the Hub cannot be reached, "main" without."""
    import huggingface_hub as hf
    from huggingface_hub import constants

    try:
        return str(hf.HfApi().dataset_info(name, timeout=ANSWER).sha)
    except Exception:  # of the Hub, of its transport: they have no common base
        cached = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}" / "refs" / "main"
        return cached.read_text().strip() if cached.is_file() else "main"


def _answers(hub: Hub) -> bool:
    """Whether the Hub answers at all, be it with a refusal: asked once, since its client asks for 20 seconds."""
    import huggingface_hub as hf

    try:
        hf.HfApi().dataset_info(hub.name, revision=hub.revision, timeout=ANSWER)
    except hf.errors.HfHubHTTPError:
        return True
    except Exception:  # of its transport, whose errors have no common base
        return False
    return True


def patiently(download: Callable[[], str], folder: Path) -> str:
    """What a download returns, unless it hangs: the Hub's client waits without end for a server that is mute.

    Args:
        download: run in a thread, which is left behind when it is given up.
        folder: that it fills.

    Raises:
        TimeoutError: `folder` grew by less than `LEAST` bytes in `PATIENCE` seconds.
        Exception: what the download raised.
    """
    ended: queue.Queue[str | BaseException] = queue.Queue()

    def work() -> None:
        try:
            ended.put(download())
        except BaseException as error:
            ended.put(error)

    threading.Thread(target=work, daemon=True).start()
    size, since = _size(folder), time.monotonic()
    while True:
        try:
            result = ended.get(timeout=min(1.0, PATIENCE / 4))
        except queue.Empty:
            now = _size(folder)
            if now - size >= LEAST:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise TimeoutError(f"fewer than {LEAST:,} bytes came in {PATIENCE:g} seconds") from None
            continue
        if isinstance(result, BaseException):
            raise result
        return result


def _size(folder: Path) -> int:
    """Bytes of the files in a folder that changes meanwhile."""
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(where, name)).st_size
    return total


def part_of(root: Path, split: str, hub: Hub, names: tuple[str, ...] = ()) -> Part:
    """The split in `root`: parquet files, else class folders.

    Raises:
        DataError: it is not there, or not as declared.
    """
    for alias in ALIASES.get(split, (split,)):
        if files := _parquet_files(root, alias):
            return parquet_part(split, files, hub.input, hub.label, names)
        if (root / alias).is_dir():
            return folder_part(split, root / alias, names)
    listing = sorted(child.name for child in root.iterdir() if not beside(child))
    raise DataError(
        f"{root} has no split '{split}': expected {split}.parquet, {split}-*.parquet or class folders in {split}/. "
        f"It holds: {listed(listing) or 'nothing'}."
    )


def parquet_files(root: Path, split: str) -> list[Path]:
    """Parquet files of a split, or of what else it may be called."""
    return next(filter(None, (_parquet_files(root, alias) for alias in ALIASES.get(split, (split,)))), [])


def _parquet_files(root: Path, split: str) -> list[Path]:
    """Parquet files of a split of this very name, in a folder and in the folders directly inside it."""
    files = [*root.glob("*.parquet"), *root.glob("*/*.parquet")]
    seen = sorted(file for file in files if not beside(file) and not beside(file.parent))
    return [file for file in seen if belongs(file.relative_to(root), split)]


def belongs(file: Path, split: str) -> bool:
    """Whether a parquet file is of a split: train.parquet, train-00000-of-00003.parquet, train/0.parquet."""
    stem = unpacked(file, TEXT).stem
    return stem == split or stem.startswith((f"{split}-", f"{split}_")) or file.parent.name == split


def check_labels(split: str, labels_N: np.ndarray, classes: int) -> None:
    """Raise DataError naming the first row whose label is not in [0, K)."""
    wrong = np.flatnonzero((labels_N < 0) | (labels_N >= classes))
    if len(wrong):
        raise DataError(
            f"Row {wrong[0]} of split '{split}' has label {labels_N[wrong[0]]}; labels must be from 0 to {classes - 1}."
        )


def digest_of(*parts: Part) -> str:
    """SHA-256 of the splits' files, wherever they lie: "sha256:...".

    Parquet files count by their bytes, in order of their names; images by class folder, name and bytes. Above `LARGE`
    bytes in all, a file counts by its name, its size and, if parquet, its first and last `END` bytes (the footer is
    there); the digest then begins with "sha256-ends:".
    """
    total = sum(file.stat().st_size for part in parts for file in part.files())
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.name}:{len(part)}:{len(part.paths)}".encode())
        for line in _lines(part, hash_whole_files=total <= LARGE):
            digest.update(line.encode())
    return f"{WHOLE if total <= LARGE else ENDS}{digest.hexdigest()}"


def _lines(part: Part, hash_whole_files: bool) -> Iterable[str]:
    for file in part.files():
        name = "/".join(file.parts[-2:]) if part.input is None else "" if hash_whole_files else file.name
        if hash_whole_files:
            yield f"{name}\0{sha256_of(file)}\n"
            continue
        size, ends = file.stat().st_size, b""
        if part.input is not None:
            with file.open("rb") as stream:
                ends = stream.read(END)
                stream.seek(max(0, size - END))
                ends += stream.read(END)
        yield f"{name}\0{size}\0{hashlib.sha256(ends).hexdigest()}\n"
