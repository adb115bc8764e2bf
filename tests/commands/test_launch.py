"""Batch scripts for SLURM: checked by bash, and run with a stub of srun that starts the processes of all nodes here."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from faulty import stored

from calib_bench.cli import main
from calib_bench.commands.launch import COMMAND, script
from calib_bench.core.settings import parse
from calib_bench.errors import SettingsError

STUBS = {
    "srun": """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
pids=()
trap 'kill -USR1 "${pids[@]}"' USR1
for ((i = 0; i < SLURM_NNODES; i++)); do SLURM_PROCID=$i "$@" & pids+=($!); done
code=0
for pid in "${pids[@]}"; do
  wait "$pid" || code=$?
  while kill -0 "$pid" 2>/dev/null; do wait "$pid" || code=$?; done
done
exit $code
""",
    "scontrol": """#!/bin/bash
[[ "$1" == requeue ]] && echo "$2" >> requeued && exit
[[ "$1 $2 $3" == "show hostnames nodes-of-job" ]] || exit 1
for ((i = 0; i < SLURM_NNODES; i++)); do echo 127.0.0.1; done
""",
}
WORDS = ["task=digits", "beta=1", "seed=0", "lr=0.1", "epochs=2", "objective=cross_entropy", "interventions=no"]
WORDS += ["calibrator=temperature_scaling", "wandb=disabled"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def written(tmp_path: Path, *words: str) -> str:
    path = tmp_path / "job.sbatch"
    assert COMMAND.run(["slurm", f"script={path}", *words]) == 0
    subprocess.run(["bash", "-n", path], check=True)
    return path.read_text()


def submitted(tmp_path: Path, nodes: int) -> subprocess.CompletedProcess[str]:
    with begun(tmp_path, nodes) as job:
        out, err = job.communicate(timeout=400)
    return subprocess.CompletedProcess(job.args, job.returncode, out, err)


def begun(tmp_path: Path, nodes: int) -> subprocess.Popen[str]:
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    for name, text in STUBS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    own = {"SLURM_NNODES": str(nodes), "SLURM_JOB_NODELIST": "nodes-of-job", "SLURM_JOB_ID": "77"}
    environment = {**os.environ, **own, "PATH": f"{folder}:{os.environ['PATH']}"}
    job = str(tmp_path / "job.sbatch")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(["bash", job], env=environment, cwd=tmp_path, **pipes)


def test_the_script_asks_for_what_was_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = written(tmp_path, "nodes=2", "gpus=8", "task=imagenet", "time=1-0", "partition=long", "precision=bf16")
    for line in ("nodes=2", "gpus-per-node=8", "time=1-0", "partition=long", "requeue", "job-name=imagenet-separation"):
        assert f"\n#SBATCH --{line}\n" in text
    assert "account" not in text
    assert re.search(r"torch\.distributed\.run .*--nproc-per-node=8 --max-restarts=3 ", text.replace("\\\n", ""))
    assert "-m calib_bench run task=imagenet precision=bf16 yes=true &\n" in text
    assert f"sbatch {tmp_path / 'job.sbatch'}" in capsys.readouterr().out


def test_a_grid_goes_to_ray_and_no_token_is_written(tmp_path: Path) -> None:
    text = written(tmp_path, "nodes=2", "gpus=4", "cpus=16", "task=cifar10", "ray_gpus=0.5")
    assert text.count("--num-cpus=16 --num-gpus=4") == 2
    assert 'executor=ray ray_gpus=0.5 yes=true ray_address="$1:29500"' in text.replace("'", "")
    assert not re.search(r"[0-9a-f]{32}", text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pbs"], "SYSTEM=pbs is not valid: valid choices: slurm"),
        (["slurm", "nodes=0"], "nodes=0 is out of range: give a whole number from 1 to 65535"),
        (["slurm", "grace=soon"], "grace=soon is not a whole number"),
        (["slurm", "gpus=many"], "gpus=many is not a whole number"),
        (["slurm", "taks=imagenet"], "did you mean 'task'"),
        (["slurm", "with=rey"], "did you mean 'ray'"),
        (["slurm", "partition=a;rm"], "must not hold"),
        (["slurm", "with=ray", "out=my runs"], "may not need quotes"),
        (["slurm", "script=/nowhere/x"], "cannot be written"),
        (["slurm", "task=digit"], "did you mean 'digits'"),
        (["slurm", "study=separating"], "did you mean 'separation'"),
    ],
)
def test_what_cannot_be(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=re.escape(message)):
        COMMAND.run(words)
    assert not list(tmp_path.iterdir())


def test_names_of_plug_ins_are_left_to_the_cluster(tmp_path: Path) -> None:
    assert "task=blobs" in written(tmp_path, "task=blobs", "plugins=/only/there")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["launch"]) == 0
    assert "nodes" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "lines"), [((), 1), (("grace=300",), 1), (("grace=0",), 0)])
def test_the_time_limit_is_told_before_it_comes(words: tuple[str, ...], lines: int, tmp_path: Path) -> None:
    text = written(tmp_path, "task=imagenet", *words)
    seconds = words[0].partition("=")[2] if words else "120"
    assert text.count(f"\n#SBATCH --signal=B:USR1@{seconds}\n") == lines
    assert text.count("USR1") >= 3 * lines


PYTHON = """#!/bin/bash
trap 'echo warned >> said; exit 130' USR1
case "$*" in
  *"ray.scripts"*--head*) trap 'exit 0' TERM; while sleep 0.02; do :; done ;;
  *"ray.scripts"*|-c*) exit 0 ;;
