"""`advise`: what a recipe that was tuned at beta = 1 becomes at another beta."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING, Any

from calib_bench import models, registry
from calib_bench.commands.command import PLUGINS, Command, setting, whole
from calib_bench.errors import SettingsError

if TYPE_CHECKING:
    from calib_bench.core.splits import InputSpec
    from calib_bench.dynamics.scaling_law import Numbers

TASKS = ("cifar10", "imdb")
"""Tasks whose inputs a model is measured on where none is named: the first whose inputs it takes."""
PROBE = {"image": 16, "vector": 64, "tokens": 64}
"""Random inputs on which the degree is measured, by kind: large networks take seconds an image."""


def _call(arguments: Namespace) -> int:
    """Print the numbers of the recipe at each beta, with what they rest on."""
    from calib_bench.dynamics.scaling_law import advise, cautions, powers
    from calib_bench.report.advice import table

    registry.use_plugins(arguments.plugins, arguments.model)
    name = models.canonical(_single(arguments.model, "model") or "wrn_16_4")
    optimizer = _single(arguments.optimizer, "optimizer") or "sgd"
    powers(optimizer)
    tuned = _numbers(arguments, optimizer)
    task = arguments.task or _task_for(name)
    betas = arguments.beta or tuple(beta for beta in registry.task(task).beta if beta != 1)
    degree, spread, basis = _degree(name, task, arguments.degree, arguments.seeds)
    advices = [advise(optimizer, (tuned,), beta, degree, spread) for beta in betas]
    print(f"{name} with {optimizer}, a recipe tuned at beta=1\nEuler degree L = {degree:.3f}: {basis}\n")
    print(f"{table(advices)}\n")
    print("Momentum, batch, warm-up and schedule stay as they are, and so may the initial weights: with their factor")
    print("the run would be that at beta=1.")
    for sentence in cautions(optimizer, degree, betas):
        print(f"- {sentence}")
    print(f"In a run: {_words(name, task, optimizer, tuned)}")
    return 0


COMMAND = Command(
    "advise",
    "Prints what a recipe that was tuned at beta=1 becomes at another beta: rate, weight decay, eps, bound of the "
    "gradient's norm, scale of the weights.",
    (
        setting("model", "architecture, as in run (default wrn_16_4)"),
        setting("lr", "learning rate that was tuned at beta=1; must be given"),
        setting("beta", "inverse temperatures to carry the recipe to; default those of the task"),
        setting("optimizer", "sgd (the default), adam or adamw"),
        setting("weight_decay", "weight decay at beta=1"),
        setting("eps", "eps of adam and adamw at beta=1; default 1e-8"),
        setting("clip", "bound of the gradient's norm at beta=1"),
        setting("task", "task whose kind of input and number of classes the model has; default cifar10, or imdb"),
        setting("degree", "degree L of the logits in the weights; default measured"),
        whole("--seeds", "initializations over which the degree is measured", 3, 1, 100),
        PLUGINS,
    ),
    (
        "advise model=wrn_16_4 lr=0.1 weight_decay=5e-4 optimizer=sgd beta=0.1",
        "advise model=gru lr=1e-3 optimizer=adam beta=0.01,0.1",
        "advise model=mlp_128_128 task=digits lr=0.5 clip=1 beta=0.1",
    ),
    _call,
    notes="The degree is measured in seconds and needs no data: inputs are random, of the task's shape.",
)


def _single(values: Any, key: str) -> Any:
    """The one value of a setting that may be a list; None where it is not given."""
    if values is not None and len(values) > 1:
        raise SettingsError(f"advise takes one {key}: give {key}=VALUE, and several values to beta alone")
    return values[0] if values else None


def _numbers(arguments: Namespace, optimizer: str) -> Numbers:
    """The recipe's numbers at beta = 1."""
    from calib_bench.core.trial import ADAM_EPS
    from calib_bench.dynamics.scaling_law import Numbers

    rate, eps = _single(arguments.lr, "lr"), _single(arguments.eps, "eps")
    if rate is None:
        raise SettingsError("advise needs lr=, the learning rate that was tuned at beta=1: for example lr=0.1")
    if optimizer == "sgd" and eps is not None:
        raise SettingsError("eps is a setting of adam and adamw, and sgd has none: leave eps= out")
    usual = None if optimizer == "sgd" else ADAM_EPS
    decay, clip = _single(arguments.weight_decay, "weight_decay"), _single(arguments.clip, "clip")
    return Numbers(rate, decay or 0.0, eps or usual, clip)


def _task_for(model: str) -> str:
    """The first of `TASKS` whose inputs the model takes."""
    for name in TASKS:
        kind, _, _ = registry.task(name).example or ("", (), 0)
        try:
            models.check(model, kind)
        except SettingsError:
            continue
        return name
    models.check(model)
    raise SettingsError(f"no usual task has inputs for model {model!r}: give task=")


def _words(model: str, task: str, optimizer: str, tuned: Numbers) -> str:
    """The settings of a run that carries the recipe to every beta."""
    words = [f"task={task}", f"model={model}", f"optimizer={optimizer}", f"lr_hom={tuned.lr:g}"]
    others = {key: getattr(tuned, key) for key in ("weight_decay", "eps", "clip")}
    words += [f"{key}={value:g}" for key, value in others.items() if value]
    return " ".join([*words, "carry=all"])


def _degree(model: str, task: str, degree: float | None, seeds: int) -> tuple[float, float, str]:
    """The degree L, its standard deviation over initializations, and a clause on what it rests on."""
    from calib_bench.dynamics.euler_degree import euler_degree_over_seeds
    from calib_bench.system.random import seed_of

    if degree is not None:
        return degree, 0.0, "as given"
    import torch

    spec, x, inputs = _inputs(task, model)

    def build(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed_of("init", seed))
        return models.build(model, spec, registry.task(task).classes)

    measured = euler_degree_over_seeds(build, x, range(seeds))
    basis = f"standard deviation {measured.spread:.2g} over {seeds} initializations, on {inputs}"
    return measured.mean, measured.spread, basis


def _inputs(name: str, model: str) -> tuple[InputSpec, Any, str]:
    """What a model is measured on: random inputs, or the data of a task that does not tell their shape."""
    from calib_bench.core.splits import InputSpec, Request

    task = registry.task(name)
    if task.example is not None:
        spec = InputSpec(*task.example)
        models.check(model, spec.kind)
        return spec, _random_inputs(spec), f"{PROBE[spec.kind]} random inputs of the shape of {name}'s"
    import torch

    from calib_bench.train.learning_rate import probe

    splits = task.load(Request(name, model=model))
    return splits.spec, probe(splits, torch.device("cpu"))[0], f"training examples of {name}"


def _random_inputs(spec: InputSpec) -> Any:
    """Standard normal images and vectors, or uniform tokens of uniform lengths: the same at each call."""
    import torch

    generator, n = torch.Generator().manual_seed(0), PROBE[spec.kind]
    if spec.kind != "tokens":
        return torch.randn(n, *spec.shape, generator=generator)
    longest = spec.shape[0]
    tokens = torch.randint(spec.vocabulary, (n, longest), generator=generator)
    return tokens, torch.randint(1, longest + 1, (n,), generator=generator)
