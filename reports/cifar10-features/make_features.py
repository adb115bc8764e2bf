"""CIFAR-10 as EfficientNet-Lite0 sees it: tables with 1,280 features of each image and its class.

    python make_features.py CIFAR10 WEIGHTS OUT

CIFAR10 is a folder of train.parquet and test.parquet in the Hub's columns (img, label), WEIGHTS a file of safetensors
under timm's names, OUT the folder for the two tables. Images are enlarged to 128 x 128 by bicubic interpolation.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

SIDE, BATCH = 128, 100
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_model(weights: Path) -> torch.nn.Module:
    """EfficientNet-Lite0 without its head, in one thread."""
    torch.set_num_threads(1)
    model, tensors = timm.create_model("tf_efficientnet_lite0"), load_file(weights)
    model.load_state_dict({name: tensors[name] for name in model.state_dict()})
    model.reset_classifier(0)
    return model.eval().to(memory_format=torch.channels_last)


def features(model: torch.nn.Module, pixels: torch.Tensor) -> np.ndarray:
    """Images uint8 [N, 3, 32, 32] -> float32 [N, 1280], pooled."""
    x = F.interpolate(pixels.float() / 255, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.inference_mode():
        return model(((x - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)).numpy()


def decoded(images: list[bytes]) -> torch.Tensor:
    """uint8 [N, 3, 32, 32]."""
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in images])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def main(data: Path, weights: Path, out: Path) -> None:
    """Write OUT/train.parquet and OUT/test.parquet."""
    model = read_model(weights)
    out.mkdir(exist_ok=True)
    for split in ("test", "train"):
        table = pq.read_table(data / f"{split}.parquet")
        images = [image["bytes"] for image in table["img"].to_pylist()]
        rows = np.concatenate([features(model, decoded(images[i : i + BATCH])) for i in range(0, len(images), BATCH)])
        column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        labels = [NAMES[label] for label in table["label"].to_pylist()]
        pq.write_table(pa.table({"features": column, "label": labels}), out / f"{split}.parquet")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
