"""Weights of one's own to start from: tensors of a file, read without running code, put into a model by their names.

A trial's key knows them by the SHA-256 of the file; where the file lies, each process is told once, by `name_of`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from calib_bench.core.trial import FILE
from calib_bench.data.cache import sha256_of
from calib_bench.errors import UserError

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Entries of a checkpoint that may hold its tensors: Lightning's, torch's tutorials', timm's."""
CLASS_NAMES = "class_names"
"""The entry of a checkpoint, or of safetensors' metadata as JSON, that names the head's classes in order."""
COUNTER = "num_batches_tracked"
"""A count of batch norm, which files of before it lack, and which nothing here reads."""
_paths: dict[str, Path] = {}


@dataclass(frozen=True)
class Weights:
    """What a file holds.

    Attributes:
        path: the file.
        tensors: by name.
        class_names: of the head's outputs, in order; None where the file does not say.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None


def name_of(path: Path) -> str:
    """The name of a file's weights in a trial's key, "file:" and its SHA-256, by which this process finds them."""
    status = path.stat()
    name = f"{FILE}{digest_of(path, status.st_mtime_ns, status.st_size)}"
    _paths[name] = path
    return name


@lru_cache(maxsize=16)
def digest_of(path: Path, changed: int, size: int) -> str:
    """SHA-256 of a file that was last changed at that time."""
    return sha256_of(path)


@lru_cache(maxsize=1)
def named(name: str) -> Weights:
    """The weights of that name.

    Raises:
        UserError: this process was told of no such file, it is gone or another one now, or it cannot be read.
    """
    path = _paths.get(name)
    if path is None or not path.is_file() or name_of(path) != name:
        raise UserError(
            f"the weights are not those that this study was planned with: {path or 'no weights='} "
            f"{'is not a file of' if path else 'names'} SHA-256 {name.removeprefix(FILE)[:20]}...; give weights= with "
            "that file, or run the command again to plan with what is there"
        )
    return read(path)


def read(path: Path) -> Weights:
    """The tensors of a .safetensors file, or of a checkpoint of torch.

    Raises:
        UserError: it cannot be read without running code that it holds, or holds no tensors by name.
    """
    content, class_names = _safetensors(path) if path.suffix == ".safetensors" else _checkpoint(path)
    tensors = _unwrapped(content)
    if tensors is None:
        entries = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise UserError(
            f"{path} holds no tensors by name (it holds: {entries or 'nothing'}): save what model.state_dict() gives, "
            f"alone or as the entry {WRAPPERS[0]!r}"
        )
    return Weights(path, tensors, tuple(map(str, class_names)) if class_names else None)


def _safetensors(path: Path) -> tuple[Any, Any]:
    try:
        with safe_open(path, "pt") as file:
            names = (file.metadata() or {}).get(CLASS_NAMES)
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(names) if names else None  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as safetensors ({error}): write it again, or give another") from None


def _checkpoint(path: Path) -> tuple[Any, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch and pickle raise has no common base
        code = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it holds {code[1]}" if code else "it is damaged, or no such file"
        raise UserError(
            f"{path} cannot be read as a checkpoint that holds tensors alone ({why}). Nothing that could run code is "
            "read: where the file is yours, load it and save its tensors with "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from None
    return content, content.get(CLASS_NAMES) if isinstance(content, Mapping) else None


def _unwrapped(content: Any) -> dict[str, Tensor] | None:
    """Tensors by name, be they within an entry of `WRAPPERS`; None where there are none."""
    while isinstance(content, Mapping):
        if _is_state(content):
            return dict(content)
        content = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    return None


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds tensors alone."""
    return len(content) > 0 and all(isinstance(value, Tensor) for value in content.values())


def put(weights: Weights, model: nn.Module, head: Collection[str], title: str) -> bool:
    """Let a model have a file's weights. Its head stays as it is where the file has none, or one of other classes.

    Args:
        weights: what the file holds.
        model: changed in place.
        head: names of its head's parameters.
        title: the model's name, for people.

    Returns:
        Whether the head is the file's too.

    Raises:
        UserError: the file lacks a tensor, has one that the model lacks, or one of another shape or type; or a number
            is not finite.
    """
    mine = model.state_dict()
    tensors = dict(_without_prefix(weights.tensors, mine))
    kept = _keeps_head(tensors, mine, head)
    if not kept:
        mine, tensors = _without(head, mine), _without(head, tensors)
    if problems := _problems(tensors, mine):
        count = f", and {len(problems) - 1} more such" if len(problems) > 1 else ""
        raise UserError(f"{weights.path} does not fit {title}: {problems[0]}{count}")
    model.load_state_dict(tensors, strict=False)
    return kept


def _without(head: Collection[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if name not in head}


def _keeps_head(tensors: Mapping[str, Tensor], mine: Mapping[str, Tensor], head: Collection[str]) -> bool:
    """Whether tensors hold a head, and of as many classes as the model's."""
    there = [name for name in head if name in tensors]
    return bool(there) and all(tensors[name].shape[:1] == mine[name].shape[:1] for name in there)


def _without_prefix(tensors: Mapping[str, Tensor], mine: Collection[str]) -> Mapping[str, Tensor]:
    """The tensors without the words that wrappers put before all names; as they are where none is then the model's."""
    bare = tensors
    while not any(name in mine for name in bare):
        if len({name.partition(".")[:2] for name in bare}) != 1 or "" in bare:
            return tensors
        bare = {name.partition(".")[2]: value for name, value in bare.items()}
    return bare


def _problems(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What is wrong with tensors that a model is to have, a clause each; only the first names the nearest tensor."""
    missing, surplus = _lacking(tensors, expected), _lacking(expected, tensors)
    clauses = [f"it has no {name!r}" for name in missing] + _misfits(tensors, expected)
    near = _nearest(missing[0], tensors) if missing else ""
    if not clauses and surplus:
        near = _nearest(surplus[0], expected)
    clauses += [f"it has {name!r}, which the model lacks" for name in surplus]
    return [clauses[0] + near, *clauses[1:]] if clauses else []


def _lacking(names: Collection[str], wanted: Collection[str]) -> list[str]:
    """What is wanted and not among the names, but for counters."""
    return [name for name in wanted if name not in names and not name.endswith(COUNTER)]


def _misfits(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """A clause for each tensor that is not as the model's of that name."""
    misfits = {name: _misfit(tensors[name], expected[name]) for name in tensors if name in expected}
    return [f"its {name!r} {misfit}" for name, misfit in misfits.items() if misfit]


def _misfit(value: Tensor, expected: Tensor) -> str:
    """What is wrong with a tensor in the place of another; empty where nothing is."""
    if value.shape != expected.shape:
        return f"is of shape {list(value.shape)}, and the model's is {list(expected.shape)}"
    if value.is_floating_point() != expected.is_floating_point():
        return f"is {value.dtype}, and the model's is {expected.dtype}"
    return "" if value.isfinite().all() else "has numbers that are not finite"


def _nearest(name: str, choices: Collection[str]) -> str:
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.0)
    return f" (the nearest name is {close[0]!r})" if close else ""