esac
echo "$*" > started
for ((i = 0; i < 1000; i++)); do sleep 0.02; [[ -e ended ]] && exit 0; done
"""
"""What stands for python: it trains until it is warned, or until there is a file `ended`."""


@pytest.mark.parametrize("kind", ["torchrun", "ray"])
@pytest.mark.parametrize("end", ["warned", "ended"])
def test_a_warning_reaches_the_run_and_the_job_is_queued_again(kind: str, end: str, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(PYTHON)
    fake.chmod(0o755)
    options = vars(COMMAND.parse(["slurm", f"with={kind}", "gpus=0"]))
    (tmp_path / "job.sbatch").write_text(script(options, parse(["task=digits"]), str(fake)))
    with begun(tmp_path, 1) as job:
        deadline = time.monotonic() + 60
        while not (tmp_path / "started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        if end == "warned":
            job.send_signal(signal.SIGUSR1)
        else:
            (tmp_path / "ended").touch()
        _, err = job.communicate(timeout=60)
    assert job.returncode == (130 if end == "warned" else 0), err
    assert (tmp_path / "said").exists() == (end == "warned")
    assert (tmp_path / "requeued").exists() == (end == "warned")
    if end == "warned":
        assert (tmp_path / "requeued").read_text() == "77\n"


@pytest.mark.slow
def test_a_warning_before_the_time_limit_saves_on_all_nodes(tmp_path: Path) -> None:
    own = [f"port={free_port()}", "nodes=2", "gpus=0", "with=torchrun", "model=cnn_4", f"out={tmp_path}"]
    words = [word for word in WORDS if not word.startswith("epochs")]
    written(tmp_path, *own, *words, "epochs=3000", "checkpoint=1000")
    with begun(tmp_path, 2) as job:
        deadline = time.monotonic() + 120
        while not any('"epoch": 1' in path.read_text() for path in tmp_path.glob("*/live/[!.]*.json")):
            assert time.monotonic() < deadline
            assert job.poll() is None
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        out, err = job.communicate(timeout=120)
    assert job.returncode != 0
    assert (out + err).count("stopped, and what was under way is saved") == 1
    assert len(list(tmp_path.glob("*/checkpoints/*.pt"))) == 1
    assert (tmp_path / "requeued").read_text() == "77\n"


@pytest.mark.slow
def test_torchrun_on_two_nodes_trains_one_model(tmp_path: Path) -> None:
    own = [f"port={free_port()}", "nodes=2", "gpus=0", "with=torchrun", "model=cnn_4", f"out={tmp_path}"]
    written(tmp_path, *own, *WORDS)
    done = submitted(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    (found, *_) = stored(tmp_path / "digits-separation").values()
    assert b'"world": 2' in found["trial.json"]
    assert (tmp_path / "digits-separation" / "report" / "report.html").is_file()


@pytest.mark.soak
def test_ray_on_two_nodes_runs_the_grid(tmp_path: Path) -> None:
    own = [f"port={free_port()}", "nodes=2", "gpus=0", "cpus=1", "with=ray", "model=mlp_16", f"out={tmp_path}"]
    written(tmp_path, *own, *WORDS)
    done = submitted(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "digits-separation" / "report" / "report.html").is_file()
    assert sys.executable in (tmp_path / "job.sbatch").read_text()
