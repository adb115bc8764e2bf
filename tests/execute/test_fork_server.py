"""Child processes: what they find, and which signals they heed."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from calib_bench.execute import fork_server


def tell(environ: dict[str, str], answers: Connection, questions: Connection) -> None:
    """What a child finds, then how often it heard SIGUSR1, which came before it was ready."""
    ready = {"torch", "calib_bench.studies.separation.study"} <= set(sys.modules)
    fork_server.settle(environ)
    answers.send((ready, os.environ.get("CALIB_BENCH_TEST"), os.getcwd()))
    questions.recv()
    heard: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    before = len(heard)
    fork_server.heed()
    answers.send((before, len(heard)))


@pytest.mark.skipif(sys.platform != "linux", reason="processes are spawned there")
def test_a_child_has_the_servers_modules_and_its_parents_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fork_server.start()
    monkeypatch.setenv("CALIB_BENCH_TEST", "set after the server began")
    monkeypatch.chdir(tmp_path)
    context = fork_server.context()
    answers, theirs = context.Pipe()
    questions, asked = context.Pipe()
    child = context.Process(target=tell, args=(dict(os.environ), theirs, asked), daemon=True)
    with fork_server.apart_from_main():
        child.start()
    assert answers.recv() == (True, "set after the server began", str(tmp_path))
    os.kill(child.pid or 0, signal.SIGUSR1)
    questions.send("go on")
    assert answers.recv() == (0, 1)
    child.join(10)
    assert child.exitcode == 0
