"""The Ray executor on a real cluster of two nodes in this machine: the bits of a local run, whoever dies on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from test_claims import logits, trained

from calib_bench import discover
from calib_bench import plan as planning
from calib_bench.errors import ResourceError, SettingsError, StoreError, UserError
from calib_bench.execute import local
from calib_bench.resolve import resolve
from calib_bench.settings import Settings, parse
from calib_bench.store import Store

ray = pytest.importorskip("ray")
from calib_bench.execute import ray as executor  # noqa: E402

DRIVER = str(Path(__file__).with_name("driver.py"))
WORDS = ["task=digits", "model=mlp_16", "beta=0.3,1", "lr_rel=0.25,0.5", "seed=0", "epochs=100", "extend=0", "stack=1"]
WORDS += ["interventions=no", "objective=cross_entropy", "calibrator=temperature_scaling", "wandb=disabled"]
WORDS += ["checkpoint=0", "executor=ray"]
COUNT = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room, and one node with room for two tasks."""
    from ray.cluster_utils import Cluster

    names = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    before = {name: os.environ.get(name) for name in names}
    os.environ |= names
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


def settings(out: Path, *words: str) -> Settings:
    own = {word.split("=")[0] for word in words}
    return resolve(parse([*(word for word in WORDS if word.split("=")[0] not in own), f"out={out}", *words]))


def groups(of: Settings, store: Store) -> list[planning.Group]:
    return list(planning.make(of, discover.study(of.study), store).groups)[:COUNT]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What this process gives, without Ray."""
    out = tmp_path_factory.mktemp("alone")
    one, store = settings(out, "workers=1"), Store(settings(out).folder)
    with local.Workers(one, 1) as workers:
        assert workers.run(groups(one, store), store, lambda done: None) == COUNT
    return logits(out)


def wait_for(what: Any, seconds: float = 300) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def at_work(out: Path) -> list[int]:
    """Process numbers of the tasks that have trained for a while: there is a checkpoint to go on from."""
    if not list(out.glob("*/checkpoints/*.pt")):
        return []
    found = []
    for path in out.glob("*/claims/*.json"):
        try:
            found.append(int(json.loads(path.read_text())["pid"]))
        except (OSError, ValueError):
            continue
    return found


@pytest.mark.slow
def test_a_lost_worker_and_a_lost_node_change_no_bit(
    cluster: Any, alone: dict[str, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    one = settings(tmp_path, f"ray_address={cluster.address}")
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    done: list[float] = []
    store = Store(one.folder)
    assert executor.capacity(one) == (1, "cpu")
    wanted = groups(one, store)
    with executor.Cluster(one) as made, ThreadPoolExecutor(1) as thread:
        count = thread.submit(made.run, wanted, store, done.append)
        pid = wait_for(lambda: at_work(tmp_path))[0]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: [other for other in at_work(tmp_path) if other != pid])
        cluster.add_node(num_cpus=1)
        cluster.remove_node(node, allow_graceful=False)
        assert count.result(600) == COUNT
    assert logits(tmp_path) == alone
    assert capfd.readouterr().out.count("goes on from its checkpoint") >= 2
    assert not list((one.folder / "claims").glob("*.json"))
    assert not list((one.folder / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_restarted_driver_loses_no_finished_trial(cluster: Any, alone: dict[str, str], tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    command = [sys.executable, DRIVER, *WORDS, f"out={tmp_path}", f"ray_address={cluster.address}"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("*/trials/[!.]*/trial.json")) and at_work(tmp_path))
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/trials/[!.]*/trial.json")}
    assert finished
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert alone.items() <= logits(tmp_path).items()
    assert 0 < trained(done.stdout) < len(logits(tmp_path))


@pytest.mark.slow
def test_what_goes_wrong_names_its_trial_and_stops_no_other(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    one = settings(tmp_path, f"ray_address={cluster.address}", "retries=0", "epochs=3")
    store = Store(one.folder)
    executor.connect(one)
    good, bad, *_ = groups(one, store)
    broken = (bad[0].model_copy(update={"model": "mlp_0x"}),)
    with pytest.raises((UserError, RuntimeError), match=broken[0].key), executor.Cluster(one) as made:
        made.run([broken, good], store, lambda done: None)
    assert list(logits(tmp_path)) == [good[0].key]
    with pytest.raises(ResourceError, match=r"no node of the Ray cluster has 1 CPU, 0 GPU, 100000\.0 GiB"):
        executor.capacity(one.model_copy(update={"ray_memory": 1e5}))
    executor.disconnect()


def test_an_address_where_nothing_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**options: object) -> None:
        raise ConnectionError("nobody is there\nat all")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ResourceError, match=r"at 10\.0\.0\.1:6379 \(nobody is there\)"):
        executor.connect(parse(["executor=ray", "ray_address=10.0.0.1"]))


def test_a_node_that_does_not_see_the_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=re.escape("must be a folder that every node shares")):
        executor.open_store(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_paths_are_whole_for_every_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    one = executor.anywhere(parse(["out=runs", "data=here", "plugins=mine", "device=cuda:1"]), "cuda")
    assert (one.out, one.data, one.plugins) == (tmp_path / "runs", tmp_path / "here", (tmp_path / "mine",))
    assert one.device == "cuda"


def test_without_ray_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    from calib_bench import job

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "calib_bench.execute.ray")
    monkeypatch.delattr("calib_bench.execute.ray", raising=False)
    with pytest.raises(SettingsError, match=re.escape("calib_bench[ray]")):
        job._ray()
