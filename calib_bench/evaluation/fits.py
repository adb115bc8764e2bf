"""Fitted calibrators to take home: objects that map new predictions, files that keep them, modules of torch."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from calib_bench import registry
from calib_bench.analysis.fitting import applied, fitted
from calib_bench.core.baseline import ZERO, Calibrator, Params
from calib_bench.core.trial import check_beta
from calib_bench.errors import DataError, SettingsError, UserError, nearest
from calib_bench.evaluation import Array, confidence
from calib_bench.evaluation.archives import LazyArrays
from calib_bench.evaluation.arrays import predictions
from calib_bench.evaluation.formats import content_of
from calib_bench.evaluation.frames import array, local, order_notes
from calib_bench.evaluation.matching import same_classes
from calib_bench.evaluation.models import Model, calibration_set
from calib_bench.evaluation.predictions import Predictions, check, check_kind
from calib_bench.evaluation.refusals import unreadable
from calib_bench.evaluation.validation import look_like_probabilities
from calib_bench.evaluation.vocabulary import SUM_TO_ONE, kind_of
from calib_bench.system.environment import versions
from calib_bench.system.files import write_bytes

FORMAT = "calib_bench fits 1"
"""The one entry of a file's metadata: JSON that describes the fits, in order; tensor `0/bias` is of the first."""
NO_LOGITS = "the model gives a {type}: put a module between that gives the tensor of logits in it alone"
WIDTH = "{fit.method} was fitted to {fit.classes} classes, and there are {K}"
LIKE_PROBABILITIES = (
    "{name}: {method} was fitted to logits, and these look like probabilities, every row of which sums to 1: give what "
    "the model gives before its softmax"
)
MADE_WITH = ("calib_bench", "python", "torch", "numpy")
"""Whose versions a fit keeps."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A calibrator that was fitted to a calibration set.

    Attributes:
        method: name of the calibrator, as `python -m calib_bench list baselines` shows it.
        params: what was learned, tensors by name.
        classes: K.
        kind: of the predictions that it was fitted to and maps: "logits", "probabilities", "log_probabilities" or
            "scores" (margins).
        normalized: whether the calibrator saw log probabilities, as logits were not known but for a constant per row.
        floor: log probabilities, of each class or of all, that stand for a probability of zero, which is a small one
            that the calibration set did not keep; empty where zeros are classes that rows do not offer.
        beta: inverse temperature of the model: logits are multiplied by it before anything else.
        examples: size of the calibration set.
        digest: SHA-256 of the calibration set, see `digest_of`.
        versions: of the packages that it was made with.
        class_names: the classes in order, which new predictions are matched by; None where nothing named them.
    """

    method: str
    params: Params = field(repr=False)
    classes: int
    kind: str
    normalized: bool
    floor: tuple[float, ...] = ()
    beta: float
    examples: int
    digest: str
    versions: Mapping[str, str] = field(repr=False)
    class_names: tuple[str, ...] | None = None

    @property
    def calibrator(self) -> Calibrator:
        """The calibrator of that name.

        Raises:
            SettingsError: there is none; a calibrator of one's own has to be loaded as a plug-in first.
        """
        return registry.calibrators((self.method,))[self.method]

    def predict_proba(self, values: Any) -> Any:
        """Calibrated probabilities [N, K], float64: a tensor of a tensor, on its device; else a numpy array.

        Columns are in the order of `class_names`, whatever that of a data frame is.

        Args:
            values: what the model gives, of the kind that was fitted: [N, K], for two classes also [N], of class 1. The
                columns of a data frame are matched by their names, where the calibration set's classes had names.

        Raises:
            DataError: they have other shapes or classes, or cannot be such predictions.
        """
        logp = self.log_proba(values)
        return logp.exp() if isinstance(logp, Tensor) else np.exp(logp)

    def log_proba(self, values: Any) -> Any:
        """Logarithm of `predict_proba`."""
        values = local(values)
        notes = order_notes(values)
        if hasattr(values, "columns"):
            columns = {str(name): values[name].to_numpy() for name in values.columns}
            new = without_labels(columns, "predictions", self.kind, is_table=True, notes=notes)
        else:
            new = unlabelled(array(values, "predictions"), self.kind, "predictions")
        logp_NK = self.log_proba_of(new)
        return logp_NK.to(values.device) if isinstance(values, Tensor) else logp_NK.numpy()

    def matched(self, new: Predictions) -> Predictions:
        """Predictions with their classes in the order of the fit's, by name.

        Raises:
            DataError: they have another number of classes, other names, or labels that may count the other order.
        """
        if new.Z_NK.shape[1] != self.classes:
            raise DataError(
                f"{new.name}: these are predictions of {new.Z_NK.shape[1]} classes, and {self.method} was fitted to "
                f"{self.classes}"
            )
        if (self.kind == confidence.KIND) != new.alone:
            one, other = ("confidences in one answer", "probabilities of classes")[:: -1 if new.alone else 1]
            raise DataError(f"{new.name}: {self.method} was fitted to {one}, and these are {other}")
        return same_classes(replace(new, name="the calibration set", classes=self.class_names), new)

    def log_proba_of(self, new: Predictions, beta: float | None = None) -> Tensor:
        """Calibrated log probabilities [N, K], float64, of checked predictions, whatever kind they are of.

        Args:
            new: predictions.
            beta: in place of the fit's own; 1 where logits are multiplied by it already.

        Raises:
            DataError: as of `matched`; or only their probabilities are known, and this fit depends on the logits.
        """
        new = self.matched(new)
        if new.kind == "logits" and len(new.y_N) > 1 and look_like_probabilities(new.Z_NK.numpy()):
            warnings.warn(LIKE_PROBABILITIES.format(name=new.name, method=self.method), stacklevel=4)
        calibrator = self.calibrator
        if not (self.normalized or new.exact or calibrator.shift_invariant):
            raise DataError(
                f"{new.name}: {self.method} was fitted to logits and depends on a constant per row, which these "
                "predictions do not tell: give logits, or fit it to predictions like these"
            )
        Z_NK = (self.beta if beta is None else beta) * new.Z_NK
        return applied(calibrator, self.params, self.normalize(Z_NK) if self.normalized else Z_NK)

    def normalize(self, Z_NK: Tensor) -> Tensor:
        """Log probabilities [N, K], float64, as the calibrator saw those of the calibration set."""
        Z_NK = Z_NK.double()
        if self.floor:
            Z_NK = torch.where(Z_NK.isneginf(), torch.tensor(self.floor, device=Z_NK.device, dtype=Z_NK.dtype), Z_NK)
        return Z_NK.log_softmax(1)

    def to_module(self, model: nn.Module | None = None) -> CalibratedModule:
        """The fit as a module of torch, whose output is calibrated log probabilities, in the type of its input.

        Args:
            model: what comes before it; None for a module that takes logits [N, K] (or the kind that was fitted).
        """
        return CalibratedModule(self, model)

    def save(self, path: str | Path) -> None:
        """Write it as a safetensors file, which `load` reads."""
        save({self.method: self}, path)


