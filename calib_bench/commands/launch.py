"""`launch slurm`: a batch script for SLURM, by torchrun (one model over all GPUs) or by Ray (a grid)."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from calib_bench import registry
from calib_bench.core.settings import UserSettings, parse
from calib_bench.core.syntax import split_word
from calib_bench.errors import SettingsError, nearest

OWN = {
    "nodes": ("1", "how many nodes"),
    "gpus": ("1", "GPUs a node; 0 trains on CPUs"),
    "cpus": ("8", "CPU cores a node"),
    "with": ("auto", "torchrun: all GPUs train one model; ray: many trials side by side; auto: torchrun for imagenet"),
    "time": ("24:00:00", "time limit, as sbatch takes it"),
    "memory": ("", "memory a node, as sbatch takes it, for example 64G"),
    "partition": ("", "partition"),
    "account": ("", "account"),
    "restarts": ("3", "with=torchrun: how often all processes start again from the last checkpoint when one is lost"),
    "grace": ("120", "seconds before the time limit at which the run saves, leaves and is queued again; 0: no warning"),
    "port": ("29500", "port of the first node on which the others meet"),
    "script": ("", "file to write; default <task>-<study>.sbatch"),
}

HELP = "\n".join(
    [
        "usage: python -m calib_bench launch slurm [key=value ...]",
        "",
        "Writes a batch script that runs the study on an allocation, for `sbatch`. Keys of its own:",
        *(f"  {key:10} {text}" + (f" ({default})" if default else "") for key, (default, text) in OWN.items()),
        "All others are those of run. out= must be a folder that every node sees, or an object store.",
    ]
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


def launch(words: Sequence[str]) -> int:
    """`launch slurm ...`: writes a script and says how to submit it.

    Raises:
        SettingsError: no such system, an unknown key, or a value that cannot be.
    """
    if not words or {"-h", "--help", "help"} & set(words):
        print(HELP)
        return 0
    if words[0] != "slurm":
        raise SettingsError(f"launch knows no {words[0]!r}: {nearest(words[0], ['slurm'])}")
    own, rest = {key: default for key, (default, _) in OWN.items()}, []
    for word in words[1:]:
        key, value = split_word(word)
        if key in OWN:
            own[key] = value
        else:
            rest.append(word)
    settings = parse(rest)
    if settings.options:
        from calib_bench.planning.defaults import check_options

        registry.use_plugins(settings.plugins)
        check_options(settings)
    path = Path(own["script"] or f"{settings.name}.sbatch")
    text = script(own, settings)
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


def _as_written(text: str) -> bool:
    """Whether a script is as `launch` wrote it."""
    body, _, digest = text.rpartition(SEAL)
    return _digest(body) == digest.strip()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def script(own: dict[str, str], settings: UserSettings, python: str = sys.executable) -> str:
    """The script.

    Args:
        own: the values of `OWN`'s keys.
        settings: of the study, as typed.
        python: the interpreter on the nodes.

    Raises:
        SettingsError: a value cannot be.
    """
    nodes, gpus, cpus = (_count(own, key, least) for key, least in (("nodes", 1), ("gpus", 0), ("cpus", 1)))
    restarts, port, grace = _count(own, "restarts", 0), _count(own, "port", 1), _count(own, "grace", 0)
    kind = own["with"] if own["with"] != "auto" else "torchrun" if settings.task == "imagenet" else "ray"
    if kind not in ("torchrun", "ray"):
        raise SettingsError(f"with={kind} is unknown: {nearest(kind, ['torchrun', 'ray', 'auto'])}")
    settings = settings.model_copy(update={"yes": True, "executor": "ray" if kind == "ray" else "local"})
    directives = {
        "job-name": settings.name,
        "nodes": str(nodes),
        "ntasks-per-node": "1",
        "cpus-per-task": str(cpus),
        "gpus-per-node": str(gpus) if gpus else "",
        "mem": own["memory"],
        "time": own["time"],
        "partition": own["partition"],
        "account": own["account"],
        "output": f"{settings.name}-%j.log",
        "open-mode": "append",
        "signal": f"B:USR1@{grace}" if grace else "",
        "requeue": None,
    }
    for key, value in directives.items():
        if value and any(char in value for char in " \t\n\"'\\$`;|&"):
            raise SettingsError(f"{key}={value} holds characters that a directive of sbatch must not hold")
    head = [f"#SBATCH --{key}" + (f"={value}" if value else "") for key, value in directives.items() if value != ""]
    template = TORCHRUN if kind == "torchrun" else RAY
    run = shlex.join(["run", *settings.words()])
    if kind == "ray" and "'" in run:
        raise SettingsError("with=ray: a value may not need quotes: give paths and names without spaces")
    body = template.format(
        python=shlex.quote(python),
        processes=max(1, gpus),
        cpus=cpus,
        gpus=gpus,
        restarts=restarts,
        patience=max(30, grace - 30),
        port=port,
        words=run,
    )
    return "\n".join(
        [
            "#!/bin/bash",
            *head,
            "",
            "# Written by: python -m calib_bench launch slurm. Submitting it again goes on from what is stored.",
            "set -euo pipefail",
            f"export OMP_NUM_THREADS={settings.threads} RAY_USAGE_STATS_ENABLED=0",
            'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST")',
            "head=${head%%$'\\n'*}  # a pipe to head would fail where it ends before scontrol does",
            "",
            "step= again=",
            (WARNED.format(grace=grace) if grace else "") + body + ENDED,
        ]
    )


def _count(own: dict[str, str], key: str, least: int) -> int:
    value = own[key]
    if not value.isascii() or not value.isdecimal() or not least <= int(value) <= 65535:
        raise SettingsError(f"{key}={value} is not a whole number from {least} on: {OWN[key][1]}")
    return int(value)
