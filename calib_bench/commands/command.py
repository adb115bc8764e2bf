"""What a command takes, declared in the command's own file, and the one parser that reads it.

Importing this module is quick, and so is importing a command's file: help and completion load them all.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from calib_bench.core.syntax import expand
from calib_bench.errors import SettingsError, nearest

if TYPE_CHECKING:
    from calib_bench.core.settings import UserSettings

PROGRAM = "python -m calib_bench"
SPELLING = "An option may be written name=value, --name value or --name=value."
SETTINGS = "KEY=VALUE"
"""`Command.keys` of a command that takes the settings of a run."""
GRID = (
    "A value may be a list a,b,c, a range 0..4, logspace(-2,1,7) or linspace(0,1,5); lists on grid keys span the grid."
)


@dataclass(frozen=True)
class Option:
    """An argument of a command: an option with a name, or a word without one, such as a run folder.

    Attributes:
        name: "--out" is an option; "RUN" is a word without a name.
        help: one line.
        type: text -> value; raises ValueError that says what the text is not, such as "is not a whole number".
        default: the value where the argument is not given.
        choices: the values that it may have, where they are few.
        count: how many words it takes, as argparse's `nargs`; None for one.
        metavar: what its value is called in the help.
        bare: the value that `--name` alone stands for; None where a value must follow.
    """

    name: str
    help: str
    type: Callable[[str], Any] = str
    default: Any = None
    choices: tuple[str, ...] = ()
    count: str | int | None = None
    metavar: str | tuple[str, ...] | None = None
    bare: str | None = None

    @property
    def key(self) -> str:
        """The name as in `name=value`."""
        return self.name.removeprefix("--")

    @property
    def has_name(self) -> bool:
        """Whether its name is written before its value."""
        return self.name.startswith("--")

    def value(self, text: str) -> Any:
        """The value that a text stands for.

        Raises:
            SettingsError: the text is not of the option's type, or is none of its choices.
        """
        try:
            if self.choices and text not in self.choices:
                raise ValueError(f"is not valid: {nearest(text, self.choices)}")
            return self.type(text)
        except ValueError as error:
            raise SettingsError(f"{self.key}={text} {error}") from None

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Declare the argument to a parser of argparse."""
        has_default = self.default is not False and self.default not in (None, "", ())
        default = f" (default {self.default})" if has_default else ""
        keywords: dict[str, Any] = {"type": self.value, "default": self.default, "nargs": self.count}
        if self.has_name and self.count == "+":
            keywords |= {"action": "extend", "default": list(self.default)}
        name = self.name if self.has_name else self.name.lower()
        shown = self.metavar or (f"{{{','.join(self.choices)}}}" if self.choices else None)
        parser.add_argument(name, help=self.help + default, metavar=shown or self.key.upper(), **keywords)

    def as_argparse(self, word: str) -> list[str]:
        """The words for argparse of `--name`, `--name=text` or `name=text`; a value that follows is left to it."""
        _, equals, text = word.partition("=")
        if not equals:
            return [self.name] if self.bare is None else [f"{self.name}={self.bare}"]
        if not text.strip():
            raise SettingsError(f"{word} has no value: write {self.key}=VALUE, without spaces around the equals sign")
        return [self.name, text] if self.count else [f"{self.name}={text}"]


