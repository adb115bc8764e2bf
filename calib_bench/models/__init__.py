"""Models by name: the package's own, one architecture a file, those of timm and transformers, and those of plug-ins.

This module imports no torch until something is built.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

from calib_bench import registry
from calib_bench.core.model import Model
from calib_bench.core.trial import of_file
from calib_bench.errors import SettingsError, UserError, nearest

if TYPE_CHECKING:
    from torch import nn

    from calib_bench.core.splits import InputSpec
    from calib_bench.data.heads import Head

ALIASES = {
    "mlp": "mlp_128_128",
    "cnn": "cnn_16_32",
    "gru": "gru_64",
    "lstm": "lstm_64",
    "bag": "bag_64",
    "resnet50": "timm/resnet50",
}
"""Short names and the full names that they stand for."""

PRETRAINED = ("timm", "hf")
"""Libraries whose models have published weights, by the beginning of their names: timm and transformers."""


def examples() -> dict[str, str]:
    """Names to start from, whose numbers may be changed, with a line for people."""
    return {
        example: line
        for name, model in _families().items()
        for example, line in (model.examples or {name: model.title}).items()
    }


def _families() -> dict[str, Model]:
    """The models of the package and of plug-ins by the names of their files.

    Raises:
        SettingsError: a plug-in's name is one of the package's own models.
    """
    package, plugins = registry.package_models(), registry.plugged_in_models()
    for name in plugins:
        if name in ALIASES or any(model.match(family, name) for family, model in package.items()):
            raise SettingsError(f"the plug-in model {name!r} has the name of one of the package's own: rename its file")
    return {**package, **plugins}


def canonical(name: str) -> str:
    """The full name that a short one stands for; any other name as it is.

    >>> canonical("mlp")
    'mlp_128_128'
    """
    return ALIASES.get(name, name)


def check(name: str, kind: str | None = None) -> None:
    """Check that a name is well formed and, where `kind` is given, that the model takes such inputs.

    A name of timm or transformers is looked up only when the model is built, because that imports torch.

    Args:
        name: the model's name.
        kind: of the input, as in `InputSpec`: "vector", "image" or "tokens".

    Raises:
        SettingsError: the name matches nothing, or the model takes other inputs.
    """
    _, model, _ = _resolve(name)
    if kind is not None and kind not in model.kinds:
        fitting = [example for example in examples() if kind in _resolve(example)[1].kinds]
        raise SettingsError(
            f"model {name!r} takes inputs of kind {' or '.join(model.kinds)}, but the task's are of kind {kind}; "
            f"models for those: {', '.join(fitting) or 'none'}"
        )


def check_exists(name: str, kind: str | None = None) -> None:
    """Like `check`, and a name of timm or transformers is looked up there, which imports torch.

    Raises:
        SettingsError: no such model, or it takes other inputs.
    """
    check(name, kind)
    family, _, match = _resolve(name)
    if family in PRETRAINED:
        _of_library(family).exists(match[1])


def pretrained_head(name: str) -> Head | None:
    """What the outputs of a model's published weights stand for; None where that is not known, or there are none."""
    family, _, match = _resolve(name)
    return _of_library(family).pretrained_head(match[1])


def weights_at_hand(name: str) -> str | None:
    """The published weights that would be loaded for a model now, as a trial's key names them; None without any."""
    family, _, match = _resolve(name)
    return _of_library(family).weights_at_hand(match[1])


def _of_library(family: str) -> ModuleType:
    return importlib.import_module(f"calib_bench.models.{family}")


def declared_references(name: str) -> tuple[str, ...]:
    """The BibTeX keys that a model's file declares.

    Raises:
        SettingsError: no such model.
    """
    return _resolve(name)[1].references


def fusable(name: str) -> bool:
    """Whether copies of the model can be stacked and run under torch.func.vmap: no batch-norm buffers, no RNN.

    Whether that is faster is another matter: fused convolutions are slower than a loop on a CPU.
    """
    _, model, match = _resolve(name)
    return bool(re.fullmatch(model.stackable, match[0]))


def build(name: str, spec: InputSpec, classes: int, pretrained: bool = False, weights: str | None = None) -> nn.Module:
    """A new model on the default device; its weights depend on torch's global seed alone.

    Args:
        name: as in `examples`, a short name of `ALIASES`, "timm/NAME", or that of a plug-in.
        spec: what the model must accept. A model is called with one argument: x [B, *shape], or for tokens the pair
            (tokens [B, L] int64 right-padded, lengths [B] int64).
        classes: number of classes K; the model returns logits z [B, K].
        pretrained: whether to start from weights; their head is kept when K is its own.
        weights: which: a file's as `calib_bench.models.weights.name_of` names them, or timm's published ones, as
            `calib_bench.models.timm.weights_at_hand` does; None for those of timm at hand.

    Raises:
        SettingsError: the name matches nothing, or the model takes other inputs.
        UserError: no such weights, or they cannot be downloaded.
    """
    check(name, spec.kind)
    if pretrained and weights and of_file(weights):
        return from_file(name, spec, classes, weights)[0]
    family, model, match = _resolve(name)
    if pretrained and family not in PRETRAINED:
        raise UserError(f"there are no pretrained weights for model {name!r}; timm/NAME and hf/NAME have them")
    options = {"pretrained": True, "weights": weights} if pretrained else {}
    build_model = partial(model.build, spec, classes, *match.groups(), **options)
    return _checked(name, build_model, classes) if family in registry.plugged_in_models() else build_model()


