"""Any model of timm (Wightman, 2019, doi 10.5281/zenodo.4414861) by its name, without dropout or stochastic depth."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec
from calib_bench.data.heads import Head
from calib_bench.errors import SettingsError, UserError, nearest
from calib_bench.models.weights import digest_of

WEIGHTS_VARIABLE = "CALIB_BENCH_WEIGHTS"
"""Environment variable: a folder of NAME.safetensors files, looked in before the Hub."""

UNDROPPED = {"drop_rate": 0.0, "drop_path_rate": 0.0}
"""No dropout, no stochastic depth: both are regularizers, and some of timm's models have them by default."""


def build(spec: InputSpec, classes: int, name: str, pretrained: bool = False, weights: str | None = None) -> nn.Module:
    """`timm.create_model` for these inputs and classes; pretrained weights keep their head when K is theirs.

    Args:
        weights: those to load, as `weights_at_hand` names them; None for those at hand.

    Raises:
        SettingsError: timm knows no such model or weights tag.
        UserError: the model does not take such images, or its weights cannot be loaded or are not those asked for.
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
        return _pretrained(name, config, options, weights) if pretrained else _create(name, options | UNDROPPED)
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


def pretrained_head(name: str) -> Head | None:
    """What the outputs of timm's weights stand for; None where timm does not tell."""
    import timm
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config = timm.get_pretrained_cfg(name)
    subset = infer_imagenet_subset(config.to_dict()) if config is not None else None
    if subset is None:
        return None
    classes = ImageNetInfo(subset)
    return Head(tuple(classes.label_names()), tuple(classes.label_descriptions()))


def weights_at_hand(name: str) -> str | None:
    """The weights that timm would load for `name` now, as a trial's key names them.

    Returns:
        "sha256:..." of the file in $CALIB_BENCH_WEIGHTS; else "hub:REPOSITORY@COMMIT", of the Hub's newest commit or,
        where the Hub cannot be reached, that of its cache; else "url:..."; None where there are none.
    """
    import timm

    if (local := _local(name)) is not None:
        return f"sha256:{digest_of(local, local.stat().st_mtime_ns, local.stat().st_size)}"
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return None
    if config.hf_hub_id:
        commit = _commit(config.hf_hub_id)
        return f"hub:{config.hf_hub_id}@{commit}" if commit else None
    return f"url:{config.url}" if config.url else None


def _local(name: str) -> Path | None:
    """The user's own file of weights, where there is one."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    file = Path(folder).expanduser() / f"{name}.safetensors" if folder else None
    return file if file is not None and file.is_file() else None


def _commit(repository: str) -> str | None:
    """The newest commit of a repository of models on the Hub; in its cache where the Hub cannot be reached."""
    import huggingface_hub as hf
    from huggingface_hub import constants

    try:
        return hf.HfApi().model_info(repository, timeout=10).sha
    except Exception:  # of the Hub, of its transport: they have no common base
        cached = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "refs" / "main"
        return cached.read_text().strip() if cached.is_file() else None


def _source(name: str, weights: str | None) -> dict[str, str]:
    """What timm must be told to load these weights and no others.

    Raises:
        UserError: they are a local file that is gone, or is another one now.
    """
    if weights is not None and weights.startswith("hub:"):
        return {"hf_hub_id": weights.removeprefix("hub:")}
    if weights is not None and weights.startswith("url:"):
        return {}
    local = _local(name)
    if weights is not None and (local is None or weights_at_hand(name) != weights):
        where = f"${WEIGHTS_VARIABLE}/{name}.safetensors"
        raise UserError(
            f"the weights of timm/{name} are not those that this study was planned with: {where} "
            f"{'is another file now' if local else 'is not there'}, where one of {weights[:20]}... is expected. Put "
            "that file back, or run the command again to plan with what is there"
        )
    return {"file": str(local), "source": ""} if local else {}


def _pretrained(name: str, config: Any, options: dict[str, Any], weights: str | None) -> nn.Module:
    """The model with timm's weights, from a local file or the Hub.

    Raises:
        UserError: they cannot be loaded, or are not those asked for.
    """
    if source := _source(name, weights):
        options["pretrained_cfg_overlay"] = source
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


MODEL = Model(
    build,
    kinds=("image",),
    parameters=r"/([A-Za-z0-9_.]+)",
    examples={"timm/resnet50": "ResNet-50, and likewise any other model of timm by its name"},
)