def number(text: str) -> float:
    """Type of an option: a number from 0, not infinite."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("is not a number") from None
    if not 0 <= value < float("inf"):
        raise ValueError("is out of range: give a number from 0")
    return value


def _whole(text: str, low: int, high: int) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError("is not a whole number") from None
    if not low <= value <= high:
        bounds = f"from {low}" if high >= 2**53 else f"from {low} to {high}"
        raise ValueError(f"is out of range: give a whole number {bounds}")
    return value


def whole(name: str, help: str, default: int | None = None, low: int = 0, high: int = 2**63 - 1) -> Option:
    """An option whose value is a whole number from `low` to `high`."""
    return Option(name, help, partial(_whole, low=low, high=high), default, metavar="N")


def flag(name: str, help: str) -> Option:
    """An option that is on or off: `--name` alone, `name=yes` or `name=no`."""
    return Option(name, help, lambda text: text == "yes", False, choices=("yes", "no"), bare="yes")


def items(text: str) -> tuple[str, ...]:
    """Type of an option: a list `a,b,c`."""
    return tuple(expand("the list", text))


def folders(text: str) -> tuple[Path, ...]:
    """Type of an option: a list of folders."""
    return tuple(map(Path, items(text)))


def setting(key: str, help: str) -> Option:
    """An option that has the type and the choices of a setting of the run."""
    return Option(f"--{key.replace('_', '-')}", help, partial(_setting, key), metavar=key.rpartition("_")[2].upper())


def _setting(key: str, text: str) -> Any:
    return getattr(_parsed([f"{key}={text}"]), key)


def _parsed(words: Sequence[str]) -> UserSettings:
    from calib_bench.core.config_file import with_config
    from calib_bench.core.settings import parse

    return parse(with_config(words))


RUN = Option("RUN", "the run folder", Path)
PLUGINS = Option("--plugins", "folders with the run's own plug-ins, which are code", folders, (), metavar="FOLDERS")


class _Parser(argparse.ArgumentParser):
    """Raises what argparse finds wrong as an error for people."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{self.prog.rpartition(' ')[2]}: {message}; --help shows what it takes")


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        name: of the command and of its file.
        does: what it does, for its help.
        options: the arguments that it declares.
        examples: command lines, without the program's name.
        call: does the work and returns the exit code. It is given the values by name, `words` as they were typed,
            `keys`, the words `key=value` that are no options, and `settings` as typed, where those are settings.
        keys: what such words are called; SETTINGS: settings of a run; "" where there must be none.
        notes: a last paragraph of the help.
    """

    name: str
    does: str
    options: tuple[Option, ...]
    examples: tuple[str, str, str]
    call: Callable[[Namespace], int]
    keys: str = ""
    notes: str = ""

    def run(self, words: Sequence[str]) -> int:
        """Do the command; returns the exit code.

        Raises:
            SettingsError: as `parse`.
        """
        return self.call(self.parse(words))

    def parse(self, words: Sequence[str]) -> Namespace:
        """The values of the words after the command's name.

        Raises:
            SettingsError: an option is unknown or given twice, a value is of the wrong type, or a word is missing or
                one too many.
        """
        plain, keys = self._sort(words)
        values, unexpected = self._parser().parse_known_intermixed_args(plain)
        if self.keys == SETTINGS:
            values.settings = _parsed([*keys, *unexpected])  # which says what is wrong with a word
        elif unexpected:
            raise SettingsError(f"{self.name} does not take {unexpected[0]!r}; it takes: {self._usage()}")
        values.keys, values.words = keys, list(words)
        return values

    def help(self) -> str:
        """The help text: usage, what the command does, its options, examples."""
        return self._parser().format_help()

    def completions(self) -> list[str]:
        """The words that may follow the command: choices of words without a name, options, keys."""
        words: list[str] = []
        for option in self.options:
            if not option.has_name:
                words += option.choices
            elif option.bare is None:
                words += [f"{option.key}=", option.name]
            else:
                words.append(option.name)
        return [*words, *(f"{key}=" for key in self._settings()), "--help"]

    def _sort(self, words: Sequence[str]) -> tuple[list[str], list[str]]:
        """Words for argparse, and `key=value` words that are no options."""
        options = {_name(option.name): option for option in self.options if option.has_name}
        settings = self._settings()
        self._refuse_repeated(words, options)
        plain: list[str] = []
        keys: list[str] = []
        queue = iter(words)
        for word in queue:
            name = _name(word)
            if not name:
                plain.append(word)
            elif name in options:
                plain += options[name].as_argparse(word)
            elif name in settings:
                keys.append(_setting_word(name, word, queue))
            elif self.keys and not word.startswith("--"):
                keys.append(word)
            else:
                raise SettingsError(f"{self.name} has no option {name!r}: {nearest(name, (*options, *settings))}")
        return plain, keys

    def _refuse_repeated(self, words: Sequence[str], options: Mapping[str, Option]) -> None:
        names = [_name(word) for word in words]
        for name, option in options.items():
            if option.count is None and names.count(name) > 1:
                raise SettingsError(f"{option.key} is given twice: give it once, a list as {option.key}=a,b")

    def _settings(self) -> tuple[str, ...]:
        """Keys of the settings that the command takes."""
        if self.keys != SETTINGS:
            return ()
        from calib_bench.core.settings import CONFIG, KEYS
        from calib_bench.registry import study_options

        study_keys = [key for options in study_options().values() for key in options.model_fields]
        return (*KEYS, CONFIG, *study_keys)

    def _usage(self) -> str:
        """The command with what it takes, without the program."""
        words = [_in_usage(option) for option in self.options if not option.has_name]
        if any(option.has_name for option in self.options):
            words.append("[option ...]")
        if self.keys:
            words.append(f"[{self.keys} ...]")
        return " ".join([self.name, *words])

    def _parser(self) -> _Parser:
        parser = _Parser(
            f"{PROGRAM} {self.name}",
            usage=f"{PROGRAM} {self._usage()}",
            description=self.does,
            epilog=self._epilog(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        for option in self.options:
            option.add_to(parser)
        return parser

    def _epilog(self) -> str:
        parts = [self.notes] if self.notes else []
        if self.keys == SETTINGS:
            parts.append(f"keys, those of run:\n{settings_help()}\n\n{GRID}")
        parts.append("\n".join(["examples:", *(f"  {PROGRAM} {example}" for example in self.examples)]))
        return "\n\n".join([*parts, SPELLING])


def _name(word: str) -> str:
    """Name of the option or key that a word begins with, with underscores; "" of a word without one."""
    name, equals, _ = word.removeprefix("--").partition("=")
    name = name.replace("-", "_")
    return name if word.startswith("--") or (equals and name.isidentifier()) else ""


def _setting_word(name: str, word: str, queue: Iterator[str]) -> str:
    """The word `name=value` of a setting; of `--name value`, the value is taken from the words that follow."""
    from calib_bench.core.settings import describe

    _, equals, value = word.partition("=")
    if not equals:
        value = next(queue, "")
    if not value:
        raise SettingsError(f"{word} has no value: {name} is {describe(name)}")
    return f"{name}={value}"


def _in_usage(option: Option) -> str:
    if option.count is None:
        return option.key
    return f"[{option.key}]" if option.count == "?" else f"[{option.key} ...]"


def settings_help() -> str:
    """A line for every setting of a run, then for those that single studies have."""
    from calib_bench.core.settings import CONFIG, KEYS, describe
    from calib_bench.registry import study_options

    lines = [f"  {key:13} {describe(key)}" for key in (*KEYS, CONFIG)]
    for study, options in study_options().items():
        lines += ["", f"keys of study={study}:"]
        lines += [f"  {key:13} {describe(key, options)}" for key in options.model_fields]
    return "\n".join(lines)
