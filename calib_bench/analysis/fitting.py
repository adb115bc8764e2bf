"""A calibrator's fit and what it makes of new logits, held to what any owes; one that fails ends only itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from calib_bench.core.baseline import Calibrator, Params
from calib_bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


MOST_UNKNOWNS = 1 << 22
"""Unknowns of a calibrator that is fitted unasked: K^2 for 2,048 classes, of which a fit holds about a gigabyte."""
MOST_PRODUCTS = 1 << 38
"""Examples times unknowns likewise: a pass over them costs so many multiplications, and a fit makes tens of passes."""
COPIES = 30
"""Copies of its unknowns that a fit holds: 10 pairs of changes, gradients, the metric; each number has 8 bytes."""


class CalibratorError(UserError):
    """A calibrator failed, or gave what cannot be probabilities. Others may do without it."""


def too_large(calibrator: Calibrator, N: int, K: int) -> str | None:
    """Why a calibrator is not fitted to N examples of K classes unless its user names it; None if it is.

    The rule counts numbers, never seconds, so that a report holds the same rows wherever it is made.
    """
    if calibrator.unknowns is None:
        return None
    unknowns = calibrator.unknowns(K)
    if unknowns <= MOST_UNKNOWNS and N * unknowns <= MOST_PRODUCTS:
        return None
    limit = (
        f"more than {MOST_UNKNOWNS:,} numbers"
        if unknowns > MOST_UNKNOWNS
        else f"more than {MOST_PRODUCTS:.2g} products of examples and numbers"
    )
    return (
        f"for {K:,} classes it learns {unknowns:,} numbers, one for each pair of classes, and its fit to {N:,} "
        f"examples holds about {COPIES} copies of them, {COPIES * 8 * unknowns / 1e9:.1f} GB; {limit} are fitted only "
        f"for a calibrator that is named"
    )


def fitted(calibrator: Calibrator, Z_NK: Tensor, y_N: Tensor) -> Params:
    """The parameters of the fit to logits Z and labels y.

    A plug-in sees copies: what it writes into them is nobody else's.

    Raises:
        UserError: the calibrator says that it is not for such logits.
        CalibratorError: it raised something else, left by SystemExit, ran out of memory, or gave no tensors.
    """
    Z_NK, y_N = (tensor if calibrator.of_the_project else tensor.clone() for tensor in (Z_NK, y_N))
    return cast("Params", _guarded("fit", lambda: calibrator.fit(Z_NK, y_N)))


def applied(calibrator: Calibrator, params: Params, Z_NK: Tensor) -> Tensor:
    """Log probabilities of logits, as the parameters map them.

    Raises:
        UserError: as `fitted`; a CalibratorError also where it gave no log probabilities.
    """
    seen_NK = Z_NK if calibrator.of_the_project else Z_NK.clone()
    logp_NK = _guarded("map", lambda: calibrator.apply(params, seen_NK))
    _probabilities(logp_NK, Z_NK)
    return logp_NK


def calibrate(calibrator: Calibrator, Z_NK: Tensor, y_N: Tensor, Z_new: Tensor) -> tuple[Tensor, Params]:
    """Log probabilities of new logits, and the parameters of the fit to Z and y.

    Raises:
        UserError: as `fitted` and `applied`.
    """
    params = fitted(calibrator, Z_NK, y_N)
    return applied(calibrator, params, Z_new), params


def _guarded(stage: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise CalibratorError(f"its {stage} {_ended(error)}") from error


def _ended(error: BaseException) -> str:
    text = " ".join(str(error).split())[:300]
    if isinstance(error, SystemExit):
        return f"called sys.exit({text})"
    if isinstance(error, MemoryError) or "allocate" in text:
        return f"ran out of memory ({text or type(error).__name__})"
    return f"raised {type(error).__name__}: {text}" if text else f"raised {type(error).__name__}"


def _probabilities(logp_NK: object, Z_NK: Tensor) -> None:
    """Raises CalibratorError where these are no log probabilities of rows of logits."""
    import torch

    if not isinstance(logp_NK, torch.Tensor) or not logp_NK.is_floating_point():
        raise CalibratorError(f"it gave {type(logp_NK).__name__}, not a floating tensor of log probabilities")
    if logp_NK.shape != Z_NK.shape:
        raise CalibratorError(f"it gave log probabilities of shape {tuple(logp_NK.shape)} for {tuple(Z_NK.shape)}")
    for rows in logp_NK.detach().split(max(1, (1 << 20) // Z_NK.shape[1])):
        off_N = rows.double().logsumexp(1).abs()
        if not bool((off_N <= 1e-6).all()):
            what = "NaN" if bool(rows.isnan().any()) else "rows that do not sum to one"
            raise CalibratorError(f"it gave {what} in place of log probabilities")
