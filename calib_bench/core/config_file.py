"""Settings as a TOML file: what `config=FILE` reads, and the file by which every run can be repeated."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from calib_bench.core.settings import CONFIG, RATES
from calib_bench.core.syntax import expand, split_word
from calib_bench.errors import SettingsError
from calib_bench.system.environment import VERSION
from calib_bench.system.files import near
from calib_bench.system.redaction import redact

RUN_FILE = "study.toml"
"""The file in a run folder that repeats the run."""


def with_config(words: Iterable[str]) -> list[str]:
    """The words of the command line, `config=FILE` replaced by what the file holds; what else is typed wins.

    A file has a line `key = value` for each key of `run`; a value is a number, text, true or false, or a list of them.

    Raises:
        SettingsError: the file cannot be read, or holds something else.
    """
    words = list(words)
    typed = [word for word in words if split_word(word)[0] != CONFIG]
    if len(words) > len(typed) + 1:
        raise SettingsError(f"{CONFIG} is given twice: give one file")
    if len(words) == len(typed):
        return words
    (file,) = {*words} - {*typed}
    keys = {split_word(word)[0] for word in typed}
    if keys & set(RATES):
        keys |= set(RATES)  # they are units of one rate
    return [f"{key}={value}" for key, value in _read(Path(split_word(file)[1])).items() if key not in keys] + typed


def _read(path: Path) -> dict[str, str]:
    """The values of a file, as the command line would have them."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is not text"
        hint = "" if path.exists() else near(path)
        raise SettingsError(f"{CONFIG}={path} cannot be read: {reason}{hint}") from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{path} is not a TOML file: {error}") from None
    return {key: _text(path, key, value) for key, value in content.items()}


def _text(path: Path, key: str, value: Any) -> str:
    if isinstance(value, list):
        return ",".join(_text(path, key, item) for item in value)
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, (str, int, float)) or key == CONFIG:
        raise SettingsError(f"{path}: {key} is no setting: write lines such as beta = [0.1, 1, 10] without [tables]")
    return value if isinstance(value, str) else repr(value)


def as_toml(values: Mapping[str, str]) -> str:
    """The file that repeats a run whose words `key=value` are these. Secrets in them are hidden."""
    lines = [f"{key} = {_toml(key, redact(text))}" for key, text in values.items()]
    head = f"# python -m calib_bench run {CONFIG}={RUN_FILE}\n# written by calib_bench {VERSION}\n"
    return head + "\n".join(lines) + "\n"


def _toml(key: str, text: str) -> str:
    items = [_item(item) for item in expand(key, text)]
    return items[0] if len(items) == 1 else f"[{', '.join(items)}]"


def _item(text: str) -> str:
    """A value in TOML: numbers, true and false as they are, all else in quotes."""
    try:
        tomllib.loads(f"x = {text}")
    except tomllib.TOMLDecodeError:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return text