def _checked(name: str, build_model: Callable[[], object], classes: int) -> nn.Module:
    """The model of a plug-in.

    Raises:
        UserError: it is no module, has no linear head of as many outputs as there are classes, or seeds torch.
    """
    import torch
    from torch import nn

    seed = torch.initial_seed()
    model = build_model()
    if torch.initial_seed() != seed:
        raise UserError(f"build of model {name!r} seeds torch, so that every seed would begin alike: leave it out")
    if not isinstance(model, nn.Module):
        raise UserError(f"build of model {name!r} gave {type(model).__name__}: it returns an nn.Module")
    outputs = head(model).out_features
    if outputs != classes:
        raise UserError(f"model {name!r} has a head of {outputs:,} outputs, and the data has {classes:,} classes")
    return model


def from_file(name: str, spec: InputSpec, classes: int, weights: str) -> tuple[nn.Module, bool]:
    """A model with the weights of a file, and whether its head is the file's too; arguments and errors as of `build`.

    The head is the file's where that has K outputs, and else a new one, from torch's global seed.
    """
    files = importlib.import_module("calib_bench.models.weights")
    model = build(name, spec, classes)
    return model, files.put(files.named(weights), model, head_names(model), name)


def head(model: nn.Module) -> nn.Linear:
    """The final linear layer, whose weight is [K, D].

    Raises:
        UserError: the model does not end in one linear layer.
    """
    from torch import nn

    model = unwrap(model)
    last = model.get_classifier() if hasattr(model, "get_classifier") else getattr(model, "head", None)  # type: ignore[operator]
    if not isinstance(last, nn.Linear):
        raise UserError(
            f"{type(model).__name__} does not end in a linear layer (it ends in {type(last).__name__}), so its head's "
            "rate and initialization cannot be set apart; choose a model with a linear classifier. A model of your own "
            "has an nn.Linear in its attribute `head`"
        )
    return last


def head_names(model: nn.Module) -> set[str]:
    """Names of the linear head's parameters within the model."""
    head_ids = {id(parameter) for parameter in head(model).parameters()}
    return {name for name, parameter in model.named_parameters() if id(parameter) in head_ids}


def replace_head(model: nn.Module, new: nn.Module) -> None:
    """Put another layer in the place of the head."""
    replace_layer(unwrap(model), head(model), new)


def replace_layer(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put another layer in the place of one of a model's."""
    path = next(name for name, module in model.named_modules() if module is old)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)


def paired(model: nn.Module, correlation: float) -> nn.Module:
    """Two copies of the body of a model at its initialization, under one head: see `calib_bench.models.pair`.

    Raises:
        UserError: the model does not end in one linear layer, or that starts at zero.
    """
    from torch import nn

    from calib_bench.models.pair import Pair

    old = head(model)
    replace_head(model, nn.Identity())
    return Pair(model, old, correlation)


def rescale_head(model: nn.Module, factor: float) -> None:
    """Multiply the head's weight and bias in place, and thereby the logits (Agarwala et al., arXiv 2010.07344)."""
    rescale(head(model), factor)


def rescale(module: nn.Module, factor: float) -> None:
    """Multiply every parameter of a module in place."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(factor)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside torch's data-parallel and compile wrappers."""
    for attribute in ("_orig_mod", "module"):
        inner = getattr(model, attribute, None)
        if inner is not None:
            return unwrap(inner)
    return model


def _resolve(name: str) -> tuple[str, Model, re.Match[str]]:
    """The file that a model's name begins with, what it sets, and the parameters in the name.

    Raises:
        SettingsError: the name matches nothing, or two files.
    """
    families, full_name = _families(), canonical(name)
    candidates = ((family, model, model.match(family, full_name)) for family, model in families.items())
    matches = [(family, model, match) for family, model, match in candidates if match]
    if not matches:
        raise SettingsError(
            f"unknown model {name!r} (the numbers in a name are widths and may be changed; a model of timm is written "
            f"timm/NAME, one of transformers hf/NAME); {nearest(name, examples(), ALIASES)}"
        )
    if len(matches) > 1:
        files = " and ".join(family for family, _, _ in matches)
        raise SettingsError(f"the name {name!r} is of the models {files}: rename the plug-in")
    family, _, match = matches[0]
    if family == "wrn":
        _check_depth(name, int(match[1]))
    return matches[0]


def _check_depth(name: str, depth: int) -> None:
    if depth < 10 or depth % 6 != 4:
        below = max(10, depth - (depth - 4) % 6)
        choices = dict.fromkeys(name.replace(str(depth), str(near), 1) for near in (below, below + 6))
        raise SettingsError(
            f"model {name!r} has depth {depth}, but a Wide ResNet's depth is 6n + 4 with n >= 1; "
            f"did you mean {' or '.join(repr(choice) for choice in choices)}?"
        )
