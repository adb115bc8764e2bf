"""What a task file declares of its data. The libraries that load it are imported when it is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from calib_bench.core.task import Content, Hub, SplitSizes
from calib_bench.data.augment import Augment

if TYPE_CHECKING:
    import numpy as np

    from calib_bench.core.splits import Request, Splits

    Load = Callable[[Request], Splits]
    Read = Callable[[Request], tuple[np.ndarray, np.ndarray]]


def arrays(read: Read, sizes: SplitSizes, *, classes: int, source: str, names: Sequence[str] = ()) -> Load:
    """Data that ships with a package, all four splits drawn from it.

    Args:
        read: Request -> (x [N, D] or [N, C, H, W] float32, labels [N] integer).
        sizes: of the splits; test is what is left.
        classes: K.
        source: where the data comes from, for people.
        names: class names; 0..K-1 when empty.

    Raises (when called):
        DataError: there are too few rows, or a label is not in [0, K).
    """
    return _later("arrays", read, sizes, classes=classes, source=source, names=names)


def images(
    source: Hub,
    sizes: SplitSizes,
    *,
    classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: tuple[Augment, ...] = (),
    names: Sequence[str] = (),
    mode: str = "RGB",
) -> Load:
    """Small images of one size, decoded once into memory (and a cache on disk that processes share).

    Args:
        source: where the data is; its first split is partitioned, its last is the test set.
        sizes: of the splits.
        classes: K.
        mean, std: of each channel, of pixels in [0, 1].
        augment: applied to training batches in this order.
        names: class names for data that carries none.
        mode: "RGB" or "L" (grey).

    Raises (when called):
        DataError: data is missing or not as declared.
    """
    return _later("images", source, sizes, classes=classes, mean=mean, std=std, augment=augment, names=names, mode=mode)


def texts(
    source: Hub,
    sizes: SplitSizes,
    *,
    classes: int,
    names: Sequence[str] = (),
    vocabulary: int = 20_000,
    length: int = 200,
) -> Load:
    """Texts, as the first `length` words of a vocabulary learned from the training split alone.

    Args:
        source: where the data is; its first split is partitioned, its last is the test set.
        sizes: of the splits.
        classes: K.
        names: class names for data that carries none.
        vocabulary: most tokens, those for padding and unknown words among them.
        length: most tokens of a text.

    Raises (when called):
        DataError: data is missing or not as declared.
    """
    return _later("texts", source, sizes, classes=classes, names=names, vocabulary=vocabulary, length=length)


def streams(source: Hub, sizes: SplitSizes, *, classes: int) -> Load:
    """Images of any size, too many for memory: read from disk and transformed as timm does for the model at hand.

    A local folder with fewer rows or classes than declared is a subset: selection and calibration shrink in proportion,
    K is what the folder has, and the notes say so.

    Args:
        source: where the data is; its first split is partitioned, its last is the test set.
        sizes: of the splits.
        classes: K.

    Raises (when called):
        DataError: data is missing or not as declared. An image that cannot be decoded raises it in its batch.
    """
    return _later("streams", source, sizes, classes=classes)


def from_columns() -> Load:
    """The user's own data: tables or class folders, whose columns say what it holds, see `calib_bench.data.own_data`.

    Raises (when called):
        DataError: data is missing, or what it holds cannot be told.
    """
    return _later("from_columns")


def look(request: Request) -> Content:
    """What the user's own data holds; raises DataError as `from_columns` does when it loads."""
    from calib_bench.data import own_data

    return own_data.look(request)


def _later(name: str, *declared: Any, **options: Any) -> Load:
    """A load that imports its library, `calib_bench.data.loading`, when it is called: `list` needs none."""

    def load(request: Request) -> Splits:
        from calib_bench.data import loading

        return getattr(loading, name)(request, *declared, **options)

    return load
