"""Which columns of a table of predictions are the classes, in which order, and which name the rows.

Names decide. Numbered columns (`logit_0`, `prob_class_3`, `class_10`) are put in the order of their numbers, named ones
(`cat`, `prob_dog`) keep their names, by which labels are read and other files matched. A column that is no class by its
name (`sample_id`, `fold`, `pred`) never becomes one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.errors import DataError, nearest
from calib_bench.evaluation.dialects import no_numbers
from calib_bench.evaluation.formats import kind_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

ROW_IDS = (
    "id", "ids", "idx", "index", "indices", "row", "row_id", "row_index", "sample", "sample_id", "sample_index",
    "sample_idx", "example", "example_id", "example_index", "image_id", "image_index", "image_name", "image_path",
    "image", "img", "img_id", "img_path", "text_id", "doc_id", "uid", "uuid", "guid", "qid", "key", "name", "path",
    "paths", "filepath", "file_path", "file", "filename", "file_name", "files", "filenames", "unnamed:_0",
    "unnamed:_0_1", "level_0", "", "__index_level_0__",
)  # fmt: skip
"""Names of columns that name the rows."""
NO_CLASS = (
    "fold", "folds", "split", "set", "subset", "pred", "preds", "prediction", "predictions", "predicted", "y_pred",
    "y_hat", "yhat", "pred_label", "predicted_label", "predicted_class", "pred_class", "top1", "argmax", "confidence",
    "conf", "max_prob", "max_probability", "msp", "entropy", "loss", "nll", "margin", "uncertainty", "variance",
    "energy", "age", "year", "lr", "learning_rate", "duration", "latency",
    "correct", "is_correct", "hit", "acc", "accuracy", "weight", "weights", "sample_weight", "seed",
    "epoch", "step", "batch", "run", "trial", "model", "temperature", "beta", "group", "timestamp", "time", "date",
    "length", "rank",
)  # fmt: skip
"""Names of columns beside the classes that say something else of a row."""
CLASS_NAMES = ("classes", "class_names", "classnames", "classes_", "label_names", "categories", "target_names")
"""Names of arrays that hold the classes' names, in the order of the columns of the predictions."""
SUMMARIES = (
    "max", "min", "top", "top1", "true", "label", "pred", "predicted", "target", "mean", "std", "margin", "correct",
)  # fmt: skip
"""What a column `prob_max` says after its kind where it is no class."""


@dataclass(frozen=True)
class Stacked:
    """The columns of a file, those of classes side by side.

    Attributes:
        arrays: `labels`, and the predictions by a name that says their kind.
        notes: what a reader should know of the choice.
        classes: the classes' names in order; None where they only have numbers.
        by_name: whether labels were read by the classes' names, so that the order of columns says nothing.
        ids: columns that name the rows, [N] each, by their names.
    """

    arrays: Mapping[str, Array]
    notes: list[str]
    classes: tuple[str, ...] | None = None
    by_name: bool = False
    ids: dict[str, Array] = field(default_factory=dict)


@dataclass
class _Family:
    """Columns of one kind: by the number of their class, or by its name."""

    numbered: dict[int, str] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)

    def add(self, key: int | str, column: str, origin: str) -> None:
        members: dict[Any, str] = self.numbered if isinstance(key, int) else self.named
        if (other := members.setdefault(key, column)) != column:
            raise DataError(f"{origin}: columns {other!r} and {column!r} are the same class: remove one")


