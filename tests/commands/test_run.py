"""The main job end to end, through the command line, as a user runs it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import driver
import forked
import pytest
from faulty import damage, logits, unpack
from packed import unpacked

from calib_bench.cli import main
from calib_bench.store.store import Store

pytestmark = pytest.mark.slow

TINY = [
    "task=digits",
    "model=mlp_16",
    "beta=0.3,1",
    "lr_rel=0.25,0.5",
    "seed=0,1",
    "epochs=4",
    "extend=0",
    "interventions=no",
]
WHOLE = [*TINY, "calibrator=temperature_scaling,isotonic,vector_scaling"]
CHEAP = ["calibrator=temperature_scaling", "wandb=disabled", "workers=1"]
ROOT = Path(__file__).parents[2]


def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "calib_bench", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=600
    )


PLUG_INS = (ROOT / "docs" / "plug-ins.md").read_text()


def example(name: str) -> str:
    """The code block of docs/plug-ins.md that starts with `# mine/<name>`."""
    blocks = PLUG_INS.split("```python\n")[1:]
    return next(block.split("```")[0] for block in blocks if block.startswith(f"# mine/{name}"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with everything on: two workers, W&B offline."""
    out = tmp_path_factory.mktemp("runs")
    done = call("run", *WHOLE, f"out={out}", "stack=6", "workers=2", WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout
    return out / "digits-separation"


def test_the_main_job_leaves_a_whole_run_folder(finished: Path) -> None:
    report = finished / "report"
    page = unpacked((report / "report.html").read_text())
    assert "<svg" in page
    assert "beta" in page
    for kind in ("png", "svg", "pdf"):
        assert list((report / "figures").glob(f"*.{kind}"))
    assert list((report / "tables").glob("*.csv"))
    assert "\\toprule" in next((report / "tables").glob("*.tex")).read_text()
    assert list(finished.glob("**/run-*.wandb"))
    store = Store(finished, "read")
    assert len(logits(finished)) == 2 * 3 * 2 * 2 + 2 + 1  # and the short trial with warm-up of a head start
    assert store.audit() == []
    assert not list((finished / "checkpoints").iterdir())
    assert store.provenance()["splits"][0]["sizes"] == {"train": 300, "selection": 250, "calibration": 250, "test": 997}


@pytest.mark.usefixtures("unwritten")
def test_running_again_trains_nothing(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    again = shutil.copytree(finished, tmp_path / finished.name)
    before = logits(again)
    assert main(["run", *WHOLE, "wandb=disabled", f"out={tmp_path}"]) == 0
    said = capsys.readouterr().out.replace(str(tmp_path), "")
    assert "27 done, 0 to run" in said
    assert not re.search(r"^trained \d", said, re.M)
    assert "running" not in said
    assert "\x1b" not in said  # where no terminal is
    assert not said.startswith("{")
    assert logits(again) == before


def test_the_file_that_a_run_leaves_repeats_it(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"config={finished / 'study.toml'}"]) == 0
    assert "27 trials" in (printed := capsys.readouterr().out)
    assert "27 done, 0 to run" in printed


def test_report_rebuilds_the_same_page_from_the_store_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "report")
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(copy)]) == 0
    assert "report" in capsys.readouterr().out
    assert (copy / "report" / "report.html").read_bytes() == (finished / "report" / "report.html").read_bytes()


def test_workers_and_stacks_change_no_bit(finished: Path, tmp_path: Path) -> None:
    driver.main([*TINY, *CHEAP, f"out={tmp_path}", "stack=1"])
    assert logits(tmp_path / "digits-separation") == logits(finished)


@pytest.mark.usefixtures("unwritten")
def test_a_damaged_trial_is_named_and_only_it_is_redone_and_lost_labels_are_written_anew(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "digits-separation"
    shutil.copytree(finished, copy)
    before = logits(copy)
    labels = next(copy.glob("splits/*/labels.safetensors"))
    kept = labels.read_bytes()
    labels.write_bytes(b"")
    assert main(["report", str(copy)]) == 2
    labels.write_bytes(kept)
    store = Store(copy)
    path = damage(store.place(sorted(before)[3]), "logits.safetensors")
    assert path.count(".zip/") == 1, "trials of a stack lie in an archive"
    capsys.readouterr()
    assert main(["report", str(copy)]) == 2
    assert path in capsys.readouterr().err
    labels.write_bytes(b"")
    assert main(["run", *TINY, *CHEAP, f"out={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert path in text.replace("\n", "")
    assert "1 to run" in text
    assert logits(copy) == before
    assert labels.read_bytes() == kept


def test_divergence_everywhere_is_a_report_not_a_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*(w for w in TINY if not w.startswith("lr_rel")), "lr=1e30", "objective=cross_entropy", *CHEAP]
    assert main(["run", *words, f"out={tmp_path}"]) == 0
    assert "diverged" in (tmp_path / "digits-separation" / "report" / "report.html").read_text()
    assert logits(tmp_path / "digits-separation") == {}


def test_a_task_carved_otherwise_does_not_mix_with_what_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    words = ["task=blobs", "objective=cross_entropy", "beta=1", f"plugins={folder}", f"out={tmp_path}", *CHEAP]
    (folder / "blobs.py").write_text(example("blobs.py"))
    assert forked.Run(driver.main, words).wait() == 0
    (folder / "blobs.py").write_text(example("blobs.py").replace("selection=50", "selection=40"))
    for more in ([], ["seed=0..3"]):
        done = forked.call("run", *words, *more)
        assert done.returncode == 2
        assert "do not mix" in done.stderr


def test_an_unfinished_run_cannot_be_reported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "digits-separation"
    shutil.copytree(finished, copy)
    unpack(copy)
    shutil.rmtree(next(copy.glob("trials/*")))
    assert main(["report", str(copy)]) == 2
    assert "lacks 1 of" in capsys.readouterr().err
    damaged = next(copy.glob("trials/*/trial.json"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert main(["report", str(copy)]) == 2
    assert "The same run sets it aside and trains it again:\n  python -m calib_bench run" in capsys.readouterr().err
