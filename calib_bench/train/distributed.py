"""Distributed data parallel training, with torch's own launcher (`torchrun -m calib_bench run ...`) or as a Ray gang.

Every process runs the same program; each takes rows rank::world of every global batch. Results equal those of one
process at the same global batch, to rounding: gradients are averaged, and batch norm uses the global batch's moments.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from calib_bench.errors import ResourceError
from calib_bench.system import shutdown

T = TypeVar("T")
ASKED_EVERY = 1.0
"""Seconds between two steps at which processes tell each other whether they are to leave, about."""
PATIENCE = timedelta(hours=6)
"""How long a process waits for the others: the main one plans and stores alone."""
JOINING = timedelta(minutes=10)
"""How long it waits for them to join: some machines import torch slowly."""


def requested() -> bool:
    """Whether this process was started by torchrun."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def start(kind: str) -> torch.device:
    """Join the process group that torchrun's environment names: gloo on "cpu", nccl on "cuda"; returns the device.

    Raises:
        ResourceError: another process of the group did not come.
    """
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=JOINING))
        apart = _apart(store, rank, size)
    except dist.DistError as error:
        raise ResourceError(f"the other processes were not met within {JOINING}: {error}") from None
    return _begin(kind, int(os.environ.get("LOCAL_RANK", "0")), store=apart, rank=rank, world_size=size)


def _apart(store: dist.Store, rank: int, size: int, patience: timedelta = JOINING) -> dist.PrefixStore:
    """A part of a store that only the processes now alive use.

    torchrun keeps one store over restarts, with the addresses of processes that are gone, and each node counts restarts
    for itself (pytorch issue 135712): so every process says a word of its own, new each time, under which the first one
    answers where to meet, until it hears the same word from there.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"hello/{rank}", mine)
        store.wait([mine], patience)
        name = store.get(mine).decode()
        store.set(f"{name}/{rank}", mine)
        return dist.PrefixStore(name, store)
    absent = set(range(1, size))
    deadline = time.monotonic() + patience.total_seconds()
    while absent:
        for other in range(1, size):
            if store.check([f"hello/{other}"]):
                word = store.get(f"hello/{other}")
                store.set(word.decode(), mine)
                here = store.check([f"{mine}/{other}"]) and store.get(f"{mine}/{other}") == word
                absent = absent - {other} if here else absent | {other}
        if time.monotonic() > deadline:
            raise ResourceError(f"{len(absent)} of {size} processes did not join within {patience}: is a node away?")
        time.sleep(0.02)
    return dist.PrefixStore(mine, store)


def meeting(address: str, port: int = 0) -> dist.TCPStore:
    """Where the processes of a group find each other: one opens it, with port 0 at any free one; the others join it.

    Args:
        address: of the node of the process that opens it.
        port: where it listens, as that process's `meeting(address).port` says.
    """
    return dist.TCPStore(address, port, is_master=not port, wait_for_workers=False, timeout=JOINING)


def join(kind: str, rank: int, world: int, store: dist.TCPStore, address: str) -> torch.device:
    """Join a process group by what is said here, whatever the environment says: gloo on "cpu", nccl on "cuda".

    Args:
        kind: type of the device; a process sees the GPU that it is to take as the first one.
        rank: number of this process.
        world: how many there are.
        store: where they meet.
        address: of this node, as the others reach it.
    """
    if name := _interface(address):
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = name
    return _begin(kind, 0, store=store, rank=rank, world_size=world)


def _begin(kind: str, number: int, **group: Any) -> torch.device:
    """Begin a process group: nccl on the GPU of a number, gloo on another kind of device; returns the device."""
    if kind != "cuda":
        dist.init_process_group("gloo", timeout=PATIENCE, **group)
        return torch.device(kind)
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", timeout=PATIENCE, device_id=device, **group)
    return device


def _interface(address: str) -> str | None:
    """The network interface of this machine that has an address: gloo would ask what the host's name resolves to."""
    import psutil

    interfaces = psutil.net_if_addrs().items()
    return next((name for name, held in interfaces if any(one.address == address for one in held)), None)