def stack(columns: Mapping[str, Array], origin: str, kind: str | None) -> Stacked:
    """Columns of classes as one array of their kind; the others by what their names say.

    Args:
        columns: [N] or, a column of lists, [N, K], by name; labels are `labels`. Texts are arrays of objects.

    Raises:
        DataError: a class is missing, or what the class columns are cannot be told.
    """
    labels = columns.get("labels")
    texts = set(map(str, labels.tolist())) if labels is not None and labels.dtype.kind in "OU" else set()
    free = [name for name in columns if name != "labels"]
    ids = {name: columns[name] for name in free if plain(name) in ROW_IDS and name not in texts}
    ids = {name: values for name, values in ids.items() if values.ndim == 1 and not _is_note(values)}
    array_names = [name for name in free if kind_of(name)]
    aside = [n for n in free if n not in texts and n not in array_names and plain(n) in (*ROW_IDS, *NO_CLASS)]
    families: dict[str, _Family] = {}
    rest = []
    words = label_words(free, texts)
    for name in free:
        if name in aside or name in array_names:
            continue
        kind_and_class = class_of(name, words)
        if kind_and_class is None:
            rest.append(name)
        else:
            families.setdefault(kind_and_class[0], _Family()).add(kind_and_class[1], name, origin)
    free_classes = [name for name in rest if columns[name].dtype.kind == "f"] if kind not in (None, "scores") else []
    if (
        len(free_classes) > 1
        and not families
        and array_names
        and all(kind_of(name) == "scores" for name in array_names)
    ):
        if doubtful := [name for name in array_names if plain(name) not in NO_CLASS]:
            raise DataError(
                f"{origin}: the {kind} may be {doubtful[0]!r} alone or the columns like {free_classes[0]!r}: remove "
                f"what is no prediction"
            )
        array_names, aside = [], [*aside, *array_names]
    if any(of != "scores" for of in (*families, *map(kind_of, array_names))):
        asides = [name for name in array_names if kind_of(name) == "scores" and plain(name) in NO_CLASS]
        array_names, aside = [name for name in array_names if name not in asides], [*aside, *asides]
    if not families and not array_names:
        if kind is None:
            raise DataError(_unknown(rest or free, origin))
        families, rest = {kind: _free_family(rest, columns, origin, texts)}, [n for n in rest if n in aside]
        rest = [n for n in free if n not in aside and n not in _members(families[kind])]
        if not _members(families[kind]):
            return Stacked(columns, [])
    arrays = {name: columns[name] for name in array_names}
    notes: list[str] = []
    classes: tuple[str, ...] | None = None
    by_name = numbers = False
    for of, family in families.items():
        columns_of_kind = _members(family)
        if twice := [name for name in array_names if kind_of(name) == of]:
            raise DataError(f"{origin} has a column {twice[0]!r} beside {columns_of_kind[0]!r}: keep one form")
        arrays[of], names, more = _side_by_side(family, columns, of, origin)
        numbers = numbers or (bool(family.numbered) and names is not None)
        if classes is not None and names is not None and set(names) != set(classes):
            raise DataError(f"{origin}: the classes are {shown(classes)} in some columns and {shown(names)} in others")
        if classes is not None and names is not None and names != classes and labels is not None and not texts:
            raise DataError(
                f"{origin}: the classes are {shown(classes)} in some columns and {shown(names)}, in another order, in "
                f"others, and labels are numbers, which may follow either: give labels by name, or one order"
            )
        if classes is not None and names is not None:
            arrays[of], names = arrays[of][:, [names.index(name) for name in classes]], classes
        classes, notes = names or classes, notes + more
    if labels is not None:
        arrays["labels"], by_name = positions(labels, classes, origin, numbers)
        if classes is not None and not by_name:
            refuse_no_first(classes, origin)
    unused = [name for name in free if name in rest or name in aside]
    return Stacked(arrays, notes + ([f"not used: {', '.join(unused)}"] if unused else []), classes, by_name, ids)


def named(arrays: Mapping[str, Array], origin: str) -> Stacked:
    """Whole arrays of a file, and what they say of classes and rows.

    Raises:
        DataError: the classes' names do not fit the predictions, or labels are none of them.
    """
    ids: dict[str, Array] = {}
    classes: Array | None = None
    for name in arrays:
        if name != "labels" and not kind_of(name) and plain(name) in (*ROW_IDS, *CLASS_NAMES):
            try:
                values = arrays[name]
            except DataError:  # objects, which are never read: as good as not there
                continue
            if plain(name) in CLASS_NAMES:
                classes = values
            elif values.ndim == 1:
                ids[name] = values
    if classes is None or classes.ndim != 1:
        return Stacked(arrays, [], ids=ids)
    kept = {name: arrays[name] for name in arrays if name == "labels" or kind_of(name)}
    K = next((values.shape[1] for name, values in kept.items() if name != "labels" and values.ndim == 2), 2)
    names = tuple(str(one) for one in classes.tolist())
    if len(names) != K or len(set(names)) < K:
        raise DataError(f"{origin} names {len(set(names))} classes, and its predictions have {K}: one name a class")
    if classes.dtype.kind in "iu" and classes.tolist() == list(range(K)):
        return Stacked(kept, [], ids=ids)
    by_name = False
    if "labels" in kept:
        kept["labels"], by_name = positions(kept["labels"], names, origin, numbers=classes.dtype.kind in "iu")
    return Stacked(kept, [f"the file names the classes: {shown(names)}"], names, by_name, ids)


