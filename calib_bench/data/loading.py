"""Loads of what tasks declare of their data (`calib_bench.data.loaders`): Hub id or local folder -> Splits."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from calib_bench.core.splits import Columns, InputSpec, Request, Splits
from calib_bench.core.task import Hub, SplitSizes
from calib_bench.core.trial import HF
from calib_bench.data.augment import Augment
from calib_bench.data.cache import cached
from calib_bench.data.decoding import Greys, conversion_note, decode
from calib_bench.data.duplicates import WHERE, digests, note
from calib_bench.data.naming import listed
from calib_bench.data.own_data import LABEL, OwnData, numbers, open_own
from calib_bench.data.partition import partition, scaled
from calib_bench.data.raw_split import Part
from calib_bench.data.source import WHOLE, Raw, check_labels, open_source
from calib_bench.data.stream import StreamSplit, preprocess_for
from calib_bench.data.tensors import DeviceCache, Normalize, tensor_splits
from calib_bench.data.text import (
    UNKNOWN,
    OwnTokenizer,
    TextSource,
    TextSplit,
    encode,
    own_tokenizer,
    train_tokenizer,
    words_of,
)
from calib_bench.errors import DataError, UserError

Read = Callable[[Request], tuple[np.ndarray, np.ndarray]]


SAMPLED = 16
"""Images of a streamed split that are looked at beforehand."""


def arrays(
    request: Request, read: Read, sizes: SplitSizes, *, classes: int, source: str, names: Sequence[str]
) -> Splits:
    """What `loaders.arrays` declares."""
    x, y = _read(request, read)
    check_labels("all", y, classes)
    rows = _rows(request, sizes, len(y), None)
    splits = tensor_splits({"train": torch.from_numpy(x)}, {"train": torch.from_numpy(y)}, rows)
    spec = InputSpec("vector" if x.ndim == 2 else "image", tuple(x.shape[1:]))
    digest = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    class_names = tuple(names) or tuple(str(k) for k in range(classes))
    notes = note({"train": digests(x)}, rows)
    return _splits(request, splits, spec, class_names, source, f"sha256:{digest}", notes, ())


def _read(request: Request, read: Read) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels as a task's file reads them.

    Raises:
        DataError: it fails, or what it returns are no finite inputs with a label each.
    """
    reads = f"`read` of task {request.task!r} returns inputs [N, D] or [N, C, H, W] and whole numbers [N]"
    try:
        x, y = map(np.ascontiguousarray, read(request))
        whole_N, is_finite = y.astype(np.int64), bool(np.isfinite(x).all())
    except UserError:
        raise
    except Exception as error:
        raise DataError(f"{reads}, and ended in {type(error).__name__}: {error}") from error
    if not _are_examples(x, y, whole_N):
        raise DataError(f"{reads}, and returned {x.shape} and {y.shape} of {y.dtype}.")
    if not is_finite:
        raise DataError(f"Inputs of task {request.task!r} hold NaN or infinite numbers.")
    return x, whole_N


def _are_examples(x: np.ndarray, y: np.ndarray, whole_N: np.ndarray) -> bool:
    return x.ndim in (2, 4) and y.shape == (len(x),) and np.array_equal(whole_N, y)


def images(
    request: Request,
    source: Hub,
    sizes: SplitSizes,
    *,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: tuple[Augment, ...],
    names: Sequence[str],
    mode: str,
) -> Splits:
    """What `loaders.images` declares."""
    raw = open_source(request, source, classes, tuple(names))
    return _images(request, raw, sizes, (tuple(mean), tuple(std)), augment, mode)


def _images(
    request: Request, raw: Raw, sizes: SplitSizes, normalize: Normalize, augment: tuple[Augment, ...], mode: str
) -> Splits:

    rows, pools = _partition(request, sizes, raw), raw.pools
    pixels = cached(request.task, ("pixels", 2, raw.digest, mode), lambda: _pixels(pools, mode))
    seen = cached(
        request.task,
        ("digests", 1, raw.digest, mode),
        lambda: {pool: digests(pixels[pool]) for pool in pools},
    )
    raw.notes.update(note(seen, rows))
    x = {pool: torch.from_numpy(pixels[pool]) for pool in pools}
    labels = {pool: torch.from_numpy(part.labels) for pool, part in pools.items()}
    splits = tensor_splits(x, labels, rows, augment, normalize)
    prepared: tuple[object, ...] = (mode, *normalize, augment)
    if deep := tuple(map(str, pixels["greys"][1:])):
        prepared = (*prepared, deep)
        raw.notes.update(conversion_note(deep))
    return _from_raw(request, raw, splits, InputSpec("image", tuple(x["train"].shape[1:])), prepared)


