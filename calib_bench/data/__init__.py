"""Data: Hub id or local folder -> Splits. What a task file needs is here; importing it does not import torch."""

from calib_bench.data.augment import crop, flip
from calib_bench.data.loaders import arrays, from_columns, images, look, streams, texts

__all__ = ["arrays", "crop", "flip", "from_columns", "images", "look", "streams", "texts"]
