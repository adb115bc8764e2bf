"""Text classifiers and encoders of transformers (Wolf et al., 2020, arXiv 1910.03771) by name, without dropout."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench.core.model import Model
from calib_bench.core.splits import InputSpec
from calib_bench.core.trial import HF
from calib_bench.data.cache import sha256_of
from calib_bench.data.heads import Head
from calib_bench.data.text import from_pretrained, place_of
from calib_bench.errors import SettingsError, UserError

SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".bin")
"""Files of a folder that decide what its model is."""
CLASSIFIER = "ForSequenceClassification"
"""How architectures with a head of classes are called."""
POOLER = "pooler"
"""How the layer is called that makes a head's input of an encoder's states: it counts as a part of the head."""


class Transformer(nn.Module):
    """A classifier of transformers as this package calls models.

    Attributes:
        inner: the model of transformers.
        pad: the token that stands in padded places.
        pretrained_cfg: "num_classes" of the weights' own head, where they have one: as timm's models tell it.
        drawn: names of the parameters that pretrained weights lack, and that are drawn by the seed.
    """

    def __init__(
        self, inner: nn.Module, pad: int, classes: int, head: Head | None, drawn: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.inner, self.pad, self.classes = inner, pad, classes
        self.drawn = frozenset(f"inner.{name}" for name in drawn)
        self.pretrained_cfg = {"num_classes": len(head.synsets)} if head else {}

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        """(tokens [B, L], lengths [B], at least 1) -> logits [B, K]."""
        tokens_BL, lengths_B = x
        real_BL = torch.arange(tokens_BL.shape[1], device=tokens_BL.device) < lengths_B[:, None]
        padded_BL = torch.where(real_BL, tokens_BL, self.pad)
        return self.inner(input_ids=padded_BL, attention_mask=real_BL.long()).logits

    def get_classifier(self) -> nn.Module:
        """The last linear layer with K outputs."""
        layers = [m for m in self.inner.modules() if isinstance(m, nn.Linear) and m.out_features == self.classes]
        return layers[-1] if layers else self.inner


class Pooled(nn.Module):
    """A new head on the mean of an encoder's states, for architectures without a classifier of their own."""

    def __init__(self, encoder: Any, classes: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """Tokens and mask [B, L] -> logits [B, K], as an attribute `logits`, like transformers' own."""
        from transformers.modeling_outputs import SequenceClassifierOutput

        states_BLH = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight_BL = attention_mask.to(states_BLH.dtype) / attention_mask.sum(1, keepdim=True)
        return SequenceClassifierOutput(logits=self.head((states_BLH * weight_BL[..., None]).sum(1)))


def build(
    spec: InputSpec, classes: int, name: str, pretrained: bool = False, weights: str | None = None
) -> Transformer:
    """The architecture that NAME's configuration describes; pretrained weights keep their head when K is theirs.

    Args:
        weights: those to load, as `weights_at_hand` names them; None for those at hand.

    Raises:
        SettingsError: transformers is not installed, there is no such folder, or weights lack a part of the body.
        UserError: configuration or weights cannot be loaded, or are not those asked for.
    """
    config = _config(name, classes, weights)
    model, drawn = _pretrained(name, config, weights) if pretrained else (_fresh(config), ())
    pad = next((token for token in (config.pad_token_id, config.eos_token_id, 0) if isinstance(token, int)), 0)
    config.pad_token_id = pad  # of the model too, which shares its configuration
    return Transformer(model, pad, classes, pretrained_head(name) if pretrained else None, drawn)


def exists(name: str) -> None:
    """Raises SettingsError or UserError unless the configuration of NAME can be loaded."""
    from_pretrained(HF + name, "AutoConfig")


def weights_at_hand(name: str) -> str:
    """What is loaded for `name` now, as a trial's key names it.

    Returns:
        "sha256:..." of the folder's configuration, tokenizer and weights; else "hub:NAME@COMMIT".
    """
    place = Path(place_of(HF + name))
    if not place.is_dir():
        return f"hub:{name}@{from_pretrained(HF + name, 'AutoConfig')._commit_hash}"
    digest = hashlib.sha256()
    for file in sorted(place.iterdir()):
        if file.suffix in SUFFIXES:
            digest.update(f"{file.name}\0{sha256_of(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def pretrained_head(name: str) -> Head | None:
    """The classes of a trained head by name; None where the weights have none."""
    config = from_pretrained(HF + name, "AutoConfig")
    if not any(CLASSIFIER in architecture for architecture in config.architectures or ()):
        return None
    labels = tuple(str(config.id2label[k]) for k in range(config.num_labels))
    return Head(labels, labels)


def _config(name: str, classes: int, weights: str | None) -> Any:
    """The configuration for K classes, every dropout rate in it 0: dropout is a regularizer."""
    config = from_pretrained(HF + name, "AutoConfig", num_labels=classes, **_revision(name, weights))
    for key, value in vars(config).items():
        if "drop" in key and isinstance(value, float):
            setattr(config, key, 0.0)
    return config


def _revision(name: str, weights: str | None) -> dict[str, str]:
    """What transformers must be told to load these weights and no others.

    Raises:
        UserError: they are in a folder whose files are others now.
    """
    if weights is None or weights.startswith("hub:"):
        return {"revision": weights.rpartition("@")[2]} if weights else {}
    if weights_at_hand(name) != weights:
        raise UserError(
            f"the files of {HF}{name} are not those that this study was planned with ({weights[:20]}...): put them "
            "back, or run the command again to plan with what is there"
        )
    return {}


def _has_classifier(config: Any) -> bool:
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING as classifiers

    return type(config) in classifiers


def _fresh(config: Any) -> nn.Module:
    import transformers

    if _has_classifier(config):
        return transformers.AutoModelForSequenceClassification.from_config(config)
    return Pooled(transformers.AutoModel.from_config(config), config.num_labels)


def _pretrained(name: str, config: Any, weights: str | None) -> tuple[nn.Module, Collection[str]]:
    """The model with its weights, and the names of its parameters that these lack: a new head's.

    Raises:
        SettingsError: they lack others.
    """
    options = {"config": config, "dtype": torch.float32, "output_loading_info": True, **_revision(name, weights)}
    if not _has_classifier(config):
        encoder, report = from_pretrained(HF + name, "AutoModel", ignore_mismatched_sizes=True, **options)
        _refuse_part(name, _of_body(_lacking(report), ""))
        return Pooled(encoder, config.num_labels), ()
    model, report = from_pretrained(HF + name, f"AutoModel{CLASSIFIER}", ignore_mismatched_sizes=True, **options)
    lacking = _lacking(report)
    _refuse_part(name, lacking if _keeps_head(name, config) else _of_body(lacking, f"{model.base_model_prefix}."))
    return model, lacking


def _lacking(report: dict[str, Any]) -> list[str]:
    """Names of the tensors that weights lack or have in another shape, by transformers' report."""
    return [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]


def _of_body(names: Collection[str], prefix: str) -> list[str]:
    return [name for name in names if name.startswith(prefix) and POOLER not in name]


def _keeps_head(name: str, config: Any) -> bool:
    head = pretrained_head(name)
    return head is not None and len(head.synsets) == config.num_labels


def _refuse_part(name: str, lacking: Collection[str]) -> None:
    """Raises SettingsError where pretrained weights lack some that no rule lets the seed draw."""
    if lacking:
        raise SettingsError(
            f"the weights of {HF}{name} are not whole: {len(lacking)} of its tensors are missing or of another shape "
            f"than config.json says ({min(lacking)}), and would be random. Only a new head may be. Give the whole "
            "checkpoint, or leave pretrained= out to train from random weights"
        )


MODEL = Model(
    build,
    kinds=("tokens",),
    parameters=r"/(.+)",
    examples={"hf/NAME": "any text classifier or encoder of transformers: NAME on the Hub, or a folder as hf/./PATH"},
)
