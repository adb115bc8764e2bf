"""Text: a word-level tokenizer learned from the training split, and splits batched by length."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calib_bench.core.trial import HF
from calib_bench.data.tensors import DeviceCache, order, whole_batches
from calib_bench.errors import SettingsError, UserError
from calib_bench.system.random import stream

LONGEST = 512
"""Most tokens of a text for those."""
PAD, UNKNOWN = "[PAD]", "[UNK]"
"""Tokens 0 and 1."""
CHUNK = 50
"""Batches that are sorted by length together."""


ELEMENTS = (
    "a|abbr|acronym|address|applet|area|article|aside|audio|b|base|basefont|bdi|bdo|big|blink|"
    "blockquote|body|br|button|canvas|caption|center|cite|code|col|colgroup|data|datalist|dd|del|"
    "details|dfn|dialog|dir|div|dl|dt|em|embed|fieldset|figcaption|figure|font|footer|form|frame|"
    "frameset|h1|h2|h3|h4|h5|h6|head|header|hgroup|hr|html|i|iframe|img|input|ins|kbd|label|"
    "legend|li|link|main|map|mark|marquee|menu|meta|meter|nav|nobr|noframes|noscript|object|ol|"
    "optgroup|option|output|p|param|picture|pre|progress|q|rb|rp|rt|rtc|ruby|s|samp|script|search|"
    "section|select|slot|small|source|span|strike|strong|style|sub|summary|sup|table|tbody|td|"
    "template|textarea|tfoot|th|thead|time|title|tr|track|tt|u|ul|var|video|wbr"
)
"""HTML's elements (WHATWG HTML Living Standard, sections 4 and 16.2): what makes a word in angle brackets a tag."""
_VALUE = r"""(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=`]+)"""
MARKUP = re.compile(
    rf"<!--(?:(?!<!--|-->).)*-->|<!doctype\b[^<>]*>|</?(?:{ELEMENTS})(?:\s+[\w:-]+\s*=\s*{_VALUE})*\s*/?>",
    re.IGNORECASE | re.DOTALL,
)
"""Comments, and tags with any number of attributes that have values: "a<b and c>d" holds neither."""


def words_of(text: str, length: int) -> str:
    """The first `length` words of a text, mark-up left out: all that a model of `length` tokens can see of it.

    >>> words_of("I <3 this film,<br />rated 5 > 4", 9)
    'I <3 this film, rated 5 > 4'
    """
    return " ".join(MARKUP.sub(" ", text).split(maxsplit=length)[:length])


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> str:
    """A tokenizer's JSON: lower-case words and punctuation marks, the `vocabulary` most frequent; ties by spelling."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=vocabulary, special_tokens=[PAD, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer.to_str()


def encode(tokenizer: str, texts: list[str], length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first `length` tokens of each text.

    Args:
        tokenizer: its JSON.
        texts: N of them; one with no token becomes one unknown token.
        length: at most so many tokens.

    Returns:
        int32 [T], all tokens one text after the other, int64 [N + 1], where each begins, and bool [N], which texts
        are longer.
    """
    from tokenizers import Tokenizer

    parsed = Tokenizer.from_str(tokenizer)
    parsed.enable_truncation(length)
    parsed.no_padding()
    unknown = parsed.encode(UNKNOWN).ids
    ids: list[np.ndarray] = []
    cut: list[bool] = []
    for start in range(0, len(texts), 1000):
        encoded = parsed.encode_batch_fast(texts[start : start + 1000])
        ids += [np.asarray(text.ids or unknown, dtype=np.int32) for text in encoded]
        cut += [bool(text.overflowing) for text in encoded]
    return np.concatenate(ids), np.cumsum([0] + [len(text) for text in ids], dtype=np.int64), np.array(cut)


