"""Training at an inverse temperature in a loop of one's own: `at_beta`.

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 3))
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
>>> training = at_beta(model, optimizer, beta=0.1, follow="law", degree=2)
>>> round(optimizer.param_groups[0]["lr"], 6)
1.0
>>> x, y = torch.randn(16, 8), torch.randint(3, (16,))
>>> training.loss(model(x), y).backward()
>>> optimizer.step()
>>> training.predict_proba(model(x)).shape
torch.Size([16, 3])
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from numbers import Real
from typing import Any, NamedTuple
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from calib_bench import api, models, registry
from calib_bench.core.baseline import with_strengths
from calib_bench.core.trial import check_beta, parse_objective
from calib_bench.errors import SettingsError, nearest
from calib_bench.train.loss import Loss

__all__ = ["AtBeta", "Mixed", "at_beta"]
FOLLOW = ("law", "head")
HEAD_POWERS = {torch.optim.SGD: (2, 0), torch.optim.Adam: (1, -1), torch.optim.AdamW: (1, -1)}
"""Powers of beta for the head's rate and eps where its weights are multiplied by beta; weight decay is divided by that
of the rate, or by beta^2 where it is added to the gradient (Agarwala et al., arXiv 2010.07344)."""

_following: WeakSet[Any] = WeakSet()
"""Optimizers and heads that were changed already: changed twice they would follow the square of beta."""


class Mixed(NamedTuple):
    """Labels of mixed examples: each keeps `share` of its own loss, and has the rest of its partner's."""

    y: Tensor
    partner_y: Tensor
    share: float


