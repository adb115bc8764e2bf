"""A report that would come out the same is not made again; one of anything else is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import make

from calib_bench import cli, registry
from calib_bench.core.settings import Settings
from calib_bench.planning import plan as planning
from calib_bench.report import reuse
from calib_bench.report.build import build, renew
from calib_bench.store.store import Store
from calib_bench.system import files

WORDS = ("beta=0.1,1", "objective=cross_entropy", "seed=0..1", "lr=0.1", "calibrator=temperature_scaling")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store, settings = make(tmp_path_factory.mktemp("reuse") / "run", *WORDS)
    renew(store, registry.study(settings.study), settings)
    return store.path


def is_current(run: Path, **changed: object) -> bool:
    store = Store(run, "read")
    settings = store.settings()
    trials = planning.read(settings, registry.study(settings.study), store)
    return reuse.current(store, settings.model_dump(mode="json") | changed, trials) is not None


def inode_of_page(run: Path) -> int:
    """Another one after every writing, which renames a new file."""
    return (run / "report/report.html").stat().st_ino


def test_a_report_that_is_current_is_said_again_and_left_as_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    outputs, pages = [], [inode_of_page(copied)]
    for _ in range(2):
        assert cli.main(["report", str(copied)]) == 0
        outputs.append(capsys.readouterr().out)
        pages.append(inode_of_page(copied))
        (copied / reuse.KEPT).unlink()  # the second time it is made again
    assert outputs[0] == outputs[1]
    assert pages[0] == pages[1] != pages[2]


@pytest.mark.parametrize("changed", [{"calibrator": []}, {"limit": 3}, {"threads": 7}])
def test_other_settings_make_another_report(run: Path, changed: dict[str, object]) -> None:
    assert is_current(run)
    assert not is_current(run, **changed)


def _a_figure_is_gone(run: Path) -> None:
    next((run / "report/figures").glob("*.pdf")).unlink()


def _a_table_was_edited(run: Path) -> None:
    with (run / "report/tables/trials.csv").open("a") as file:
        file.write("\n")


def _a_trial_changed(run: Path) -> None:
    path = next((run / "trials").glob("*/trial.json"))
    content = files.read_sealed(path)
    content["facts"]["seconds"] += 1
    path.write_bytes(files.sealed(content))


def _a_trial_failed(run: Path) -> None:
    store = Store(run)
    settings: Settings = store.settings()
    trial = next(iter(planning.read(settings, registry.study(settings.study), store)))
    store.failures.record(trial, "raised", "no reason")


def _another_analysis_was_drawn(run: Path) -> None:
    store = Store(run)
    settings: Settings = store.settings()
    study = registry.study(settings.study)
    build(store, study, settings, replace(study.analyse(settings, store), verdict=("Something else.",)))


def _another_command(run: Path) -> None:
    path = run / "study.json"
    content = files.read_sealed(path) | {"command": "another"}
    files.write_json(path, files.seal(content))


def _the_note_is_damaged(run: Path) -> None:
    (run / reuse.KEPT).write_text('{"inputs": 1}')


CHANGES = (
    _another_analysis_was_drawn,
    _a_figure_is_gone,
    _a_table_was_edited,
    _a_trial_changed,
    _a_trial_failed,
    _another_command,
    _the_note_is_damaged,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_whatever_changed_makes_it_anew(run: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    assert is_current(copied)
    change(copied)
    assert not is_current(copied)


def test_code_and_plug_ins_count(tmp_path: Path) -> None:
    plugin = tmp_path / "other.py"
    plugin.write_text("A = 1\n")
    digests = [reuse.code_digest((tmp_path,))]
    plugin.write_text("A = 2\n")
    reuse.code_digest.cache_clear()
    digests += [reuse.code_digest((tmp_path,)), reuse.code_digest(())]
    assert len(set(digests)) == 3