def texts(
    request: Request,
    source: Hub,
    sizes: SplitSizes,
    *,
    classes: int,
    names: Sequence[str],
    vocabulary: int,
    length: int,
) -> Splits:
    """What `loaders.texts` declares."""
    return _texts(request, open_source(request, source, classes, tuple(names)), sizes, vocabulary, length)


def _texts(request: Request, raw: Raw, sizes: SplitSizes, vocabulary: int, length: int) -> Splits:
    """Texts as tokens: words of a vocabulary that training texts teach, or a pretrained model's own."""
    import tokenizers

    rows, pools = _partition(request, sizes, raw), raw.pools
    used = {name: index.tolist() for name, index in rows.items()}
    theirs = own_tokenizer(str(request.model)) if (request.model or "").startswith(HF) else None
    key = (theirs,) if theirs else (vocabulary, length)
    made = cached(
        request.task,
        ("tokens", 2, raw.digest, used, *key, tokenizers.__version__),
        lambda: _tokens(pools, used, theirs, vocabulary, length),
    )
    raw.notes.update(note({pool: made[f"{pool}_digests"] for pool in pools}, rows))
    tokens = {pool: DeviceCache(torch.from_numpy(made[f"{pool}_tokens"])) for pool in pools}
    splits = {}
    for name, index in rows.items():
        pool = _pool_of(name, pools)
        labels = torch.from_numpy(pools[pool].labels)[index]
        splits[name] = TextSplit(tokens[pool], torch.from_numpy(made[f"{pool}_offsets"]), index, labels)
    tokenizer = bytes(made["tokenizer"]).decode()
    splits["test"].source = TextSource(
        lambda: strings_of(raw.test), tokenizer, theirs.length if theirs else length, not theirs
    )
    if theirs:  # how texts are prepared for a model is noted, and recorded with each trial
        raw.notes["preprocess"] = f"tokenizer of {request.model}, {theirs.digest[:12]}, at most {theirs.length} tokens"
        raw.notes.update(_cut(str(request.model), theirs.length, splits, made))
    else:
        raw.notes.update(_wordless(splits, tokenizers.Tokenizer.from_str(tokenizer).encode(UNKNOWN).ids[0]))
    learned = tokenizers.Tokenizer.from_str(tokenizer).get_vocab_size()
    prepared = (vocabulary, length, tokenizers.__version__, "only tags are mark-up")
    return _from_raw(request, raw, splits, InputSpec("tokens", vocabulary=learned), prepared)


def _pool_of(split: str, pools: Mapping[str, Part]) -> str:
    return split if split in pools else "train"


def _tokens(
    pools: Mapping[str, Part],
    used: Mapping[str, list[int]],
    theirs: OwnTokenizer | None,
    vocabulary: int,
    length: int,
) -> dict[str, np.ndarray]:
    """The tokenizer's JSON and, by pool, digests of all texts and tokens of those that are used, see `text.encode`."""
    strings = {pool: strings_of(part) for pool, part in pools.items()}
    learn = (words_of(strings["train"][row], length) for row in used["train"])
    tokenizer = theirs.tokenizer if theirs else train_tokenizer(learn, vocabulary)
    longest = theirs.length if theirs else length
    made = {"tokenizer": np.frombuffer(tokenizer.encode(), dtype=np.uint8)}
    for pool, texts in strings.items():
        wanted = [""] * len(texts)
        for row in itertools.chain(*(used[name] for name in used if _pool_of(name, pools) == pool)):
            wanted[row] = texts[row] if theirs else words_of(texts[row], length)
        made[f"{pool}_digests"] = digests(texts)
        made[f"{pool}_tokens"], made[f"{pool}_offsets"], made[f"{pool}_cut"] = encode(tokenizer, wanted, longest)
    return made


def _cut(model: str, length: int, splits: Mapping[str, TextSplit], made: Mapping[str, np.ndarray]) -> dict[str, str]:
    """A note on the texts that are longer than a model reads; empty where there are none."""
    cut = sum(int(made[name].sum()) for name in ("train_cut", "test_cut") if name in made)
    count = sum(len(split) for split in splits.values())
    if not cut:
        return {}
    return {
        "cut": f"{cut:,} of {count:,} texts are longer than the {length} tokens that {model} reads, and cut off there"
    }


def _wordless(splits: Mapping[str, TextSplit], unknown: int) -> dict[str, str]:
    """A note on the texts that are one unknown token, as those without any are; empty where there are none."""
    wordless = 0
    for split in splits.values():
        first_N = split.tokens.on(torch.device("cpu"))[split.offsets[split.rows]]
        wordless += int(((split.lengths == 1) & (first_N == unknown)).sum())
    count = sum(len(split) for split in splits.values())
    return {"wordless": f"{wordless:,} of {count:,} texts hold no known word"} if wordless else {}


