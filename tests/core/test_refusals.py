"""What would replace, overwrite or mislead without a word is refused or said."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic import make

from calib_bench import registry
from calib_bench.analysis import controls
from calib_bench.analysis.warnings import untrained, warnings
from calib_bench.commands import launch, run_study
from calib_bench.core.settings import parse
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve
from calib_bench.planning.tuning import Arm, templates
from calib_bench.studies.early_learning import findings

HEAD = "from __future__ import annotations\nimport torch\nfrom calib_bench import Calibrator, Objective\n"
WORDS = ["task=digits", "beta=1", "objective=cross_entropy", "lr=0.1"]
NAMED = 'reference="guo2017", title="Mine"'


def test_a_smoke_run_does_not_replace_a_finished_report(tmp_path: Path) -> None:
    words = ["beta=1", "objective=cross_entropy", "lr=0.1", "seed=0"]
    store, _ = make(tmp_path / "digits-separation", *words)
    again = ["task=digits", *words, f"out={tmp_path}"]
    smoke = resolve(parse([*again, "limit=50"]))
    run_study.keep_results(smoke)  # there is no report yet
    (store.path / "report").mkdir()
    page = store.path / "report" / "report.html"
    page.write_text("results")
    with pytest.raises(SettingsError, match="another folder"):
        run_study.keep_results(smoke)
    with pytest.raises(SettingsError, match="another folder"):
        run_study.run_study(parse([*again, "limit=50", "wandb=disabled"]))
    assert page.read_text() == "results"
    run_study.keep_results(resolve(parse(again)))
    store.write_study(smoke, "a smoke run")
    run_study.keep_results(smoke)  # one smoke run follows another


def test_launch_keeps_a_script_that_was_edited(tmp_path: Path) -> None:
    path = tmp_path / "job.sbatch"
    words = ["slurm", f"script={path}", "task=digits"]
    assert launch.COMMAND.run([*words, "time=1-0"]) == 0
    assert launch.COMMAND.run([*words, "time=2-0"]) == 0  # as it was written: it may be written anew
    edited = path.read_text().replace("time=2-0", "time=2-0\n#SBATCH --mail-type=END")
    path.write_text(edited)
    with pytest.raises(SettingsError, match="was edited"):
        launch.COMMAND.run([*words, "time=3-0"])
    assert path.read_text() == edited
    path.write_text("#!/bin/bash\n")
    with pytest.raises(SettingsError, match="script="):
        launch.COMMAND.run(words)


def plugged(folder: Path, name: str, source: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(HEAD + source)
    try:
        registry.use_plugins([folder], needed=[name])
    finally:
        for kind in registry._plugins.values():
            kind.pop(name, None)


def test_a_plug_in_may_hold_dataclasses_with_later_annotations(tmp_path: Path) -> None:
    source = (
        "from dataclasses import dataclass\n@dataclass\nclass Parts:\n    value: float\n"
        "def loss(Z, y, strength):\n"
        "    return -torch.log_softmax(Z, -1).gather(-1, y[..., None])[..., 0] + 0 * strength\n"
        f"BASELINE = Objective(loss, strengths=(0.1,), {NAMED})\n"
    )
    plugged(tmp_path / "mine", "annotated", source)


@pytest.mark.parametrize(
    ("name", "source", "says"),
    [
        ("averaged", "loss = lambda Z, y, s: torch.log_softmax(Z, -1).mean()", "one value an example, not their mean"),
        ("every_class", "loss = lambda Z, y, s: -torch.log_softmax(Z, -1)", "must return a tensor of shape"),
        ("kept", "loss = lambda Z, y, s: Z.sum(-1, keepdim=True)", "must return a tensor of shape"),
        ("number", "loss = lambda Z, y, s: 1.0", "returns float"),
    ],
)
def test_a_loss_of_the_wrong_shape_is_refused(name: str, source: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=rf"{name}\.py.*{says}"):
        plugged(tmp_path / "mine", name, f"{source}\nBASELINE = Objective(loss, strengths=(0.1,), {NAMED})\n")
    assert not [module for module in sys.modules if module.startswith("calib_bench_plugins") and module.endswith(name)]


@pytest.mark.parametrize(
    ("name", "apply", "says"),
    [
        ("towards_zero", "(Z + torch.tensor([9.0, 0, 0, 0])).log_softmax(-1)", "keeps_argmax=True, and changes"),
        ("not_normal", "Z", "log probabilities"),
        ("too_few", "Z.log_softmax(-1)[:, :2]", "must return their shape"),
    ],
)
def test_a_calibrator_that_breaks_its_word_is_refused(name: str, apply: str, says: str, tmp_path: Path) -> None:
    source = f"BASELINE = Calibrator(lambda Z, y: {{}}, lambda p, Z: {apply}, keeps_argmax=True, {NAMED})\n"
    with pytest.raises(SettingsError, match=rf"{name}\.py.*{says}"):
        plugged(tmp_path / "mine", name, source)
    if name == "towards_zero":
        plugged(tmp_path / "mine", name, source.replace("=True", "=False"))


def test_own_baselines_keep_what_plug_ins_must() -> None:
    from calib_bench.core import plugin_checks

    for name, baseline in {**registry.objectives(), **registry.calibrators()}.items():
        plugin_checks.check(baseline, name, name)


def test_untrained_nets_and_batches_above_the_set_are_said() -> None:
    settings = resolve(
        parse(["task=digits", "beta=1", "objective=cross_entropy", "lr=0.1", "batch=5000", "epochs=0,2"])
    )
    arms = [Arm(one, (0.1,), {}, 0.1, "fixed", {}) for one in templates(settings)]
    origin = {"splits": [{"sizes": {"train": 300}, "notes": {}}]}
    told = " ".join(warnings(settings, arms, (), {"trials": pd.DataFrame()}, origin))
    assert "batch=5000 is more than the 300 training examples" in told
    assert "Untrained: mlp_128_128 at epochs=0" in told
    (first,) = untrained(arms)
    assert "has its initial weights" in first
    assert untrained([arm for arm in arms if arm.trial.epochs]) == []
    fits = resolve(parse([*WORDS, "batch=300"]))
    fitting = [Arm(one, (0.1,), {}, 0.1, "fixed", {}) for one in templates(fits)]
    assert "batch=" not in " ".join(warnings(fits, fitting, (), {"trials": pd.DataFrame()}, origin))


@pytest.mark.parametrize(("low", "ending"), [(0.1, "controls passed."), (-0.1, "on accuracy may be 0.")])
def test_the_headline_of_controls_says_which_measure_may_be_zero(low: float, ending: str) -> None:
    shared = {"model": "mlp", "variant": None, "passed": True, "log_loss_dyn": 0.5, "accuracy": 0.3}
    limits = {"log_loss_dyn_low": 0.2, "log_loss_dyn_high": 0.8, "accuracy_low": low, "accuracy_high": 0.7}
    rows = [{**shared, **limits, "control": name} for name in (controls.RESCALED, controls.UNDERTRAINED)]
    (text,) = controls.outcome(pd.DataFrame(rows))
    assert text.startswith("All 2 controls passed")
    assert text.endswith(ending)


def test_the_headline_of_early_learning_says_that_the_critical_rate_misses() -> None:
    frame = pd.DataFrame(
        {"model": "mlp", "variant": None, "beta": [0.01, 1.0, 10.0], "relative": [0.12, 1.1, 60.0], "seed": 0}
    )
    (text,) = findings._missed(frame)
    assert "the ratio of the two rates is 0.12 at beta=0.01 and 60 at beta=10" in text
    near = frame.assign(relative=[0.8, 1.1, np.nan])
    assert list(findings._missed(near)) == []
