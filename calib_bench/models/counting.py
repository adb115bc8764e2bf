"""Models that only say their size, and a counter of operations; neither needs torch's compiler, seconds to import."""

from __future__ import annotations

from typing import Any

from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Undrawn(TorchFunctionMode):
    """Inside, no random numbers are drawn: on the meta device torch would bring its compiler to do nothing."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "").endswith(("normal_", "uniform_")):  # torch.nn.init.* too
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


class Counter(TorchDispatchMode):
    """Inside, operations are counted by the formulas of `torch.utils.flop_counter`, a multiply-add as two.

    Attributes:
        flops: floating-point operations so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: torch need not bring its compiler to be told so."""
        return False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(function._overloadpacket)
        if formula is None:
            with self:
                parts = function.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = function(*args, **kwargs)
        self.flops += formula(*args, **kwargs, out_val=result) if formula else 0
        return result
