"""Settings as typed -> complete settings: the task's defaults are put in, and every name is checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calib_bench import models, registry
from calib_bench.core.baseline import Objective
from calib_bench.core.corruption import source_name
from calib_bench.core.settings import KEYS, RATES, Settings, Space, StudyOptions, UserSettings, read_value
from calib_bench.core.splits import Request
from calib_bench.core.study import Study
from calib_bench.core.syntax import split_word
from calib_bench.core.task import Content, Task
from calib_bench.core.trial import ADAM_EPS, CROSS_ENTROPY, HF, format_objective, split_terms
from calib_bench.errors import SettingsError, counted, nearest
from calib_bench.models.weights import name_of
from calib_bench.planning.carry import HAVE_EPS, add_scales, rate_unit
from calib_bench.system.files import near
from calib_bench.train.fusion import check_optimizer, check_schedule

RECIPE = ("optimizer", "momentum", "weight_decay", "schedule", "warmup", "epochs", "batch", "clip")
"""Grid keys whose default comes from the task's recipe, which a model may change."""
FINE_TUNING: Mapping[str, Any] = {
    "optimizer": "adamw", "lr": (1e-5, 2e-5, 4e-5), "lr_unit": "lr_hom", "weight_decay": 0.01, "momentum": 0.0,
    "schedule": "linear", "epochs": 3, "warmup": 0.3, "batch": 32, "clip": 1.0,
}  # fmt: skip
"""The recipe of transformers' pretrained models in place of the task's: that of BERT (Devlin et al., 2019, section A.3
of arXiv 1810.04805). Rates are those at beta = 1."""


def resolve(typed: UserSettings) -> Settings:
    """Complete settings; complete ones are returned as they are.

    Raises:
        SettingsError: a task, study, model, objective, calibrator, optimizer, schedule or key is unknown, or two
            settings contradict each other.
    """
    registry.use_plugins(typed.plugins, typed.names())
    if isinstance(typed, Settings):
        registry.adapt_task(typed.task, typed.content)
        return typed
    content = _content(typed)
    task, study = registry.adapt_task(typed.task, content), registry.study(typed.study)
    if typed.shift and not study.measures_shift:
        raise SettingsError(f"study={typed.study} measures no shifted data: leave shift= out, or take study=separation")
    typed = typed.model_copy(update={**_study_defaults(typed, study, task), "options": check_options(typed)})
    typed, chosen = _with_models(typed, task)
    seeds, tune_seeds = _seeds(typed, task)
    complete = {
        "model": chosen,
        "beta": _betas(typed, task),
        "objective": _objectives(typed, task),
        "seed": seeds,
        "tune_seeds": tune_seeds,
        "interventions": _interventions(typed, task),
        "calibrator": tuple(registry.calibrators(typed.calibrator)),
        "shift": shift_sources(typed.shift, typed.task),
    }
    filled = typed.model_copy(update=complete)
    spaces = {model: _space(filled, task, model) for model in chosen}
    for space in spaces.values():
        _check_space(filled, space)
    settings = Settings.model_construct(**dict(filled), spaces=spaces, content=content)
    return study.complete(typed, settings) if study.complete else settings


def _content(typed: UserSettings) -> Content | None:
    """What the user's own data holds; None where the task declares its data.

    Raises:
        SettingsError: columns are named of a task that declares them.
        DataError: the data cannot be read, or what it holds cannot be told.
    """
    task = registry.task(typed.task)
    if task.look is not None:
        return task.look(Request(typed.task, typed.data, input=typed.input, label=typed.label))
    if typed.input or typed.label:
        raise SettingsError(
            f"input= and label= name columns of your own data, and task {typed.task} declares its own: leave them out, "
            "or give task=folder or task=hub/OWNER/NAME"
        )
    return None


def spelled_out(settings: Settings) -> dict[str, str]:
    """The words `key=value` of complete settings, values of the recipe included: they give the same trials whatever
    defaults a later version has. What differs between models is left to the task."""
    values = dict(split_word(word) for word in settings.words())
    task = registry.task(settings.task)
    shared = _shared([_space(settings, task, model) for model in settings.model])
    recipe = {key: shared[key] for key in RECIPE if key in shared}
    if {"lr", "lr_unit"} <= shared.keys() and not values.keys() & set(RATES):
        recipe[shared["lr_unit"][0]] = shared["lr"]
    return values | {key: ",".join(map(str, value)) for key, value in recipe.items()}


def _shared(spaces: Sequence[Space]) -> Space:
    """What grids have in common, before a study's own keys change them (`Study.complete`)."""
    return {key: value for key, value in spaces[0].items() if all(space[key] == value for space in spaces)}


