"""Text classifiers and encoders of transformers (Wolf et al., 2020, arXiv 1910.03771) by name, without dropout."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calib_bench.core.splits import InputSpec
from calib_bench.data.cache import sha256_of
from calib_bench.data.heads import Head
from calib_bench.data.text import HF, from_pretrained, place_of
from calib_bench.errors import UserError

SUFFIXES = (".json", ".txt", ".model", ".safetensors", ".bin")
"""Files of a folder that decide what its model is."""
CLASSIFIER = "ForSequenceClassification"
"""How architectures with a head of classes are called."""


class Transformer(nn.Module):
    """A classifier of transformers as this package calls models.

    Attributes:
        inner: the model of transformers.
        pad: the token that stands in padded places.
        pretrained_cfg: "num_classes" of the weights' own head, where they have one: as timm's models tell it.
    """

    def __init__(self, inner: nn.Module, pad: int, classes: int, head: Head | None) -> None:
        super().__init__()
        self.inner, self.pad, self.classes = inner, pad, classes
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
    name: str, *, spec: InputSpec, classes: int, pretrained: bool = False, weights: str | None = None
) -> Transformer:
    """The architecture that NAME's configuration describes; pretrained weights keep their head when K is theirs.

    Args:
        weights: those to load, as `weights_at_hand` names them; None for those at hand.

    Raises:
        SettingsError: transformers is not installed, or there is no such folder.
        UserError: configuration or weights cannot be loaded, or are not those asked for.
    """
    config = _config(name, classes, weights)
    model = _pretrained(name, config, weights) if pretrained else _fresh(config)
    pad = next((token for token in (config.pad_token_id, config.eos_token_id, 0) if isinstance(token, int)), 0)
    config.pad_token_id = pad  # of the model too, which shares its configuration
    return Transformer(model, pad, classes, pretrained_head(name) if pretrained else None)


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


def _pretrained(name: str, config: Any, weights: str | None) -> nn.Module:
    options = {"config": config, "dtype": torch.float32, **_revision(name, weights)}
    if _has_classifier(config):
        return from_pretrained(HF + name, f"AutoModel{CLASSIFIER}", ignore_mismatched_sizes=True, **options)
    return Pooled(from_pretrained(HF + name, "AutoModel", **options), config.num_labels)
