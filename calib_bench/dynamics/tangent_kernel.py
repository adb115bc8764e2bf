"""The tangent of a model: products with J = dz/dtheta, its transpose, and the tangent kernel Theta = J J^T, none of
which is ever formed (Jacot, Gabriel, Hongler, 2018, arXiv 1806.07572).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp

from calib_bench.dynamics.curvature import twice_differentiable
from calib_bench.errors import UserError
from calib_bench.models import unwrap

Direction = dict[str, Tensor]
"""A direction in parameter space: by parameter name, of the parameter's shape."""


@dataclass(frozen=True)
class _Part:
    """Some rows of the batch: their logits [m, K], v -> J^T v, and d -> J d."""

    z: Tensor
    pull: Callable[[Tensor], Direction]
    push: Callable[[Direction], Tensor]


class Tangent:
    """J of a model's raw logits on a batch, at the parameters it has now; later changes of the model do not reach it.

    J d is computed as the transpose of the linear map u -> J^T u, hence by reverse mode twice, which every model has
    that curvature can be measured of. The model runs in training mode, so that batch norm uses the batch's statistics,
    and is left as it was.

    Attributes:
        z: raw logits [M, K].
    """

    def __init__(self, model: nn.Module, x: Any, chunk: int | None = None) -> None:
        """
        Args:
            model: returns logits [M, K].
            x: a batch as the model takes it: a tensor [M, ...] or, for tokens, a pair of them.
            chunk: examples whose graph is held at once; every product then runs the model anew. None holds the graph
                of the whole batch, which is faster.

        Raises:
            UserError: in chunks, batch norm would use the statistics of each chunk, and so be another model.
        """
        self.model = unwrap(model)
        if chunk is not None and any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.model.modules()):
            raise UserError(
                "the model has batch norm, whose statistics are the whole batch's: leave chunk out, or choose a "
                "smaller batch or a model without it"
            )
        self.at = {name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad}
        fixed = [*self.model.named_buffers(), *self.model.named_parameters()]
        self.fixed = {name: value.detach().clone() for name, value in fixed if name not in self.at}
        self.x, self.chunk = x, chunk
        self.length = len(x) if isinstance(x, Tensor) else len(x[0])
        self.held = [self._part(slice(None))] if chunk is None else None
        self.z = torch.cat([part.z for part in self._parts()])

    def _parts(self) -> Iterator[_Part]:
        if self.held is not None:
            yield from self.held
            return
        step = self.chunk or self.length
        for start in range(0, self.length, step):
            yield self._part(slice(start, start + step))

    def _part(self, rows: slice) -> _Part:
        x = self.x[rows] if isinstance(self.x, Tensor) else tuple(part[rows] for part in self.x)

        def logits(at: Direction) -> Tensor:
            fixed = {name: value.clone() for name, value in self.fixed.items()}  # batch norm writes into its buffers
            return functional_call(self.model, at | fixed, (x,))

        with twice_differentiable(self.model):
            z_MK, pull = vjp(logits, self.at)[:2]
            push = vjp(lambda u_MK: pull(u_MK)[0], torch.zeros_like(z_MK))[1]
        return _Part(z_MK.detach(), lambda v_MK: pull(v_MK)[0], lambda d: push(d)[0])

    @torch.no_grad()
    def pull(self, v_MK: Tensor) -> Direction:
        """J^T v, for v [M, K]."""
        total: Direction = {}
        for part, v_mK in zip(self._parts(), self._split(v_MK), strict=True):
            pulled = part.pull(v_mK)
            total = {name: total[name] + value for name, value in pulled.items()} if total else pulled
        return total

    @torch.no_grad()
    def push(self, d: Direction) -> Tensor:
        """J d [M, K]."""
        return torch.cat([part.push(d) for part in self._parts()])

    def kernel(self, v_MK: Tensor) -> Tensor:
        """Theta v = J (J^T v), for v [M, K]: [M, K]."""
        return self.push(self.pull(v_MK))

    def dense(self) -> Tensor:
        """Theta itself, [M K, M K], rows and columns in the order of z.flatten(): M K products, for small batches."""
        columns = []
        for index in range(self.z.numel()):
            v_MK = torch.zeros_like(self.z)
            v_MK.view(-1)[index] = 1
            columns.append(self.kernel(v_MK).flatten())
        return torch.stack(columns, 1)

    def _split(self, v_MK: Tensor) -> tuple[Tensor, ...]:
        return v_MK.split(self.chunk or self.length)
