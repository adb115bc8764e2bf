"""The Ray executor on a real cluster of two nodes in this machine: the bits of a local run, whoever dies on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from calib_bench import registry
from calib_bench.commands import run_study
from calib_bench.core.settings import Settings, parse
from calib_bench.errors import ResourceError, SettingsError, StoreError, UserError
from calib_bench.execute import local
from calib_bench.planning import plan as planning
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store
from tests.store.test_leases import logits, trained

ray = pytest.importorskip("ray")
from calib_bench.execute import ray as executor  # noqa: E402
from calib_bench.execute import ray_data_parallel, ray_task  # noqa: E402

DRIVER = str(Path(__file__).parents[1].joinpath("driver.py"))
WORDS = ["task=digits", "model=mlp_16", "beta=0.3,1", "lr_rel=0.25,0.5", "seed=0", "epochs=100", "extend=0", "stack=1"]
WORDS += ["interventions=no", "objective=cross_entropy", "calibrator=temperature_scaling", "wandb=disabled"]
WORDS += ["checkpoint=0", "executor=ray"]
COUNT = 4


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without room, and one node with room for two tasks."""
    from ray.cluster_utils import Cluster

    names = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
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
    return list(planning.make(of, registry.study(of.study), store).groups)[:COUNT]


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


@pytest.mark.soak
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
    assert sum(done) > 0
    assert capfd.readouterr().out.count("resumes from its checkpoint") >= 2
    assert not list((one.folder / "claims").glob("*.json"))
    assert not list((one.folder / "checkpoints").iterdir())


@pytest.mark.soak
def test_a_restarted_driver_loses_no_finished_trial(cluster: Any, alone: dict[str, str], tmp_path: Path) -> None:
    cluster.add_node(num_cpus=1)
    command = [sys.executable, DRIVER, *WORDS, f"out={tmp_path}", f"ray_address={cluster.address}"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list(tmp_path.glob("*/trials/[!.]*")) and at_work(tmp_path))
    first.send_signal(signal.SIGKILL)
    first.wait()
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/trials/[!.]*")}
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


TOGETHER = [
    "model=wrn_10_1",
    "precision=fp64",
    "beta=1",
    "epochs=4",
    "batch=40",
    "limit=200",
    "lr_rel=0.25",
    "threads=1",
]


def children(word: str) -> list[Any]:
    """Processes of the cluster's nodes on this machine that are named so."""
    import psutil

    return [one for one in psutil.process_iter(["cmdline"]) if word in " ".join(one.info["cmdline"] or ())]


def test_what_a_gang_trains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = settings(tmp_path, *TOGETHER, "gang=2", "device=cpu")
    (group, *_) = groups(one, Store(one.folder))
    assert ray_data_parallel.together(group, one)
    assert not ray_data_parallel.together(group, one.model_copy(update={"gang": 1}))
    assert not ray_data_parallel.together((group[0], group[0]), one)
    assert not ray_data_parallel.together((group[0].model_copy(update={"model": "mlp_16"}),), one)
    assert not ray_data_parallel.together((group[0].model_copy(update={"epochs": 0}),), one)
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    with pytest.raises(ResourceError, match=r"gang=2 needs 2 times 1 CPU, 1 GPU, 0\.0 GiB, .* have room for 1: "):
        executor.check_gang(one, {"CPU": 1.0, "GPU": 0.5, "memory": 0.0})
    executor.check_gang(one, {"CPU": 1.0, "GPU": 0.0, "memory": 0.0})
    with pytest.raises(SettingsError, match="gang=2 needs executor=ray"):
        run_study.capacity(one.model_copy(update={"executor": "local"}))