def streams(request: Request, source: Hub, sizes: SplitSizes, *, classes: int) -> Splits:
    """What `loaders.streams` declares."""
    raw = open_source(request, source, classes, subset=True)
    return _streams(request, raw, sizes if raw.fraction == 1 else scaled(sizes, raw.fraction))


def _streams(request: Request, raw: Raw, sizes: SplitSizes) -> Splits:
    rows, pools = _partition(request, sizes, raw), raw.pools
    for part in pools.values():
        part.prepare()
    if raw.digest.startswith(WHOLE):  # what is read in parts for its digest is too large to read for this
        seen = cached(
            request.task,
            ("digests", 1, raw.digest),
            lambda: {pool: digests(part.inputs()) for pool, part in pools.items()},
        )
        raw.notes.update(note(seen, rows))
    else:
        raw.notes["duplicates"] = "test examples that also occur in training were not looked for, in so much data"
    preprocess = preprocess_for(request.model)
    greys = _sampled(raw)
    splits = {
        name: StreamSplit(raw.test if name == "test" else raw.train, index, preprocess, greys)
        for name, index in rows.items()
    }
    raw.notes.update(conversion_note(greys.names()))
    raw.notes["preprocess"] = str(preprocess)
    # How images are transformed depends on the model: it is noted, and recorded with each trial.
    return _from_raw(request, raw, splits, InputSpec("image", (3, preprocess.size, preprocess.size)), greys.names())


def from_columns(request: Request) -> Splits:
    """What `loaders.from_columns` declares."""
    data = open_own(request)
    splits = _of_kind(request, data)
    columns = splits.columns or Columns(data.columns, request.label or LABEL)
    return replace(splits, columns=columns, notes={**splits.notes, **_absent(splits)})


def _absent(splits: Splits) -> dict[str, str]:
    """A note on classes that a split has no example of; empty where every split has all."""
    lacking = []
    for name, where in {**WHERE, "test": "test"}.items():
        counts_K = np.bincount(splits[name].labels.numpy(), minlength=splits.classes)
        if classes := [splits.class_names[k] for k in np.flatnonzero(counts_K == 0)]:
            lacking.append(f"{listed(classes)} in {where}")
    return {"absent": f"no example of {'; of '.join(lacking)}"} if lacking else {}


def _of_kind(request: Request, data: OwnData) -> Splits:
    if data.kind == "tokens":
        return _texts(request, data.raw, data.sizes, vocabulary=20_000, length=200)
    if data.kind == "vector":
        return _numbers(request, data)
    if data.large:
        return _streams(request, data.raw, data.sizes)
    channels = 1 if data.mode == "L" else 3
    return _images(request, data.raw, data.sizes, ((0.5,) * channels, (0.25,) * channels), (), data.mode)


def _numbers(request: Request, data: OwnData) -> Splits:
    """Columns of numbers, each less its mean in the training split and over its deviation there."""
    raw, pools = data.raw, data.raw.pools
    rows = _partition(request, data.sizes, raw)
    x = {pool: numbers(part, data.columns) for pool, part in pools.items()}
    raw.notes.update(note({pool: digests(x_ND) for pool, x_ND in x.items()}, rows))
    train_ND = x["train"][rows["train"].numpy()]
    raw.notes.update(_doubtful_inputs(train_ND, raw.train.labels[rows["train"].numpy()], data.columns))
    mean_D, std_D = train_ND.mean(0), train_ND.std(0)
    prepared: tuple[str, ...] = ("standardized",)
    if (constant_D := train_ND.max(0) == train_ND.min(0)).any():
        raw.notes["constant"] = f"{constant_D.sum()} of {len(constant_D)} inputs have one value in all training rows"
        if std_D[constant_D].any():  # deviations of rounding, which older versions divided by
            prepared = ("standardized", "constant")
        std_D[constant_D] = 1
    columns = Columns(data.columns, request.label or LABEL, (torch.from_numpy(mean_D), torch.from_numpy(std_D)))
    scaled_x = {pool: columns.scaled(torch.from_numpy(x_ND)) for pool, x_ND in x.items()}
    labels = {pool: torch.from_numpy(part.labels) for pool, part in pools.items()}
    splits = tensor_splits(scaled_x, labels, rows)
    made = _from_raw(request, raw, splits, InputSpec("vector", tuple(train_ND.shape[1:])), prepared)
    return replace(made, columns=columns)


