"""The main job end to end, through the command line, as a user runs it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from calib_bench.cli import main
from calib_bench.store import Store

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
CHEAP = ["calibrator=temperature_scaling", "wandb=disabled"]
ROOT = Path(__file__).parents[1]


def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "calib_bench", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, timeout=600
    )


def logits(folder: Path) -> dict[str, str]:
    """Digest of every stored trial's logits."""
    found = folder.glob("trials/*/logits.safetensors")
    return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with everything on: two workers, W&B offline."""
    out = tmp_path_factory.mktemp("runs")
    done = call("run", *TINY, f"out={out}", "stack=6", "workers=2", WANDB_SILENT="true")
    assert done.returncode == 0, done.stderr
    assert "report:" in done.stdout
    return out / "digits-separation"


def test_the_main_job_leaves_a_whole_run_folder(finished: Path) -> None:
    report = finished / "report"
    page = (report / "report.html").read_text()
    assert "<svg" in page
    assert "beta" in page
    for kind in ("png", "svg", "pdf"):
        assert list((report / "figures").glob(f"*.{kind}"))
    assert list((report / "tables").glob("*.csv"))
    assert "\\toprule" in next((report / "tables").glob("*.tex")).read_text()
    assert list(finished.glob("**/run-*.wandb"))
    store = Store(finished, "read")
    assert len(logits(finished)) == 2 * 3 * 2 * 2 + 2
    assert store.audit() == []
    assert not list((finished / "checkpoints").iterdir())
    assert store.provenance()["splits"][0]["sizes"] == {"train": 300, "selection": 250, "calibration": 250, "test": 997}


def test_running_again_trains_nothing(finished: Path) -> None:
    before = logits(finished)
    done = call("run", *TINY, f"out={finished.parent}")
    assert done.returncode == 0, done.stderr
    assert "26 done, 0 to run" in done.stdout
    assert "trained" not in done.stdout
    assert logits(finished) == before


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
    assert main(["run", *TINY, *CHEAP, f"out={tmp_path}", "stack=1", "workers=1"]) == 0
    assert logits(tmp_path / "digits-separation") == logits(finished)


def test_a_damaged_trial_is_named_and_only_it_is_redone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "digits-separation"
    shutil.copytree(finished, copy)
    before = logits(copy)
    path = next(copy.glob("trials/*/logits.safetensors"))
    path.write_bytes(path.read_bytes()[:100])
    assert main(["report", str(copy)]) == 2
    assert str(path) in capsys.readouterr().err
    assert main(["run", *TINY, *CHEAP, f"out={tmp_path}"]) == 0
    text = capsys.readouterr().out
    assert str(path) in text.replace("\n", "")
    assert "1 to run" in text
    assert logits(copy) == before


def test_divergence_everywhere_is_a_report_not_a_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*(w for w in TINY if not w.startswith("lr_rel")), "lr=1e30", "objective=cross_entropy", *CHEAP]
    assert main(["run", *words, f"out={tmp_path}"]) == 0
    assert "diverged" in (tmp_path / "digits-separation" / "report" / "report.html").read_text()
    assert logits(tmp_path / "digits-separation") == {}


def test_lost_labels_are_written_anew(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "digits-separation"
    shutil.copytree(finished, copy)
    next(copy.glob("splits/*/labels.safetensors")).write_bytes(b"")
    assert main(["report", str(copy)]) == 2
    assert main(["run", *TINY, *CHEAP, f"out={tmp_path}"]) == 0
    assert main(["report", str(copy)]) == 0


def test_a_task_carved_otherwise_does_not_mix_with_what_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    words = ["task=blobs", "objective=cross_entropy", "beta=1", f"plugins={folder}", f"out={tmp_path}", *CHEAP]
    (folder / "blobs.py").write_text(example("blobs.py"))
    assert call("run", *words).returncode == 0
    (folder / "blobs.py").write_text(example("blobs.py").replace("selection=50", "selection=40"))
    for more in ([], ["seed=0..3"]):
        done = call("run", *words, *more)
        assert done.returncode == 2
        assert "do not mix" in done.stderr


def test_an_unfinished_run_cannot_be_reported(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "digits-separation"
    shutil.copytree(finished, copy)
    shutil.rmtree(next(copy.glob("trials/*")))
    assert main(["report", str(copy)]) == 2
    assert "lacks 1 of" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp_16", "cnn_4"])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, model: str) -> None:
    words = [*(w for w in TINY if not w.startswith("model")), f"model={model}", "objective=cross_entropy", *CHEAP]
    words += ["epochs=40", "checkpoint=0", "workers=1"]
    words = [w for w in words if w != "epochs=4"]
    assert call("run", *words, f"out={tmp_path / 'whole'}").returncode == 0
    broken = tmp_path / "broken"
    command = [sys.executable, "-m", "calib_bench", "run", *words, f"out={broken}"]
    kills = 0
    for _ in range(3):
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and run.poll() is None:
            if list(broken.glob("*/checkpoints/*.pt")):
                time.sleep(0.05 * kills)
                break
            time.sleep(0.005)
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            kills += 1
        run.wait()
    assert kills > 0
    done = call("run", *words, f"out={broken}")
    assert done.returncode == 0, done.stderr
    assert logits(broken / "digits-separation") == logits(tmp_path / "whole" / "digits-separation")


@pytest.mark.slow
def test_torchrun_gives_the_result_of_one_process(tmp_path: Path) -> None:
    words = ["task=digits", "model=cnn_4", "beta=1", "objective=cross_entropy", "lr=0.1", "seed=0", "epochs=3", *CHEAP]
    words.append("precision=fp64")
    assert call("run", *words, f"out={tmp_path / 'one'}").returncode == 0
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "calib_bench",
    ]
    done = subprocess.run(
        [*launcher, "run", *words, f"out={tmp_path / 'two'}"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    one, two = (Store(tmp_path / name / "digits-separation", "read") for name in ("one", "two"))
    from calib_bench.trial import Trial

    keys = list(logits(one.path))
    assert len(keys) == 2  # with the positive control
    assert list(logits(two.path)) == keys
    for key in keys:
        trial = Trial.model_validate(one._read(key)["trial"])
        z_one, z_two = (store.logits(trial)["test"] for store in (one, two))
        torch.testing.assert_close(z_one, z_two, rtol=1e-8, atol=1e-9)


README = (ROOT / "README.md").read_text()


def example(name: str) -> str:
    """The README's code block that starts with `# mine/<name>`."""
    blocks = README.split("```python\n")[1:]
    return next(block.split("```")[0] for block in blocks if block.startswith(f"# mine/{name}"))


