"""`launch slurm`: a batch script for SLURM, by torchrun (one model over all GPUs) or by Ray (a grid)."""

from __future__ import annotations

import hashlib
import shlex
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calib_bench import registry
from calib_bench.commands.command import SETTINGS, Command, Option, whole
from calib_bench.core.settings import UserSettings
from calib_bench.errors import SettingsError

MOST = 65535
OPTIONS = (
    Option("SYSTEM", "the scheduler; without it this help is shown", choices=("slurm",), count="?"),
    whole("--nodes", "how many nodes", 1, 1, MOST),
    whole("--gpus", "GPUs a node; 0 trains on CPUs", 1, 0, MOST),
    whole("--cpus", "CPU cores a node", 8, 1, MOST),
    Option(
        "--with",
        "torchrun: all GPUs train one model; ray: many trials side by side; auto: torchrun for imagenet",
        default="auto",
        choices=("auto", "torchrun", "ray"),
    ),
    Option("--time", "time limit, as sbatch takes it", default="24:00:00"),
    Option("--memory", "memory a node, as sbatch takes it, for example 64G", default=""),
    Option("--partition", "partition", default=""),
    Option("--account", "account", default=""),
    whole("--restarts", "with=torchrun: how often all processes start again when one is lost", 3, 0, MOST),
    whole(
        "--grace",
        "seconds before the time limit at which the run saves, leaves and is queued again; 0: never",
        120,
        0,
        MOST,
    ),
    whole("--port", "port of the first node on which the others meet", 29500, 1, MOST),
    Option("--script", "file to write; otherwise <task>-<study>.sbatch", default=""),
)

SEAL = "# as written: "
"""Before the digest of all above it, by which an edited script is told from one that may be written anew."""

WARNED = """\
# SLURM warns this shell alone, {grace} s before the time limit (B: in --signal). It passes the warning on to the step
# below, whose run saves what is under way and leaves, and puts the job back into the queue, to go on from there.
trap 'again=yes; [ -z "$step" ] || kill -USR1 "$step" || true' USR1
trap : TERM  # which steps get too: what they save is waited for
"""

ENDED = """\
step=$!
code=0
while wait "$step" || code=$?; kill -0 "$step" 2>/dev/null; do code=0; done  # a warning ends wait before the step ends
if [ -n "$again" ] && [ "$code" != 0 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""

TORCHRUN = """\
# One process a GPU, all of them on one trial at a time. When one is lost, all start again from the last checkpoint.
# torchrun passes these signals on, and waits so long for processes to save; versions without such options die of USR1,
# and the processes save when they see it.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2 PET_SHUTDOWN_TIMEOUT={patience}
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --kill-on-bad-exit=1 {python} -m torch.distributed.run \\
  --nnodes="$SLURM_NNODES" --nproc-per-node={processes} --max-restarts={restarts} \\
  --rdzv-backend=c10d --rdzv-endpoint="$head:{port}" --rdzv-id="$SLURM_JOB_ID" \\
  -m calib_bench {words} &
"""

RAY = """\
# A Ray cluster on the allocation, the driver on its first node. Only who has this job's token may join it.
RAY_AUTH_TOKEN="$({python} -c 'import secrets; print(secrets.token_hex(32))')"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
srun --ntasks="$SLURM_NNODES" --ntasks-per-node=1 --kill-on-bad-exit=1 bash -c '
  set -euo pipefail
  trap "" USR1  # nothing to the cluster
  if [ "$SLURM_PROCID" = 0 ]; then
    {python} -m ray.scripts.scripts start --head --node-ip-address="$1" --port={port} \\
      --num-cpus={cpus} --num-gpus={gpus} --include-dashboard=false --block &
    cluster=$!
    trap "kill $cluster; wait $cluster || true" EXIT
  fi
  {python} -c "
import socket, sys, time
for _ in range(150):
    try:
        socket.create_connection((sys.argv[1], {port}), 2)
        break
    except OSError:
        time.sleep(1)
" "$1"
  if [ "$SLURM_PROCID" = 0 ]; then
    driver= code=0
    trap "[ -z \\$driver ] || kill -USR1 \\$driver || true" USR1
    {python} -m calib_bench {words} ray_address="$1:{port}" &
    driver=$!
    while wait "$driver" || code=$?; kill -0 "$driver" 2>/dev/null; do code=0; done
    exit "$code"
  else
    # it leaves with the head
    {python} -m ray.scripts.scripts start --address="$1:{port}" --num-cpus={cpus} --num-gpus={gpus} --block || true
  fi
