"""Images as Pillow decodes them. Grey ones of more than 8 bits keep their range: which of their values is white."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calib_bench.data.raw_split import Part, Place
from calib_bench.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image


WHITES = (1.0, 255.0, 65535.0)
"""What may be white where the format does not say: a share, or the last value of 8 or 16 bits."""


def decode(payload: Any, mode: str, where: Place | str, greys: Greys | None = None) -> Image:
    """An encoded image as PIL in `mode`, "RGB" or "L"; grey of more than 8 bits keeps its range.

    Args:
        payload: the file's bytes.
        where: the split and row, for errors.
        greys: what is white in images of 32 bits; None to take this image's own range.

    Raises:
        DataError: it cannot be decoded, or which of its values is white cannot be told.
    """
    from PIL import Image as pillow

    try:
        if not isinstance(payload, bytes):
            raise TypeError("the cell holds no bytes")
        image = pillow.open(io.BytesIO(payload))
        image.load()
        return (greys or Greys()).eight_bits(image, where).convert(mode)
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, TypeError, pillow.DecompressionBombError) as error:
        raise DataError(
            f"The image in {where} cannot be decoded ({_why(error)}). Replace or remove that row, or fetch the data "
            "again."
        ) from error


def _why(error: Exception) -> str:
    return "no known image format" if "cannot identify image file" in str(error) else str(error)


class Greys:
    """The white of a data set's images of 32 bits and floats, one for all of them: the least that none exceeds.

    Files of 16 bits say their own, 65,535. The images are searched once one of 32 bits is met.

    Args:
        parts: splits whose images share their scale; none to take each image's own range.

    Attributes:
        used: (mode of Pillow's, white) of the images converted so far.
    """

    def __init__(self, parts: Sequence[Part] = ()) -> None:
        self.parts = parts
        self.used: set[tuple[str, float]] = set()
        self._highest: dict[str, float] | None = None

    def eight_bits(self, image: Image, where: Place | str) -> Image:
        """A grey image of more than 8 bits as Pillow's "L", rounded; any other as it is.

        Raises:
            DataError: it has negative values, ones that are not finite, or ones above 65,535.
        """
        from PIL import Image as pillow

        if not deep(image):
            return image
        values_HW = np.asarray(image).astype(np.float64)
        if not (np.isfinite(values_HW).all() and values_HW.min() >= 0):
            raise DataError(f"The image in {where} has values that are negative or not finite; expected 0 to white.")
        white = WHITES[-1] if image.mode.startswith("I;16") else self._white(image.mode, float(values_HW.max()), where)
        self.used.add((image.mode, white))
        return pillow.fromarray(np.rint(values_HW * (255 / white)).astype(np.uint8))

    def _white(self, mode: str, image_highest: float, where: Place | str) -> float:
        if self._highest is None:
            self._highest = {}
            for part in self.parts:
                _search(part, self._highest)
        highest = max(image_highest, self._highest.get(mode, 0.0))
        white = next((white for white in WHITES if highest <= white), None)
        if white is None:
            raise DataError(
                f"The image in {where} is grey, of 32 bits, in data that reaches {highest:g}, so that which value is "
                "white cannot be told; expected values from 0 to 1, 255 or 65,535. Store the images in 8 or 16 bits."
            )
        return white

    def names(self) -> tuple[str, ...]:
        """What was used, as "MODE:WHITE", in order."""
        return tuple(f"{mode}:{white:g}" for mode, white in sorted(self.used))


def conversion_note(names: Sequence[str]) -> dict[str, str]:
    """A note on whites, as `Greys.names` gives them, that were taken from the data; empty where there are none."""
    taken = sorted({float(name.rpartition(":")[2]) for name in names if not name.startswith("I;16")})
    return {"grey": f"grey images of 32 bits: white is {' or '.join(f'{w:,g}' for w in taken)}"} if taken else {}


def deep(image: Image) -> bool:
    """Whether an image is grey with more than 8 bits a pixel."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _search(part: Part, highest: dict[str, float]) -> None:
    """Raise `highest`, by mode, to the largest value of the images of 32 bits; what cannot be read is passed over."""
    for payload in part.inputs():
        image = _opened(payload)
        if image is not None and image.mode in ("I", "F"):
            try:
                top = float(np.nanmax(np.asarray(image)))
            except (OSError, ValueError, SyntaxError):
                continue
            highest[image.mode] = max(highest.get(image.mode, 0.0), top)


def _opened(payload: Any) -> Image | None:
    from PIL import Image as pillow

    try:
        return pillow.open(io.BytesIO(payload))
    except (OSError, ValueError, SyntaxError, TypeError, pillow.DecompressionBombError):
        return None
