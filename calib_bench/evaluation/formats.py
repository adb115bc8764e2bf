"""Files of predictions to named arrays: npz, npy pairs, tables, safetensors. Nothing read can run code.

Arrays and columns are told by name alone, never by what their numbers look like:
- `logits`, `probabilities`, `log_probabilities`: [N, K], or [N] of class 1 where K = 2; `scores`: [N], a margin.
- `labels`, `target`, `true_label` and others (`vocabulary.LABELS`), or the name that the user gives: integers 0..K-1.
- In a table the classes are columns `logit_0`, `logit_1`... (or `probability_0`...), in any order, one column of lists,
  or, where the kind is given, columns of other names, see `class_columns`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from calib_bench.errors import nearest
from calib_bench.evaluation import Array
from calib_bench.evaluation.archives import LazyArrays, npy, npz, safetensors
from calib_bench.evaluation.class_columns import read_class_columns
from calib_bench.evaluation.class_names import class_of
from calib_bench.evaluation.confidence import KIND as CONFIDENCE_KIND
from calib_bench.evaluation.confidence import confidence_of
from calib_bench.evaluation.dialects import TABLES, not_numbers, table_suffix
from calib_bench.evaluation.hdf5 import SUFFIXES, read_group
from calib_bench.evaluation.labels import refuse_confidence, with_labels
from calib_bench.evaluation.named_arrays import read_named_arrays
from calib_bench.evaluation.refusals import PICKLES, Refusal, converting
from calib_bench.evaluation.slices import slices_of
from calib_bench.evaluation.splits import split_of
from calib_bench.evaluation.text_tables import read_table
from calib_bench.evaluation.vocabulary import KINDS, kind_of, not_used


@dataclass(frozen=True)
class Content:
    """Predictions and labels of one model, read and not yet checked: of a file, a pair of files, or in memory.

    Attributes:
        values: [N, K], [N, 1] or [N].
        labels: [N] or [N, 1].
        kind: one of `vocabulary.KINDS`, by name or as the user says; logits in memory where nothing says so; or
            `confidence.KIND`.
        notes: what a reader should know: what was not used, which columns are the classes.
        classes: the classes' names in order; None where the file gives none.
        by_name: whether labels were read by those names.
        ids: what names the rows, [N] each, by the names of columns or arrays.
        groups: [N], the slice of each row as text, where the user names the column of slices.
        has_calibration: whether the file holds a calibration split too.
    """

    values: Array
    labels: Array
    kind: str = "logits"
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    by_name: bool = False
    ids: Mapping[str, Array] = field(default_factory=dict)
    groups: Array | None = None
    has_calibration: bool = False


def load(
    path: Path,
    part: str = "",
    kind: str | None = None,
    label: str | None = None,
    role: str = "test",
    groups: str | None = None,
) -> Content:
    """Find predictions and labels in a file, or in a pair of npy files.

    Args:
        part: the npy file of labels that goes with an npy file of predictions, or the group of an HDF5 file.
        kind: one of KINDS; goes before what names say.
        label: the name of the labels, or several of them with commas between, of which the file has one; goes before
            the usual names.
        role: which split is meant of a file that holds two, "test" or "calibration".
        groups: the name of the column of slices.

    Raises:
        DataError: the file cannot be read, or names do not tell which is the prediction and which the label.
    """
    suffix = table_suffix(path)
    if suffix == ".npy":
        return _pair(path, part, kind, groups)
    if suffix in SUFFIXES:
        group, arrays = read_group(path, part)
        return _of_split(arrays, f"{path}:{group}".rstrip(":"), kind, label, role, groups)
    if part:
        raise Refusal.NO_PAIR.of(f"{path}:{part}", suffix=suffix)
    if suffix in (".npz", ".safetensors"):
        return _of_split(npz(path) if suffix == ".npz" else safetensors(path), str(path), kind, label, role, groups)
    if suffix in TABLES:
        columns, notes = read_table(path)
        return content_of(columns, str(path), kind, label, notes, is_table=True, groups=groups)
    if suffix in PICKLES:
        raise Refusal.PICKLE.of(path, lines=converting(path))
    raise Refusal.NO_FORMAT.of(path, why=f"ends in {suffix or 'nothing'}")


def _of_split(
    arrays: Mapping[str, Array], origin: str, kind: str | None, label: str | None, role: str, groups: str | None
) -> Content:
    """Predictions and labels among the arrays of one split of a file."""
    split = split_of(arrays, origin, role, label, groups)
    content = content_of(split.arrays, origin, kind, split.label, split.notes, groups=split.groups)
    return replace(content, has_calibration=split.has_calibration)


def content_of(
    arrays: Mapping[str, Array],
    origin: str,
    kind: str | None,
    label: str | None,
    notes: Sequence[str] = (),
    is_table: bool = False,
    groups: str | None = None,
) -> Content:
    """Predictions and labels among arrays, or columns of a table, as their names tell.

    Args:
        origin: what holds them, for errors.
        kind, label: as in `load`.
        notes: of how it was read.
        is_table: whether the arrays are columns, of which several may be one prediction.
        groups: the name of the column of slices, as in `load`.

    Raises:
        DataError: names do not tell which array is the prediction and which the label, or one holds no such numbers.
    """
    slices = None
    if groups is not None:
        slices, arrays = slices_of(arrays, groups, origin)
    alone = confidence_of(arrays, origin, label) if kind is None else None
    if alone is not None:
        content = Content(*alone.pair, CONFIDENCE_KIND, (*notes, *alone.notes), ids=alone.ids)
    else:
        content = _of_classes(arrays, origin, kind, label, notes, is_table)
    return content if slices is None else with_slices(content, slices, origin)


def with_slices(content: Content, slices: Array, origin: str) -> Content:
    """Predictions with the slice of each row.

    Raises:
        DataError: there is another number of them.
    """
    if len(slices) != len(content.values):
        raise Refusal.GROUPS_COUNT.of(origin, number=len(slices), N=len(content.values))
    return replace(content, groups=slices)


def _of_classes(
    arrays: Mapping[str, Array], origin: str, kind: str | None, label: str | None, notes: Sequence[str], is_table: bool
) -> Content:
    """Predictions of classes and labels among arrays, see `content_of`."""
    arrays, label_notes = with_labels(_with_p(arrays), origin, label)
    if is_table:
        refuse_confidence(arrays, origin)
        named = read_class_columns(arrays, origin, kind)
    else:
        named = read_named_arrays(arrays, origin)
    kinds = {name: kind_of(name) for name in named.arrays if name != "labels"}
    name = _prediction(kinds, named.arrays, origin, kind)
    kind_by_name = kinds.pop(name)
    content_kind = kind or kind_by_name or "logits"
    remarks = [*notes, *label_notes, *named.notes, *not_used([*kinds], named.ids)]
    if kind is not None and kind_by_name not in (None, kind):
        remarks.append(f"{name!r} taken as {kind}, as --kind says")
    values = _numbers(named.arrays[name], name, content_kind, origin)
    labels = named.arrays["labels"]
    return Content(values, labels, content_kind, tuple(remarks), named.classes, named.by_name, named.ids)


def _with_p(arrays: Mapping[str, Array]) -> Mapping[str, Array]:
    """The arrays, `p` by the name of probabilities where no other is a prediction, as in lines of p and y."""
    names = {"probability" if name.strip().lower() == "p" else name: name for name in arrays}
    if "probability" in arrays or any(kind_of(name) or class_of(name) for name in arrays):
        return arrays
    return LazyArrays(names, lambda name: arrays[names[name]])


def _prediction(kinds: Mapping[str, str | None], arrays: Iterable[str], origin: str, kind: str | None) -> str:
    """The name of the array that holds the predictions.

    Args:
        kinds: the kind that each array's name says, without the labels.
    """
    candidates = _candidates(kinds, kind)
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        refusal = Refusal.SEVERAL_PREDICTIONS if kind is None else Refusal.SEVERAL_OF_KIND
        raise refusal.of(origin, names=", ".join(map(repr, candidates)), kind=kind)
    accepted = [names[0] for names in KINDS.values()]
    hint = nearest(next(iter(kinds)), accepted) if kinds else f"valid choices: {', '.join(accepted)}"
    raise Refusal.NO_PREDICTION.of(origin, names=", ".join(map(repr, arrays)), hint=hint)


def _candidates(kinds: Mapping[str, str | None], kind: str | None) -> list[str]:
    """Arrays that may be the predictions: of the kind given, else logits, else of any kind, else, with a kind, all."""
    for wanted in [kind, "logits"] if kind else ["logits"]:
        of_kind = [name for name, named_kind in kinds.items() if named_kind == wanted]
        if of_kind:
            return of_kind
    of_any_kind = [name for name, named_kind in kinds.items() if named_kind is not None]
    if of_any_kind or kind is None:
        return of_any_kind
    return list(kinds)


def _numbers(values: Array, name: str, kind: str, origin: str) -> Array:
    """The predictions, if they are numbers."""
    if values.ndim == 1 and (problem := not_numbers(values)):
        raise Refusal.NO_NUMBERS.of(origin, name=name, kind=kind, problem=problem)
    if values.dtype == np.dtype("V2"):
        raise Refusal.RAW_BYTES.of(origin, name=name)
    return values


def _pair(path: Path, labels: str, kind: str | None, groups: str | None) -> Content:
    """Predictions and labels of two npy files."""
    values = npy(path)
    if not labels:
        raise Refusal.NO_NPY_LABELS.of(path, path=path)
    if groups is not None:
        raise Refusal.NO_COLUMNS.of(path, groups=groups)
    kind = kind or _kind_of_file(path)
    if kind is None:
        raise Refusal.NO_NPY_KIND.of(path.name)
    return Content(values, npy(Path(labels)), kind)


def _kind_of_file(path: Path) -> str | None:
    """The kind of prediction that a word of a file's name says."""
    words = re.split(r"[^a-z]+", path.stem.lower())
    if re.search(r"log_?prob", "_".join(words)):
        return "log_probabilities"
    return next((kind for word in words if (kind := kind_of(word))), None)
