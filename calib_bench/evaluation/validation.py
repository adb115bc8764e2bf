"""Arrays as checked predictions: nothing is guessed, repaired or dropped without being said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from calib_bench.core.trial import Trial
from calib_bench.evaluation import Array, confidence
from calib_bench.evaluation.censored import Zeros, clip_note, zeros_of
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.resolution import narrowest, resolution, slack
from calib_bench.evaluation.vocabulary import UNORDERED
from calib_bench.metrics import masks

TOLERANCE = 1e-3
"""How far a row of probabilities may be from summing to one, or further where it was rounded; rows are normalized."""
TYPES_OF_LABELS = ("fiu", "fiub")
"""Kinds of numpy types that labels may have: of many classes, and of two, which may be true and false."""
MARGINS = "margins are taken as log odds of class 1"
NORMALIZED = "rows are normalized: log probabilities rather than logits"
SUMS = "rows summed to 1 within {off:.1g}{rounded} and were normalized"
SORTED = "in every row the numbers fall from the first class to the last: if they were sorted, whose each is was lost"
FEWEST_SORTED = 20
NOT_OFFERED = (
    "{number} logits{finite} stand for classes that their rows do not offer, in {rows} rows: probability zero, and no "
    "part in any fit"
)
LABELS_NOT_OFFERED = "{number} labels are of classes that their rows do not offer: infinite log loss, left out of fits"


@dataclass(frozen=True)
class Predictions:
    """Predictions of one model on one set of examples.

    Attributes:
        Z_NK: floating, finite but for -inf: logits where they are known, else log probabilities up to rounding.
        y_N: int64 in 0..K-1.
        kind: what was given, one of `KINDS`, or `confidence.KIND`: Z are then those of a wrong and a right answer.
        exact: whether Z are the model's own logits. Probabilities and margins leave a constant per row unknown, on
            which calibrators that are not shift-invariant depend.
        name: for tables.
        sha256: of the files read, by path as given.
        notes: what a reader should know: normalized rows, absent classes, columns not used.
        trial: the stored trial they come from.
        zeros: of probabilities: what is known of those that are exactly zero, -inf in Z; None where none is. In logits
            -inf is a class that its row does not offer.
        classes: the classes' names in order; None where nothing names them.
        by_name: whether labels were read by those names, so that columns can be put in another order.
        ids: what names the rows, [N] each, by the names of columns.
        groups: [N], the slice of each row as text, where a column of slices was named.
        has_calibration: whether the file they come from holds a calibration split too.
    """

    Z_NK: Tensor
    y_N: Tensor
    kind: str
    exact: bool
    name: str
    sha256: dict[str, str]
    notes: tuple[str, ...] = ()
    trial: Trial | None = None
    zeros: Zeros | None = None
    classes: tuple[str, ...] | None = None
    by_name: bool = False
    ids: Mapping[str, Array] = field(default_factory=dict)
    groups: Array | None = None
    has_calibration: bool = False

    @property
    def alone(self) -> bool:
        """Whether they are confidences in one answer alone, and labels say whether it was right."""
        return self.kind == confidence.KIND

    @property
    def right_N(self) -> Tensor:
        """Whether each answer is right, [N] booleans."""
        return self.y_N == (1 if self.alone else self.Z_NK.argmax(-1))

    @property
    def file(self) -> str:
        """Path of the first file that was read, as given; empty of arrays in memory."""
        return next(iter(self.sha256), "")


def check(
    values: Array,
    labels: Array,
    kind: str,
    name: str,
    *,
    trust: bool = False,
    notes: Sequence[str] = (),
    ours: bool = False,
) -> Predictions:
    """Arrays as predictions, if they can be what `kind` says.

    Args:
        values: [N, K]; where K = 2 also [N] or [N, 1] for class 1: its logit (log odds), probability or margin.
        labels: [N], integers in any numeric type.
        trust: believe `kind` even where logits or margins look like probabilities.
        ours: whether nobody else holds the values, so that they need no copy.

    Raises:
        DataError: shapes, numbers or labels that cannot be right, with the first row at fault counted from 0.
    """
    if kind == confidence.KIND:
        return _of_confidence(check(values, labels, "probabilities", name, notes=notes))
    Z = _values(np.asarray(values), kind, name)
    K = 2 if Z.ndim == 1 else Z.shape[1]
    y = _labels(np.asarray(labels), K, Z.shape, name)
    dtype = np.float32 if Z.dtype in (np.float16, np.float32) else np.float64
    Z = Z.astype(dtype, copy=not (ours and Z.flags.writeable and Z.flags.c_contiguous))
    _finite(Z, kind, name)
    if not trust:
        _as_declared(Z, kind, name)
    all_notes = [*notes, *absent_classes(y, K), *([SORTED] if _are_sorted(Z) else [])]
    Z_NK, exact = _logits(Z, y, kind, name, all_notes)
    zeros = None
    if not exact and kind != "scores":
        zeros = zeros_of(Z_NK, y, Z if kind == "probabilities" else None)
        all_notes += [zeros.words] if zeros else []
        all_notes += clip_note(Z) if kind == "probabilities" else ()
    return Predictions(
        torch.from_numpy(Z_NK), torch.from_numpy(y), kind, exact, name, {}, tuple(all_notes), zeros=zeros
    )


def refuse_places(predictions: Predictions) -> None:
    """Raises DataError where labels are places among classes that have names and no order."""
    if UNORDERED in predictions.notes and predictions.classes is not None and not predictions.by_name:
        raise Refusal.NO_PLACES.of(predictions.name, classes=", ".join(predictions.classes[:10]))


def _of_confidence(probabilities: Predictions) -> Predictions:
    """Probabilities of a right answer, as confidences."""
    return replace(probabilities, kind=confidence.KIND, classes=confidence.CLASSES, by_name=True)


def _values(Z: Array, kind: str, name: str) -> Array:
    """Values [N, K], or [N] where they are of class 1 of two, if they are numbers of such a shape."""
    if Z.dtype.kind not in "fiu":
        raise Refusal.NOT_NUMBERS.of(name, kind=kind, dtype=_called(Z))
    if Z.ndim not in (1, 2) or 0 in Z.shape:
        raise Refusal.SHAPE.of(name, kind=kind, shape=Z.shape, empty=" (empty)" if 0 in Z.shape else "")
    if Z.ndim == 1 or Z.shape[1] == 1:
        return Z.reshape(-1)
    if kind == "scores":
        raise Refusal.SCORES_SHAPE.of(name, shape=Z.shape)
    return Z


def _are_sorted(Z: Array) -> bool:
    """Whether every row falls from its first number to its last, of three at least, as the k most probable classes do.

    Not where all rows are alike, as the shares of the classes are, nor where there are so few that it may be chance.
    """
    if Z.ndim == 1 or Z.shape[1] == 2 or len(Z) < FEWEST_SORTED or (Z[:, 0] == Z[0, 0]).all():
        return False
    return bool((Z[:FEWEST_SORTED, :-1] >= Z[:FEWEST_SORTED, 1:]).all() and (Z[:, :-1] >= Z[:, 1:]).all())


def absent_classes(y_N: Array, K: int) -> tuple[str, ...]:
    """A note of the classes without an example; empty where there is none."""
    absent = sorted(set(range(K)) - set(np.unique(y_N).tolist()))
    if not absent:
        return ()
    more = f" and {len(absent) - 5} more" if len(absent) > 5 else ""
    return (f"no example of class{'es' * (len(absent) > 1)} {', '.join(map(str, absent[:5]))}{more}",)


def _labels(y: Array, K: int, shape: tuple[int, ...], name: str) -> Array:
    """Labels [N], int64 in 0..K-1, if they are such numbers.

    Args:
        shape: of the predictions, [N, K] or [N].
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    _refuse_other_shape(y, shape, name)
    if y.dtype.kind not in TYPES_OF_LABELS[K == 2]:
        raise Refusal.LABELS_TYPE.of(name, last=K - 1, what=_called(y))
    fractions = ~np.isfinite(y) | (y != np.floor(y)) if y.dtype.kind == "f" else np.zeros(len(y), bool)
    if fractions.any():
        row = int(fractions.argmax())
        raise Refusal.NO_INTEGERS.of(name, number=int(fractions.sum()), row=row, value=y[row])
    outside = (y < 0) | (y >= K)
    if outside.any():
        row, hint = int(outside.argmax()), _convention(y, K, shape) or _marked(y[outside])
        raise Refusal.OUTSIDE.of(name, number=int(outside.sum()), last=K - 1, row=row, value=y[row], hint=hint)
    return y.astype(np.int64)


