"""Files of predictions to named arrays: npz, npy pairs, CSV, TSV, parquet, safetensors. Nothing read can run code.

Arrays and columns are told by name alone, never by what their numbers look like:
- `logits`, `probabilities`, `log_probabilities`: [N, K], or [N] of class 1 where K = 2; `scores`: [N], a margin.
- `labels`, `label`, `targets`, `target`, `y`: integers 0..K-1.
- In a table the classes are columns `logit_0`, `logit_1`... (or `probability_0`...), in any order, one column of lists,
  or, where the kind is given, every column that is not the label, in the order of the file.
"""

from __future__ import annotations

import re
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.errors import DataError, nearest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

KINDS: dict[str, tuple[str, ...]] = {
    "logits": ("logits", "logit"),
    "probabilities": ("probabilities", "probability", "probs", "prob", "probas", "proba", "predict_proba", "y_prob"),
    "log_probabilities": ("log_probabilities", "log_probability", "log_probs", "log_prob", "logprobs", "logp"),
    "scores": ("scores", "score", "margins", "margin", "decision_function"),
}
"""What predictions can be, and the names of each."""
LABELS = ("labels", "label", "targets", "target", "y", "y_true")
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
    """

    values: Array
    labels: Array
    kind: str
    notes: tuple[str, ...] = ()


def load(path: Path, labels: Path | None = None, kind: str | None = None) -> Content:
    """Find predictions and labels in a file, or in a pair of npy files.

    Args:
        labels: the npy file of labels that goes with an npy file of predictions.
        kind: one of KINDS; goes before what names say.

    Raises:
        DataError: the file cannot be read, or what is the prediction and what the label cannot be told by name.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return _pair(path, labels, kind)
    if labels is not None:
        raise DataError(f"{path}:{labels} is not a pair of .npy files: a {suffix} file holds its own labels")
    if suffix == ".npz":
        return choose(_npz(path), str(path), kind)
    if suffix == ".safetensors":
        return choose(_safetensors(path), str(path), kind)
    if suffix in (".csv", ".tsv", ".parquet"):
        from calib_bench.prediction_tables import read_table, stack

        columns = read_table(path)
        arrays, notes = stack(columns, str(path), kind)
        return choose(arrays, str(path), kind, notes)
    why = "may hold pickled code, which is never run here" if suffix in PICKLES else f"ends in {suffix or 'nothing'}"
    raise DataError(
        f"{path} {why}: predictions are read from .npz, .npy:.npy, .csv, .tsv, .parquet and .safetensors; "
        f"from Python, {SAVE} makes one"
    )


def choose(arrays: Mapping[str, Array], origin: str, kind: str | None, notes: Iterable[str] = ()) -> Content:
    """Which array is the prediction and which the label, by their names."""
    found = {name: kind_of(name) for name in arrays}
    labels = [name for name in arrays if name.strip().lower() in LABELS]
    values = [name for name, of in found.items() if of is not None and name not in labels]
    listed = ", ".join(map(repr, arrays)) or "nothing"
    if len(labels) > 1:
        raise DataError(f"{origin} holds labels twice, as {' and '.join(map(repr, labels))}: keep one of them")
    if not labels:
        rest = [name for name in arrays if name not in values]
        hint = "; ".join(nearest(name, LABELS) for name in rest[:1]) or f"call them one of {', '.join(LABELS)}"
        raise DataError(f"{origin} holds no labels: it holds {listed}; {hint}")
    if kind is not None and (named := [name for name in values if found[name] == kind]):
        chosen = named
    elif values:
        chosen = [name for name in values if found[name] == "logits"] or values
    else:
        chosen = [name for name in arrays if name not in labels] if kind else []
    if len(chosen) != 1:
        accepted = [names[0] for names in KINDS.values()]
        if len(chosen) > 1:
            problem = f"more than one array that could be the predictions ({', '.join(map(repr, chosen))}); keep one"
        else:
            rest = [name for name in arrays if name not in labels]
            hint = nearest(rest[0], accepted) if rest else f"valid choices: {', '.join(accepted)}"
            problem = f"no predictions by a name that says what they are (it holds {listed}); {hint}"
        raise DataError(f"{origin} holds {problem}, or, for a single array of another name, say what it is with --kind")
    name = chosen[0]
    aside = [other for other in arrays if other != name and other not in labels]
    said = [*notes, *([f"not used: {', '.join(aside)}"] if aside else [])]
    if kind is not None and found[name] not in (None, kind):
        said.append(f"{name!r} taken as {kind}, as --kind says")
    return Content(arrays[name], arrays[labels[0]], kind or found[name] or "", tuple(said))


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


def _npz(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds one array, not an archive of them: save it with {SAVE}")
            once(file.files, path, "array")
            return {name: file[name] for name in file.files}
    except UNREADABLE as error:
        raise unreadable(path, error) from None


def _npy(path: Path) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except UNREADABLE as error:
        raise unreadable(path, error) from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive, not a single array: rename it to .npz")
    return array


def unreadable(path: Path, error: BaseException) -> DataError:
    """What to tell of a file that a library could not read."""
    if not path.is_file():
        return DataError(f"{path} {'is a folder, not a file' if path.is_dir() else 'does not exist'}")
    if path.stat().st_size == 0:
        return DataError(f"{path} is empty")
    if "pickle" in str(error).lower() or "Object arrays" in str(error):
        return DataError(
            f"{path} holds pickled objects, which could run code and are never read: save plain number arrays, {SAVE}"
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
    found = named or next((of for word in words if (of := kind_of(word))), None)
    if kind is None and found is None:
        raise DataError(
            f"the name {path.name} does not say what the numbers are: give --kind logits, probabilities, "
            f"log_probabilities or scores, or call the file for example test_logits.npy"
        )
    return Content(values, _npy(labels), kind or found or "")


def _safetensors(path: Path) -> dict[str, Array]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except (SafetensorError, *UNREADABLE) as error:
        raise unreadable(path, error) from None
    return {
        name: (t.float() if t.is_floating_point() and t.dtype.itemsize < 4 else t).numpy()
        for name, t in tensors.items()
    }
