"""Files of predictions to named arrays: npz, npy pairs, tables, safetensors. Nothing read can run code.

Arrays and columns are told by name alone, never by what their numbers look like:
- `logits`, `probabilities`, `log_probabilities`: [N, K], or [N] of class 1 where K = 2; `scores`: [N], a margin.
- `labels`, `target`, `true_label` and others (`LABELS`), or what the user names: integers 0..K-1.
- In a table the classes are columns `logit_0`, `logit_1`... (or `probability_0`...), in any order, one column of lists,
  or, where the kind is given, columns of other names, see `prediction_classes`.
"""

from __future__ import annotations

import re
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.errors import DataError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from calib_bench.evaluation.class_names import Stacked

    Array = NDArray[Any]

KINDS: dict[str, tuple[str, ...]] = {
    "logits": ("logits", "logit"),
    "probabilities": ("probabilities", "probability", "probs", "prob", "probas", "proba", "predict_proba", "y_prob"),
    "log_probabilities": ("log_probabilities", "log_probability", "log_probs", "log_prob", "logprobs", "logp"),
    "scores": ("scores", "score", "margins", "margin", "decision_function"),
}
"""What predictions can be, and the names of each."""
LABELS = (
    "labels", "label", "targets", "target", "y", "y_true", "true_label", "true_labels", "true_class", "ground_truth",
    "gt", "gt_label", "gold_label", "expected", "expected_label", "actual", "actual_label", "label_id", "label_ids",
    "label_idx", "labels_true", "y_test",
)  # fmt: skip
"""Names of labels; capitals, blanks, hyphens and underscores in a name make no difference."""
SAVE = "numpy.savez('predictions.npz', logits=logits, labels=labels)"
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".bin")


@dataclass(frozen=True)
class Content:
    """What was found in one file (or pair of files).

    Attributes:
        values: [N, K], [N, 1] or [N], as stored.
        labels: as stored.
        kind: one of KINDS, by name or as given.
        notes: what a reader should know of the choice: what was left aside, which columns are the classes.
        classes: the classes' names in order; None where the file gives none.
        by_name: whether labels were read by those names.
        ids: what names the rows, [N] each, by the names of columns or arrays.
    """

    values: Array
    labels: Array
    kind: str
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    by_name: bool = False
    ids: Mapping[str, Array] = field(default_factory=dict)


def load(path: Path, labels: Path | None = None, kind: str | None = None, label: str | None = None) -> Content:
    """Find predictions and labels in a file, or in a pair of npy files.

    Args:
        labels: the npy file of labels that goes with an npy file of predictions.
        kind: one of KINDS; goes before what names say.
        label: the name of the labels, or several of them with commas between, of which the file has one; goes before
            the usual names.

    Raises:
        DataError: the file cannot be read, or what is the prediction and what the label cannot be told by name.
    """
    from calib_bench.evaluation.class_names import named, stack
    from calib_bench.evaluation.dialects import TABLES, table_suffix
    from calib_bench.evaluation.labels import refuse_confidence, with_labels

    suffix = table_suffix(path)
    if suffix == ".npy":
        return _pair(path, labels, kind)
    if labels is not None:
        raise DataError(f"{path}:{labels} is not a pair of .npy files: a {suffix} file holds its own labels")
    if suffix in (".npz", ".safetensors"):
        members = _npz(path) if suffix == ".npz" else _safetensors(path)
        arrays, label_notes = with_labels(members, str(path), label)
        return _chosen(named(arrays, str(path)), str(path), kind, label_notes)
    if suffix in TABLES:
        from calib_bench.evaluation.text_tables import read_table

        columns, read_notes = read_table(path)
        arrays, label_notes = with_labels(columns, str(path), label)
        refuse_confidence(arrays, str(path))
        return _chosen(stack(arrays, str(path), kind), str(path), kind, [*read_notes, *label_notes])
    why = "may hold pickled code, which is never run here" if suffix in PICKLES else f"ends in {suffix or 'nothing'}"
    raise DataError(
        f"{path} {why}: predictions are read from .npz, .npy:.npy, .csv, .tsv, .jsonl (also .gz, .bz2, .xz, .zst, "
        f".zip), .parquet, .arrow, .feather and .safetensors; from Python, {SAVE} makes one"
    )


def _chosen(stacked: Stacked, origin: str, kind: str | None, notes: list[str]) -> Content:
    content = choose(stacked.arrays, origin, kind, [*notes, *stacked.notes])
    return replace(content, classes=stacked.classes, by_name=stacked.by_name, ids=stacked.ids)


