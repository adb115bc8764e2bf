"""What a newcomer adds, each kind in one file or folder of their own and without an edit elsewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from synthetic import sketched

from calib_bench import Analysis, Model, Table, models, registry
from calib_bench.cli import main
from calib_bench.core.splits import InputSpec, Request
from calib_bench.core.trial import Trial
from calib_bench.errors import DataError, SettingsError, UserError
from calib_bench.execute.worker import _load
from calib_bench.models.flops import flops_per_example
from calib_bench.report.tables import read
from calib_bench.store.store import Store
from tests.commands.test_run import example

TINY = ["seed=0", "epochs=2", "extend=0", "interventions=no", "wandb=disabled", "workers=1"]
OBJECTIVE = '''
"""Cross-entropy, less a share of it."""

from torch.nn.functional import cross_entropy

from calib_bench import Objective


def loss(Z, y, strength):
    whole = cross_entropy(Z.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
    return (1 - strength) * whole


BASELINE = Objective(loss, strengths=(0.1,), reference="guo2017", title="Shrunk", valid=(0, 0.9))
'''
STUDY = '''
"""Does a larger beta end with a lower loss?"""

from calib_bench import Analysis, Study
from calib_bench.planning.tuning import templates, trial_at

from . import figures
from .tables import losses


def plan(settings, scores):
    return [trial_at(settings, one, 0.1, seed) for one in templates(settings) for seed in settings.seed]


def analyse(settings, results):
    table = losses(plan(settings, None), results)
    return Analysis(verdict=(f"{len(table.frame)} losses",), tables={"losses": table})


STUDY = Study("Does a larger beta end with a lower loss?", plan, analyse, {"losses": figures.losses})
'''
TABLES = '''
"""The table of the study."""

import pandas as pd

from calib_bench import Table

from .._shared import last_loss


def losses(trials, results):
    rows = [{"beta": trial.beta, "loss": last_loss(results, trial)} for trial in trials]
    return Table("Loss at the end of training, in nats", pd.DataFrame(rows), paper=True)
'''
SHARED = '''
"""What plug-ins of this folder share."""


def last_loss(results, trial):
    return float(results.history(trial)["train_loss"].iloc[-1])
'''
FIGURES = '''
"""The figure of the study."""

from matplotlib.figure import Figure


def losses(analysis):
    """The loss at the end of training, over beta."""
    figure = Figure()
    analysis.tables["losses"].frame.plot(x="beta", y="loss", ax=figure.subplots())
    return figure
'''
MODEL = '''
"""Softmax regression on what an input holds."""

import math

from torch import nn

from calib_bench import Model


class OneLayer(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs)
        self.head = nn.Linear(inputs, classes)

    def forward(self, x):
        return self.head(self.norm(x.flatten(1)))


MODEL = Model(
    lambda spec, classes: OneLayer(math.prod(spec.shape), classes),
    kinds=("vector", "image"),
    title="one layer",
    references=("hastie2009",),
)
'''
MODEL_OF_TIMM = '''
"""A linear model, entered into timm's list of models, and a task that begins with it."""

from dataclasses import replace

from timm.models import register_model
from torch import nn

from calib_bench.tasks.digits import TASK as DIGITS


class OneLayer(nn.Module):
    def __init__(self, num_classes, in_chans, **options):
        super().__init__()
        self.head = nn.Linear(64 * in_chans, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))


@register_model
def one_layer(pretrained=False, **options):
    return OneLayer(options["num_classes"], options["in_chans"])