def check_options(typed: UserSettings) -> dict[str, Any]:
    """The values of the study's own keys, its defaults included.

    Raises:
        SettingsError: the study has no such key, or the value is not valid.
    """
    model = registry.study(typed.study).options
    for key in typed.options:
        if key not in model.model_fields:
            raise SettingsError(f"unknown key {key!r} for study={typed.study}: {_hint(key, model)}")
    values = {key: read_value(model, key, text) for key, text in typed.options.items()}
    return model(**values).model_dump(mode="json")


def _hint(key: str, options: type[StudyOptions]) -> str:
    """What a key that the study does not have may stand for."""
    owners = [name for name, model in registry.study_options().items() if key in model.model_fields]
    if owners:
        return f"it is a key of study={' and study='.join(owners)}"
    return nearest(key, [*KEYS, *options.model_fields])


def _check_model(model: str, task: Task, published: bool) -> None:
    models.check_exists(model, task.example[0] if task.example else "image" if task.image else None)
    if published and not model.startswith(("timm/", HF)):
        raise SettingsError(
            f"there are no pretrained weights for {model}: give model=timm/NAME, model=hf/NAME, or weights=FILE"
        )


def _with_models(typed: UserSettings, task: Task) -> tuple[UserSettings, tuple[str, ...]]:
    """The settings with what their weights say, and the models: those that were typed, or the task's first."""
    chosen = tuple(dict.fromkeys(models.canonical(model) for model in typed.model or task.models[:1]))
    typed = typed.model_copy(update=_own_weights(typed.weights, chosen))
    for model in chosen:
        _check_model(model, task, typed.pretrained and not typed.weights)
    return typed, chosen


def _own_weights(file: Path | None, chosen: Sequence[str]) -> dict[str, Any]:
    """What weights of the user's change: they are where a pretrained model starts.

    Raises:
        SettingsError: there is no such file, or there are several models, of which it fits one.
    """
    if file is None:
        return {}
    path = file.expanduser()
    if not path.is_file():
        why = "is a folder" if path.is_dir() else f"does not exist{near(path)}"
        raise SettingsError(f"weights={file} {why}")
    if len(chosen) > 1:
        raise SettingsError(f"weights= is of one model, and there are several: give one of {', '.join(chosen)}")
    return {"weights": path, "pretrained": True}


def _check_space(typed: UserSettings, space: Space) -> None:
    """Check the optimizers and schedules of a model's grid, and that they go with the other settings."""
    for optimizer in space["optimizer"]:
        check_optimizer(optimizer)
        if optimizer != "sgd" and space["lr_unit"] == ("lr_rel",):
            raise SettingsError(
                f"learning rates in lr_rel are relative to the critical rate of gradient descent and have no meaning "
                f"for {optimizer}: give lr=, for example lr=1e-4,1e-3,1e-2"
            )
        _check_eps(typed, optimizer)
    for schedule in space["schedule"]:
        check_schedule(schedule)
    _check_rest(space)


def _check_rest(space: Space) -> None:
    """Refuse a body that stays as it is with a setting of how it changes."""
    if 0 in space["body_lr"] and space["norm_batch"] != (None,):
        raise SettingsError("body_lr=0 leaves batch norm as it is, and norm_batch= is how it trains: leave one out")


def _check_eps(typed: UserSettings, optimizer: str) -> None:
    """Refuse an eps that the optimizer would not use."""
    if optimizer in HAVE_EPS:
        return
    for key in ("eps", "eps_scale"):
        if getattr(typed, key) != UserSettings.model_fields[key].default:
            raise SettingsError(f"{key} is a setting of adam and adamw, and {optimizer} has none: leave {key}= out")


def _study_defaults(typed: UserSettings, study: Study, task: Task) -> dict[str, Any]:
    """The study's defaults of keys that the user did not give; any unit of the learning rate gives the rate."""
    has_rate = any(getattr(typed, unit) for unit in RATES)
    defaults: dict[str, Any] = {}
    for key, value in study.defaults.items():
        if getattr(typed, key) is None and not (has_rate and key in RATES):
            defaults[key] = (value(task) if callable(value) else value) or None
    return defaults


def _betas(typed: UserSettings, task: Task) -> tuple[float, ...]:
    """The betas to train at, the reference always among them."""
    betas = typed.beta or ((typed.reference,) if typed.pretrained else task.beta)
    return betas if typed.reference in betas else tuple(sorted((*betas, typed.reference)))


def _objectives(typed: UserSettings, task: Task) -> tuple[str, ...]:
    """The objectives in canonical form, each once."""
    texts = typed.objective or (task.objectives[:1] if typed.pretrained else task.objectives)
    objectives = registry.objectives()
    return tuple(dict.fromkeys(name for text in texts for name in spell_out(text, objectives)))