def of_others(error: BaseException) -> bool:
    """Whether an exception says no more than that another process, or the way to it, is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "/gloo/" in str(error))


def stop() -> None:
    """Leave the process group, if this process is in one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def end_process(code: int) -> NoReturn:
    """Leave the process group and end this process, which has nothing left to do.

    `DistributedDataParallel` keeps gloo's threads alive beyond `destroy_process_group` (torch 2.15). One of them that
    lets go of a tensor while Python ends aborts the process, and torchrun then calls the whole job failed. So Python
    is not left to end.
    """
    stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def world() -> int:
    """Number of processes; 1 outside a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number; 0 outside a process group."""
    return dist.get_rank() if world() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def broadcast(value: T) -> T:
    """The main process's value in every process."""
    if world() == 1:
        return value
    box: list[Any] = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def total(tensor: Tensor) -> Tensor:
    """The sum of a tensor over processes."""
    if world() == 1:
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor


class Accord:
    """Whether the processes of a group are to leave: one that was asked to tells all of them at the same step.

    The steps at which they ask each other are agreed upon as they ask, about ASKED_EVERY seconds apart.

    Args:
        device: of the group's collectives.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.steps, self.left, self.began = device, 1, 1, time.monotonic()

    def step(self) -> None:
        """To be called by every process after each step; the request is made in all of them or in none."""
        self.left -= 1
        if world() == 1 or self.left:
            return
        pace = self.steps / max(time.monotonic() - self.began, 1e-6)
        most = max(1, min(int(pace * ASKED_EVERY), 10 * self.steps))
        votes = torch.tensor([float(shutdown.wished()), -float(most)], device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        wished, most = bool(votes[0]), -int(votes[1])
        if wished:
            shutdown.request()
        self.steps = self.left = most
        self.began = time.monotonic()


def leave(save: Callable[[], None]) -> NoReturn:
    """Leave, all processes at once, when the main one has saved; to be called by all.

    Raises:
        Stopped: always, but where saving fails in this process.
    """
    try:
        save()
    finally:
        dist.barrier()
    raise shutdown.Stopped


def gather_rows(part: Tensor, index: Tensor, length: int) -> Tensor:
    """Rows [n, ...] of this process, which belong at `index` [n], and all others' -> the whole [length, ...]."""
    rows = part.new_zeros((length, *part.shape[1:]))
    rows[index.to(part.device)] = part
    return total(rows)


class _Total(torch.autograd.Function):
    """Sum over processes, whose gradient is the sum over processes of the gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return total(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return total(grads[0].contiguous())


def track(norm: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Let the running moments of a batch norm, where it keeps any, take a batch's."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    weight = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), weight)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), weight)


class _Synchronised(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all processes, on any backend; each must hold equally many examples."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world() == 1:
            return super().forward(x)
        h = x if x.dtype == torch.float64 else x.float()
        dims = [0, *range(2, h.dim())]
        shape = [1, -1] + [1] * (h.dim() - 2)
        count = h.numel() // h.shape[1] * world()
        mean = _Total.apply(h.sum(dims)) / count
        centred = h - mean.view(shape)
        variance = _Total.apply(centred.square().sum(dims)) / count
        track(self, mean.detach(), variance.detach() * count / (count - 1))
        h = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            h = h * self.weight.view(shape) + self.bias.view(shape)
        h = h.to(x.dtype)
        act, drop = getattr(self, "act", nn.Identity()), getattr(self, "drop", nn.Identity())
        return act(drop(h))  # timm's BatchNormAct2d has both


def synchronise(model: nn.Module) -> None:
    """Make every batch norm of the model use the moments of the global batch; parameter names stay as they are."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, _Synchronised):
            kind = type(module)
            module.__class__ = type(f"Synchronised{kind.__name__}", (_Synchronised, kind), {})


def parallel(model: nn.Module, device: torch.device, synchronised: bool = True) -> nn.Module:
    """The model with gradients averaged over processes, and batch norm synchronised unless its trial says otherwise;
    itself in a single process."""
    if world() == 1:
        return model
    if synchronised:
        synchronise(model)
    ids = [device.index] if device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*broadcast_buffers", FutureWarning)  # its new name is not in torch 2.8
        return nn.parallel.DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
