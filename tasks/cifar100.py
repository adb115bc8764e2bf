"""CIFAR-100: 60,000 colour photographs of 32x32 in 100 fine classes (Krizhevsky, 2009)."""

from calib_bench.core.task import Hub, Recipe, SplitSizes, Task
from calib_bench.data import crop, flip, images

SOURCE = Hub(
    name="uoft-cs/cifar100",
    revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
    input="img",
    label="fine_label",
    rows={"train": 50_000, "test": 10_000},
)
SIZES = SplitSizes(selection=2_500, calibration=5_000)

TASK = Task(
    title="CIFAR-100",
    load=images(
        SOURCE,
        SIZES,
        classes=100,
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        augment=(crop(4), flip()),
    ),
    classes=100,
    sizes=SIZES,
    models=("wrn_16_4", "wrn_28_10", "wrn_16_4_nonorm", "cnn_32_64_128"),
    recipe=Recipe(
        epochs=30,
        batch=128,
        lr=(0.025, 0.1, 0.4),
        lr_unit="lr_hom",
        momentum=0.9,
        weight_decay=5e-4,
        schedule="cosine",
        warmup=1,
    ),
    beta=(0.01, 0.0316227766, 0.1, 0.316227766, 1.0, 3.16227766, 10.0),
    tune_seeds=3,
    source=SOURCE,
    example=("image", (3, 32, 32), 0),
    licence="No licence is stated; its author asks that the technical report be cited.",
    reference="krizhevsky2009",
)
