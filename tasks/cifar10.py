"""CIFAR-10: 60,000 colour photographs of 32x32 in 10 classes (Krizhevsky, 2009)."""

from calib_bench.core.task import Hub, Recipe, SplitSizes, Task
from calib_bench.data import crop, flip, images

SOURCE = Hub(
    name="uoft-cs/cifar10",
    revision="0b2714987fa478483af9968de7c934580d0bb9a2",
    input="img",
    label="label",
    rows={"train": 50_000, "test": 10_000},
)
SIZES = SplitSizes(selection=2_500, calibration=2_500)

TASK = Task(
    title="CIFAR-10",
    load=images(
        SOURCE,
        SIZES,
        classes=10,
        names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        augment=(crop(4), flip()),
    ),
    classes=10,
    sizes=SIZES,
    models=("wrn_16_4", "wrn_16_4_nonorm", "wrn_28_10", "wrn_16_1", "cnn_32_64_128"),
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
