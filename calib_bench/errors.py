"""Errors meant for people: one paragraph that says what was wrong, what was expected and the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


class UserError(Exception):
    """Something the user can put right. The command line prints the message and leaves with exit code 2."""


class SettingsError(UserError):
    """A word of the command line is unknown, malformed or contradicts another."""


class DataError(UserError):
    """Data is missing, gated, corrupt or not what the task declares."""


class StoreError(UserError):
    """The run folder cannot be read or written, or holds something that is not whole."""


class ResourceError(UserError):
    """The machine ran out of something: memory, disk, workers."""


class DiskFull(ResourceError):
    """Nothing more can be written."""


class OutOfMemory(ResourceError):
    """One trial does not fit in memory; others may."""

    memory = True


def counted(number: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "trial"), counted(1200, "trial")
    ('1 trial', '1,200 trials')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nearest(word: str, choices: Iterable[str], aliases: Mapping[str, str] = {}) -> str:
    """A clause naming the choices closest to `word`, or all of them when none is close.

    A short name of `aliases` that is close stands for the choice that it names.

    >>> nearest("cifar", ["cifar10", "imdb"])
    "did you mean 'cifar10'?"
    >>> nearest("mlp_x", ["linear", "mlp_128_128"], {"mlp": "mlp_128_128"})
    "did you mean 'mlp_128_128'?"
    """
    names = sorted({*choices, *aliases})
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    if not close:
        close = [name for name in names if word and (name.startswith(word) or word in name)][:3]
    if close:
        close = list(dict.fromkeys(aliases.get(name, name) for name in close))
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"valid choices: {', '.join(names) if names else 'none'}"