OBJECTIVE = '''
"""Cross-entropy less a little of itself."""

from torch.nn.functional import cross_entropy

from calib_bench.baseline import Objective


def shrunk(Z, y, strength):
    loss = cross_entropy(Z.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
    return (1 - strength) * loss


BASELINE = Objective(shrunk, strengths=(0.1,), reference="guo2017", title="Shrunk", valid=(0, 0.9))
'''


def test_the_readmes_task_and_baselines_from_a_folder_of_ones_own(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "blobs.py").write_text(example("blobs.py"))
    (folder / "shrunk.py").write_text(OBJECTIVE)
    (folder / "prior.py").write_text(example("prior.py"))
    plugins = f"plugins={folder}"
    listed = call("list", plugins)
    assert all(name in listed.stdout for name in ("blobs", "shrunk", "prior")), listed.stderr
    words = ["task=blobs", "objective=cross_entropy,shrunk", "calibrator=prior,temperature_scaling", plugins]
    done = call("run", *words, f"out={tmp_path}", "wandb=disabled", "workers=2", "stack=4")
    assert done.returncode == 0, done.stderr
    assert "shrunk:0.1" in (tmp_path / "blobs-separation" / "report" / "report.html").read_text()
    assert "prior" in (tmp_path / "blobs-separation" / "report" / "tables" / "baselines.csv").read_text()
    untrusted = call("report", str(tmp_path / "blobs-separation"))
    assert untrusted.returncode == 2
    assert "which is code" in untrusted.stderr
    assert call("report", str(tmp_path / "blobs-separation"), plugins).returncode == 0
    (folder / "digits.py").write_text(example("blobs.py"))
    clash = call("list", plugins)
    assert clash.returncode == 2
    assert "taken" in clash.stderr


REAL = {
    "cifar10": ["model=cnn_4_8", "lr=0.05"],
    "imdb": ["model=bag_8", "lr=0.01"],
    "imagenet": ["model=timm/resnet18", "lr=0.05", "batch=32", "limit=64"],
}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("task", list(REAL))
def test_real_tasks_train_and_report(task: str, data_root: Path, tmp_path: Path) -> None:
    words = [
        f"task={task}",
        f"data={data_root / task}",
        "beta=0.3,1",
        "seed=0,1",
        "epochs=1",
        "objective=cross_entropy",
    ]
    limit = [] if any(w.startswith("limit") for w in REAL[task]) else ["limit=300"]
    done = call("run", *words, *REAL[task], *limit, *CHEAP, "extend=0", f"out={tmp_path}")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / f"{task}-separation" / "report" / "report.html").read_text()
    assert "limit" in page
    assert len(logits(tmp_path / f"{task}-separation")) == 6


@pytest.mark.slow
def test_a_wheel_runs_where_the_sources_are_not(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    assert not (site / "tasks").exists()
    assert not (site / "baselines").exists()
    environment = {**os.environ, "PYTHONPATH": str(site)}
    code = "import calib_bench, calib_bench.tasks as t; print(calib_bench.__file__, list(t.__path__))"
    where = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    assert where.stdout.count(str(site)) == 2
    command = [sys.executable, "-m", "calib_bench"]
    done = subprocess.run(
        [*command, "list"], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cifar10" in done.stdout
    words = ["run", *TINY, *CHEAP, "seed=0", "objective=cross_entropy", f"out={tmp_path}"]
    words = [w for w in words if w != "seed=0,1"]
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
