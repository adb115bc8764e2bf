"""A stack of S models: parameters in one buffer, forward and backward for all at once, and the optimizers' updates.

No operation mixes members. An update is a few operations on whole [S, P] buffers, where a loop over parameters would
make several small ones each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from calib_bench.core.trial import Trial
from calib_bench.models.mlp import MLP
from calib_bench.models.pair import Pair, PairHead
from calib_bench.train.loss import Loss
from calib_bench.train.optimizer import ADAM_BETA2, adam_beta1


class Packed:
    """Tensors of S models in one buffer: `all` is [S, P], and `by[name]` a view of it, [S, ...]."""

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        """Zeros in the shapes of `like`, in its order."""
        first = next(iter(like.values()))
        self.all = first.new_zeros((len(first), sum(p[0].numel() for p in like.values())))
        self.by: dict[str, Tensor] = {}
        start = 0
        for name, p in like.items():
            stop = start + p[0].numel()
            self.by[name] = self.all[:, start:stop].view(p.shape)
            start = stop

    def spans(self, names: Iterable[str]) -> list[tuple[bool, slice]]:
        """(whether it is of `names`, columns), in order, neighbours of one kind joined."""
        chosen, joined, start = set(names), [], 0  # type: set[str], list[tuple[bool, slice]], int
        for name, p in self.by.items():
            stop = start + p[0].numel()
            if joined and joined[-1][0] == (name in chosen):
                joined[-1] = (joined[-1][0], slice(joined[-1][1].start, stop))
            else:
                joined.append((name in chosen, slice(start, stop)))
            start = stop
        return joined


class StackedModel:
    """S copies of any model, by vmap and autograd."""

    def __init__(self, model: nn.Module, params: Packed, grads: Packed) -> None:
        """
        Args:
            model: whose forward it is; its own parameters are not used.
            params: parameters by the model's names.
            grads: where `backward` puts the gradients.
        """
        self.model, self.grads = model, grads
        self.params = {name: p.detach().requires_grad_() for name, p in params.by.items()}
        self.z_SBK: Tensor

    def forward(self, x_SB: Tensor) -> Tensor:
        """x [S, B, ...] -> raw logits z [S, B, K], no part of a graph."""
        self.z_SBK = vmap(lambda params, x: functional_call(self.model, params, (x,)))(self.params, x_SB)
        return self.z_SBK.detach()

    def backward(self, dz_SBK: Tensor) -> None:
        """Fill `grads` with the gradients of sum(dz * z), z the logits of the last `forward`."""
        gradients = torch.autograd.grad(self.z_SBK, list(self.params.values()), dz_SBK)
        for grad, value in zip(self.grads.by.values(), gradients, strict=True):
            grad.copy_(value)


class StackedMLP:
    """S copies of an MLP, with its backward pass written out: a graph would cost more than the small products do."""

    def __init__(self, names: Sequence[str], params: Packed, grads: Packed) -> None:
        """
        Args:
            names: of the linear layers, in order, with a ReLU between each and the next.
            params: parameters by the model's names.
            grads: where `backward` puts the gradients.
        """
        self.weights, self.dweights = ([p.by[f"{name}.weight"] for name in names] for p in (params, grads))
        self.biases, self.dbiases = ([p.by.get(f"{name}.bias") for name in names] for p in (params, grads))
        self.inputs: list[Tensor] = []

    @torch.no_grad()
    def forward(self, x_SB: Tensor) -> Tensor:
        """x [S, B, ...] -> raw logits z [S, B, K]."""
        h_SBD = x_SB.flatten(2)
        self.inputs = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            if self.inputs:
                h_SBD.relu_()
            self.inputs.append(h_SBD)
            h_SBD = torch.bmm(h_SBD, weight.mT)
            if bias is not None:
                h_SBD += bias.unsqueeze(1)
        return h_SBD

    @torch.no_grad()
    def backward(self, dz_SBK: Tensor) -> None:
        """As of `StackedModel`."""
        d_SBD = dz_SBK
        for layer in reversed(range(len(self.weights))):
            h_SBD, dbias = self.inputs[layer], self.dbiases[layer]
            torch.bmm(d_SBD.mT, h_SBD, out=self.dweights[layer])
            if dbias is not None:
                torch.sum(d_SBD, 1, out=dbias)
            if layer:
                d_SBD = torch.bmm(d_SBD, self.weights[layer])
                torch.ops.aten.threshold_backward.grad_input(d_SBD, h_SBD, 0, grad_input=d_SBD)  # of the ReLU


class StackedPair:
    """S pairs of MLPs under one head each, see `calib_bench.models.pair`, the backward pass written out likewise."""

    def __init__(self, params: Packed, grads: Packed) -> None:
        """As for `StackedMLP`."""
        self.bodies = [StackedMLP(_linear(params, f"{copy}."), params, grads) for copy in ("first", "second")]
        self.weight, self.dweight = (p.by["head.weight"] for p in (params, grads))
        self.bias, self.dbias = (p.by.get("head.bias") for p in (params, grads))
        self.features: list[Tensor] = []

    @torch.no_grad()
    def forward(self, x_SB: Tensor) -> Tensor:
        """x [S, B, ...] -> raw logits z [S, B, K]."""
        self.features = [body.forward(x_SB).relu_() for body in self.bodies]
        h1_SBD, h2_SBD = self.features
        W1_SKD, W2_SKD = self.weight.chunk(2, 2)
        z_SBK = torch.bmm((h1_SBD + h2_SBD).div_(2), (W1_SKD + W2_SKD).mT)
        z_SBK.baddbmm_(h1_SBD - h2_SBD, (W1_SKD - W2_SKD).div_(2).mT)
        return z_SBK if self.bias is None else z_SBK.add_(self.bias.unsqueeze(1))

    @torch.no_grad()
    def backward(self, dz_SBK: Tensor) -> None:
        """As of `StackedModel`."""
        torch.bmm(dz_SBK.mT, torch.cat(self.features, 2), out=self.dweight)
        if self.dbias is not None:
            torch.sum(dz_SBK, 1, out=self.dbias)
        for body, h_SBD, weight_SKD in zip(self.bodies, self.features, self.weight.chunk(2, 2), strict=True):
            d_SBD = torch.bmm(dz_SBK, weight_SKD)
            body.backward(torch.ops.aten.threshold_backward.grad_input(d_SBD, h_SBD, 0, grad_input=d_SBD))


def _linear(params: Packed, prefix: str = "") -> list[str]:
    """Names of an MLP's linear layers, in order."""
    return [name[: -len(".weight")] for name in params.by if name.startswith(prefix) and name.endswith(".weight")]