def _called(values: Array) -> str:
    """What values are, for people, that are no numbers of a kind that is asked for."""
    return "text" if values.dtype.kind in "OUS" else str(values.dtype)


SIGNS = "; labels -1 and 1 become 0 and 1 by (labels + 1) // 2"
ONE_COLUMN = "; predictions of one number a row are of two classes: give a column for each class"
FROM_ONE = "; they seem to count from 1: subtract 1"


def _convention(y: Array, K: int, shape: tuple[int, ...]) -> str:
    """How labels outside 0..K-1 become such labels, where they follow another convention; empty where none is known."""
    low, high = y.min(), y.max()
    conventions = {
        SIGNS: K == 2 and {*np.unique(y)} == {-1, 1},
        FROM_ONE: (low, high) == (1, K),
        ONE_COLUMN: len(shape) == 1 and low >= 0,
    }
    return next((hint for hint, fits in conventions.items() if fits), "")


def _refuse_other_shape(y: Array, shape: tuple[int, ...], name: str) -> None:
    """Raises DataError where labels are not one a row."""
    if y.ndim != 1:
        hint = ": one-hot rows become labels by labels.argmax(1)" if y.ndim == 2 and y.shape == shape else ""
        raise Refusal.LABELS_SHAPE.of(name, shape=y.shape, N=shape[0], hint=hint)
    if len(y) != shape[0]:
        hint = "; the predictions look transposed" if len(shape) == 2 and shape[1] == len(y) else ""
        raise Refusal.LABELS_COUNT.of(name, number=len(y), N=shape[0], hint=hint)