class CalibratedModule(nn.Module):
    """A model with a fitted calibrator behind it. Its parameters are buffers, so that it follows `.to(device)`.

    `torch.export` takes it, but for calibrators that are step functions of the logits (histogram binning, isotonic
    regression, BBQ, Venn-Abers). Exported, it checks nothing, and only -inf stands for a class that is not offered.
    """

    def __init__(self, fit: Fitted, model: nn.Module | None = None) -> None:
        super().__init__()
        if not isinstance(model, nn.Module | None):
            raise SettingsError(f"a fit stands behind an nn.Module, not behind {type(model).__name__}")
        self.classes = fit.classes
        self.model, self.method, self.kind, self.normalized = model, fit.method, fit.kind, fit.normalized
        self.beta, self.normalize = fit.beta, fit.normalize
        self.calibrate = fit.calibrator.apply
        self.constants = {name: value for name, value in fit.params.items() if name == ZERO}
        self.names = [name for name in fit.params if name != ZERO]
        for name in self.names:
            self.register_buffer(name, fit.params[name].clone())

    def _logits(self, outputs: Any) -> Tensor:
        """The model's outputs, if they are logits of as many classes."""
        if not isinstance(outputs, Tensor):
            raise UserError(NO_LOGITS.format(type=type(outputs).__name__))
        if outputs.shape[-1] != self.classes:
            raise UserError(WIDTH.format(fit=self, K=outputs.shape[-1]))
        return outputs

    def forward(self, *inputs: Any) -> Tensor:
        """Log probabilities [N, K] of what the model takes, or, without one, of logits [N, K].

        Raises:
            UserError: there is another number of classes, or the model gives neither logits nor what has them.
        """
        outputs = inputs[0] if self.model is None else self.model(*inputs)
        z_NK = self._logits(getattr(outputs, "logits", outputs))
        Z_NK = z_NK.log() if self.kind == "probabilities" else self.beta * z_NK
        if self.normalized:
            Z_NK = self.normalize(Z_NK)
        params = {name: getattr(self, name) for name in self.names}
        try:
            return self.calibrate({**params, **self.constants}, Z_NK).to(z_NK.dtype)
        except RuntimeError as error:
            if torch.compiler.is_exporting():
                raise UserError(f"{self.method} cannot be exported: it looks values up in a table by numpy") from error
            raise


