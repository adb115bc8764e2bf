"""The analysis's worker processes: the same results in the same order, and a plain word when one dies."""

import multiprocessing
import os
import pickle
import signal
import time
from concurrent import futures
from dataclasses import dataclass
from functools import partial

import matplotlib.figure
import numpy as np
import pytest
import torch

from calib_bench.core.settings import parse
from calib_bench.core.study import Analysis, Study, StudyResult
from calib_bench.errors import ResourceError
from calib_bench.execute import analysis_pool
from calib_bench.report import figures


def _square(value: int) -> tuple[int, int]:
    time.sleep(0.05)
    return value * value, os.getpid()


def _die(value: int) -> None:
    if multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)


def _wait() -> None:
    """Until workers are up: jobs that are worth it start them."""
    while not analysis_pool.up():
        list(analysis_pool.each(_square, range(4)))


def test_outside_it_is_map():
    found = analysis_pool.each(_square, range(3))
    assert list(found) == [(value * value, os.getpid()) for value in range(3)]


def test_few_items_stay_here(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 3.0)
    with analysis_pool.workers(parse(["workers=2"])):
        assert {where for _, where in analysis_pool.each(_square, range(5))} == {os.getpid()}
        assert not analysis_pool.up()


@pytest.mark.parametrize("warm", [False, True])
def test_a_server_that_must_first_import_is_started_for_much_more_work_alone(monkeypatch, warm):
    started = []
    monkeypatch.setattr(analysis_pool, "WORTH", 0.4)  # of 0.95 seconds that are left after the first job
    monkeypatch.setattr(analysis_pool.fork_server, "runs", lambda: warm)
    monkeypatch.setattr(analysis_pool.fork_server, "context", lambda: started.append(1) or multiprocessing)
    monkeypatch.setattr(analysis_pool, "ProcessPoolExecutor", lambda *words, **more: futures.ThreadPoolExecutor(1))
    with analysis_pool.workers(parse(["workers=2"])):
        list(analysis_pool.each(_square, range(20)))
    assert len(started) == warm


@pytest.mark.slow
def test_many_are_shared_in_order(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 0.0)
    with analysis_pool.workers(parse(["workers=2"])):
        _wait()
        found = list(analysis_pool.each(_square, range(20)))
    assert [value for value, _ in found] == [value * value for value in range(20)]
    assert len({where for _, where in found}) == 2
    assert os.getpid() in {where for _, where in found}


@pytest.mark.slow
def test_workers_go_on_with_later_calls_while_an_earlier_one_is_read(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 0.0)
    with analysis_pool.workers(parse(["workers=2"])):
        _wait()
        first, second = analysis_pool.each(_square, [2]), analysis_pool.each(_square, [3])
        given = [future for jobs in analysis_pool._current.open for future in jobs.futures.values()]
        assert len(given) == 2
        futures.wait(given, 120)
        assert [value for value, _ in first] == [4]
        found = list(second)
    assert [value for value, _ in found] == [9]
    assert os.getpid() != found[0][1]


def _sees(value: float) -> tuple[int, bool]:
    """Threads, and whether the smallest numbers are numbers."""
    time.sleep(0.05)
    return torch.get_num_threads(), bool(torch.full((), value, dtype=torch.float64) * 1 != 0)


@pytest.mark.slow
def test_both_sides_compute_alike(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 0.0)
    before = _sees(2.0**-1060)
    with analysis_pool.workers(parse(["workers=2"])):
        _wait()
        assert len(set(analysis_pool.each(_sees, [2.0**-1060] * 20))) == 1
    assert _sees(2.0**-1060) == before


def test_too_little_memory_for_workers_keeps_the_work_here(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 0.0)
    with analysis_pool.workers(parse(["workers=2"])):
        assert {where for _, where in analysis_pool.each(_square, range(5), memory=1 << 60)} == {os.getpid()}


@pytest.mark.slow
def test_a_worker_that_dies_is_told(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 0.0)
    with analysis_pool.workers(parse(["workers=2"])):
        _wait()
        with pytest.raises(ResourceError, match="workers=1"):
            list(analysis_pool.each(_die, range(20)))


@pytest.mark.slow
def test_a_worker_that_died_meanwhile_is_told_to_the_next_call(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 0.0)
    with analysis_pool.workers(parse(["workers=2"])):
        _wait()
        for one in multiprocessing.active_children():
            one.kill()
            one.join()
        time.sleep(1)
        found = analysis_pool.each(_square, range(20))
        with pytest.raises(ResourceError, match="workers=1"):
            list(found)


@pytest.mark.slow
def test_a_call_that_nobody_reads_keeps_no_later_one_from_the_workers(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 0.0)
    with analysis_pool.workers(parse(["workers=2"])):
        _wait()
        for _ in range(3 * analysis_pool.AHEAD):
            analysis_pool.each(_square, [1])
        assert not analysis_pool._current.open
        assert len({where for _, where in analysis_pool.each(_square, range(20))}) == 2


def test_a_job_that_raises_for_another_call_raises_for_its_own_too(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 1e9)
    with analysis_pool.workers(parse(["workers=2"])):
        some = analysis_pool.each(_refuse, [1])
        with pytest.raises(ZeroDivisionError):
            analysis_pool._current._take(analysis_pool._current.open)
        with pytest.raises(ZeroDivisionError):
            list(some)


def _refuse(value: int) -> float:
    return value / 0


@dataclass(frozen=True, kw_only=True)
class _Labelled(StudyResult):
    label: object


def _wave(phase: float, analysis: Analysis) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure()
    figure.subplots().plot(np.sin(np.arange(20) + phase), label=str(_Labelled.of(analysis).label))
    return figure


@pytest.mark.slow
def test_a_figure_is_the_same_whoever_draws_it(monkeypatch):
    monkeypatch.setattr(analysis_pool, "WORTH", 0.0)
    study = Study("?", lambda *_: [], lambda *_: Analysis((), {}), {str(i): partial(_wave, float(i)) for i in range(3)})
    analysis = Analysis((), {}, result=_Labelled(label=1))
    here = list(figures.drawn(study, analysis))
    with analysis_pool.workers(parse(["workers=2"])):
        _wait()
        assert list(figures.drawn(study, analysis)) == here
        local = Analysis((), {}, result=_Labelled(label=lambda: 1))
        with pytest.raises((pickle.PicklingError, AttributeError)):
            pickle.dumps(local)
        assert [set(files) for files in figures.drawn(study, local)] == [{"png", "svg", "pdf"}] * 3
