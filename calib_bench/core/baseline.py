"""The two kinds of baseline: an objective changes training, a calibrator changes logits after it.

A baseline is one file in `baselines/` with one constant `BASELINE`; its file name is its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from calib_bench.errors import SettingsError, nearest

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

Params = dict[str, "Tensor"]
"""What a calibrator learned."""
T = TypeVar("T")
ZERO = "zero"
"""Parameter: how far below its row's largest logit one of -inf is taken, where calibration labels have -inf."""


@dataclass(frozen=True)
class Objective:
    """A departure from training on the cross-entropy of beta z, with a strength. At least one of the hooks is given.

    Several can be combined: losses add their difference from cross-entropy, factors multiply, maps of the logits
    follow one another by name; at most one mixes inputs and at most one replaces the head. Predictions are always
    softmax(beta z), z the model's logits: what an objective does to logits in its loss ends with training.

    Attributes:
        loss: (Z [..., N, K] logits already times beta, y [..., N] int64, strength, a tensor that broadcasts to
            [..., N]) -> per-example loss [..., N] in nats. Must work under leading batch axes (fused training).
        strengths: the strengths tried when the command line gives none.
        reference: BibTeX key in references.bib.
        title: what tables call it.
        valid: (low, high) closed bounds of the strength.
        neutral: the strength at which it is plain cross-entropy, exactly; None where there is no such strength.
        logits: (z [..., N, K] raw logits, strength broadcasting to [..., N]) -> what beta multiplies in the loss.
        factor: (share of the run's updates done, in [0, 1), strength) -> factor on beta in the loss of an update.
        mix: (generator, strength) -> share in [0, 1] with which each example of a batch, inputs and loss, is mixed
            with another, drawn at random.
        head: (the model's linear head, strength) -> the layer that takes its place, a subclass of nn.Linear.
    """

    loss: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    strengths: tuple[float, ...] = field(kw_only=True)
    reference: str = field(kw_only=True)
    title: str = field(kw_only=True)
    valid: tuple[float, float] = (0.0, float("inf"))
    neutral: float | None = 0.0
    logits: Callable[[Tensor, Tensor], Tensor] | None = None
    factor: Callable[[float, float], float] | None = None
    mix: Callable[[np.random.Generator, float], float] | None = None
    head: Callable[[nn.Linear, float], nn.Linear] | None = None


Objectives = Mapping[str, Objective]
"""Objectives by name."""
NO_OBJECTIVES: Objectives = MappingProxyType({})
"""All that training on plain cross-entropy needs."""


def objective(name: str, objectives: Objectives) -> Objective:
    """The objective of that name.

    Raises:
        SettingsError: there is none.
    """
    if name not in objectives:
        raise SettingsError(f"unknown objective {name!r}: {nearest(name, objectives)}")
    return objectives[name]


def with_strengths(strengths: Mapping[str, T], objectives: Objectives) -> list[tuple[Objective, T]]:
    """The objectives that have a strength, each with its strength, in the order of their names.

    Raises:
        SettingsError: a strength's name is not an objective's.
    """
    return [(objective(name, objectives), strengths[name]) for name in sorted(strengths)]


