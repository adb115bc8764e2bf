"""What the machine can do at most, measured: matrix-multiply peaks and memory bandwidth, at the threads in use."""

from __future__ import annotations

import time
from functools import lru_cache

import torch


@lru_cache(maxsize=8)
def limit(name: str) -> float:
    """Operations a second of "matmul fp32" or "matmul bf16", or bytes a second of "memory" (read + written).

    On a GPU "cuda matmul bf16", "cuda matmul tf32" and "cuda memory".
    """
    device = "cuda" if name.startswith("cuda ") else "cpu"
    kind = name.removeprefix("cuda ")
    if kind == "memory":
        return _bandwidth(device)
    dtype = {"matmul fp32": torch.float32, "matmul tf32": torch.float32, "matmul bf16": torch.bfloat16}[kind]
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = kind == "matmul tf32"
    try:
        return _matmul(device, dtype)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _matmul(device: str, dtype: torch.dtype) -> float:
    n = 8192 if device == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / _best(lambda: torch.mm(a, b, out=out), device)


def _bandwidth(device: str) -> float:
    n = 1 << 28 if device == "cuda" else 1 << 26
    a = torch.ones(n, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / _best(lambda: b.copy_(a), device)


def _best(run: object, device: str, rounds: int = 7) -> float:
    """The fastest of several calls, after one untimed: a peak."""
    times = []
    for _ in range(rounds + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()  # type: ignore[operator]
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
