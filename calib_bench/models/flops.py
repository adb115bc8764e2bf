"""What a trial costs, before it runs: floating-point operations counted exactly, seconds guessed coarsely."""

from __future__ import annotations

import time
from functools import lru_cache

import torch
from torch import nn

from calib_bench import models
from calib_bench.core.splits import InputSpec
from calib_bench.errors import UserError

TRAINING = 3.0
"""Forward and backward over forward: the backward pass has two products for each of the forward's."""

LENGTH = 200
"""Tokens of an example where the input does not say."""

SMALL = 1 << 26
"""Weights of a model whose operations are counted on this processor: on the meta device torch imports its compiler."""

UTILISATION = {"cpu": 0.4, "cuda": 0.3}
"""Assumed speed of training as a fraction of that of one large matrix product. Coarse: within a factor of about three
for networks that keep the device busy; a small batch on a large GPU takes far longer than this says."""


@lru_cache(maxsize=256)
def flops_per_example(name: str, spec: InputSpec, classes: int) -> float:
    """Floating-point operations of one example's forward pass; a multiply-add is two, training `TRAINING` times that.

    Matrix products, convolutions and attention are counted by torch's formulas while an example of zeros passes
    through a model without initial weights, a large one on the meta device, where nothing is computed; models of
    text are counted from their weights, per token.

    Args:
        name: of the model.
        spec: of its input; for tokens, shape (L,) gives the length, () stands for `LENGTH`.
        classes: number of classes K.

    Raises:
        SettingsError: no such model, or it does not take such inputs.
        UserError: the model cannot be built or process images of this shape, or what it gives are no logits.
    """
    from calib_bench.models.counting import Counter

    model = undrawn(name, spec, classes)
    if spec.kind == "tokens":
        return _token_flops(model, spec.shape[0] if spec.shape else LENGTH)
    if sum(p.numel() for p in model.parameters()) <= SMALL:
        model = undrawn(name, spec, classes, "cpu")
    x = torch.zeros(1, *spec.shape, device=next(model.parameters()).device)
    with torch.no_grad(), Counter() as counter:
        for parameter in model.parameters():
            parameter.zero_()  # what was not drawn may be any number
        try:
            z = model(x)
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"model {name!r} cannot process images of shape {spec.shape} ({str(error).splitlines()[0]}); choose "
                "another model"
            ) from error
    _check_logits(name, z, classes)
    return float(counter.flops)


def undrawn(name: str, spec: InputSpec, classes: int, device: str = "meta") -> nn.Module:
    """A model whose initial weights are not drawn; on this processor where it cannot be built on the meta device.

    Raises:
        UserError: it cannot be built.
    """
    from calib_bench.models.counting import Undrawn

    try:
        with torch.device(device), Undrawn():
            return models.build(name, spec, classes).eval()
    except UserError:
        raise
    except Exception as error:
        if device == "meta":  # `item()` has no value there
            return undrawn(name, spec, classes, "cpu")
        raise UserError(f"model {name!r} cannot be built ({type(error).__name__}: {error})") from error


def _check_logits(name: str, z: object, classes: int) -> None:
    """Raises UserError where a model's output of one example is no row of logits."""
    if not isinstance(z, torch.Tensor) or z.shape != (1, classes):
        what = f"{type(z).__name__} of shape {list(getattr(z, 'shape', ()))}"
        raise UserError(f"model {name!r} gives a {what} for one example, and must give logits [1, {classes}]")
    if not z.is_meta and bool((z >= 0).all()) and abs(float(z.sum()) - 1) < 1e-3:
        raise UserError(f"model {name!r} gives probabilities, and must give logits: what comes before the softmax")


def estimate_seconds(
    flops: float, examples: int, epochs: float, device: str = "cpu", precision: str = "fp32"
) -> float | None:
    """Rough seconds of training on one device (on a CPU, with this process's threads); None where it cannot be known.

    Args:
        flops: of one example's forward pass, see `flops_per_example`.
        examples: in an epoch.
        epochs: passes over them.
        device: "cpu" or "cuda"; with another, or where CUDA is absent, nothing is known.
        precision: "fp32", "bf16" or "fp64".
    """
    kind = device.partition(":")[0]
    speed = matmul_speed(kind, precision) if kind in UTILISATION else None
    return None if speed is None else TRAINING * flops * examples * epochs / (speed * UTILISATION[kind])


@lru_cache(maxsize=16)
def matmul_speed(device: str, precision: str) -> float | None:
    """Operations per second of one large matrix product, measured once in about 0.2 s; None without the device."""
    if device == "cuda" and not torch.cuda.is_available():
        return None
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}[precision]
    side = 256 if device == "cpu" else 4096  # on a CPU short enough to fit between what else runs there
    a = torch.ones(side, side, dtype=dtype, device=device)
    _timed(a)
    best, end = _timed(a), time.perf_counter() + 0.15
    while time.perf_counter() < end:
        best = min(best, _timed(a))
    return 2.0 * side**3 / best


def _timed(a: torch.Tensor) -> float:
    """Seconds of one product a @ a."""
    start = time.perf_counter()
    a @ a
    if a.is_cuda:
        torch.cuda.synchronize(a.device)
    return time.perf_counter() - start


def _token_flops(model: nn.Module, length: int) -> float:
    """Matrices act once per token, the head once; without any, embeddings are weighted and summed. Attention between
    tokens is left out."""
    last = models.head(model)
    layers = [module for module in model.modules() if not isinstance(module, nn.Embedding) and module is not last]
    weights = sum(p.numel() for module in layers for p in module.parameters(recurse=False) if p.ndim == 2)
    per_token = 2 * (weights or last.in_features)
    return float(length * per_token + 2 * last.weight.numel())