TASK = replace(DIGITS, title="Digits by one layer", models=("timm/one_layer",))
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of plug-ins; what comes from it is forgotten after the test."""
    monkeypatch.setattr(registry, "_plugins", {kind: {} for kind in registry._plugins})
    folder = tmp_path / "mine"
    folder.mkdir()
    return folder


@sketched("separation")
def planned_and_run(mine: Path, *words: str) -> Path:
    """Plans and runs with the plug-ins; the run folder."""
    keys = [*TINY, *words, f"plugins={mine}", f"out={mine.parent}"]
    assert main(["plan", *keys]) == 0
    assert main(["run", *keys]) == 0
    (folder,) = mine.parent.glob("*-*")
    return folder


def trials(folder: Path) -> list[Trial]:
    store = Store(folder, "read")
    return [store.trial(key) for key in sorted(store.stored_keys())]


def test_a_task(mine: Path) -> None:
    (mine / "blobs.py").write_text(example("blobs.py"))
    folder = planned_and_run(
        mine, "task=blobs", "beta=1", "lr=0.1", "objective=cross_entropy", "calibrator=temperature_scaling"
    )
    assert folder.name == "blobs-separation"
    assert {trial.task for trial in trials(folder)} == {"blobs"}


def model_of(kind: str, mine: Path) -> tuple[str, list[str]]:
    """A plug-in model for inputs of a kind, in one file; its name, and the words for a task with such inputs."""
    if kind == "tokens":
        (mine / "text_length.py").write_text(example("text_length.py"))
        texts = pd.DataFrame(
            {"text": ["a bad film", "good", "so very bad", "a good one"] * 50, "label": [0, 1, 0, 1] * 50}
        )
        data = mine.parent / "texts"
        data.mkdir()
        for split in ("train", "test"):
            texts.to_parquet(data / f"{split}.parquet")
        return "text_length", ["task=imdb", f"data={data}", "limit=40", "batch=8"]
    (mine / "one_layer.py").write_text(MODEL)
    if kind == "image":
        return "one_layer", ["task=digits"]
    (mine / "blobs.py").write_text(example("blobs.py"))
    return "one_layer", ["task=blobs"]


@pytest.mark.parametrize("kind", ["vector", "image", "tokens"])
def test_a_model_of_any_kind(kind: str, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, words = model_of(kind, mine)
    keys = ["beta=1", "lr=0.1", "objective=cross_entropy", "calibrator=temperature_scaling"]
    folder = planned_and_run(mine, *words, f"model={name}", *keys)
    assert {trial.model for trial in trials(folder)} == {name}
    assert main(["list", "models", f"plugins={mine}"]) == 0
    assert registry.plugged_in_models()[name].title in capsys.readouterr().out
    assert main(["cite", str(folder), f"plugins={mine}"]) == 0
    assert ("model one_layer" in capsys.readouterr().out) == (name == "one_layer")


def test_a_model_is_refused_other_inputs_and_the_name_of_another(mine: Path) -> None:
    (mine / "one_layer.py").write_text(MODEL)
    registry.use_plugins([mine])
    with pytest.raises(SettingsError, match=r"takes inputs of kind vector or image.*kind tokens"):
        models.check("one_layer", "tokens")
    with pytest.raises(SettingsError, match=r"models for those: .*one_layer"):
        models.check("cnn_8", "vector")
    with pytest.raises(SettingsError, match="did you mean 'one_layer'"):
        models.check("one_lager")
    (mine / "mlp_8.py").write_text(MODEL)
    registry.use_plugins([mine])
    with pytest.raises(SettingsError, match="'mlp_8' has the name of one of the package's own: rename its file"):
        models.check("mlp_8")


def test_a_model_with_parameters_in_its_name(mine: Path) -> None:
    text = """
from torch import nn
from calib_bench import Model


class Net(nn.Module):
    def __init__(self, inputs, width, classes):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(inputs, width), nn.Tanh())
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.body(x))


def build(spec, classes, width, depth=None):
    return Net(spec.shape[0], int(width), classes)
