"""Tensors of float32 as bytes that deflate makes small, to the bit.

A number's sign and exponent resemble its neighbours', and the digits after them do not: so the first bytes of all
numbers stand together, then the second ones, and so on, each such plane deflated where that makes it smaller. Logits
get a sixth smaller, and those of a trial that gives each example the same ones nearly vanish. A file is safetensors
still: the planes are tensors of bytes, and its metadata tell each tensor's shape and how long its planes are.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

PLANES = "planes"
"""The entry of the metadata."""
WIDTH = 4
"""Planes: bytes of a number."""
LEVEL = 1
"""Of deflate: the best takes three times as long for a hundredth less."""
TRIED = 1 << 16
"""Bytes of a plane that tell whether deflating it is worth seconds."""


def save(by_name: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of float32 tensors as planes; tensors of other types are in it as they are."""
    import numpy as np
    import torch
    from safetensors.torch import save as plain

    held, about = {}, {}
    for name, tensor in by_name.items():
        held[name] = tensor.contiguous()
        if tensor.dtype == torch.float32:
            numbers = held[name].numpy().reshape(-1)
            planes = [_smaller(plane.tobytes()) for plane in numbers.view(np.uint8).reshape(-1, WIDTH).T]
            held[name] = torch.from_numpy(np.frombuffer(b"".join(planes), np.uint8).copy())
            about[name] = {"shape": list(tensor.shape), "bytes": [len(plane) for plane in planes]}
    return plain(held, {PLANES: json.dumps(about, sort_keys=True)})


def load(content: bytes) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, be they planes or not.

    Raises:
        ValueError, KeyError, zlib.error, safetensors.SafetensorError: the file is not what `save` wrote.
    """
    import torch
    from safetensors.torch import load as plain

    about = _about(content)
    stored = plain(content)
    return {
        name: torch.from_numpy(_joined(tensor.numpy(), about[name])) if name in about else tensor
        for name, tensor in sorted(stored.items())  # safetensors gives them in an order that changes
    }


def arrays(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """`load` as numpy arrays, of the types that numpy has, without torch."""
    from safetensors.numpy import load as plain

    about = _about(content)
    stored = sorted(plain(content).items())
    return {name: _joined(array, about[name]) if name in about else array for name, array in stored}


def _about(content: bytes) -> dict[str, Any]:
    """Shape and planes of each tensor that is stored as planes, by name."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length]).get("__metadata__", {}).get(PLANES, "{}"))


def _joined(planes: np.ndarray[Any, Any], about: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """Float32 numbers of the shape that they had."""
    import numpy as np

    count = math.prod(about["shape"])
    bytes_NW = np.empty((count, WIDTH), np.uint8)
    ends = np.cumsum(about["bytes"])
    for w, (end, size) in enumerate(zip(ends, about["bytes"], strict=True)):
        plane = planes[end - size : end]
        bytes_NW[:, w] = plane if size == count else np.frombuffer(zlib.decompress(plane.tobytes()), np.uint8)
    return bytes_NW.view(np.float32).reshape(about["shape"])


def _smaller(plane: bytes) -> bytes:
    """Deflated if that is shorter, else as it is: the length tells which. A long plane's beginning is tried first."""
    if len(plane) > TRIED and len(zlib.compress(plane[:TRIED], LEVEL)) >= TRIED:
        return plane
    deflated = zlib.compress(plane, LEVEL)
    return deflated if len(deflated) < len(plane) else plane
