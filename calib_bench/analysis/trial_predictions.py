"""Stored logits to predictions: calibrators fitted to trials and applied, a few small trials at a time, on workers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from calib_bench import registry
from calib_bench.analysis import fitting
from calib_bench.analysis.scores import RAW, REPAIRED
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.core.results import Results
from calib_bench.core.trial import Trial
from calib_bench.errors import UserError
from calib_bench.execute import analysis_pool

Result = TypeVar("Result")
COPIES = 8
"""Times the float64 logits that measuring a trial may hold at once."""
TRIALS, TRIALS_BYTES = 5, 1 << 26
"""Trials that are measured together at most, and what they may hold: small ones cost less so, large ones do not."""

Prediction = tuple[dict[str, Any], "Tensor"]
"""What the fit of a calibrator tells, as columns, and log probabilities [N, K] of the test split."""
CalibratorMap = tuple[dict[str, Any], "Callable[[Tensor], Tensor]"]
"""What the fit of a calibrator tells, as columns, and its map of logits [N, K] to log probabilities."""
Sentences = dict[str, str]
"""By calibrator, a sentence."""


def on_trials(
    function: Callable[..., Any],
    store: Results,
    trials: Sequence[Trial],
    calibrators: Mapping[str, Calibrator],
    *more: Any,
) -> Iterator[Any]:
    """Results of function(calibrators, store, *more, chunk of trials), one per trial in order.

    Chunks run on worker processes where there are any. Workers find calibrators by name: if one is not registered, all
    chunks run in this process.
    """
    if not trials:
        return iter(())
    sizes = store.split_info(trials[0])
    memory = COPIES * 8 * max(1, sizes["classes"]) * (sizes["sizes"]["calibration"] + sizes["sizes"]["test"])
    together = min(TRIALS, max(1, TRIALS_BYTES // memory))
    parts = [trials[i : i + together] for i in range(0, len(trials), together)]
    registered = registry.calibrators()
    if any(calibrators[name] is not registered.get(name) for name in calibrators):
        return chain.from_iterable(map(partial(function, calibrators, store, *more), parts))
    return chain.from_iterable(
        analysis_pool.each(partial(_by_name, function, tuple(calibrators), store, *more), parts, together * memory)
    )


def _by_name(function: Callable[..., Any], names: Sequence[str], *rest: Any) -> Any:
    return function(registry.calibrators(names), *rest)


@dataclass
class TrialLogits:
    """A trial's logits Z = beta z, in float64, its labels, and by calibrator that refused them the reason."""

    trial: Trial
    calibration: Tensor
    test: Tensor
    y_calibration: Tensor
    y_test: Tensor
    refused: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Results, trial: Trial, scale: float) -> TrialLogits:
        logits, labels = store.logits(trial), store.labels(trial)
        Z, Z_test = (scale * trial.beta * logits[split].double() for split in ("calibration", "test"))
        return cls(trial, Z, Z_test, labels["calibration"], labels["test"])

    def attempt(self, method: str, call: Callable[[], Result]) -> Result | None:
        """What a call gives; None where the method then refuses the trial, but for the one that everything rests on."""
        try:
            return call()
        except UserError as error:
            if method == REPAIRED:
                raise
            self.refused[method] = str(error)
            return None

    def cautions(self, calibrators: Mapping[str, Calibrator]) -> Sentences:
        """Calibrators' cautions about the trial's calibration set, by name."""
        texts = {name: c.warn(self.calibration, self.y_calibration) for name, c in calibrators.items() if c.warn}
        return {name: text for name, text in texts.items() if text}


def predictions(
    read: Sequence[TrialLogits], calibrators: Mapping[str, Calibrator]
) -> Iterator[tuple[str, dict[int, Prediction]]]:
    """Method and, by place of a trial in `read`, what its fit tells and log probabilities of the test split: `maps`,
    applied."""
    for method, by_trial in maps(read, calibrators):
        applied: dict[int, Prediction] = {}
        for i, (columns, apply) in by_trial.items():
            logp_NK = read[i].attempt(method, partial(apply, read[i].test))
            if logp_NK is not None:
                applied[i] = columns, logp_NK
        yield method, applied


def maps(
    read: Sequence[TrialLogits], calibrators: Mapping[str, Calibrator]
) -> Iterator[tuple[str, dict[int, CalibratorMap]]]:
    """Method and, by place of a trial in `read`, what its fit tells and the map that was fitted.

    A calibrator that cannot take a trial's logits, fails, or, as one of all of them, would learn too many numbers for
    so many classes, is entered in its `refused`, but for the one that everything rests on. The seconds of a fit are its
    share of what fitting them all took.
    """
    yield RAW, {i: ({}, _softmax) for i in range(len(read))}
    unasked = len(calibrators) >= len(registry.calibrators())
    for method, calibrator in calibrators.items():
        large = fitting.too_large(calibrator, *read[0].calibration.shape) if unasked else None
        if large is None:
            yield method, _maps(method, calibrator, read)
            continue
        for one in read:
            one.refused[method] = f"{large}: calibrator={method} fits it all the same."
        yield method, {}


def _softmax(Z_NK: Tensor) -> Tensor:
    return Z_NK.log_softmax(-1)


def _maps(method: str, calibrator: Calibrator, read: Sequence[TrialLogits]) -> dict[int, CalibratorMap]:
    """One calibrator's maps by place of a trial in `read`; those that it refuses are left out."""
    start = time.perf_counter()
    fits = _fits(calibrator, read)
    seconds = (time.perf_counter() - start) / len(read)
    by_trial: dict[int, CalibratorMap] = {}
    for i, (one, fit) in enumerate(zip(read, fits, strict=True)):
        made = one.attempt(method, partial(_map, method, calibrator, one, fit, seconds))
        if made is not None:
            by_trial[i] = made
    return by_trial


def _map(method: str, calibrator: Calibrator, one: TrialLogits, fit: Params | None, seconds: float) -> CalibratorMap:
    """A trial's map; it is fitted here unless it was with others, which took `seconds` for each."""
    start = time.perf_counter()
    params = fitting.fitted(calibrator, one.calibration, one.y_calibration) if fit is None else fit
    columns: dict[str, Any] = {"fit_seconds": seconds + time.perf_counter() - start}
    if method == REPAIRED:
        columns |= {"kappa": float(params["temperature"]), "at_bound": bool(params["at_bound"])}
    return columns, partial(fitting.applied, calibrator, params)


def _fits(calibrator: Calibrator, read: Sequence[TrialLogits]) -> Sequence[Params | None]:
    """Each trial's fit; None of all where they cannot be fitted together, or one of them cannot be."""
    if len(read) > 1 and len({one.calibration.shape for one in read}) == 1:
        with suppress(Exception, SystemExit):  # which of them, and why, is seen where each is fitted alone
            return calibrator.fits(
                torch.stack([one.calibration for one in read]), torch.stack([one.y_calibration for one in read])
            )
    return [None] * len(read)
