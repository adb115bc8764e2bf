"""Which class a column's name says: `prob_3`, `proba_class_3`, `logit_dog`, `P(dog)`, `cat_prob`."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from calib_bench.evaluation.refusals import refuse_repeated
from calib_bench.evaluation.vocabulary import SUMMARIES, kind_of, plain

_NUMBER = re.compile(r"(.*?)[_ .-]?(\d{1,7})", re.DOTALL)
_CLASS_WORD = re.compile(r"(?:^|[_ .-])(?:class|cls|label|category|cat|c|k)$")
_IN_BRACKETS = re.compile(r"([a-z_]+)\s*[(\[]\s*(?:y\s*=\s*)?([^()\[\]]+?)\s*(?:\|\s*x\s*)?[)\]]", re.IGNORECASE)
_WORD_WITH_NUMBER = re.compile(r"(.*?)[_ .-]([^\W\d].*\d)")
_DIGITS = re.compile(r"0|[1-9]\d{0,6}")
_IDENTIFIER = re.compile(r"[a-z]+\d{4,}", re.IGNORECASE)
_AFFIXES = (
    re.compile(r"(?:p|pr|prob|probability|softmax|logit|score)[_ .-](.+)", re.IGNORECASE),
    re.compile(r"(.+)[_ .-](?:p|prob|proba|probability|logit|score)", re.IGNORECASE),
)

_OF_ALL = {*SUMMARIES} - {"true"}
_TRUE_BESIDE = {"False": "True", "false": "true", "FALSE": "TRUE"}

KindAndClass = tuple[str, int | str]
"""A kind of prediction, and a class by its number or its name."""


def class_of(name: str, words: Collection[str] = ()) -> KindAndClass | None:
    """The kind and the class that a column's name says; None where it says no class.

    Args:
        words: labels where they are texts: `prob_class3` is then class3, by its name.
    """
    name = name.strip()
    if in_brackets := _IN_BRACKETS.fullmatch(name):
        kind, word = (
            "probabilities" if plain(in_brackets[1]) in ("p", "pr") else kind_of(in_brackets[1]),
            in_brackets[2],
        )
        return (kind, int(word) if is_count(word) else word) if kind else None
    return (_among_labels(name, words) if words else None) or _by_number(name) or _by_word(name)


def _cuts(name: str) -> list[tuple[str, str]]:
    """The two parts of a name at each of its separators."""
    return [(name[: m.start()], name[m.end() :]) for m in re.finditer(r"[_ .-]", name)]


def _among_labels(name: str, words: Collection[str]) -> KindAndClass | None:
    """A kind, then a label; or a kind, then a word with a number at its end, as labels are texts."""
    for kind_word, word in _cuts(name):
        kind = kind_of(kind_word)
        if kind and word in words:
            return kind, word
    match = _WORD_WITH_NUMBER.fullmatch(name)
    kind = kind_of(match[1]) if match else None
    return (kind, match[2]) if match and kind else None


def _by_number(name: str) -> KindAndClass | None:
    """A kind, perhaps a word as `class`, then a number."""
    prefix, number = numbered(name)
    if number is None:
        return None
    kind = kind_of(prefix) or kind_of(_CLASS_WORD.sub("", prefix))
    return (kind, number) if kind else None


def _by_word(name: str) -> KindAndClass | None:
    """A kind, then the class's name, unless that says what is no class, as in `prob_max`."""
    for kind_word, word in reversed(_cuts(name)):
        kind, word = kind_of(kind_word), word.strip()
        if kind and word:
            return None if plain(word) in SUMMARIES else (kind, word)
    return None


def _pairs(name: str) -> list[tuple[str, str]]:
    """The two parts of a name at each of its separators, in both orders."""
    return [pair for cut in _cuts(name.strip()) for pair in (cut, cut[::-1])]


def is_summary(name: str) -> bool:
    """Whether a name says a summary of all classes, as `prob_max` and `max_logit`; `true_prob` may be of a class."""
    return any(kind_of(one) and plain(other) in _OF_ALL for one, other in _pairs(name))


