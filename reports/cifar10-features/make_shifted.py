"""CIFAR-10's test images under noise and blur as EfficientNet-Lite0 sees them: arrays for `shift=`.

    CALIB_BENCH_DATA=DATA python make_shifted.py WEIGHTS OUT

OUT gets noise.npy and blur.npy, the features [50000, 1280] of the test split at severities 1 to 5 one after the other,
labels.npy and classes.txt. The images are those of `run task=cifar10 shift=noise,blur`; WEIGHTS and the way from
an image to its features are those of make_features.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from make_features import BATCH, features, read_model

from calib_bench import registry
from calib_bench.core.splits import Request
from calib_bench.data.corrupt import corrupted


def main(weights: Path, out: Path) -> None:
    """Write the arrays of OUT."""
    model, task = read_model(weights), registry.task("cifar10")
    splits = task.load(Request("cifar10"))
    out.mkdir(exist_ok=True)
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in splits.class_names))
    np.save(out / "labels.npy", np.tile(splits.test.labels.numpy(), 5))
    for name in ("noise", "blur"):
        rows = []
        for split in corrupted("cifar10", splits, (), name, registry.load("corruptions", name)).values():
            rows += [features(model, pixels) for pixels in split.x.split(BATCH)]
            print(name, len(rows) * BATCH, flush=True)
        np.save(out / f"{name}.npy", np.concatenate(rows))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