def _seeds(typed: UserSettings, task: Task) -> tuple[tuple[int, ...], int]:
    """All seeds, and how many of them choose the learning rate."""
    seeds = typed.seed or (task.seeds[:1] if typed.pretrained else task.seeds)
    tune_seeds = typed.tune_seeds or min(task.tune_seeds or len(seeds), len(seeds))
    if tune_seeds > len(seeds):
        raise SettingsError(f"tune_seeds={tune_seeds} is more than {counted(len(seeds), 'seed')}: give at most that")
    return seeds, tune_seeds


def _interventions(typed: UserSettings, task: Task) -> str:
    return ("yes" if task.interventions else "no") if typed.interventions == "auto" else typed.interventions


def shift_sources(words: tuple[str, ...], task_name: str) -> tuple[str, ...]:
    """Sources of shifted test data in order, each once: corruptions, and absolute paths of the user's data.

    Args:
        words: names of corruptions, "all" for those of the task's inputs, paths.

    Raises:
        SettingsError: a word is neither, two sources have one name, a corruption is for other inputs than the task's,
            or what these are is not known for "all".
    """
    corruptions, sources = registry.names("corruptions"), set()
    for word in words:
        path = Path(word).expanduser()
        if word == "all":
            sources |= set(registry.corruptions(_inputs(task_name)))
        elif word in corruptions:
            _check_kind(word, task_name)
            sources.add(word)
        elif path.exists():
            sources.add(str(path.resolve()))
        else:
            hint = nearest(word, [*corruptions, "all"])
            raise SettingsError(f"shift={word} is no corruption, and no folder or file either: {hint}")
    return _distinct(sources)


def _check_kind(corruption: str, task_name: str) -> None:
    """Refuse a corruption of other inputs than the task's; a task need not say what they are before it is loaded."""
    task, kind = registry.task(task_name), registry.load("corruptions", corruption).kind
    if (task.image or task.example is not None) and kind != _inputs(task_name):
        fitting = ", ".join(registry.corruptions(_inputs(task_name)))
        raise SettingsError(
            f"shift={corruption} is for {kind} inputs, and those of task {task_name} are {_inputs(task_name)}: "
            f"valid choices: {fitting}, all"
        )


def _distinct(sources: set[str]) -> tuple[str, ...]:
    """The sources in order of their names, which must differ from each other and from those of corruptions."""
    by_name: dict[str, str] = {}
    for source in sorted(sources):
        name = source_name(source)
        if name in by_name or (name != source and name in registry.names("corruptions")):
            raise SettingsError(f"shift={source} is called as other shifted data, {name}: give it another name")
        by_name[name] = source
    return tuple(by_name[name] for name in sorted(by_name))


def _inputs(task_name: str) -> str:
    """What the inputs of a task are to corruptions."""
    task = registry.task(task_name)
    if task.image:
        return "image"
    if task.example is None:
        raise SettingsError(f"shift=all: task {task_name} does not say what its inputs are: name the corruptions")
    return "text" if task.example[0] == "tokens" else task.example[0]


def spell_out(text: str, objectives: dict[str, Objective]) -> list[str]:
    """Canonical objectives that a command-line objective stands for: a name alone stands for each default strength.

    >>> spell_out("cross_entropy", {})
    ['cross_entropy']

    Raises:
        SettingsError: a name is unknown or repeated, or a strength is no number or out of its bounds.
    """
    if text == CROSS_ENTROPY:
        return [CROSS_ENTROPY]
    combinations: list[dict[str, float]] = [{}]
    for term in split_terms(text):
        name, colon, strength = term.strip().partition(":")
        if name == CROSS_ENTROPY:
            raise SettingsError(
                f"objective={text}: cross_entropy stands alone and has no strength; other terms add to it"
            )
        if name not in objectives:
            raise SettingsError(f"no objective is called {name!r}: {nearest(name, [CROSS_ENTROPY, *objectives])}")
        if name in combinations[0]:
            raise SettingsError(f"objective={text} names {name} twice: give each term once")
        values = (_strength(name, strength, objectives[name]),) if colon else objectives[name].strengths
        combinations = [{**c, name: value} for c in combinations for value in values]
    _refuse_clash(text, {name: objectives[name] for name in combinations[0]})
    return [format_objective(c) for c in combinations]


def _refuse_clash(text: str, terms: Mapping[str, Objective]) -> None:
    """Raises SettingsError where two terms of an objective do what only one can."""
    for hook, does in (("head", "replace the head"), ("mix", "mix inputs")):
        clash = [name for name, objective in terms.items() if getattr(objective, hook)]
        if len(clash) > 1:
            raise SettingsError(f"objective={text}: {clash[0]} and {clash[1]} both {does}: give one of them")


def _strength(name: str, text: str, objective: Objective) -> float:
    low, high = objective.valid
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high or value == float("inf"):
        raise SettingsError(f"{name}:{text} is not valid: the strength is a number from {low:g} to {high:g}")
    return value