class AtBeta:
    """The loss of training at an inverse temperature, with what else departs from plain cross-entropy.

    Attributes:
        beta: inverse temperature; the model's prediction is softmax(beta * logits), but see `at_beta` on "head".
        updates: how many updates the optimizer made.
    """

    def __init__(
        self, beta: float, scale: float, strengths: Mapping[str, float], total_updates: int | None, seed: int
    ) -> None:
        objectives = registry.objectives()
        self._outputs: int | None = None
        self.beta, self.scale, self.updates, self.total = beta, scale, 0, total_updates
        self._loss = Loss({name: torch.tensor(float(value)) for name, value in strengths.items()}, objectives)
        terms = with_strengths(strengths, objectives)
        self._factors = [(term.factor, strength) for term, strength in terms if term.factor]
        self._mixers = [(term.mix, strength) for term, strength in terms if term.mix]
        self._generator = np.random.default_rng(seed)
        if self._factors and not total_updates:
            raise SettingsError("an objective changes beta during training: give total_updates")

    def per_example(self, logits: Tensor, labels: Tensor | Mixed) -> Tensor:
        """The loss of each example in nats, [N], of the model's logits [N, K] and labels [N].

        Raises:
            SettingsError: they have other shapes or types.
        """
        if isinstance(labels, Mixed):
            one, other = (self.per_example(logits, y) for y in (labels.y, labels.partner_y))
            return labels.share * one + (1 - labels.share) * other
        self._check_batch(logits, labels)
        beta = self.beta
        for factor, strength in self._factors:
            beta *= factor(min(1.0, self.updates / (self.total or 1)), strength)
        return self._loss(logits / self.scale, labels, torch.tensor(beta, device=logits.device))

    def _check_batch(self, logits: Tensor, labels: Tensor) -> None:
        """Raises SettingsError where these are not logits [N, K] of the model and labels [N]."""
        *rows, K = logits.shape
        if list(labels.shape) != rows or labels.is_floating_point() or K < 2:  # gather takes fewer labels than rows
            raise SettingsError(
                "the loss takes logits [N, K] of K >= 2 classes and whole numbers [N] as labels, not "
                f"{tuple(logits.shape)} and {tuple(labels.shape)} of {labels.dtype}"
            )
        if (self._outputs or K) != K:
            raise SettingsError(
                f"the layer that was taken for the head has {self._outputs} outputs, and logits have {K} columns: make "
                "the model anew and give head=LAYER"
            )

    def loss(self, logits: Tensor, labels: Tensor | Mixed) -> Tensor:
        """The mean loss of a batch in nats: what to call `backward` on.

        Raises:
            SettingsError: the objective mixes inputs, and these labels are not what `mix` returned; or as of
                `per_example`.
        """
        if self._mixers and not isinstance(labels, Mixed):
            raise SettingsError("the objective mixes inputs: give the inputs and labels that mix(x, labels) returns")
        return self.per_example(logits, labels).mean()

    def compute_loss(self, outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        """The loss as Hugging Face's `Trainer(compute_loss_func=...)` calls it.

        Args:
            outputs: what the model returns, with `logits`.
            labels: [N].
            num_items_in_batch: examples of the whole update, where it is made of several batches.
        """
        if self._mixers:
            raise SettingsError("the objective mixes inputs, which Trainer does not: leave it out")
        logits = outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits
        losses = self.per_example(logits, labels)
        return losses.mean() if num_items_in_batch is None else losses.sum() / num_items_in_batch

    def mix(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | Mixed]:
        """Inputs [N, ...] and labels [N] as objectives such as mixup make them; as they are without one of these."""
        if not self._mixers:
            return x, labels
        ((draw, strength),) = self._mixers
        share = draw(self._generator, strength)
        partner = torch.from_numpy(self._generator.permutation(len(x))).to(x.device)
        return share * x + (1 - share) * x[partner], Mixed(labels, labels[partner], share)

    def log_proba(self, logits: Tensor) -> Tensor:
        """Log probabilities [N, K] of the model's predictions, given its logits."""
        return torch.log_softmax(self.beta / self.scale * logits, -1)

    def predict_proba(self, logits: Tensor) -> Tensor:
        """Probabilities [N, K] of the model's predictions, given its logits."""
        return self.log_proba(logits).exp()

    def _count(self, *_: Any) -> None:
        self.updates += 1


def at_beta(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    beta: float,
    objective: str | Mapping[str, float] = "cross_entropy",
    *,
    follow: str | None = None,
    x: Any = None,
    degree: float | None = None,
    head: nn.Linear | None = None,
    total_updates: int | None = None,
    seed: int = 0,
) -> AtBeta:
    """Prepare a model and its optimizer for training at an inverse temperature, before the first update.

    Training minimizes the cross-entropy of beta * logits, or what an objective puts in its place.

    Args:
        model: returns logits [N, K].
        optimizer: torch's SGD, Adam or AdamW over the model's parameters, tuned at beta = 1 where it has to follow. A
            scheduler of it is made afterwards.
        beta: inverse temperature.
        objective: as on the command line, "label_smoothing:0.1+confidence_penalty:0.05", or strengths by name; see
            `python -m calib_bench list baselines`.
        follow: None leaves the optimizer as it is. "law" sets rate, weight decay and eps of every group to what
            `calib_bench.advise` says for this beta. "head" multiplies the head's weights by beta once, and gives it a
            group of its own, whose rate and decay make every update that of training at beta: the model's own softmax
            is then its prediction.
        x: a batch, on which "law" measures the degree.
        degree: of the logits in the weights, where it is known.
        head: the last linear layer, for "head" and for objectives that replace it; found where the model has
            `get_classifier()` or `head`, or ends in one.
        total_updates: of the whole run, for objectives that change beta on the way.
        seed: of what objectives draw.

    Returns:
        The loss and the predictions.

    Raises:
        SettingsError: an objective is unknown, or a strength out of range; or the optimizer cannot follow beta, has
            made updates, follows a beta or has a scheduler already; or something that is needed is missing.
    """
    _check(beta, follow)
    _check_trains(model, optimizer)
    strengths = _strengths(objective)
    training = AtBeta(beta, beta if follow == "head" else 1.0, strengths, total_updates, seed)
    _prepare_head(model, optimizer, strengths, follow, head)
    if follow == "law":
        _follow_law(model, optimizer, beta, x, degree)
    if follow == "head":
        layer = _head_of(model, head)
        _follow_head(optimizer, layer, beta)
        training._outputs = layer.out_features
    optimizer.register_step_post_hook(training._count)
    return training


def _prepare_head(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    strengths: Mapping[str, float],
    follow: str | None,
    head: nn.Linear | None,
) -> None:
    """Put the head in place that an objective asks for.

    Raises:
        SettingsError: what is to be changed is in use already, or both the objective and `follow` change the head.
    """
    heads = [(term.head, of) for term, of in with_strengths(strengths, registry.objectives()) if term.head]
    if follow or heads:
        _check_fresh(optimizer)
    if follow == "head" and heads:
        raise SettingsError('follow="head" needs a plain linear head, and the objective replaces it')
    for make, strength in heads:
        _replace_head(model, optimizer, _head_of(model, head), make, strength)


def _check(beta: float, follow: str | None) -> None:
    check_beta(beta)
    if follow not in (None, *FOLLOW):
        raise SettingsError(f"follow={follow!r} is none of {', '.join(FOLLOW)}")


def _check_trains(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(model, nn.Module):
        raise SettingsError(f"the model is an nn.Module that returns logits, not {type(model).__name__}")
    trained = itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)
    if set(map(id, model.parameters())).isdisjoint(map(id, trained)):
        raise SettingsError("the optimizer has none of the model's parameters: make it of model.parameters()")


def _strengths(objective: str | Mapping[str, float]) -> dict[str, float]:
    """Strengths of objectives by name, each within its bounds."""
    strengths = _parsed(objective)
    terms = with_strengths(strengths, registry.objectives())
    for name, (term, strength) in zip(sorted(strengths), terms, strict=True):
        low, high = term.valid
        if not isinstance(strength, Real) or not low <= strength <= high:
            raise SettingsError(f"the strength of {name} is {strength!r}, and must be from {low:g} to {high:g}")
    if sum(term.mix is not None for term, _ in terms) > 1:
        raise SettingsError("two objectives mix inputs: give one of them")
    return strengths


def _parsed(objective: object) -> dict[str, float]:
    if isinstance(objective, Mapping):
        return dict(objective)
    if not isinstance(objective, str):
        raise SettingsError(f"objective={objective!r} is neither text, such as label_smoothing:0.1, nor a mapping")
    try:
        return parse_objective(objective)
    except ValueError as error:
        raise SettingsError(f"{error}: {_hint(objective.partition(':')[0])}") from None


def _hint(name: str) -> str:
    """How an objective is written, or what else may be meant."""
    objectives = registry.objectives()
    if name in objectives:
        return f"such as {name}:{objectives[name].strengths[0]:g}"
    return nearest(name, objectives)


def _check_fresh(optimizer: torch.optim.Optimizer) -> None:
    if optimizer.state:
        raise SettingsError("the optimizer has made updates already: call at_beta before the first")
    if "initial_lr" in itertools.chain.from_iterable(optimizer.param_groups):
        raise SettingsError("a scheduler of the optimizer would set its rates back: make it after at_beta")


def _check_first(*changed: Any) -> None:
    """Raises SettingsError where an optimizer or a head follows a beta already."""
    if not _following.isdisjoint(changed):
        raise SettingsError("at_beta has changed these already: make the model and the optimizer anew")


def _head_of(model: nn.Module, named: nn.Linear | None) -> nn.Linear:
    """The last linear layer of a model, or the one that is named.

    Raises:
        SettingsError: it is not known which that is; or what is named is no linear layer of the model.
    """
    if named is not None:
        return _checked(named, model)
    if hasattr(model, "get_classifier") or hasattr(model, "head"):
        return models.head(model)
    leaves = [module for module in model.modules() if not any(module.children())]
    if not leaves or not isinstance(leaves[-1], nn.Linear):
        raise SettingsError(f"which layer of {type(model).__name__} is the head is not known: give head=LAYER")
    return leaves[-1]


def _checked(head: nn.Linear, model: nn.Module) -> nn.Linear:
    if not isinstance(head, nn.Linear) or head not in model.modules():
        raise SettingsError(f"head={type(head).__name__} is no linear layer of the model")
    return head


def _replace_head(
    model: nn.Module, optimizer: torch.optim.Optimizer, head: nn.Linear, make: Any, strength: float
) -> None:
    """Puts an objective's layer in the place of the head, and its parameters in the place of the head's."""
    old = set(map(id, head.parameters()))
    group = _group_of(old, optimizer)
    new = make(head, strength)
    models.replace_layer(model, head, new)
    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in old] + [*new.parameters()]