def positions(labels: Array, classes: tuple[str, ...] | None, origin: str, numbers: bool = False) -> tuple[Array, bool]:
    """Labels as positions among the classes, and whether they were read by name; numbers are positions already.

    Args:
        numbers: the names are numbers, and numeric labels are such names.

    Raises:
        DataError: a label is the name of no class.
    """
    texts = labels.dtype.kind in "OU" and not _is_note(labels)
    if classes is None and texts and labels.ndim == 1 and all(_DIGITS.fullmatch(str(one)) for one in labels.tolist()):
        return labels.astype(np.int64), False
    if classes is not None and labels.dtype.kind == "b" and sorted(map(plain, classes)) == ["false", "true"]:
        return np.where(labels, *([1, 0] if plain(classes[1]) == "true" else [0, 1])), True
    if classes is None or labels.ndim != 1 or not (texts or numbers):
        return labels, False
    place = {name: k for k, name in enumerate(classes)}
    words = [str(one).strip() if texts else f"{one:.10g}" for one in labels.tolist()]
    strange = next((word for word in words if word not in place), None)
    if strange is not None:
        raise DataError(
            f"{origin}: the label {strange!r} is the name of no class ({shown(classes)}): {nearest(strange, classes)}"
        )
    return np.array([place[word] for word in words]), True


def label_words(names: Iterable[str], texts: Collection[str]) -> set[str]:
    """Texts that are names of classes: labels, and True or true where a column is that of false."""
    pairs = {"True" if name.endswith("False") else "true" for name in names if re.search(r"[_ .-][Ff]alse$", name)}
    return {*texts, *pairs}


def plain(name: str) -> str:
    """A name in lower case with underscores between words: `Image ID` and `image-id` are the same."""
    return re.sub(r"[\s.-]+", "_", name.strip().lower())


def shown(names: Sequence[str]) -> str:
    """Names for people, not too many of them."""
    return ", ".join(names[:10]) + (f"... {names[-1]}" if len(names) > 10 else "")


def _is_note(values: Array) -> bool:
    """Whether an array stands for a column that could not be read as numbers, and says why."""
    return values.dtype.kind == "U" and len(set(values.ravel()[:1000].tolist())) == 1 and " " in str(values.flat[0])


_NUMBER = re.compile(r"(.*?)[_ .-]?(\d{1,7})", re.DOTALL)
_CLASS_WORD = re.compile(r"(?:^|[_ .-])(?:class|cls|label|category|cat|c|k)$")
_IN_BRACKETS = re.compile(r"p(?:r|rob)?\s*\(\s*(?:y\s*=\s*)?([^()]+?)\s*(?:\|\s*x\s*)?\)", re.IGNORECASE)
_DIGITS = re.compile(r"0|[1-9]\d{0,6}")
_IDENTIFIER = re.compile(r"[a-z]+\d{4,}", re.IGNORECASE)


def class_of(name: str, words: Collection[str] = ()) -> tuple[str, int | str] | None:
    """The kind and the class that a column's name says: `prob_3`, `proba_class_3`, `logit_dog`, `P(dog)`.

    Args:
        words: labels where they are texts: `prob_class3` is then class3, by its name.
    """
    text = name.strip().lower()
    if inside := _IN_BRACKETS.fullmatch(name.strip()):
        return "probabilities", int(inside[1]) if _DIGITS.fullmatch(inside[1]) else inside[1]
    for cut in [m.start() for m in re.finditer(r"[_ .-]", text)] if words else ():
        if (of := kind_of(text[:cut])) and name.strip()[cut + 1 :] in words:
            return of, name.strip()[cut + 1 :]
    if words and (match := re.fullmatch(r"(.*?)[_ .-]([^\W\d].*\d)", name.strip())) and (of := kind_of(match[1])):
        return of, match[2]
    match = _NUMBER.fullmatch(text)
    if match and (of := kind_of(match[1]) or kind_of(_CLASS_WORD.sub("", match[1]))):
        return of, int(match[2])
    for cut in reversed([m.start() for m in re.finditer(r"[_ .-]", text)]):
        of, word = kind_of(text[:cut]), name.strip()[cut + 1 :]
        if of and word:
            return None if plain(word) in SUMMARIES else (of, word)
    return None