"""
    declared = (
        "MODEL = Model(build, kinds=('vector',), parameters=r'_(\\d+)(_deep)?', stackable=r'.*_8', examples={EXAMPLES})"
    )
    (mine / "tanh.py").write_text(text + declared.replace("EXAMPLES", "'tanh_8': 'one hidden layer of tanh'"))
    registry.use_plugins([mine])
    assert models.examples()["tanh_8"] == "one hidden layer of tanh"
    assert models.build("tanh_16", InputSpec("vector", (5,)), 3).head.in_features == 16
    assert models.fusable("tanh_8")
    assert not models.fusable("tanh_16_deep")
    with pytest.raises(SettingsError, match="did you mean 'tanh_8'"):
        models.check("tanh")
    assert not Model(models.fusable, (), "_a|_b").match("net", "_b")
    for name, examples, message in (("bare", "", "declare examples="), ("other", "'tanh_8': ''", "is not 'other'")):
        (mine / f"{name}.py").write_text(text + declared.replace("EXAMPLES", examples))
        with pytest.raises(SettingsError, match=message):
            registry.use_plugins([mine], needed=[f"{name}_8"])
        (mine / f"{name}.py").unlink()


def test_a_model_that_is_none_or_of_other_classes_is_refused(mine: Path) -> None:
    cases = {
        "nothing": ("None", "gave NoneType: it returns an nn.Module"),
        "eleven": ("OneLayer(64, classes + 1)", "a head of 11 outputs, and the data has 10 classes"),
        "headless": ("nn.Flatten()", "has an nn.Linear in its attribute `head`"),
        "seeded": ("torch.manual_seed(0) and OneLayer(64, classes)", "seeds torch, so that every seed"),
    }
    for name, (made, _) in cases.items():
        text = f"import torch\n{MODEL}\nMODEL = Model(lambda spec, classes: {made}, kinds=('vector',))\n"
        (mine / f"{name}.py").write_text(text)
    registry.use_plugins([mine])
    for name, (_, message) in cases.items():
        with pytest.raises(UserError, match=message):
            models.build(name, InputSpec("vector", (64,)), 10)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("Sequence(OneLayer(64, classes), nn.Softmax(-1))", "gives probabilities, and must give logits"),
        ("Sequence(OneLayer(64, classes), nn.Flatten(0))", r"gives a Tensor of shape \[10\] for one example"),
        ("1 / 0", r"cannot be built \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_a_model_that_cannot_be_built_or_gives_no_logits_is_refused(made: str, message: str, mine: Path) -> None:
    text = (
        MODEL
        + """
class Sequence(nn.Sequential):
    @property
    def head(self):
        return self[0].head