def fit(
    method: str, values: Any, labels: Any = None, beta: float = 1.0, kind: str | None = None, trust_kind: bool = False
) -> Fitted:
    """Fit a calibrator to predictions in memory, see `calib_bench.fit`."""
    sets = predictions(values, labels, check_kind(kind), "calibration", trust=trust_kind)
    if len(sets) != 1:
        raise DataError(f"fit takes the predictions of one model, and these are of {len(sets)}")
    return fit_to(method, sets[0], beta)


def fit_to(method: str, calibration: Predictions, beta: float = 1.0) -> Fitted:
    """Fit a calibrator to checked predictions.

    Raises:
        SettingsError: no calibrator has that name; or beta is not positive, or not 1 where there are no logits.
        UserError: it is not for such predictions.
    """
    check_beta(beta)
    if beta != 1 and calibration.kind in SUM_TO_ONE:
        raise SettingsError(f"beta multiplies logits, and these are {calibration.kind.replace('_', ' ')}: leave it out")
    model = Model(calibration, calibration)
    Z_NK, y_N = calibration_set(model)
    Z_NK = beta * Z_NK if calibration.exact else (beta * Z_NK).log_softmax(1)
    params = fitted(registry.calibrators((method,))[method], Z_NK, y_N)
    return described(method, params, model, Z_NK, y_N, beta)


def of_models(models: Sequence[Model], params: Mapping[str, Sequence[Params]]) -> dict[str, Fitted]:
    """Fits that an evaluation made, by METHOD or, of several models, METHOD/MODEL.

    Args:
        params: by method, what was learned of each model's calibration set.
    """
    fits = {}
    for method, learned in params.items():
        for model, params_of_model in zip(models, learned, strict=True):
            name = method if len(models) == 1 else f"{method}/{model.test.name}"
            fits[name] = described(method, params_of_model, model, *calibration_set(model))
    return fits


def described(method: str, params: Params, model: Model, Z_NK: Tensor, y_N: Tensor, beta: float = 1.0) -> Fitted:
    """A fit that was made, with what it was made from and with.

    Args:
        method: the calibrator's name.
        params: of the fit.
        model: whose calibration set it was fitted to.
        Z_NK, y_N: what the calibrator was fitted to.
        beta: by which raw logits were multiplied in Z.
    """
    made_with = {name: version for name, version in versions().items() if name in MADE_WITH}
    return Fitted(
        method=method,
        params={name: tensor.detach().cpu() for name, tensor in params.items()},
        classes=Z_NK.shape[1],
        kind=model.to_fit.kind,
        normalized=not model.exact,
        floor=_floor(model),
        beta=float(beta),
        examples=len(y_N),
        digest=digest_of(Z_NK, y_N),
        versions=made_with,
        class_names=model.to_fit.classes or model.test.classes,
    )


