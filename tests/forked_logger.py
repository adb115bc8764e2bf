"""The process that logs to Weights & Biases, forked where the tracker would start a new Python: see `forked`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from multiprocessing import reduction
from types import SimpleNamespace
from typing import Any, TextIO

from forked import Process

from calib_bench.execute.process import apart_from_main
from calib_bench.tracking import logging_process, tracker


class Popen(Process):
    """`subprocess.Popen` as the tracker calls it."""

    def __init__(self, command: list[str], *, stderr: TextIO, env: dict[str, str], pass_fds: tuple[int, ...], **_: Any):
        super().__init__(target=_log, args=(command[3:],))
        theirs, mine = os.pipe()
        heard, said = os.pipe()
        self.environment, self.streams, self.others = env, (said, stderr.fileno()), (theirs, *pass_fds)
        with apart_from_main():
            self.start()
        for fd in (theirs, said):
            os.close(fd)
        self.stdin, self.stdout = open(mine, "w"), open(heard)  # noqa: SIM115

    def __getstate__(self) -> dict[str, Any]:
        others = [reduction.DupFd(fd) for fd in self.others]
        return super().__getstate__() | {"environment": self.environment, "others": others}

    def run(self) -> None:
        os.setsid()
        stdin, *_locks = [fd.detach() for fd in self.others]
        os.dup2(stdin, 0)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        tempfile.tempdir = None  # as the environment has it
        super().run()

    def poll(self) -> int | None:
        return self.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired(str(self), timeout or 0)
        return self.exitcode


def _log(arguments: list[str]) -> None:
    sys.exit(logging_process.main(arguments))


def share() -> None:
    """Let trackers fork the process that logs."""
    tracker.subprocess = SimpleNamespace(**vars(subprocess) | {"Popen": Popen})  # type: ignore[assignment]