def _group_of(ids: set[int], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The group of parameters that has one of these ids.

    Raises:
        SettingsError: there is none.
    """
    for group in optimizer.param_groups:
        if not ids.isdisjoint(map(id, group["params"])):
            return group
    raise SettingsError("the objective replaces the head, which the optimizer does not train: give it its parameters")


def _follow_law(model: nn.Module, optimizer: torch.optim.Optimizer, beta: float, x: Any, degree: float | None) -> None:
    if x is None and degree is None:
        raise SettingsError('follow="law" needs x=, a batch to measure the degree on, or degree=')
    _check_first(optimizer)
    advice = api.advise(model, x, optimizer, beta, degree=degree)
    for group, numbers in zip(optimizer.param_groups, advice.groups, strict=True):
        _set(group, numbers.lr, numbers.weight_decay, numbers.eps)
    _following.add(optimizer)


def _follow_head(optimizer: torch.optim.Optimizer, head: nn.Linear, beta: float) -> None:
    """The head reparametrization: weights V = beta W, whose updates are those of W at beta times beta."""
    if type(optimizer) not in HEAD_POWERS:
        known = ", ".join(one.__name__ for one in HEAD_POWERS)
        raise SettingsError(f"how {type(optimizer).__name__} follows beta is not known; it is known for {known}")
    _check_first(optimizer, head)
    for group in list(optimizer.param_groups):
        if parameters := _taken_out(group, {id(parameter) for parameter in head.parameters()}):
            optimizer.add_param_group(_head_group({**group, "params": parameters}, optimizer, beta))
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    models.rescale(head, beta)
    _following.update((optimizer, head))


def _taken_out(group: dict[str, Any], ids: set[int]) -> list[nn.Parameter]:
    """The parameters of these ids, which leave the group."""
    parameters = [parameter for parameter in group["params"] if id(parameter) in ids]
    group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
    return parameters


def _head_group(group: dict[str, Any], optimizer: torch.optim.Optimizer, beta: float) -> dict[str, Any]:
    """A group of the head's parameters, with the numbers that it needs once its weights are multiplied by beta."""
    rate_power, eps_power = HEAD_POWERS[type(optimizer)]
    is_decoupled = bool(group.get("decoupled_weight_decay")) or isinstance(optimizer, torch.optim.AdamW)
    decay = group["weight_decay"] / beta ** (1 if is_decoupled else 2)
    _set(group, group["lr"] * beta**rate_power, decay, group.get("eps", 0.0) * beta**eps_power)
    return group


def _set(group: dict[str, Any], rate: float, decay: float, eps: float | None) -> None:
    """Numbers of a group of parameters."""
    group["lr"], group["weight_decay"] = rate, decay
    if "eps" in group and eps is not None:
        group["eps"] = eps
