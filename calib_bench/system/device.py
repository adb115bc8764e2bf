"""Which device, by name or by what there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from calib_bench.errors import SettingsError

if TYPE_CHECKING:
    import torch


def pick(name: str) -> torch.device:
    """The device called `name`; "auto" takes a GPU where there is one.

    Raises:
        SettingsError: no such device here.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        else:
            name = "cpu"
    try:
        device = torch.device(name)
        supported = device.type in ("cpu", "cuda", "mps")
    except RuntimeError:
        supported = False
    if not supported:
        raise SettingsError(f"device={name} is not known: give auto, cpu, cuda, cuda:N or mps")
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[device.type]
    if (device.index or 0) >= count:
        raise SettingsError(
            f"device={name} is not on this machine, which has {count} of type {device.type}: give device=auto"
        )
    return device


def has_bfloat16() -> bool:
    """Whether this machine's processor has instructions for bfloat16; without them torch computes each by others."""
    import torch

    capabilities = getattr(torch.cpu, "get_capabilities", lambda: {"bf16": True})()  # an older torch cannot tell
    return any(there is True for name, there in capabilities.items() if "bf16" in name)


@contextmanager
def as_in_worker(threads: int) -> Iterator[None]:
    """Torch and BLAS as in a worker process: its threads, denormals flushed; set back when the block ends."""
    import torch
    from threadpoolctl import threadpool_limits

    before, flushed = torch.get_num_threads(), not (torch.full((), 2.0**-1060, dtype=torch.float64) * 1).item()
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    try:
        with threadpool_limits(threads, "blas"):
            yield
    finally:
        torch.set_num_threads(before)
        torch.set_flush_denormal(flushed)