def stacked(model: nn.Module, params: Packed, grads: Packed) -> StackedModel | StackedMLP | StackedPair:
    """The fastest way to run copies of a model. An MLP whose head was replaced is like any other model."""
    if isinstance(model, MLP) and type(model.head) is nn.Linear:
        return StackedMLP(_linear(params), params, grads)
    if isinstance(model, Pair) and isinstance(model.first, MLP) and type(model.head) is PairHead:
        return StackedPair(params, grads)
    return StackedModel(model, params, grads)


def logit_gradient(loss: Loss, z_SBK: Tensor, y_SB: Tensor, beta_S11: Tensor) -> tuple[Tensor, Tensor]:
    """The loss [S, B] of every example, and the gradient [S, B, K] by z of each member's mean over its batch."""
    if not loss.terms and not loss.maps:  # cross-entropy: beta (softmax(beta z) - onehot(y)) / B
        Z_SKB = (
            beta_S11 * z_SBK
        ).mT.contiguous()  # over the last axis, if short, torch's softmax is several times slower
        logp_SKB, y_S1B = torch.log_softmax(Z_SKB, 1), y_SB.unsqueeze(1)
        loss_S1B = -logp_SKB.gather(1, y_S1B)
        dZ_SKB = logp_SKB.exp_().scatter_add_(1, y_S1B, torch.full_like(loss_S1B, -1))
        return loss_S1B.squeeze(1), dZ_SKB.mul_(beta_S11 / z_SBK.shape[1]).mT
    with torch.enable_grad():
        z_SBK = z_SBK.detach().requires_grad_()
        loss_SB = loss(z_SBK, y_SB, beta_S11)
        (dz_SBK,) = torch.autograd.grad(loss_SB.mean(1).sum(), z_SBK)
    return loss_SB.detach(), dz_SBK