"""
    )
    (mine / "one.py").write_text(f"{text}MODEL = Model(lambda spec, classes: {made}, kinds=('image',))\n")
    registry.use_plugins([mine])
    flops_per_example.cache_clear()
    with pytest.raises(UserError, match=message):
        flops_per_example("one", InputSpec("image", (1, 8, 8)), 10)


def test_a_model_that_reads_values_while_it_is_built_is_counted(mine: Path) -> None:
    made = "OneLayer(int(sum(torch.ones(64)).item()), classes)"
    (mine / "reading.py").write_text(
        f"import torch\n{MODEL}\nMODEL = Model(lambda spec, classes: {made}, kinds=('image',))\n"
    )
    registry.use_plugins([mine])
    assert flops_per_example("reading", InputSpec("image", (1, 8, 8)), 10) == 2 * 64 * 10


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("leaving", "import sys\nsys.exit(3)\n", "leaving.py cannot be imported: SystemExit: 3"),
        ("one.layer", MODEL, "the name 'one.layer' holds a dot"),
        ("words", MODEL.replace('kinds=("vector", "image")', 'kinds="vector"'), "kinds='vector' must be a tuple of"),
        ("images", MODEL.replace('"image")', '"images")'), r"kinds=\('vector', 'images'\) must be"),
        ("lines", MODEL.replace('title="one layer"', 'examples=("lines_8",)'), "must be names, each with a line"),
        ("star", MODEL.replace('title="one layer"', 'stackable="*"'), r"stackable='\*' is no regular expression"),
        ("float", OBJECTIVE.replace("(0.1,)", "0.1"), r"strengths=0.1 must be a tuple of numbers from 0 to 0.9"),
        ("none", OBJECTIVE.replace("(0.1,)", "()"), r"strengths=\(\) must be"),
        ("beyond", OBJECTIVE.replace("(0.1,)", "(1.5,)"), r"strengths=\(1.5,\) must be"),
        ("idle", OBJECTIVE.replace("Objective(loss, ", "Objective("), "gives none of loss, logits, factor, mix, head"),
        ("cross_entropy", OBJECTIVE, "the name 'cross_entropy' is taken"),
        ("raw", example("prior.py"), "the name 'raw' is taken"),
        ("comma", example("blobs.py").replace('("mlp_8",)', '("mlp_8")'), r"models='mlp_8' must be .* \('mlp_8',\)"),
        ("rates", example("blobs.py").replace("lr=(0.5,)", "lr=0.5"), "recipe.lr=0.5 must be a tuple"),
        ("epochs", example("blobs.py").replace("epochs=3", "epochs=-1"), "epochs=-1: input should be greater than"),
        ("empty", example("blobs.py").replace("lr=(0.5,)", "lr=()"), "recipe.lr is empty"),
        (
            "single",
            example("blobs.py").replace("recipe=Recipe(", "recipes={'mlp_8': {'batch': 0}}, recipe=Recipe("),
            "batch=0: input should be greater than",
        ),
        ("unit", example("blobs.py").replace('"lr_rel"', '"rel"'), "recipe.lr_unit='rel': did you mean 'lr_rel'"),
    ],
)
def test_a_file_that_declares_what_cannot_be_is_refused(name: str, text: str, message: str, mine: Path) -> None:
    (mine / f"{name}.py").write_text(text)
    with pytest.raises(SettingsError, match=message):
        registry.use_plugins([mine], needed=[name])


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"float32"), y', '"float32"), y[:300]', r"returned \(400, 5\) and \(300,\) of int64"),
        ('"float32"), y', '"float32"), y[:, None]', r"returned \(400, 5\) and \(400, 1\) of int64"),
        ('"float32"), y', '"float32"), y / 2', r"and \(400,\) of float64"),
        ('"float32"), y', '"float32") / y[:, None], y', "hold NaN or infinite numbers"),
        ('"float32"), y', '"float32")', "and ended in ValueError: too many values"),
        ("SIZES, classes=2", "SIZES, classes=5", "'blobs' declares 2 classes, and its data has 5"),
        ("read(request)", "read()", "and ended in TypeError: read"),
        ('arrays(read, SIZES, classes=2, source="made by numpy")', "read", "gave tuple: it returns Splits"),
    ],
)
def test_data_that_cannot_be_is_refused(before: str, after: str, message: str, mine: Path) -> None:
    text = example("blobs.py")
    assert before in text
    (mine / "blobs.py").write_text(text.replace(before, after))
    registry.use_plugins([mine], needed=["blobs"])
    _load.cache_clear()
    with pytest.raises(DataError, match=message):
        _load(Request("blobs"), None, False)


def test_a_model_of_timm(mine: Path) -> None:
    (mine / "one_layer_digits.py").write_text(MODEL_OF_TIMM)
    words = ["task=one_layer_digits", "beta=1", "lr=0.1", "objective=cross_entropy", "calibrator=temperature_scaling"]
    folder = planned_and_run(mine, *words)
    assert {trial.model for trial in trials(folder)} == {"timm/one_layer"}


def test_an_objective_and_a_calibrator(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (mine / "shrunk.py").write_text(OBJECTIVE)
    (mine / "prior.py").write_text(example("prior.py"))
    assert main(["list", "baselines", f"plugins={mine}"]) == 0
    listed = capsys.readouterr().out
    assert "objective: Shrunk (guo2017)" in listed
    assert "calibrator: Prior only (guo2017)" in listed
    assert main(["list", "calibrators", f"plugins={mine}"]) == 0
    listed = capsys.readouterr().out
    assert "calibrator: Prior only (guo2017)" in listed
    assert "objective" not in listed
    folder = planned_and_run(
        mine, "model=mlp_8", "beta=1", "lr=0.1", "objective=cross_entropy,shrunk", "calibrator=prior"
    )
    assert {"shrunk:0.1"} < {trial.objective for trial in trials(folder)}
    assert "prior" in set(read(folder)["baselines"].frame["method"])


def study(folder: Path) -> Path:
    """A study in a folder of its own, with files that import each other."""
    own = folder / "ending"
    own.mkdir()
    for name, text in (("study", STUDY), ("tables", TABLES), ("figures", FIGURES)):
        (own / f"{name}.py").write_text(text)
    (folder / "_shared.py").write_text(SHARED)
    return own


@pytest.mark.parametrize("is_readmes", [True, False])
def test_a_study_with_a_table_and_a_figure(is_readmes: bool, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if is_readmes:
        (mine / "ending").mkdir()
        for name in ("study.py", "figures.py"):
            (mine / "ending" / name).write_text(example(f"ending/{name}"))
    else:
        study(mine)
    folder = planned_and_run(mine, "study=ending", "model=mlp_8", "beta=0.3,1,3", "objective=cross_entropy")
    assert "Does a larger beta end with a lower loss?" in capsys.readouterr().out
    saved = pd.read_csv(folder / "report" / "tables" / "losses.csv")
    assert saved["beta"].tolist() == [0.3, 1.0, 3.0]
    assert saved["loss"].between(0, 10).all()
    assert (folder / "report" / "tables" / "losses.tex").is_file()
    assert (folder / "report" / "figures" / "losses.png").stat().st_size > 1000
    assert main(["report", str(folder)]) == 2
    assert "which is code" in capsys.readouterr().err
    assert main(["cite", str(folder), f"plugins={mine},{mine / 'nowhere'}"]) == 2
    assert "nowhere is not a folder" in capsys.readouterr().err
    assert main(["report", str(folder), f"plugins={mine}"]) == 0


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("return [trial_at", "[trial_at", "`plan` of study 'ending' gave NoneType: it returns a list of trials"),
        ("return [trial_at(settings, one, 0.1, seed)", "return [one.beta", "gave float: it returns a list of trials"),
        ("one, 0.1, seed", "one, random.random() + 0.1, seed", "planned other trials when asked again"),
    ],
)
def test_a_plan_that_is_none_or_changes_is_refused(
    before: str, after: str, message: str, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study(mine) / "study.py"
    path.write_text("import random\n" + path.read_text().replace(before, after))
    words = ["study=ending", "model=mlp_8", "beta=1", "objective=cross_entropy", "lr=0.1", *TINY]
    assert main(["plan", *words, f"plugins={mine}", f"out={mine.parent}"]) == 2
    assert message in capsys.readouterr().err


def test_an_analysis_has_sentences_and_tables() -> None:
    with pytest.raises(SettingsError, match="with the comma"):
        Analysis("One sentence.", {})  # type: ignore[arg-type]
    for tables in ({"losses": pd.DataFrame()}, [Table("losses", pd.DataFrame())]):
        with pytest.raises(SettingsError, match="Tables by name"):
            Analysis((), tables)  # type: ignore[arg-type]
    assert Analysis.checked(Analysis((), {}), "mine") == Analysis((), {})
    with pytest.raises(SettingsError, match="`analyse` of study 'mine' gave NoneType, not an Analysis"):
        Analysis.checked(None, "mine")


def test_a_study_that_cannot_be_imported_is_named_and_can_be_mended(mine: Path) -> None:
    own = study(mine)
    (own / "tables.py").write_text("from . import nowhere\n")
    with pytest.raises(SettingsError, match=r"ending/study\.py cannot be imported: ImportError.*nowhere"):
        registry.use_plugins([mine], needed=["digits", "ending"])
    assert f"{registry._package(mine.resolve())}.ending.figures" not in sys.modules
    (own / "tables.py").write_text(TABLES)
    registry.use_plugins([mine])
    registry.use_plugins([mine])  # once is enough
    assert registry.study("ending").question.startswith("Does a larger beta")
    assert registry.names("studies").count("ending") == 1


def test_a_broken_file_stops_only_what_needs_it(
    mine: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (mine / "prior.py").write_text(example("prior.py"))
    (mine / "broken.py").write_text("def fit(\n")
    (mine / "helper.py").write_text("SHARED = 1\n")
    words = ["model=mlp_8", "beta=1", "lr=0.1", "seed=0", "objective=cross_entropy", f"plugins={mine}"]
    assert main(["plan", *words, "calibrator=prior"]) == 0
    left_out = "\n".join(caplog.messages)
    assert re.findall(r"warning: a plug-in is left out: \S+/(\w+\.py)", left_out) == ["broken.py", "helper.py"]
    assert "broken.py cannot be imported: SyntaxError: '(' was never closed" in left_out
    assert "a name that begins with an underscore" in left_out
    for word in ("calibrator=broken", "model=broken_8", "objective=broken:0.1", "study=broken", "task=broken"):
        others = [other for other in words if other.split("=")[0] != word.split("=")[0]]
        assert main(["plan", *others, word]) == 2
        assert re.search(r"error: .*broken\.py cannot be imported: SyntaxError", capsys.readouterr().err)


def test_a_name_that_is_taken_is_refused(mine: Path, tmp_path: Path) -> None:
    study(mine)
    registry.use_plugins([mine])
    other = tmp_path / "other"
    other.mkdir()
    study(other)
    with pytest.raises(SettingsError, match="the name 'ending' is taken by another of the studies"):
        registry.use_plugins([other])


def test_settings_that_do_not_do_what_they_say_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [
        "momentum=0,0.5",
        "optimizer=adam",
        "lr=0.001",
        "head_decay=2",
        "extend=2",
        "interventions=no",
        "switch_at=0.3",
    ]
    assert main(["plan", "model=mlp_8", "beta=1", "seed=0", *keys, f"out={tmp_path}"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    for words in ("momentum=0 is beta_1=0.9", "head_decay= has no", "extend= has no", "switch_at= has no"):
        assert any(words in line for line in notes), words


@pytest.mark.parametrize(("keys", "noted"), [
    (["weight_decay=0"], True),
    (["weight_decay=0", "clip=1"], False),
    (["weight_decay=0.01"], False),
    (["weight_decay=0", "optimizer=adam", "lr=0.001"], False),
])  # fmt: skip
def test_carry_all_is_noted_where_nothing_but_the_rate_follows(
    keys: list[str], noted: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "model=mlp_8", "beta=1", "seed=0", "carry=all", *keys, f"out={tmp_path}"]) == 0
    assert ("note: carry=all does no more than carry=rate" in capsys.readouterr().out) == noted


@pytest.mark.parametrize(("precision", "capabilities", "told"), [
    ("bf16", {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
    ("bf16", {"avx512_bf16": True, "cpu_name": "bf16"}, False),
    ("fp32", {}, False),
])  # fmt: skip
def test_bfloat16_is_told_to_be_slow_where_the_processor_has_none(
    precision: str,
    capabilities: dict[str, object],
    told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    keys = ["model=mlp_8", "beta=1", "seed=0", "device=cpu", f"precision={precision}", f"out={tmp_path}"]
    assert main(["plan", *keys]) == 0
    assert ("no instructions for bfloat16" in capsys.readouterr().out) == told
