"""Models by name: the package's own, one architecture a file, those of timm and transformers, and those of plug-ins.

This module imports no torch until something is built.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
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

EXAMPLES = {
    "mlp_128_128": "fully connected, ReLU, one hidden layer per width; mlp_128_128_nobias has no biases (homogeneous), "
    "mlp_128_128_layernorm normalizes them",
    "linear": "softmax regression: no hidden layer; linear_nobias has no biases",
    "scalar": "one parameter, the logit of the first half of the classes: an exactly solvable model of SGD's noise",
    "cnn_16_32": "plain CNN, one 3x3 convolution, ReLU and 2x2 max-pool per width",
    "wrn_16_4": "Wide ResNet of depth 16 and width 4, batch norm; depth is 6n + 4",
    "wrn_28_10": "Wide ResNet of depth 28 and width 10, batch norm",
    "wrn_16_4_nonorm": "Wide ResNet without normalization, Fixup initialization",
    "resnet9_16": "small residual net that learns CIFAR-10 in a few epochs, batch norm; widths 16, 32, 64, 128",
    "gru_64": "embedding and one GRU layer of width 64, last state",
    "lstm_64": "embedding and one LSTM layer of width 64, last state",
    "bag_64": "mean of word embeddings of width 64",
    "timm/resnet50": "ResNet-50, and likewise any other model of timm by its name",
}
"""Names of the package's own models to start from, with a line for people."""


@dataclass(frozen=True)
class _Family:
    """Names that match `pattern` are built by `build` of the module called `module`, or else by a plug-in."""

    module: str | None
    pattern: str
    kinds: tuple[str, ...]
    fusable: bool


_W = r"[1-9]\d{0,4}"
_FAMILIES = (
    _Family("mlp", rf"mlp((?:_{_W})+)(_nobias|_layernorm)?", ("vector", "image"), True),
    _Family("mlp", r"linear()(_nobias)?", ("vector", "image"), True),
    _Family("scalar", r"scalar", ("vector", "image", "tokens"), True),
    _Family("cnn", rf"cnn((?:_{_W})+)", ("image",), True),
    _Family("wrn", rf"wrn_({_W})_({_W})", ("image",), False),
    _Family("wrn", rf"wrn_({_W})_({_W})(_nonorm)", ("image",), True),
    _Family("resnet9", rf"resnet9_({_W})", ("image",), False),
    _Family("recurrent", rf"(gru|lstm)_({_W})", ("tokens",), False),
    _Family("bag", rf"bag_({_W})", ("tokens",), True),
    _Family("timm", r"timm/([A-Za-z0-9_.]+)", ("image",), False),
    _Family("hf", r"hf/(.+)", ("tokens",), False),
)


def examples() -> dict[str, str]:
    """Names to start from with a line for people: `EXAMPLES`, whose numbers may be changed, and plugged-in models."""
    return EXAMPLES | {name: model.title for name, model in _plugged_in().items()}


def names() -> tuple[str, ...]:
    """Names to start from; widths and depths may be changed. Each has its line in `examples`."""
    return tuple(examples())


def _plugged_in() -> Mapping[str, Model]:
    """The models of plug-ins by name.

    Raises:
        SettingsError: one of them has a name that one of the package's own has.
    """
    plugins = registry.plugged_in_models()
    for name in plugins:
        if name in ALIASES or _family(name) is not None:
            raise SettingsError(f"the plug-in model {name!r} has the name of one of the package's own: rename its file")
    return plugins


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
    family, _ = _resolve(name)
    if kind is not None and kind not in family.kinds:
        fitting = [example for example in examples() if kind in _resolve(example)[0].kinds]
        raise SettingsError(
            f"model {name!r} takes inputs of kind {' or '.join(family.kinds)}, but the task's are of kind {kind}; "
            f"models for those: {', '.join(fitting) or 'none'}"
        )


def check_exists(name: str) -> None:
    """Like `check`, and a name of timm or transformers is looked up there, which imports torch.

    Raises:
        SettingsError: no such model.
    """
    check(name)
    family, match = _resolve(name)
    if family.module in PRETRAINED:
        _of_library(family).exists(match[1])