_AFFIX = re.compile(
    r"(?:p|pr|prob|probability|softmax|logit|score)[_ .-](?P<a>.+)|"
    r"(?P<b>.+)[_ .-](?:p|prob|proba|probability|logit|score)",
    re.IGNORECASE,
)


def bare(names: Sequence[str]) -> dict[str, str]:
    """Each name's class, without what all the names say beside it: `cat` of `cat_prob` and `dog_prob`, `p_cat`."""
    stripped = {name: name.strip() for name in names}
    for side in ("a", "b"):
        inner = {name: match[side] for name in names if (match := _AFFIX.fullmatch(name.strip())) and match[side]}
        if len(inner) == len(names) > 1 and len(set(inner.values())) == len(names):
            return inner
    return stripped


def _free_family(names: Sequence[str], columns: Mapping[str, Array], origin: str, words: Collection[str]) -> _Family:
    """The classes among columns whose names say no kind: those of one beginning with numbers, or else all.

    Args:
        words: labels where they are texts: where all are names of columns, the columns are classes by their names.
    """
    short = bare(names)
    if (words and set(words) <= set(short.values())) or all(map(_IDENTIFIER.fullmatch, short.values())):
        _refuse_whole_numbers(names, columns, origin, words)
        return _Family(named={short[name]: name for name in names})
    numbered: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _NUMBER.fullmatch(short[name].lower()):
            if other := numbered.setdefault(match[1], {}).get(int(match[2])):
                raise DataError(f"{origin}: columns {other!r} and {name!r} are the same class: remove one")
            numbered[match[1]][int(match[2])] = name
    several = {prefix: members for prefix, members in numbered.items() if len(members) > 1}
    classes = {p: m for p, m in several.items() if p == "" or _CLASS_WORD.search(p)} or several
    if len(classes) > 1:
        listed = " and ".join(repr(next(iter(members.values()))) for members in classes.values())
        raise DataError(f"{origin}: the classes may be the columns like {listed}: keep those of the classes")
    if classes:
        (prefix, members), *_ = classes.items()
        others = [n for n in names if n not in members.values() and columns[n].dtype.kind == "f"]
        if others and prefix and not _CLASS_WORD.search(prefix):
            raise DataError(
                f"{origin}: {others[0]!r} stands beside columns with numbers, {next(iter(members.values()))!r}: if it "
                f"is a class, name the class columns logit_0, logit_1...; if it is none, remove it"
            )
        return _Family(numbered=members)
    _refuse_whole_numbers(names, columns, origin, words)
    return _Family(named={short[name]: name for name in names})


def _refuse_whole_numbers(
    names: Sequence[str], columns: Mapping[str, Array], origin: str, words: Collection[str]
) -> None:
    """Raises DataError where a column of whole numbers that is no label stands among columns that hold others."""
    whole_numbers = [n for n in names if columns[n].dtype.kind in "iu" and not set(np.unique(columns[n])) <= {0, 1}]
    if all(name.strip() in words for name in whole_numbers):
        return
    whole_numbers = [name for name in whole_numbers if name.strip() not in words]
    if 0 < len(whole_numbers) < len(names):
        raise DataError(
            f"{origin}: column {whole_numbers[0]!r} holds whole numbers and the others do not: if it is no class, "
            f"remove it; if it is one, name the class columns logit_0, logit_1..."
        )


_YES = ("yes", "y", "true", "t", "pos", "positive")
_NO = ("no", "n", "false", "f", "neg", "negative")


def refuse_no_first(classes: Sequence[str], origin: str) -> None:
    """Raises DataError where labels are numbers and class 0 would be "yes", class 1 "no", by the order of columns."""
    one, other = (plain(name) for name in (*classes, "", "")[:2])
    denied = {f"{no}_{one}" for no in ("no", "not", "non")} | {f"{no}{one}" for no in ("non", "not")}
    if len(classes) == 2 and (other in denied or (one in _YES and other in _NO)):
        raise DataError(
            f"{origin}: the columns are {shown(classes)}, in this order, and labels are numbers, of which 1 usually "
            f"means {classes[0]!r}: give labels by name, or call the columns by the labels' numbers, prob_0, prob_1"
        )


