"""The command in processes of its own: killed and begun again, under torchrun, with plug-ins, from a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import driver
import pytest
import torch
from forked import Run, call, started

from calib_bench.store.store import Store
from tests.commands.test_run import CHEAP, ROOT, TINY, example, logits


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mlp_16", pytest.param("cnn_4", marks=pytest.mark.soak)])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, model: str) -> None:
    words = [*(w for w in TINY if not w.startswith("model")), f"model={model}", "objective=cross_entropy", *CHEAP]
    words += ["epochs=40", "checkpoint=0"]
    words = [w for w in words if w != "epochs=4"]
    driver.main([*words, f"out={tmp_path / 'whole'}"])
    broken = tmp_path / "broken"
    kills = 0
    for _ in range(3):
        with started("run", *words, f"out={broken}") as run:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and run.poll() is None:
                if list(broken.glob("*/checkpoints/*.pt")):
                    time.sleep(0.05 * kills)
                    break
                time.sleep(0.005)
            kills += run.poll() is None
    assert kills > 0
    assert Run(driver.main, [*words, f"out={broken}"]).wait() == 0
    assert logits(broken / "digits-separation") == logits(tmp_path / "whole" / "digits-separation")


@pytest.mark.soak
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
    from calib_bench.core.trial import Trial

    keys = list(logits(one.path))
    assert len(keys) == 2  # with the positive control
    assert list(logits(two.path)) == keys
    for key in keys:
        trial = Trial.model_validate(one._read(key)["trial"])
        z_one, z_two = (store.logits(trial)["test"] for store in (one, two))
        torch.testing.assert_close(z_one, z_two, rtol=1e-8, atol=1e-9)


OBJECTIVE = '''
"""Cross-entropy less a little of itself."""

from torch.nn.functional import cross_entropy

from calib_bench.core.baseline import Objective


def shrunk(Z, y, strength):
    loss = cross_entropy(Z.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
    return (1 - strength) * loss


BASELINE = Objective(shrunk, strengths=(0.1,), reference="guo2017", title="Shrunk", valid=(0, 0.9))
'''


@pytest.mark.slow
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
    words += ["beta=1", "seed=0"]
    done = call("run", *words, f"out={tmp_path}", "wandb=disabled", "workers=2", "stack=4")
    assert done.returncode == 0, done.stderr
    assert "shrunk:0.1" in (tmp_path / "blobs-separation" / "report" / "report.html").read_text()
    assert "prior" in (tmp_path / "blobs-separation" / "report" / "tables" / "baselines.csv").read_text()
    untrusted = call("report", str(tmp_path / "blobs-separation"))
    assert untrusted.returncode == 2
    assert "which is code" in untrusted.stderr
    (folder / "digits.py").write_text(example("blobs.py"))
    clash = call("list", plugins)
    assert clash.returncode == 2
    assert "taken" in clash.stderr


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
    code = "import calib_bench, calib_bench.tasks as t; print(calib_bench.__file__, list(t.__path__)); "
    code += "from calib_bench.cli import main; raise SystemExit(main(['list']))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(site)) == 2
    assert "cifar10" in done.stdout
    command = [sys.executable, "-m", "calib_bench"]
    words = ["run", *TINY, *CHEAP, "seed=0", "objective=cross_entropy", f"out={tmp_path}"]
    words = [w for w in words if w != "seed=0,1"]
    done = subprocess.run(
        [*command, *words], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