def choose(arrays: Mapping[str, Array], origin: str, kind: str | None, notes: Iterable[str] = ()) -> Content:
    """Which array is the prediction, by their names; that of the labels is `labels`, see
    `prediction_labels.with_labels`."""
    kinds = {name: kind_of(name) for name in arrays if name != "labels"}
    values = [name for name, of in kinds.items() if of is not None]
    if kind is not None and (named := [name for name in values if kinds[name] == kind]):
        chosen = named
    elif values:
        chosen = [name for name in values if kinds[name] == "logits"] or values
    else:
        chosen = list(kinds) if kind else []
    if len(chosen) != 1:
        accepted = [names[0] for names in KINDS.values()]
        if len(chosen) > 1:
            problem = f"more than one array that could be the predictions ({', '.join(map(repr, chosen))}); keep one"
        else:
            hint = nearest(next(iter(kinds)), accepted) if kinds else f"valid choices: {', '.join(accepted)}"
            listed = ", ".join(map(repr, arrays))
            problem = f"no predictions by a name that says what they are (it holds {listed}); {hint}"
        raise DataError(f"{origin} holds {problem}, or, for a single array of another name, say what it is with --kind")
    name = chosen[0]
    aside = [other for other in kinds if other != name]
    remarks = [*notes, *([f"not used: {', '.join(aside)}"] if aside else [])]
    if kind is not None and kinds[name] not in (None, kind):
        remarks.append(f"{name!r} taken as {kind}, as --kind says")
    content = arrays[name]
    if content.dtype.kind == "O":
        from calib_bench.evaluation.dialects import no_numbers

        content = np.full(len(content), no_numbers(content))
    if content.dtype.kind == "U" and content.ndim == 1 and len(content):
        raise DataError(
            f"{origin}: {name!r}, the {kind or kinds[name]}, {content[0]}, and must hold numbers: a list of one length "
            f"a row, as parquet keeps it, or a column a class, {name}_0, {name}_1..."
        )
    if content.dtype == np.dtype("V2"):
        raise DataError(
            f"{origin}: {name!r} holds raw bytes, two a number, as numpy saves bfloat16: save it as float32"
        )
    return Content(content, arrays["labels"], kind or kinds[name] or "", tuple(remarks))


def kind_of(name: str) -> str | None:
    """Which of KINDS a name says, if any."""
    plain = name.strip().lower()
    return next((kind for kind, names in KINDS.items() if plain in names), None)


# arrays


UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError,
    tokenize.TokenError, SyntaxError, TypeError, MemoryError, OverflowError, RuntimeError,
)  # fmt: skip
"""What numpy and zipfile raise for files that are truncated, foreign, encrypted or mangled."""


def once(names: Iterable[str], path: Path, what: str) -> None:
    """Raises DataError when a name comes twice: which of the two is meant cannot be told."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(f"{path} has more than one {what} called {twice[0]!r}: rename or remove one")


class _Members(Mapping[str, "Array"]):
    """The arrays of a file by name, each read when it is asked for: what is not used is not read."""

    def __init__(self, names: Iterable[str], read: Callable[[str], Array]) -> None:
        self.names, self.read = list(names), read

    def __getitem__(self, name: str) -> Array:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _npz(path: Path) -> Mapping[str, Array]:
    def member(name: str) -> Array:
        try:
            with np.load(path, allow_pickle=False) as file:
                return file[name]
        except UNREADABLE as error:
            raise unreadable(path, error, f"the array {name!r}") from None

    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds one array, not an archive of them: save it with {SAVE}")
            names = list(file.files)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    once(names, path, "array")
    return _Members(names, member)


def _npy(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive, not a single array: rename it to .npz")
    return array


def unreadable(path: Path, error: BaseException, part: str = "") -> DataError:
    """What to tell of a file, or a part of it, that a library could not read."""
    if not path.is_file():
        return DataError(f"{path} {'is a folder, not a file' if path.is_dir() else 'does not exist'}")
    if path.stat().st_size == 0:
        return DataError(f"{path} is empty")
    if "pickle" in str(error).lower() or "Object arrays" in str(error):
        return DataError(
            f"{path}{f': {part}' if part else ''} holds pickled objects, which could run code and are never read: save "
            f"plain number arrays, {SAVE}"
        )
    text = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{path} cannot be read as {path.suffix[1:]}: it is truncated, damaged or foreign ({text[:200]})")


def _pair(path: Path, labels: Path | None, kind: str | None) -> Content:
    values = _npy(path)
    if labels is None:
        raise DataError(f"{path} holds one array: give its labels too, as {path}:labels.npy")
    words = re.split(r"[^a-z]+", path.stem.lower())
    joined = "_".join(words)
    named = "log_probabilities" if re.search(r"log_?prob", joined) else None
    named_kind = named or next((of for word in words if (of := kind_of(word))), None)
    if kind is None and named_kind is None:
        raise DataError(
            f"the name {path.name} does not say what the numbers are: give --kind logits, probabilities, "
            f"log_probabilities or scores, or call the file for example test_logits.npy"
        )
    return Content(values, _npy(labels), kind or named_kind or "")


def _safetensors(path: Path) -> Mapping[str, Array]:
    from safetensors import SafetensorError, safe_open

    def member(name: str) -> Array:
        try:
            with safe_open(path, "pt") as file:
                return from_torch(file.get_tensor(name))
        except (SafetensorError, *UNREADABLE) as error:
            raise unreadable(path, error) from None

    try:
        with safe_open(path, "pt") as file:
            return _Members(file.keys(), member)
    except (SafetensorError, *UNREADABLE) as error:
        raise unreadable(path, error) from None


def from_torch(tensor: Tensor) -> Array:
    """A tensor on the CPU as an array; where numpy lacks its type, as bfloat16, the same numbers in float32."""
    import torch

    if not tensor.is_floating_point() or tensor.dtype in (torch.float16, torch.float32, torch.float64):
        return tensor.numpy()
    return tensor.float().numpy()