' worker "$head" &
"""


def _call(arguments: Namespace) -> int:
    """Write a script and say how to submit it.

    Raises:
        SettingsError: a value cannot be, no task or study is called so, or the file is there and was edited.
    """
    if arguments.system is None:
        print(COMMAND.help())
        return 0
    settings = arguments.settings
    if settings.options or not settings.plugins:  # folders of plug-ins may be those of the cluster alone
        from calib_bench.planning.defaults import check_options

        registry.use_plugins(settings.plugins, settings.names())
        registry.task(settings.task)
        check_options(settings)
    path = Path(arguments.script or f"{settings.name}.sbatch")
    text = script(vars(arguments), settings)
    text += f"{SEAL}{_digest(text)}\n"
    try:
        if path.exists() and not _as_written(path.read_text(errors="replace")):
            raise SettingsError(
                f"{path} is there and was edited, or not written by launch: give another script=, or move it away"
            )
        path.write_text(text)
    except OSError as error:
        raise SettingsError(f"{path} cannot be written ({error.strerror}): give another script=") from None
    path.chmod(0o755)
    print(f"wrote {path}: look at it, then\n  sbatch {shlex.quote(str(path))}")
    return 0


COMMAND = Command(
    "launch",
    """\
Writes a batch script that runs a study on an allocation of a cluster, for sbatch. out= must be a folder that every
node sees, or an object store.""",
    OPTIONS,
    (
        "launch slurm nodes=2 gpus=8 task=imagenet out=/shared/runs",
        "launch slurm nodes=4 with=ray task=cifar10 seed=0..4 out=s3://bucket/runs",
        "launch slurm gpus=0 cpus=32 time=1-0 partition=long script=digits.sbatch",
    ),
    _call,
    keys=SETTINGS,
)


def _as_written(text: str) -> bool:
    """Whether a script is as `launch` wrote it."""
    body, _, digest = text.rpartition(SEAL)
    return _digest(body) == digest.strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def script(options: Mapping[str, Any], settings: UserSettings, python: str = sys.executable) -> str:
    """The batch script.

    Args:
        options: values of `OPTIONS` by name.
        settings: of the study, as typed.
        python: the interpreter on the nodes.

    Raises:
        SettingsError: a value cannot stand in a script.
    """
    by_ray = _is_by_ray(options["with"], settings)
    settings = settings.model_copy(update={"yes": True, "executor": "ray" if by_ray else "local"})
    run = shlex.join(["run", *settings.words()])
    if by_ray and "'" in run:
        raise SettingsError("with=ray: a value may not need quotes: give paths and names without spaces")
    body = (RAY if by_ray else TORCHRUN).format(
        python=shlex.quote(python),
        processes=max(1, options["gpus"]),
        cpus=options["cpus"],
        gpus=options["gpus"],
        restarts=options["restarts"],
        patience=max(30, options["grace"] - 30),
        port=options["port"],
        words=run,
    )
    warning = WARNED.format(grace=options["grace"]) if options["grace"] else ""
    return "\n".join(
        [
            "#!/bin/bash",
            *_directives(options, settings.name),
            "",
            "# Written by: python -m calib_bench launch slurm. Submitting it again goes on from what is stored.",
            "set -euo pipefail",
            f"export OMP_NUM_THREADS={settings.threads} RAY_USAGE_STATS_ENABLED=0",
            'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")',
            "head=${head%%$'\\n'*}  # a pipe to head would fail where it ends before scontrol does",
            "",
            "step= again=",
            warning + body + ENDED,
        ]
    )


def _is_by_ray(launcher: str, settings: UserSettings) -> bool:
    return launcher == "ray" or (launcher == "auto" and settings.task != "imagenet")


def _directives(options: Mapping[str, Any], name: str) -> list[str]:
    """Lines that tell sbatch what to allocate."""
    values = {
        "job-name": name,
        "nodes": str(options["nodes"]),
        "ntasks-per-node": "1",
        "cpus-per-task": str(options["cpus"]),
        "gpus-per-node": str(options["gpus"] or ""),
        "mem": options["memory"],
        "time": options["time"],
        "partition": options["partition"],
        "account": options["account"],
        "output": f"{name}-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{options['grace']}" if options["grace"] else "",
    }
    for key, value in values.items():
        if any(char in value for char in " \t\n\"'\\$`;|&"):
            raise SettingsError(f"{key}={value} holds characters that a directive of sbatch must not hold")
    lines = [f"#SBATCH --{key}={value}" for key, value in values.items() if value]
    return [*lines, "#SBATCH --requeue"]
