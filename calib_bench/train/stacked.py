"""Optimizers over stacked parameters [S, ...]: the updates of torch's SGD, Adam and AdamW with a rate per member."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench.models.mlp import MLP
from calib_bench.train.optim import ADAM_BETA2, ADAM_EPS, adam_beta1
from calib_bench.trial import Trial


def stacked_mlp(model: MLP, params: Mapping[str, Tensor], x_SB: Tensor) -> Tensor:
    """What vmap over the copies computes, in fewer and cheaper operations: x [S, B, ...] -> logits [S, B, K]."""
    h_SBD = x_SB.flatten(2)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            h_SBD = torch.bmm(h_SBD, params[f"{name}.weight"].transpose(1, 2))
            if layer.bias is not None:
                h_SBD = h_SBD.add_(params[f"{name}.bias"].unsqueeze(1))
        elif isinstance(layer, nn.ReLU):
            h_SBD = h_SBD.relu_()
    return h_SBD


class StackedOptimizer:
    """One step for S models at once; nothing is shared between members but the count of steps."""

    def __init__(self, trials: Sequence[Trial], params: Mapping[str, Tensor], rate_S: Tensor, head: set[str]) -> None:
        """
        Args:
            trials: the S members, of one optimizer and momentum (zero or not).
            params: name -> [S, ...], changed in place by `step`.
            rate_S: learning rates of the bodies, float64.
            head: names of the head's parameters.
        """
        self.kind, self.clip = trials[0].optimizer, trials[0].clip
        self.params, self.count = dict(params), 0
        first = next(iter(params.values()))
        column = lambda values: torch.as_tensor(values, dtype=torch.float64).to(first)  # noqa: E731
        head_lr_S = torch.tensor([trial.head_lr for trial in trials], dtype=torch.float64)
        decay_S = torch.tensor([trial.weight_decay for trial in trials], dtype=torch.float64)
        beta1_S = torch.tensor([adam_beta1(trial.momentum) for trial in trials], dtype=torch.float64)
        self.rate = {True: column(-rate_S.cpu() * head_lr_S), False: column(-rate_S.cpu())}
        self.decay = {True: column(decay_S / head_lr_S), False: column(decay_S)}
        self.shrink_S = column(rate_S.cpu() * decay_S)  # the head's factors cancel
        self.decays = bool((decay_S > 0).any())
        self.momentum_S = column([trial.momentum for trial in trials])
        self.beta1_S, self.beta1_64_S, self.lerp_S = column(beta1_S), beta1_S, column(1 - beta1_S)
        self.head = head
        names = ["momentum"] if self.kind == "sgd" else ["mean", "square"]
        names = [] if self.kind == "sgd" and trials[0].momentum == 0 else names
        self.slots = {name: {key: torch.zeros_like(p) for key, p in params.items()} for name in names}

    @torch.no_grad()
    def step(self, grads: Sequence[Tensor], scale: float) -> None:
        """Update every parameter in place.

        Args:
            grads: in the order of `params`; overwritten.
            scale: the schedule's factor on every rate.
        """
        self.count += 1
        if self.clip > 0:
            self._clip(grads)
        for (name, p), grad in zip(self.params.items(), grads, strict=True):
            in_head = name in self.head
            rate = _column(self.rate[in_head] * scale, p)
            if self.decays and self.kind == "adamw":
                p.mul_(_column(1 - self.shrink_S * scale, p))
            elif self.decays:
                grad.addcmul_(p, _column(self.decay[in_head], p))
            if self.kind == "sgd":
                if "momentum" in self.slots:
                    grad = self.slots["momentum"][name].mul_(_column(self.momentum_S, p)).add_(grad)
                p.addcmul_(grad, rate)
            else:
                self._adam(name, p, grad, rate)

    def _adam(self, name: str, p: Tensor, grad: Tensor, rate: Tensor) -> None:
        """Kingma & Ba, arXiv 1412.6980, algorithm 1."""
        mean = self.slots["mean"][name].lerp_(grad, _column(self.lerp_S, p).expand_as(grad))
        square = self.slots["square"][name].mul_(ADAM_BETA2).addcmul_(grad, grad, value=1 - ADAM_BETA2)
        correction = _column((1 - self.beta1_64_S**self.count).to(p), p)
        denominator = square.sqrt().div_(math.sqrt(1 - ADAM_BETA2**self.count)).add_(ADAM_EPS)
        p.addcdiv_(mean * (rate / correction), denominator)

    def _clip(self, grads: Sequence[Tensor]) -> None:
        """Bound each member's gradient norm over all parameters."""
        norm_S = torch.stack([grad.flatten(1).square().sum(1) if grad.dim() > 1 else grad.square() for grad in grads])
        coefficient_S = (self.clip / (norm_S.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
        for grad in grads:
            grad.mul_(_column(coefficient_S, grad))

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "slots": self.slots}

    def load(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        for slot, tensors in self.slots.items():
            for name, tensor in tensors.items():
                tensor.copy_(state["slots"][slot][name])


def _column(value_S: Tensor, like: Tensor) -> Tensor:
    """[S] -> [S, 1, ...] with as many axes as `like`."""
    return value_S.view(-1, *[1] * (like.dim() - 1))