@pytest.mark.slow
def test_a_gang_of_two_nodes_gives_the_result_of_one_process_also_when_one_is_lost(
    cluster: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole, one = settings(tmp_path / "whole", *TOGETHER, "workers=1"), settings(tmp_path / "gang", *TOGETHER, "gang=2")
    one = one.model_copy(update={"ray_address": cluster.address})
    first, store = Store(whole.folder), Store(one.folder)
    (group, *_) = groups(whole, first)
    with local.Workers(whole, 1) as workers:
        assert workers.run([group], first, lambda done: None) == 1
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    done: list[float] = []
    with executor.Cluster(one) as made, ThreadPoolExecutor(1) as thread:
        count = thread.submit(made.run, [group], store, done.append)
        leader = wait_for(lambda: at_work(one.out), 120)[0]
        (follower,) = [process for process in children("ray::Rank") if process.pid != leader]
        follower.kill()
        assert count.result(300) == 1
        assert {place["state"] for place in ray.util.placement_group_table().values()} == {"REMOVED"}
    for node in nodes:
        cluster.remove_node(node)
    assert sum(done) > 0
    assert "resumes from its checkpoint" in capfd.readouterr().out
    assert not list((one.folder / "checkpoints").iterdir())
    (trial,) = group
    store.refresh()
    assert (first.record(trial).metadata["world"], store.record(trial).metadata["world"]) == (1, 2)
    for split, z in first.logits(trial).items():
        torch.testing.assert_close(
            store.logits(trial)[split], z, rtol=1e-9 if z.dtype == torch.float64 else 1e-6, atol=1e-9
        )
    for column in ("train_loss", "selection_log_loss", "weight_norm"):
        expected = first.history(trial)[column].to_list()
        assert store.history(trial)[column].to_list() == pytest.approx(expected, rel=1e-9, nan_ok=True)


def holder(cluster: Any, rank: int) -> Any:
    """The node that holds this process of the gang under way."""
    places = [p for p in ray.util.placement_group_table().values() if p["state"] == "CREATED"]
    ((place),) = places
    name = place["bundles_to_node_id"][rank]
    (node,) = [node for node in cluster.worker_nodes if node.node_id == name]
    return node


def train_losing(
    cluster: Any, one: Settings, rank: int | None, ready: int, tells: Callable[[str], bool]
) -> tuple[Store, planning.Group, dict[str, bytes]]:
    """Train a gang of two on nodes of one place each; within an epoch the node of this process dies.

    Args:
        rank: whose node; None for an undisturbed gang.
        ready: nodes that stand by; without one, another joins only once the driver tells that it waits.
        tells: whether it has told that so far.
    """
    for node in list(cluster.worker_nodes):
        cluster.remove_node(node)
    nodes, store = [cluster.add_node(num_cpus=1) for _ in range(2 + ready)], Store(one.folder)
    cluster.wait_for_nodes()
    (group, *_) = groups(one, store)
    with executor.Cluster(one) as made, ThreadPoolExecutor(1) as thread:
        count = thread.submit(made.run, [group], store, lambda done: None)
        if rank is not None:
            wait_for(lambda: at_work(one.out), 120)
            lost = holder(cluster, rank)
            seen = (next(one.out.glob("*/checkpoints/*.pt"))).stat().st_mtime_ns
            wait_for(lambda: next(one.out.glob("*/checkpoints/*.pt")).stat().st_mtime_ns > seen, 60)
            assert not store.has(group[0]), "it was over before the node could be lost"
            cluster.remove_node(lost, allow_graceful=False)
            if not ready:
                wait_for(lambda: lost.node_id not in [n["NodeID"] for n in ray.nodes() if n["Alive"]], 60)
                wait_for(lambda: tells("nodes were lost"), 120)
                assert not count.done(), count.exception()
                nodes.append(cluster.add_node(num_cpus=1))
        assert count.result(600) == 1
    for node in cluster.worker_nodes.copy():
        cluster.remove_node(node)
    store.refresh()
    assert store.record(group[0]).metadata["world"] == 2
    assert not list((one.folder / "checkpoints").iterdir())
    assert not list((one.folder / "claims").glob("*.json"))
    return store, group, {n: held for n, held in store.files(group[0]).items() if n.endswith(".safetensors")}


@pytest.mark.soak
@pytest.mark.parametrize(("rank", "ready"), [(1, 1), (0, 0)], ids=["follower", "leader, and no node stands by"])
def test_a_gang_that_loses_a_node_goes_on_elsewhere_to_the_same_bits(
    cluster: Any, tmp_path: Path, rank: int, ready: int, capfd: pytest.CaptureFixture[str]
) -> None:
    more = [
        *(w for w in TOGETHER if not w.startswith("epochs")),
        "gang=2",
        "epochs=8",
        f"ray_address={cluster.address}",
    ]
    said = ""

    def tells(text: str) -> bool:
        nonlocal said
        said += capfd.readouterr().out
        return text in said

    first, (trial,), whole = train_losing(cluster, settings(tmp_path / "whole", *more), None, 0, tells)
    tells("")
    said = ""
    store, _, broken = train_losing(cluster, settings(tmp_path / "broken", *more), rank, ready, tells)
    tells("")
    assert f"trial {trial.key} lost its worker" in said
    assert "resumes from its checkpoint" in said
    assert ("nodes were lost" in said) == (not ready)
    assert broken == whole
    columns = ["train_loss", "selection_log_loss", "weight_norm"]
    pd.testing.assert_frame_equal(store.history(trial)[columns], first.history(trial)[columns], check_exact=True)


def test_a_run_waits_for_other_nodes_when_it_lost_its_own_but_not_for_ever(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(executor, "TICK", 0.01)
    left = iter([0, 0, 3])
    nodes = [{"Alive": True, "Resources": {"CPU": 1.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes * next(left))
    assert executor.wait_for_nodes(lambda: executor.room({"CPU": 1.0})) == 3
    assert capsys.readouterr().out.count("nodes were lost") == 1
    monkeypatch.setattr(executor, "PATIENCE", 0.05)
    monkeypatch.setattr(ray, "nodes", list)
    with pytest.raises(ResourceError, match="no node of the Ray cluster has 1 CPU"):
        executor.wait_for_nodes(lambda: executor.room({"CPU": 1.0}))


@pytest.mark.slow
def test_a_gang_that_cannot_train_says_why_and_gives_its_place_up(cluster: Any, tmp_path: Path) -> None:
    one = settings(tmp_path, *TOGETHER[:4], "batch=41", "gang=2", f"ray_address={cluster.address}")
    node, store = cluster.add_node(num_cpus=2), Store(one.folder)
    with executor.Cluster(one) as made:
        (group, *_) = groups(one, store)
        with pytest.raises(SettingsError, match=rf"{group[0].key} \(wrn_10_1\): batch=41 .* of the 2 processes"):
            made.run([group], store, lambda done: None)
        assert {place["state"] for place in ray.util.placement_group_table().values()} == {"REMOVED"}
    cluster.remove_node(node)
    assert not logits(tmp_path)


@pytest.mark.slow
def test_auto_joins_the_cluster_that_runs_and_local_starts_one(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def joined(address: str) -> tuple[str, float]:
        executor.connect(settings(tmp_path, f"ray_address={address}", "workers=3", "threads=1"))
        found = ray.get_runtime_context().gcs_address, ray.cluster_resources().get("CPU", 0)
        executor.disconnect()
        return found

    own = cluster.address
    assert joined(own)[0] == own
    monkeypatch.setenv("RAY_ADDRESS", own)
    assert joined("auto")[0] == own
    monkeypatch.delenv("RAY_ADDRESS")
    address, cores = joined("local")
    assert address != own
    assert cores == 3
    init = ray.init

    def none_runs(address: str, **options: Any) -> Any:
        if address == "auto":
            raise ConnectionError("none runs")
        return init(address=address, **options)

    monkeypatch.setattr(ray, "init", none_runs)
    assert joined("auto")[1] == 3


def test_an_address_where_nothing_answers_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    start = time.monotonic()
    for address, tried in (("nowhere.invalid", "nowhere.invalid:6379"), ("127.0.0.1:1", "127.0.0.1:1")):
        with pytest.raises(ResourceError, match=rf"no Ray cluster answers at {re.escape(tried)} \("):
            executor.connect(parse(["executor=ray", f"ray_address={address}"]))
    assert time.monotonic() - start < 25


def test_a_node_that_does_not_see_the_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=re.escape("must be a folder that every node shares")):
        ray_task.open_store(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_paths_are_whole_for_every_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    one = executor.absolute_paths(parse(["out=runs", "data=here", "plugins=mine", "device=cuda:1"]), "cuda")
    assert (one.out, one.data, one.plugins) == (tmp_path / "runs", tmp_path / "here", (tmp_path / "mine",))
    assert one.device == "cuda"


def test_without_ray_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "calib_bench.execute.ray")
    monkeypatch.delattr("calib_bench.execute.ray", raising=False)
    with pytest.raises(SettingsError, match=re.escape("calib_bench[ray]")):
        run_study.ray_executor()