@dataclass(frozen=True)
class Calibrator:
    """A post-hoc map from logits to log probabilities, fitted on the calibration split.

    Its logits are Z = beta z, those whose softmax is the model's own prediction. A logit of -inf, or of a large
    negative number that stands for it (`masks`), is a class that its row does not offer: it has probability zero
    afterwards, and no part in a fit. Where calibration labels have -inf, it cannot mean that: then `fit` sees small
    probabilities in its place, and what it returns has one more entry, `zero`, for `apply` to do the same.

    Attributes:
        fit: (Z [N, K] floating, y [N] int64) -> parameters, a dict of tensors (so that any fit can be stored).
        apply: (parameters, Z [N, K]) -> log probabilities [N, K], float64, rows normalized.
        keeps_argmax: whether the predicted class can never change.
        reference: BibTeX key in references.bib.
        title: what tables call it.
        shift_invariant: whether adding a constant to a row of logits changes nothing. One that is not fits another
            model to probabilities, of which only log p is known, than to logits.
        unknowns: K -> how many numbers a fit learns, of a calibrator for which they grow faster than K; with many
            classes such a one is fitted only where it is named (`fitting.too_large`).
        fit_stack: (Z [S, N, K], y [S, N]) -> what `fit` gives of each of S sets but for rounding, in a list, or all in
            one, every tensor with a leading axis S; None where nothing is gained by fitting small sets together.
        classes: the one number of classes it is for: `fit` and `apply` raise a UserError at any other, and it is left
            out of what takes every calibrator. None: any.
        warn: (Z [N, K], y [N]) of a calibration set -> what to know before its fit is believed, or None. Few examples
            to a parameter, for instance; it costs nothing beside a fit.
    """

    fit: Callable[[Tensor, Tensor], Params]
    apply: Callable[[Params, Tensor], Tensor]
    keeps_argmax: bool
    reference: str
    title: str
    shift_invariant: bool = True
    fit_stack: Callable[[Tensor, Tensor], Params | list[Params]] | None = None
    classes: int | None = None
    warn: Callable[[Tensor, Tensor], str | None] | None = None
    unknowns: Callable[[int], int] | None = None

    @property
    def of_the_project(self) -> bool:
        """Whether it is known to leave its arguments as they are, which a plug-in is not."""
        module = getattr(self.fit.args[0], "__module__", "") if isinstance(self.fit, partial) else ""
        return str(module).startswith("calib_bench.")

    def __post_init__(self) -> None:
        object.__setattr__(self, "fit", partial(_fit_with_zeros, self.fit))
        object.__setattr__(self, "apply", partial(_apply_with_zeros, self.apply))

    def fits(self, Z_SNK: Tensor, y_SN: Tensor) -> list[Params]:
        """`fit` of each of S sets of one shape.

        Raises:
            UserError: one of the sets cannot be fitted.
        """
        from calib_bench.metrics.masks import any_masked

        if self.fit_stack is None or len(Z_SNK) == 1 or any_masked(Z_SNK):
            return [self.fit(Z_NK, y_N) for Z_NK, y_N in zip(Z_SNK, y_SN, strict=True)]
        stack = self.fit_stack(Z_SNK, y_SN)
        if isinstance(stack, list):
            return stack
        return [dict(zip(stack, values, strict=True)) for values in zip(*stack.values(), strict=True)]


def _fit_with_zeros(fit: Callable[[Tensor, Tensor], Params], Z_NK: Tensor, y_N: Tensor, **more: Any) -> Params:
    """The fit, where labels of probability zero have a small one."""
    from calib_bench.metrics.masks import depth_of_zeros, raised

    depth = depth_of_zeros(Z_NK, y_N)
    if depth is None:
        return _tensors(fit(Z_NK, y_N, **more))
    return {**_tensors(fit(raised(Z_NK, depth), y_N, **more)), ZERO: Z_NK.new_tensor(depth).double()}


def _tensors(params: object) -> Params:
    """What a fit gave; raises TypeError where that is not a dict of tensors."""
    import torch

    if not isinstance(params, dict):
        raise TypeError(f"it gave {type(params).__name__}, not a dict of tensors")
    if others := [name for name, value in params.items() if not isinstance(value, torch.Tensor)]:
        raise TypeError(f"its {others[0]!r} is of type {type(params[others[0]]).__name__}, not a tensor")
    return params


def _apply_with_zeros(apply: Callable[[Params, Tensor], Tensor], params: Params, Z_NK: Tensor) -> Tensor:
    """What the fit makes of logits, zeros raised as they were for it."""
    if ZERO not in params:
        return apply(params, Z_NK)
    from calib_bench.metrics.masks import raised

    return apply({k: v for k, v in params.items() if k != ZERO}, raised(Z_NK, float(params[ZERO])))


Baseline = Objective | Calibrator
