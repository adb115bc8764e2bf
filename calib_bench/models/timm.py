"""Any model of timm (Wightman, 2019, doi 10.5281/zenodo.4414861) by its name, without dropout or stochastic depth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from calib_bench.errors import SettingsError, UserError, nearest

if TYPE_CHECKING:
    from calib_bench.data.splits import InputSpec

WEIGHTS_VARIABLE = "CALIB_BENCH_WEIGHTS"
"""Environment variable: a folder of NAME.safetensors files, looked in before the Hub."""

UNDROPPED = {"drop_rate": 0.0, "drop_path_rate": 0.0}
"""No dropout, no stochastic depth: both are regularizers, and some of timm's models have them by default."""


def build(name: str, *, spec: InputSpec, classes: int, pretrained: bool = False) -> nn.Module:
    """`timm.create_model` for these inputs and classes; pretrained weights keep their head when K is theirs.

    Raises:
        SettingsError: timm knows no such model or weights tag.
        UserError: the model does not take such images, or its weights cannot be loaded.
    """
    import timm

    exists(name)
    architecture = name.partition(".")[0]
    config = timm.get_pretrained_cfg(name)
    if pretrained and config is None:
        raise UserError(f"timm has no pretrained weights for {architecture!r}; use pretrained=false")
    options: dict[str, Any] = {"num_classes": classes, "in_chans": spec.shape[0]}
    if config is not None and config.fixed_input_size and tuple(config.input_size[1:]) != spec.shape[1:]:
        options["img_size"] = spec.shape[1:]
    try:
        return _pretrained(name, config, options) if pretrained else _create(name, options | UNDROPPED)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"timm/{name} cannot be built for images of shape {spec.shape} ({_first_line(error)}); choose another model"
        ) from error


def exists(name: str) -> None:
    """Raises SettingsError unless timm has this architecture and, where one is named, this set of weights."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise SettingsError(f"timm has no model {architecture!r}; {_prefixed(architecture, timm.list_models())}")
    tags = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tags:
        raise SettingsError(f"timm has no weights {name!r}; {_prefixed(name, [architecture, *tags])}")


def _pretrained(name: str, config: Any, options: dict[str, Any]) -> nn.Module:
    """The model with timm's weights, from a local file or the Hub.

    Raises:
        UserError: they cannot be loaded.
    """
    local = Path(os.environ.get(WEIGHTS_VARIABLE, "")) / f"{name}.safetensors"
    if os.environ.get(WEIGHTS_VARIABLE) and local.is_file():
        options["pretrained_cfg_overlay"] = {"file": str(local), "source": ""}
    try:
        return _create(name, options | UNDROPPED | {"pretrained": True})
    except _load_errors() as error:
        raise UserError(
            f"the pretrained weights of timm/{name} could not be loaded ({_first_line(error)}). Either connect to the "
            f"Hugging Face Hub, or download {config.hf_hub_id or config.url or 'them'} elsewhere and copy the Hub's "
            f"cache folder here ($HF_HOME), or put the weights at ${WEIGHTS_VARIABLE}/{name}.safetensors"
        ) from error


def _create(name: str, options: dict[str, Any]) -> nn.Module:
    """create_model without those drop rates that the architecture does not know."""
    import timm

    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        unknown = next((option for option in UNDROPPED if option in options and f"'{option}'" in str(error)), None)
        if unknown is None:
            raise
        return _create(name, {option: value for option, value in options.items() if option != unknown})


def _load_errors() -> tuple[type[BaseException], ...]:
    """What timm, the Hub's client and their HTTP libraries raise when weights cannot be had."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    errors: tuple[type[BaseException], ...] = (
        OSError,
        RuntimeError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )
    try:
        from httpx import HTTPError
    except ImportError:
        return errors
    return (*errors, HTTPError)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _prefixed(name: str, choices: list[str]) -> str:
    return nearest(f"timm/{name}", [f"timm/{choice}" for choice in choices])