NO_LABEL = "a place without a label, which losses ignore"
MARKS = {-1: "that the label is not known", -100: NO_LABEL, 255: NO_LABEL}
"""Labels outside the classes, and what they often mean."""


def _marked(strange: Array) -> str:
    """What labels outside the classes often mean, where all of them are the same number."""
    values = set(np.unique(strange).tolist())
    value = values.pop()
    if values or value not in MARKS:
        return ""
    return f"; {value:g} often means {MARKS[value]}: leave such rows out"


def _finite(Z: Array, kind: str, name: str) -> None:
    """-inf is a class of probability zero in logits and log probabilities; every other infinity is an error."""
    if np.isfinite(Z).all():
        return
    rows = Z.reshape(len(Z), -1)
    bad: Array = np.isnan(rows) | np.isposinf(rows)
    if kind in ("logits", "log_probabilities") and Z.ndim == 2:
        bad = np.logical_or(bad.any(1), np.isneginf(rows).all(1))
    else:
        bad = np.logical_or(bad, np.isneginf(rows)).max(1)
    if bad.any():
        raise Refusal.INFINITE.of(name, number=int(bad.sum()), N=len(Z), kind=kind, row=int(bad.argmax()))


def look_like_probabilities(Z: Array) -> bool:
    """Whether all numbers are within [0, 1] and, where there is a column a class, every row sums to 1."""
    if not (Z.min() >= 0 and Z.max() <= 1):
        return False
    return Z.ndim == 1 or bool((np.abs(Z.sum(1, dtype=np.float64) - 1) <= TOLERANCE).all())


def _as_declared(Z: Array, kind: str, name: str) -> None:
    """Raises DataError where logits or margins look like probabilities, or like logarithms of another sign or base."""
    if kind in ("logits", "scores") and look_like_probabilities(Z):
        sums = "" if Z.ndim == 1 else " and every row sums to 1"
        raise Refusal.LOOKS_LIKE_PROBABILITIES.of(name, kind=kind, sums=sums)
    if kind == "logits" and Z.ndim == 2 and Z.min() >= 0 and (np.abs(_logsumexp(-Z)) <= TOLERANCE).all():
        raise Refusal.LOOKS_LIKE_LOSSES.of(name)
    _refuse_other_base(Z, kind, name)


def _refuse_other_base(Z: Array, kind: str, name: str) -> None:
    """Raises DataError where these are logarithms of probabilities to base 10 or 2."""
    for base in (10, 2):
        if _are_logarithms(Z, base):
            raise Refusal.OTHER_BASE.of(name, kind=kind, base=base, factor=math.log(base))


def _are_logarithms(Z: Array, base: int) -> bool:
    """Whether every row holds logarithms to this base of probabilities, and not of them to base e as well."""
    if Z.ndim == 1 or Z.max() > 0:
        return False
    sums = np.abs(_logsumexp(Z, math.log(base))) <= TOLERANCE
    return bool(sums.all() and (np.abs(_logsumexp(Z)) > TOLERANCE).any())