def _floor(model: Model) -> tuple[float, ...]:
    """What stands for zeros in a model's log probabilities, see `Fitted.floor`."""
    if model.exact or model.zeros is None:
        return ()
    return tuple((np.log(model.zeros.step_K) + np.log(model.share())).tolist())


def digest_of(Z_NK: Tensor, y_N: Tensor) -> str:
    """SHA-256 of a calibration set: of its logits (times beta) as float64, then of its labels as int64, row by row."""
    digest = hashlib.sha256(Z_NK.double().contiguous().numpy().tobytes())
    digest.update(y_N.long().contiguous().numpy().tobytes())
    return digest.hexdigest()


def unlabelled(values: Any, kind: str, name: str) -> Predictions:
    """Checked predictions [N, K], or [N] of class 1 of two, of examples whose labels are not known.

    Raises:
        DataError: they cannot be predictions of that kind.
    """
    labels = np.zeros(len(values) if np.ndim(values) else 0, np.int64)
    return check(values, labels, kind, name, trust=True)


def without_labels(
    arrays: Mapping[str, Array], origin: str, kind: str | None, is_table: bool, notes: Sequence[str] = ()
) -> Predictions:
    """Checked predictions out of named arrays or columns, of examples whose labels are not known.

    Raises:
        DataError: they cannot be read as predictions.
    """
    sized = next((name for name in arrays if kind_of(name)), next(iter(arrays), None))
    if sized is None:
        raise DataError(f"{origin} holds nothing")
    labels = np.zeros(len(arrays[sized]), np.int64)
    name = "correct" if kind is None and confidence.is_alone(arrays) else "labels"
    with_labels = LazyArrays([*arrays, name], lambda one: labels if one == name else arrays[one])
    content = content_of(with_labels, origin, kind, name, notes, is_table)
    checked = check(content.values, labels, content.kind, origin, trust=True, notes=notes)
    classes = content.classes or checked.classes
    return replace(checked, classes=classes, by_name=True, ids=content.ids)  # no label says which order


def save(fits: Mapping[str, Fitted], path: str | Path) -> None:
    """Write fits, by name, as one safetensors file: the same fits give the same bytes."""
    tensors: dict[str, Tensor] = {}
    entries = []
    for i, (name, one) in enumerate(fits.items()):
        tensors |= {f"{i}/{key}": value.contiguous() for key, value in one.params.items()}
        described = {key: value for key, value in vars(one).items() if key != "params"}
        entries.append({"name": name, **described})
    write_bytes(Path(path), safetensors.torch.save(tensors, {FORMAT: json.dumps(entries)}))


def load(path: str | Path, name: str | None = None) -> Fitted:
    """A fit from a file, see `calib_bench.load`."""
    fits = load_all(Path(path))
    if name is None and len(fits) == 1:
        return next(iter(fits.values()))
    if name is None:
        raise SettingsError(f"{path} holds {len(fits)} fits: name one of {', '.join(fits)}")
    if name not in fits:
        raise SettingsError(f"{path} holds no fit {name!r}: {nearest(name, fits)}")
    return fits[name]


def load_all(path: Path) -> dict[str, Fitted]:
    """Every fit of a file, by name.

    Raises:
        DataError: it is missing or damaged, or no file of fits.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise unreadable(path, error) from None
    except SafetensorError:
        metadata = {}
    if FORMAT not in metadata:
        raise DataError(f"{path} is not a file of fits: `Fitted.save` and `evaluate` write them (fits.safetensors)")
    try:
        entries = json.loads(metadata[FORMAT])
        return {entry.pop("name"): _from_file(i, entry, tensors) for i, entry in enumerate(entries)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is a damaged file of fits ({type(error).__name__}: {error})") from None


def _from_file(i: int, entry: dict[str, Any], tensors: Mapping[str, Tensor]) -> Fitted:
    prefix = f"{i}/"
    params = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    entry["floor"] = tuple(entry["floor"])
    if (names := entry.get("class_names")) is not None:
        entry["class_names"] = tuple(names)
    return Fitted(params=params, **entry)