def _space(typed: UserSettings, task: Task, model: str) -> Space:
    """The grid of one model: every trial field that may vary but the seed, the learning rate's unit included."""
    recipe = _recipe(typed, task, model)
    space: Space = {"beta": typed.beta or (), "objective": typed.objective or ()}
    space |= {key: getattr(typed, key) or (recipe[key],) for key in RECIPE}
    if typed.pretrained and typed.epochs is None:
        space["epochs"] = (0,)
    space["warmup"] = _warmup(typed, recipe, min(space["epochs"]))
    space |= _rates(typed, recipe, space["epochs"])
    space |= {key: getattr(typed, key) for key in ("head_lr", "head_init", "head_decay", "body_lr")}
    space |= _neutral(typed, one_rate=len(space["lr"]) == 1)
    add_scales(typed, space)
    return space | (_published(typed, model, space) if typed.pretrained or model.startswith(HF) else {})


def _recipe(typed: UserSettings, task: Task, model: str) -> Mapping[str, Any]:
    """Training defaults of a model: those of fine-tuning, or the task's, with what the task says of this model."""
    model_recipes = {models.canonical(name): recipe for name, recipe in task.recipes.items()}
    usual = FINE_TUNING if typed.pretrained and model.startswith(HF) else vars(task.recipe)
    return {**usual, **model_recipes.get(model, {})}


NEUTRAL = {"correlation": None, "label_noise": 0.0, "norm_batch": None, "eps": ADAM_EPS, "sampling": "shuffled"}
"""What trial fields are where neither the user nor a recipe says otherwise."""


def _neutral(typed: UserSettings, one_rate: bool) -> Space:
    """Fields that no recipe sets; where no rate is to be chosen, whether weights are kept, see `planning.plan`."""
    space: Space = {key: getattr(typed, key) or (neutral,) for key, neutral in NEUTRAL.items()}
    kept: Space = {"keep": (typed.keep,)} if typed.keep and one_rate else {}
    return space | {"eps_scale": (typed.eps_scale,)} | kept


def _rates(typed: UserSettings, recipe: Mapping[str, Any], epochs: tuple[int, ...]) -> Space:
    """Learning rates and their unit; a rate of no meaning where nothing is trained."""
    if epochs == (0,):
        return {"lr_unit": ("lr",), "lr": (1.0,)}
    unit = next((unit for unit in RATES if getattr(typed, unit)), None)
    if unit is None:
        _check_recipe_rates(typed, recipe)
    rates = getattr(typed, unit) if unit else recipe["lr"]
    return {"lr_unit": (rate_unit(typed, unit or recipe["lr_unit"]),), "lr": tuple(sorted(rates))}


def _check_recipe_rates(typed: UserSettings, recipe: Mapping[str, Any]) -> None:
    """Refuse a recipe's rates for an optimizer whose rates are of another size."""
    for optimizer in typed.optimizer or ():
        if (optimizer == "sgd") != (recipe["optimizer"] == "sgd"):
            raise SettingsError(
                f"the task's learning rates are for {recipe['optimizer']}, and those of {optimizer} are of another "
                f"size: give lr_hom= or lr=, for example lr={'0.01,0.1,1' if optimizer == 'sgd' else '1e-4,1e-3,1e-2'}"
            )


def _published(typed: UserSettings, model: str, space: Space) -> Space:
    """The digest of the weights, so that trials from other weights have other keys; empty where none are at hand.

    Raises:
        SettingsError: a head that is drawn anew would not be trained.
    """
    if typed.correlation and 0 in space["epochs"]:
        raise SettingsError("correlation draws a new head, which epochs=0 would not train: give epochs=")
    published = typed.pretrained and not typed.weights
    if published and 0 in space["epochs"] and model.startswith(HF) and models.pretrained_head(model) is None:
        raise SettingsError(f"{model} has no trained head, and epochs=0 would not train one: give epochs=, such as 3")
    weights = name_of(typed.weights) if typed.weights else models.weights_at_hand(model)
    return {"weights": (weights,)} if weights else {}


def _warmup(typed: UserSettings, recipe: Mapping[str, Any], shortest: int) -> tuple[float, ...]:
    """Warm-up epochs: those typed, else the recipe's.

    A run that is shorter than the recipe's has less in proportion, but no less than an epoch or a quarter of itself:
    how many updates early instability lasts does not depend on how many follow.
    """
    if typed.warmup is None:
        share = min(1.0, shortest / recipe["epochs"])
        return (min(recipe["warmup"], max(recipe["warmup"] * share, min(1.0, shortest / 4))),)
    if max(typed.warmup) > shortest:
        raise SettingsError(
            f"warmup={max(typed.warmup):g} is longer than a run of {counted(shortest, 'epoch')}: give at most that, "
            "or more epochs"
        )
    return typed.warmup