def _logits(Z: Array, y: Array, kind: str, name: str, notes: list[str]) -> tuple[Array, bool]:
    """Z [N, K] and whether they are the model's own logits; adds to the notes.

    Args:
        Z: [N, K], or [N] for class 1 of two.
    """
    if Z.ndim == 1:
        return _of_two(Z, kind, name, notes), False
    if kind == "probabilities":
        _refuse_negative(Z, name)
        _check_sums(Z.sum(1, dtype=np.float64), Z, kind, name, notes)
        with np.errstate(divide="ignore"):
            return np.log(Z.astype(np.float64)), False
    Z = _masked(Z, y, notes)
    log_sums = _logsumexp(Z)
    if kind == "log_probabilities":
        _check_sums(np.exp(log_sums), Z, kind, name, notes)
        return Z, False
    normalized = bool((np.abs(log_sums) <= 1e-5).all())
    if normalized:
        notes.append(NORMALIZED)
    return Z, not normalized


def _of_two(Z: Array, kind: str, name: str, notes: list[str]) -> Array:
    """Z [N, 2] from the logits, margins or probabilities [N] of class 1."""
    if kind in ("logits", "scores"):
        if kind == "scores":
            notes.append(MARGINS)
        return np.stack([-Z / 2, Z / 2], 1)
    if kind == "log_probabilities":
        raise Refusal.TWO_COLUMNS.of(name)
    _refuse_negative(Z, name)
    if Z.max() > 1:
        raise Refusal.ABOVE_ONE.of(name, row=int((Z > 1).argmax()), value=Z.max())
    p = Z.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.stack([np.log1p(-p), np.log(p)], 1)


def _refuse_negative(p: Array, name: str) -> None:
    """Raises DataError where probabilities are negative."""
    rows = (p.reshape(len(p), -1) < 0).any(1)
    if rows.any():
        raise Refusal.NEGATIVE.of(name, number=int(rows.sum()), row=int(rows.argmax()))


def _check_sums(total: Array, Z: Array, kind: str, name: str, notes: list[str]) -> None:
    """Note that rows do not quite sum to one.

    Args:
        total: [N], the sum of each row's probabilities.
        Z: [N, K], as the file has them.

    Raises:
        DataError: they are further from one than rounding explains.
    """
    off = np.abs(total - 1)
    allowed, rounded = TOLERANCE, ""
    if off.max() > TOLERANCE:
        allowed, rounded = _allowed(Z, kind)
    if off.max() > allowed:
        bad = off > allowed
        row = int(bad.argmax())
        fields = {"number": int(bad.sum()), "N": len(Z), "allowed": allowed, "row": row, "total": total[row]}
        hint = "" if kind == "probabilities" else ", or say --kind logits if that is what they are"
        raise Refusal.SUMS.of(name, **fields, kind=kind, rounded=rounded, hint=hint)
    if off.max() > 1e-5:
        notes.append(SUMS.format(off=off.max(), rounded=rounded))


def _allowed(Z: Array, kind: str) -> tuple[float, str]:
    """How far rows may be from a sum of one as their numbers were rounded, and, for people, how these were."""
    kept = resolution(Z) if kind == "probabilities" else None
    kept_type = kept.type if kept else narrowest(Z.reshape(-1))
    allowed = slack(kept, kept_type, Z.shape[1])
    if allowed <= TOLERANCE:
        return TOLERANCE, ""
    return allowed, f", as they are {kept.words if kept and kept.form == 'grid' else kept_type.name}"


def _masked(Z: Array, y: Array, notes: list[str]) -> Array:
    """Z [N, K] with -inf for classes that a row does not offer, whatever number stands for them."""
    minus_inf = np.isneginf(Z)
    out = masks.offered(torch.from_numpy(Z)).numpy()
    out = masks.set_apart(out, y)
    where = np.isneginf(out)
    if not where.any():
        return out
    marks = np.unique(Z[where & ~minus_inf])
    finite = "" if len(marks) == 0 else f" ({marks[0]:.6g}" + (f" to {marks[-1]:.6g})" if len(marks) > 1 else ")")
    notes.append(NOT_OFFERED.format(number=int(where.sum()), finite=finite, rows=int(where.any(1).sum())))
    lost = int(where[np.arange(len(y)), y].sum())
    if lost:
        notes.append(LABELS_NOT_OFFERED.format(number=lost))
    return out


def _logsumexp(Z: Array, scale: float = 1.0) -> Array:
    """[N], float64, of scale times Z, about a million numbers at a time, which take eight bytes each on the way."""
    rows = max(1_000_000 // Z.shape[1], 1)
    blocks = [Z[start : start + rows] for start in range(0, len(Z), rows)]
    tops = [block.max(1, keepdims=True).astype(np.float64) for block in blocks]
    parts = [
        scale * top[:, 0] + np.log(np.exp(scale * (block - top)).sum(1))
        for block, top in zip(blocks, tops, strict=True)
    ]
    return np.concatenate(parts)
