"""Processes forked from one that has imported everything: they start at once, where `python -m calib_bench` imports for
seconds. Each is a process of its own all the same, with its signals, exit code, folder, environment and output.

`call` and `started` are those of `faulty`, and `Run` is `subprocess.Popen` for a function."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from multiprocessing import context as contexts
from multiprocessing import forkserver, reduction
from pathlib import Path
from typing import Any

from calib_bench.cli import main
from calib_bench.execute import fork_server

PACKAGE = Path(__file__).parents[1] / "calib_bench"
IMPORTED = [f"calib_bench.commands.{path.stem}" for path in sorted((PACKAGE / "commands").glob("[!_]*.py"))]
IMPORTED += [f"calib_bench.studies.{path.parent.name}.study" for path in sorted(PACKAGE.glob("studies/*/study.py"))]
IMPORTED += ["calib_bench.execute.worker", "matplotlib.figure", "jinja2", "psutil", "scipy.optimize", "scipy.stats"]
IMPORTED += [f"matplotlib.backends.backend_{kind}" for kind in ("agg", "pdf", "svg")]
IMPORTED += ["pyarrow.dataset", "pyarrow.parquet", "sklearn.datasets", "torch.utils.flop_counter"]
IMPORTED += ["torch.fx.experimental.symbolic_shapes"]  # of every gradient of a gradient
ENVIRONMENT = {**os.environ}


def share() -> None:
    """Have one server for all tests of this process, which imports in the environment that all tests begin with."""
    fork_server.PRELOADED = tuple(IMPORTED)
    ensure_running = forkserver._forkserver.ensure_running

    def ensure() -> None:
        before = {**os.environ}
        os.environ.clear()
        os.environ.update(ENVIRONMENT)
        try:
            with chdir(PACKAGE.parent):
                ensure_running()
        finally:
            os.environ.clear()
            os.environ.update(before)

    _have(ensure)


def _have(ensure: Callable[[], None]) -> None:
    forkserver.ensure_running = forkserver._forkserver.ensure_running = ensure


class Process(contexts.ForkServerProcess):
    """A process with the environment and the output of the one that starts it, as a spawned one has them; `streams` are
    descriptors for its output and its errors."""

    streams = (1, 2)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "environment": {**os.environ}, "streams": [reduction.DupFd(fd) for fd in self.streams]}

    def run(self) -> None:
        for fd, stream in enumerate(self.streams, 1):
            os.dup2(stream.detach(), fd)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(self.environment)
        _have(lambda: None)  # it runs, though not as a child of this process
        try:
            super().run()
        finally:
            threading._shutdown()
            atexit._run_exitfuncs()


class Run:
    """A call in a process of its own, as `subprocess.Popen` has it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, stdout: int | None = None, **environment: str):
        self.files = [tempfile.TemporaryFile("w+") for _ in Process.streams]  # noqa: SIM115
        self.process = Process(target=_work, args=(environment, function, arguments))
        self.process.streams = tuple(file.fileno() if stdout is None else stdout for file in self.files)
        fork_server.start()
        with fork_server.apart_from_main():
            self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(str(self.process), timeout or 0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Its output and its errors, once it has ended."""
        self.wait(timeout)
        out, err = (file.seek(0) or file.read() for file in self.files)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _work(environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """In the process: in a group of its own, which Ctrl-C and a closing terminal reach whatever the tests ignore."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    fork_server.heed()
    os.environ.update(environment)
    sys.exit(function(*arguments))


def command(*words: str) -> int:
    """`python -m calib_bench WORDS`."""
    return main(words)


@contextmanager
def started(*words: str, **environment: str) -> Iterator[Run]:
    """A command under way; it does not outlive the block."""
    run = Run(command, *words, **environment)
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def call(*words: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    with started(*words, **environment) as run:
        out, err = run.communicate(timeout)
    return subprocess.CompletedProcess(words, run.wait(), out, err)
