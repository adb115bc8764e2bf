"""The analysis's worker processes: the same results in the same order, and a plain word when one dies."""

import os
import signal

import pytest

from calib_bench.errors import ResourceError
from calib_bench.execute import pool
from calib_bench.settings import parse


def _square(value: int) -> tuple[int, int]:
    return value * value, os.getpid()


def _die(value: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_outside_it_is_map():
    found = pool.each(_square, range(3))
    assert list(found) == [(value * value, os.getpid()) for value in range(3)]


def test_few_items_stay_here():
    with pool.workers(parse(["workers=2"])):
        assert {where for _, where in pool.each(_square, range(5))} == {os.getpid()}


@pytest.mark.slow
def test_many_are_shared_in_order(monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 0.0)
    with pool.workers(parse(["workers=2"])):
        found = list(pool.each(_square, range(9)))
        again = list(pool.each(_square, range(4)))
    assert [value for value, _ in found] == [value * value for value in range(9)]
    assert found[0][1] == os.getpid()
    assert os.getpid() not in {where for _, where in found[1:]}
    assert [value for value, _ in again] == [0, 1, 4, 9]


def test_too_little_memory_for_workers_keeps_the_work_here(monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 0.0)
    with pool.workers(parse(["workers=2"])):
        assert {where for _, where in pool.each(_square, range(5), memory=1 << 60)} == {os.getpid()}


@pytest.mark.slow
def test_a_worker_that_dies_is_told(monkeypatch):
    monkeypatch.setattr(pool, "PATIENCE", 0.0)
    with pool.workers(parse(["workers=2"])):
        list(pool.each(_square, range(3)))
        with pytest.raises(ResourceError, match="workers=1"):
            list(pool.each(_die, range(3)))