def may_summarize(name: str, kind: str) -> bool:
    """Whether a name says a summary of predictions of this kind, or else a class that is called so, as `top`."""
    return any(kind_of(one) == kind and plain(other) in SUMMARIES for one, other in _pairs(name))


def numbered(name: str) -> tuple[str, int | None]:
    """A name in lower case without the number at its end, and that number; None where it ends in none."""
    match = _NUMBER.fullmatch(name.lower())
    return (match[1], int(match[2])) if match else (name.lower(), None)


def varying_numbers(names: Iterable[str]) -> list[list[int]]:
    """Numbers in which names that are otherwise alike differ: one list a place in the name, a number a name."""
    parts = [re.split(r"(\d+)", name) for name in names]
    if len({tuple(part[::2]) for part in parts}) > 1:
        return []
    columns = [[int(number) for number in column] for column in zip(*(part[1::2] for part in parts), strict=True)]
    return [column for column in columns if len(set(column)) > 1]


def numbers_in(names: Sequence[str]) -> list[int] | None:
    """The numbers of names that are alike but for these, as `out[0]`, `out[10]`; None of others and of long numbers."""
    short = [re.sub(r"(?<=\d)\.0$", "", name.strip()) for name in names]
    varying = varying_numbers(short)
    if len(names) == 1 and (match := re.search(r"(\d+)\W*$", short[0])):
        varying = [[int(match[1])]]
    return varying[0] if len(varying) == 1 and max(varying[0]) < 10**7 else None


def says_class(prefix: str) -> bool:
    """Whether what stands before a number says that it is the number of a class."""
    return prefix == "" or _CLASS_WORD.search(prefix) is not None


def is_count(text: str) -> bool:
    """Whether a text is a whole number without leading zeros."""
    return _DIGITS.fullmatch(text) is not None


def is_identifier(name: str) -> bool:
    """Whether a name is letters and a long number, as WordNet's `n01440764`."""
    return _IDENTIFIER.fullmatch(name) is not None


def label_words(names: Iterable[str], texts: Collection[str]) -> set[str]:
    """Texts that are names of classes: labels, and true where a column is that of false, in letters of one case."""
    ends = {re.split(r"[_ .-]", name.strip())[-1] for name in names}
    return {*texts, *(_TRUE_BESIDE[end] for end in ends & _TRUE_BESIDE.keys())}


def without_affixes(names: Sequence[str]) -> dict[str, str]:
    """Each name's class, without what all the names say beside it: `cat` of `cat_prob` and `dog_prob`, `p_cat`."""
    for affix in _AFFIXES:
        matches = {name: affix.fullmatch(name.strip()) for name in names}
        classes = {name: match[1] for name, match in matches.items() if match}
        if len(classes) == len(names) > 1 and len(set(classes.values())) == len(names):
            return classes
    return {name: name.strip() for name in names}


def by_label(answers: Sequence[Mapping[str, Any]], origin: object) -> dict[str, Any]:
    """What a classification pipeline answers of one row, [{"label": "cat", "score": 0.9}, ...], by class.

    Raises:
        DataError: a class comes twice.
    """
    refuse_repeated([str(one["label"]) for one in answers], origin, "label")
    return {str(one["label"]): one["score"] for one in answers}


MOVED = "columns were put in the order of their numbers"


def by_position(classes: Sequence[str]) -> str:
    """A note that classes are the columns of some names, in their order."""
    return f"classes 0 to {len(classes) - 1} are the columns {shown(classes)}"


def by_column_numbers(first: object, last: object) -> str:
    """A note that the numbers of columns, which do not count from 0, are the names of the classes."""
    return f"classes are named by the numbers of their columns, {first} to {last}"


def shown(names: Sequence[str]) -> str:
    """Names for people: the first ten, and the last of more."""
    return ", ".join(names[:10]) + (f"... {names[-1]}" if len(names) > 10 else "")
