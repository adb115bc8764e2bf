"""Digits: 1,797 handwritten digits of 8x8 in 10 classes, bundled with scikit-learn (Alpaydin and Kaynak, 1998)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from calib_bench.core.task import Recipe, SplitSizes, Task
from calib_bench.data import arrays
from calib_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np

    from calib_bench.core.splits import Request


SIZES = SplitSizes(train=300, selection=250, calibration=250)  # 997 are left to test


def read(request: Request) -> tuple[np.ndarray, np.ndarray]:
    """(x in [0, 1], labels): rows of 64 for multilayer perceptrons, 1 x 8 x 8 images for every other model."""
    import numpy as np

    if request.data is not None:
        raise DataError(f"task=digits takes no data=: for your own give task=folder data={request.data}")
    spec = find_spec("sklearn")  # the file alone: importing the package takes a second in each process
    assert spec is not None
    assert spec.origin is not None
    table = np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    x, labels = (table[:, :-1] / 16).astype("float32"), table[:, -1].astype(int)
    return (x if (request.model or "mlp").startswith("mlp") else x.reshape(-1, 1, 8, 8)), labels


TASK = Task(
    title="Handwritten digits, 8x8, 300 to train on",
    load=arrays(read, SIZES, classes=10, source="sklearn.datasets.load_digits"),
    classes=10,
    sizes=SIZES,
    models=("mlp_128_128", "cnn_8_16"),
    # In lr_hom the best rates of all 45 default arms, interventions too, lay between 0.08 and 0.7, where lr_rel needed
    # a span of 128: half as many rates in factors of 2 find the same selection loss.
    recipe=Recipe(
        epochs=80,
        batch=60,
        lr=(0.09, 0.18, 0.36, 0.72, 1.44),
        lr_unit="lr_hom",
    ),
    beta=(0.01, 0.0316227766, 0.1, 0.316227766, 1.0, 3.16227766, 10.0),
    seeds=(0, 1, 2, 3, 4, 5),
    tune_seeds=3,
    interventions=True,
    image=(1, 8, 8),
    licence="CC BY 4.0 (UCI Machine Learning Repository, Optical Recognition of Handwritten Digits).",
    reference="alpaydin1998",
)