def _members(family: _Family) -> list[str]:
    return [*family.numbered.values(), *family.named.values()]


def _unknown(names: Sequence[str], origin: str) -> str:
    listed = ", ".join(map(repr, names[:4])) + "..." * (len(names) > 4)
    return (
        f"{origin}: what its columns {listed} are cannot be told: name them logit_0, logit_1... or probability_0..., "
        f"or say --kind logits (or probabilities)"
    )


def _side_by_side(
    family: _Family, columns: Mapping[str, Array], kind: str, origin: str
) -> tuple[Array, tuple[str, ...] | None, list[str]]:
    """Values [N, K] (of one column [N], for class 1), names of classes and notes."""
    if family.numbered and family.named:
        raise DataError(
            f"{origin}: some class columns have numbers and some names ({next(iter(family.numbered.values()))!r}, "
            f"{next(iter(family.named.values()))!r}): remove what is no class"
        )
    members = _members(family)
    if len(members) == 1:
        return _single(family, columns, kind, origin)
    names: tuple[str, ...] | None = None
    notes: list[str] = []
    if family.numbered:
        numbers = sorted(family.numbered)
        if _named_by_numbers(numbers, kind, columns.get("labels")):
            names = tuple(map(str, numbers))
            notes = [f"classes are named by the numbers of their columns, {numbers[0]} to {numbers[-1]}"]
        else:
            numbers = list(_whole(family.numbered, origin))
        ordered = [family.numbered[k] for k in numbers]
        if ordered != members:
            notes.append("columns were put in the order of their numbers")
    else:
        ordered, names = members, tuple(family.named)
        notes = [f"classes 0 to {len(names) - 1} are the columns {shown(names)}"]
    return np.stack([_numbers(columns[name], name, origin) for name in ordered], 1), names, notes


def _named_by_numbers(numbers: Sequence[int], kind: str, labels: Array | None) -> bool:
    """Whether numbers of columns that do not count from 0 are the labels: 1 to K, or any if no class can be missing."""
    if labels is None or labels.dtype.kind not in "iuf" or labels.ndim != 1:
        return False
    K = len(numbers)
    counted = list(numbers) == list(range(1, K + 1))
    closed = kind in ("probabilities", "log_probabilities") and list(numbers) != list(range(K))  # they sum to one
    return (counted or closed) and set(np.unique(labels).tolist()) <= set(numbers)


def _single(
    family: _Family, columns: Mapping[str, Array], kind: str, origin: str
) -> tuple[Array, tuple[str, ...] | None, list[str]]:
    """One column for two classes, as what it says of class 1."""
    name = _members(family)[0]
    number = next(iter(family.numbered), None)
    if number not in (0, 1):
        raise DataError(
            f"{origin}: {name!r} is the only class column: give one a class, or, for two classes, that of class 1"
        )
    values = _numbers(columns[name], name, origin)
    if number == 1:
        return values, None, []
    if kind == "log_probabilities":
        return np.stack([values, np.log(-np.expm1(np.minimum(values, 0)))], 1), None, [f"{name!r} is that of class 0"]
    return 1 - values if kind == "probabilities" else -values, None, [f"{name!r} is that of class 0"]


def _whole(members: Mapping[int, str], origin: str) -> range:
    for k in range(len(members)):
        if k not in members:
            first = next(iter(members.values()))
            raise DataError(
                f"{origin}: class {k} has no column beside {first!r}: {len(members)} classes are numbered 0 to "
                f"{len(members) - 1}"
            )
    return range(len(members))


def _numbers(values: Array, name: str, origin: str) -> Array:
    if values.dtype.kind not in "fiub" or values.ndim != 1:
        what = no_numbers(values) if values.dtype.kind == "O" else "is not numbers"
        what = values.flat[0] if values.dtype.kind == "U" and values.size else what
        raise DataError(f"{origin}: column {name!r} {what}, and the column of a class holds one number a row")
    return values.astype(np.float64)