def pretrained_head(name: str) -> Head | None:
    """What the outputs of a model's published weights stand for; None where that is not known, or there are none."""
    family, match = _resolve(name)
    return _of_library(family).pretrained_head(match[1])


def weights_at_hand(name: str) -> str | None:
    """The published weights that would be loaded for a model now, as a trial's key names them; None without any."""
    family, match = _resolve(name)
    return _of_library(family).weights_at_hand(match[1])


def _of_library(family: _Family) -> ModuleType:
    return importlib.import_module(f"calib_bench.models.{family.module}")


def fusable(name: str) -> bool:
    """Whether copies of the model can be stacked and run under torch.func.vmap: no batch-norm buffers, no RNN.

    Whether that is faster is another matter: fused convolutions are slower than a loop on a CPU.
    """
    return _resolve(name)[0].fusable


def build(name: str, spec: InputSpec, classes: int, pretrained: bool = False, weights: str | None = None) -> nn.Module:
    """A new model on the default device; its weights depend on torch's global seed alone.

    Args:
        name: as in `names`, a short name of `ALIASES`, "timm/NAME", or that of a plug-in.
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
    family, match = _resolve(name)
    if pretrained and family.module not in PRETRAINED:
        raise UserError(f"there are no pretrained weights for model {name!r}; timm/NAME and hf/NAME have them")
    if family.module is None:
        return _checked(name, _plugged_in()[name].build(spec, classes), classes)
    module = importlib.import_module(f"calib_bench.models.{family.module}")
    options = {"pretrained": True, "weights": weights} if pretrained else {}
    return module.build(*match.groups(), spec=spec, classes=classes, **options)


def _checked(name: str, model: nn.Module, classes: int) -> nn.Module:
    """The model of a plug-in.

    Raises:
        UserError: it is no module, or has no linear head of as many outputs as there are classes.
    """
    from torch import nn

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


def replace_head(model: nn.Module, new: nn.Linear) -> None:
    """Put another layer, a subclass of nn.Linear, in the place of the head."""
    model = unwrap(model)
    old = head(model)
    path = next(name for name, module in model.named_modules() if module is old)
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, new)


def paired(model: nn.Module, correlation: float) -> nn.Module:
    """Two copies of the body of a model at its initialization, under one head: see `calib_bench.models.pair`.

    Raises:
        UserError: the model does not end in one linear layer, or that starts at zero.
    """
    from calib_bench.models.pair import Pair

    return Pair(model, head(model), correlation)


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


def _resolve(name: str) -> tuple[_Family, re.Match[str]]:
    """The family of a name, with the match of its pattern.

    Raises:
        SettingsError: the name matches nothing.
    """
    plugins = _plugged_in()
    if name in plugins:
        plugin_family = _Family(None, re.escape(name), plugins[name].kinds, fusable=False)
        return plugin_family, re.match(plugin_family.pattern, name)  # type: ignore[return-value]
    resolved = _family(canonical(name))
    if resolved is None:
        raise SettingsError(
            f"unknown model {name!r} (the numbers in a name are widths and may be changed; a model of timm is written "
            f"timm/NAME, one of transformers hf/NAME); {nearest(name, {*EXAMPLES, *ALIASES, *plugins})}"
        )
    family, match = resolved
    if family.module == "wrn":
        _check_depth(name, int(match[1]))
    return resolved


def _family(name: str) -> tuple[_Family, re.Match[str]] | None:
    """The package's own family that a full name is of, with the match of its pattern; None where it is of none."""
    for family in _FAMILIES:
        if match := re.fullmatch(family.pattern, name):
            return family, match
    return None


def _check_depth(name: str, depth: int) -> None:
    if depth < 10 or depth % 6 != 4:
        below = max(10, depth - (depth - 4) % 6)
        choices = dict.fromkeys(name.replace(str(depth), str(near), 1) for near in (below, below + 6))
        raise SettingsError(
            f"model {name!r} has depth {depth}, but a Wide ResNet's depth is 6n + 4 with n >= 1; "
            f"did you mean {' or '.join(repr(choice) for choice in choices)}?"
        )