@dataclass(frozen=True)
class OwnTokenizer:
    """The tokenizer of a pretrained model: its JSON, and most tokens of a text that the model reads."""

    tokenizer: str
    length: int

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON."""
        return hashlib.sha256(self.tokenizer.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"{self.digest} {self.length}"


@lru_cache(maxsize=8)
def own_tokenizer(model: str) -> OwnTokenizer:
    """The tokenizer of a model of transformers, "hf/NAME", see `from_pretrained`.

    Raises:
        SettingsError: transformers is not installed, or there is no such folder.
        UserError: the tokenizer cannot be had, or is not one of the `tokenizers` library.
    """
    tokenizer, config = from_pretrained(model, "AutoTokenizer"), from_pretrained(model, "AutoConfig")
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{model} has no tokenizer of the `tokenizers` library (tokenizer.json): choose another model")
    limits = (LONGEST, tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or LONGEST)
    return OwnTokenizer(tokenizer.backend_tokenizer.to_str(), min(limits))


def from_pretrained(model: str, kind: str, **options: Any) -> Any:
    """What a class of transformers' loads for "hf/NAME" of the Hub, or a folder as "hf/./PATH" or "hf//PATH".

    Args:
        kind: the class's name, such as "AutoConfig".
        options: of its `from_pretrained`.

    Raises:
        SettingsError: transformers is not installed, there is no such folder, or NAME is a folder's too.
        UserError: it cannot be loaded.
    """
    where = place_of(model)
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise SettingsError(f'model={model} needs transformers: pip install "calib_bench[text]"') from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        return getattr(transformers, kind).from_pretrained(where, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"{kind} of {model} cannot be loaded ({why}). Name a model of the Hub that is on this machine or can be "
            "fetched, or a folder that save_pretrained wrote: model=hf/./FOLDER"
        ) from error


def place_of(model: str) -> str:
    """The folder, or the name on the Hub, that "hf/..." stands for.

    Raises:
        SettingsError: there is no such folder, or the name on the Hub is that of a folder here too.
    """
    name = model.removeprefix(HF)
    if name.startswith((".", "/", "~")):
        folder = Path(name).expanduser()
        if not (folder / "config.json").is_file():
            missing = "has no config.json" if folder.is_dir() else "does not exist"
            raise SettingsError(f"model={model}: the folder {folder} {missing}: expected what save_pretrained writes")
        return str(folder)
    if (Path(name) / "config.json").is_file():
        raise SettingsError(f"model={model} is a name on the Hub, and a folder here too: write hf/./{name} for that")
    return name


@dataclass(frozen=True)
class TextSource:
    """What tokens were made of.

    Attributes:
        strings: all that rows count.
        tokenizer: its JSON.
        length: most tokens of a text.
        by_words: whether it was given the words of texts alone, see `words_of`, and not texts as they are.
    """

    strings: Callable[[], list[str]]
    tokenizer: str
    length: int
    by_words: bool = True

    def prepared(self, text: str, times: int = 1) -> str:
        """What the tokenizer is given of a text, with `times` as many words as a model reads."""
        return words_of(text, times * self.length) if self.by_words else text

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and offsets of texts that are prepared, see `encode`."""
        return encode(self.tokenizer, texts, self.length)[:2]


@dataclass(eq=False)
class TextSplit:
    """Rows `rows` of texts in memory.

    Attributes:
        tokens: int32 [T], all texts one after the other, shared with the other splits.
        offsets: int64 [M + 1]: where each text begins.
        rows: int64 [N] into the texts, on the CPU.
        labels: int64 [N].
        source: where its texts can be read again; None where they need not be.
    """

    tokens: DeviceCache
    offsets: Tensor
    rows: Tensor
    labels: Tensor
    source: TextSource | None = None
    lengths: Tensor = field(init=False, repr=False)
    """int64 [N], on the CPU."""

    def __post_init__(self) -> None:
        self.lengths = self.offsets[self.rows + 1] - self.offsets[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def steps(self, batch: int) -> int:
        return len(self) // min(batch, len(self))

    def inputs(self, index_B: Tensor, device: torch.device, width: int | None = None) -> tuple[Tensor, Tensor]:
        """(tokens int64 [B, L] right-padded with 0, lengths int64 [B]); L is `width`, or the longest of the batch."""
        lengths_B = self.lengths[index_B]
        width = width or int(lengths_B.max())
        starts_B = self.offsets[self.rows[index_B]].to(device)
        lengths_B = lengths_B.to(device)
        tokens, position_L = self.tokens.on(device), torch.arange(width, device=device)
        where_BL = (starts_B[:, None] + position_L).clamp_(max=len(tokens) - 1)
        padded_BL = torch.where(position_L < lengths_B[:, None], tokens[where_BL].long(), 0)
        return padded_BL, lengths_B

    def plan(self, seed: int, epoch: int, batch: int) -> Tensor:
        """int64 [steps, B]: shuffled, sorted by length within `CHUNK` batches, and the batches shuffled."""
        index_SB = whole_batches(order(len(self), seed, epoch), batch)
        bucketed = [
            chunk.flatten()[self.lengths[chunk.flatten()].argsort(stable=True)].view(chunk.shape)
            for chunk in index_SB.split(CHUNK)
        ]
        return torch.cat(bucketed)[torch.randperm(len(index_SB), generator=stream("batches", seed, epoch))]

    def train_batches(
        self, *, seed: int, epoch: int, batch: int, device: torch.device, skip: int = 0, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
        """As in `Split`; every process pads to the longest text of the global batch."""
        for index_B in self.plan(seed, epoch, batch)[skip:]:
            mine = index_B[rank::world]
            yield self.inputs(mine, device, int(self.lengths[index_B].max())), self.labels[mine].to(device)

    def eval_batches(
        self, *, batch: int, device: torch.device, rank: int = 0, world: int = 1
    ) -> Iterator[tuple[tuple[Tensor, Tensor], Tensor]]:
        """As in `Split`, shortest texts first."""
        for index_B in self.lengths.argsort(stable=True).split(batch):
            if len(mine := index_B[rank::world]):
                yield self.inputs(mine, device, int(self.lengths[index_B].max())), mine
