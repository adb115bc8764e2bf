"""ImageNet: 1.28 million photographs in 1,000 classes, ILSVRC 2012 (Russakovsky et al., 2015).

The labels of its test set are hidden, so the validation set is the test split; selection and calibration are
drawn from train. The defaults are the smallest study that supports a claim: three betas, three seeds, rates chosen on
all of them.
"""

from calib_bench.core.task import Hub, Recipe, SplitSizes, Task
from calib_bench.data import streams

SOURCE = Hub(
    name="ILSVRC/imagenet-1k",
    revision="49e2ee26f3810fb5a7536bbf732a7b07389a47b5",
    input="image",
    label="label",
    rows={"train": 1_281_167, "validation": 50_000},
    gated=True,
)
SIZES = SplitSizes(selection=10_000, calibration=25_000)

TASK = Task(
    title="ImageNet (ILSVRC 2012)",
    load=streams(SOURCE, SIZES, classes=1000),
    classes=1000,
    sizes=SIZES,
    models=("timm/resnet50",),
    recipe=Recipe(
        epochs=90,
        batch=256,
        lr=(0.025, 0.1, 0.4),
        lr_unit="lr_hom",
        momentum=0.9,
        weight_decay=1e-4,
        schedule="cosine",
        warmup=5,
    ),
    beta=(0.1, 1.0, 10.0),
    seeds=(0, 1, 2),
    tune_seeds=3,
    objectives=("cross_entropy",),
    source=SOURCE,
    example=("image", (3, 224, 224), 0),
    licence="Non-commercial research and education only, under terms that the Hub asks each user to accept.",
    reference="russakovsky2015",
)