def _doubtful_inputs(x_ND: np.ndarray, y_N: np.ndarray, columns: Sequence[str]) -> dict[str, str]:
    """Notes on inputs of the training split that seem to be the label, or numbers of rows; lists have no names."""
    inputs = dict(zip(columns, x_ND.T, strict=True)) if len(columns) == x_ND.shape[1] else {}
    doubts = {
        "label among inputs": (
            [name for name, x_N in inputs.items() if _are_labels(x_N, y_N)],
            "has one value for each class, as if it were the label",
        ),
        "row numbers among inputs": (
            [name for name, x_N in inputs.items() if _are_row_numbers(x_N)],
            "has another whole number in every training row, as if it named rows",
        ),
    }
    advice = "input=COLUMN,COLUMN names the inputs"
    return {key: f"input {listed(names)} {what}; {advice}" for key, (names, what) in doubts.items() if names}


def _are_labels(x_N: np.ndarray, y_N: np.ndarray) -> bool:
    """Whether numbers are the classes, each class having its own."""
    K = len(np.unique(y_N))
    return len(np.unique(x_N[:1000])) <= K == len(np.unique(x_N)) == len({*zip(x_N, y_N, strict=True)})


def _are_row_numbers(x_N: np.ndarray) -> bool:
    """Whether numbers are whole, different in every row, and hardly farther apart than a table is long."""
    is_whole = bool((x_N == np.floor(x_N)).all()) and np.ptp(x_N) < 10 * len(x_N)
    return is_whole and len(np.unique(x_N)) == len(x_N)


def _partition(request: Request, sizes: SplitSizes, raw: Raw) -> dict[str, Any]:
    test_rows = len(raw.test) if "test" in raw.pools else None
    return _rows(request, sizes, len(raw.train), test_rows)


def _rows(request: Request, sizes: SplitSizes, rows: int, test_rows: int | None) -> dict[str, Any]:
    return partition(sizes, rows, test_rows, task=request.task, split=request.split, limit=request.limit)


def _from_raw(
    request: Request, raw: Raw, splits: dict[str, Any], spec: InputSpec, prepared: tuple[object, ...]
) -> Splits:
    return _splits(request, splits, spec, raw.names, raw.source, raw.digest, raw.notes, prepared)


def _splits(
    request: Request,
    splits: dict[str, Any],
    spec: InputSpec,
    names: tuple[str, ...],
    source: str,
    digest: str,
    notes: dict[str, str],
    prepared: tuple[object, ...],
) -> Splits:

    if request.limit is not None:
        notes = {**notes, "limit": f"at most {request.limit:,} examples of each split"}
    made = hashlib.sha256(repr((names, prepared)).encode())
    for name in sorted(splits):
        made.update(splits[name].rows.numpy().tobytes())
    return Splits(
        **splits,
        spec=spec,
        classes=len(names),
        class_names=names,
        source=source,
        digest=digest,
        notes=notes,
        preparation=made.hexdigest(),
    )


def _pixels(pools: Mapping[str, Part], mode: str) -> dict[str, np.ndarray]:
    """uint8 [N, C, H, W] of each pool; as "greys" "", then `Greys.names` of its images of more than 8 bits."""
    greys = Greys(tuple(pools.values()))
    pixels = {pool: decoded(part, mode, greys) for pool, part in pools.items()}
    return pixels | {"greys": np.array(["", *greys.names()])}


def _sampled(raw: Raw) -> Greys:
    """What is white in the images, settled before workers share it where one of a few has more than 8 bits."""
    greys = Greys((raw.train, raw.test))
    for part in (raw.train, raw.test):
        for row in np.unique(np.linspace(0, len(part) - 1, SAMPLED).astype(int)).tolist():
            with contextlib.suppress(DataError):  # it is raised in its batch
                decode(part.row(row), "RGB", part.where(row), greys)
    return greys


def decoded(part: Part, mode: str, greys: Greys) -> np.ndarray:
    """uint8 [N, C, H, W] of a part's images, which must be of one size."""
    out: np.ndarray | None = None
    for row, payload in enumerate(part.inputs()):
        image = np.asarray(decode(payload, mode, part.where(row), greys))
        pixels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        if out is None:
            out = np.empty((len(part), *pixels.shape), dtype=np.uint8)
        if pixels.shape != out.shape[1:]:
            raise DataError(
                f"The image in {part.where(row)} is {pixels.shape[2]} x {pixels.shape[1]}, "
                f"where row 0 is {out.shape[3]} x {out.shape[2]}; this task needs images of one size."
            )
        out[row] = pixels
    assert out is not None, "a part has rows"
    return out


def strings_of(part: Part) -> list[str]:
    """The texts of a part.

    Raises:
        DataError: a row holds none.
    """
    strings = list(part.inputs())
    wrong = next((row for row, text in enumerate(strings) if not isinstance(text, str)), None)
    if wrong is not None:
        raise DataError(f"Row {wrong} of split '{part.name}' holds no text; column '{part.input}' must be strings.")
    return strings
