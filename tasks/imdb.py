"""IMDB: 50,000 film reviews, half positive and half negative (Maas et al., 2011)."""

from calib_bench.core.task import Hub, Recipe, SplitSizes, Task
from calib_bench.data import texts

SOURCE = Hub(
    name="stanfordnlp/imdb",
    revision="e6281661ce1c48d982bc483cf8a173c1bbeb5d31",
    input="text",
    label="label",
    rows={"train": 25_000, "test": 25_000},
)
SIZES = SplitSizes(selection=2_500, calibration=2_500)

TASK = Task(
    title="IMDB film reviews",
    load=texts(SOURCE, SIZES, classes=2, names=("negative", "positive"), vocabulary=20_000, length=200),
    classes=2,
    sizes=SIZES,
    models=("gru_64", "lstm_64", "bag_64"),
    recipe=Recipe(epochs=6, batch=64, lr=(3e-4, 1e-3, 3e-3), lr_unit="lr_hom", optimizer="adam"),
    beta=(0.01, 0.0316227766, 0.1, 0.316227766, 1.0, 3.16227766, 10.0),
    tune_seeds=3,
    source=SOURCE,
    example=("tokens", (200,), 20_000),
    licence="No licence is stated; its authors ask that the paper be cited.",
    reference="maas2011",
)