class StackedOptimizer:
    """One step of torch's SGD, Adam or AdamW for S models at once, each with a rate of its own."""

    def __init__(self, trials: Sequence[Trial], params: Packed, rate_S: Tensor, head: set[str]) -> None:
        """
        Args:
            trials: the S members, of one optimizer, their momentum and clip zero for all or none.
            params: changed in place by `step`.
            rate_S: learning rates, float64, before the factors of body and head.
            head: names of the head's parameters.
        """
        self.kind, self.params, self.count = trials[0].optimizer, params, 0
        numbers = lambda name: torch.tensor([getattr(t, name) for t in trials], dtype=torch.float64)  # noqa: E731
        column = lambda value_S: value_S.to(params.all)[:, None]  # noqa: E731
        factor_S, decay_S, rate_S = numbers("head_lr"), numbers("weight_decay"), rate_S.cpu()
        head_decay_S, body_S = decay_S * numbers("head_decay"), numbers("body_lr")
        self.rate = {True: column(-rate_S * factor_S), False: column(-rate_S * body_S)}
        self.decay = {True: column(head_decay_S / factor_S), False: column(decay_S)}
        self.shrink = {
            True: column(rate_S * head_decay_S),
            False: column(rate_S * body_S * decay_S),
        }  # the head's factors cancel
        self.decays = bool((decay_S > 0).any())
        # Always apart, whoever is in the stack: how a buffer is cut decides how its last few sums are rounded.
        self.spans = params.spans(head)
        self.momentum_S1 = column(numbers("momentum"))
        self.beta1_S = torch.tensor([adam_beta1(trial.momentum) for trial in trials], dtype=torch.float64)
        self.eps_S1 = column(numbers("eps"))
        self.clips = trials[0].clip > 0
        self.clip_S1 = column(numbers("clip"))
        self.lerp_S1 = column(1 - self.beta1_S)
        names = ["momentum"] if self.kind == "sgd" else ["mean", "square"]
        names = [] if self.kind == "sgd" and trials[0].momentum == 0 else names
        self.slots = {name: Packed(params.by) for name in names}

    @torch.no_grad()
    def step(self, grads: Packed, scale: float) -> None:
        """Update every parameter in place.

        Args:
            grads: overwritten.
            scale: the schedule's factor on every rate.
        """
        self.count += 1
        p_SP, g_SP = self.params.all, grads.all
        if self.clips:  # each member's norm over all its parameters
            norm_S1 = torch.stack([torch.linalg.vector_norm(g_P) for g_P in g_SP])[:, None]
            # In this order, as torch divides a number by a tensor: another one would move the last bits.
            g_SP.mul_(((norm_S1 + 1e-6).reciprocal() * self.clip_S1).clamp(max=1.0))
        if self.decays:
            for in_head, of in self.spans:
                if self.kind == "adamw":
                    p_SP[:, of].mul_(1 - self.shrink[in_head] * scale)
                else:
                    g_SP[:, of].addcmul_(p_SP[:, of], self.decay[in_head])
        if self.kind != "sgd":
            update_SP = self._adam(g_SP)
        else:
            update_SP = self.slots["momentum"].all.mul_(self.momentum_S1).add_(g_SP) if self.slots else g_SP
        for in_head, of in self.spans:
            p_SP[:, of].addcmul_(update_SP[:, of], self.rate[in_head] * scale)

    def _adam(self, g_SP: Tensor) -> Tensor:
        """Kingma & Ba, arXiv 1412.6980, algorithm 1: the step before its rate, in the place of the gradient."""
        mean_SP = self.slots["mean"].all.lerp_(g_SP, self.lerp_S1.expand_as(g_SP))
        square_SP = self.slots["square"].all.mul_(ADAM_BETA2).addcmul_(g_SP, g_SP, value=1 - ADAM_BETA2)
        denominator_SP = torch.sqrt(square_SP, out=g_SP).div_(math.sqrt(1 - ADAM_BETA2**self.count)).add_(self.eps_S1)
        correction_S1 = (1 - self.beta1_S**self.count).to(g_SP)[:, None]
        return torch.div(mean_SP, denominator_SP, out=g_SP).div_(correction_S1)

    def state(self) -> dict[str, Any]:
        return {"count": self.count, "slots": {name: slot.all for name, slot in self.slots.items()}}

    def load(self, state: dict[str, Any]) -> None:
        self.count = state["count"]
        for name, slot in self.slots.items():
            slot.all.copy_(state["slots"][name])
