"""What data of the user's own trains with: models, recipe and betas of the package's task whose inputs are alike."""

from dataclasses import replace

from calib_bench.core.task import Content, SplitSizes, Task
from calib_bench.data import from_columns, look
from calib_bench.tasks.cifar10 import TASK as CIFAR10
from calib_bench.tasks.digits import TASK as DIGITS
from calib_bench.tasks.imagenet import TASK as IMAGENET
from calib_bench.tasks.imdb import TASK as IMDB


def own_data(title: str, licence: str) -> Task:
    """A task whose data the user brings."""

    def adapt(content: Content) -> Task:
        """The task of this content; images have any size, and the channels of any model."""
        near = _near(content)
        models = ("cnn_32_64_128", *near.models) if near is CIFAR10 else near.models
        return replace(
            declared,
            classes=content.classes,
            sizes=content.sizes,
            models=("timm/resnet18", *near.models) if near is IMAGENET else models,
            recipe=near.recipe,
            beta=near.beta,
            seeds=near.seeds,
            tune_seeds=near.tune_seeds,
            example=(content.kind, (), 0),
        )

    declared = replace(
        DIGITS,
        title=title,
        load=from_columns(),
        classes=0,
        sizes=SplitSizes(0, 0),
        interventions=False,
        image=None,
        licence=licence,
        reference="",
        look=look,
        adapt=adapt,
    )
    return declared


def _near(content: Content) -> Task:
    if content.kind == "image":
        return IMAGENET if content.large else CIFAR10
    return IMDB if content.kind == "tokens" else DIGITS
