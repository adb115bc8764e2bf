"""Predictions held in memory to checked predictions: arrays, tensors, data frames and lists of them.

What has names is matched by them: rows by the index of data frames and series, classes by the names of columns, models
by the keys of a mapping. Position counts only where there are no names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from calib_bench.evaluation.frames import array, holds_labels, local, order_notes, table
from calib_bench.evaluation.refusals import Refusal
from calib_bench.evaluation.validation import Predictions, check, refuse_places
from calib_bench.evaluation.vocabulary import listed


def predictions(
    values: Any, labels: Any, kind: str | None, role: str, groups: Any = None, trust: bool = False
) -> list[Predictions]:
    """Checked predictions of one model or several, with the names of their classes where they have any.

    Args:
        values: [N, K] or, for two classes, [N]; several models as [S, N, K], a list of S of them or a mapping by name;
            or a data frame or mapping that holds predictions and labels, as a file does.
        labels: [N], or one array a model; the name of the labels where `values` holds them; None to find them there.
        kind: one of KINDS; logits if neither this nor a column's name says so.
        role: "test" or "calibration", for names and messages.
        groups: the slice of each row, [N], or one array a model; or the name of a column of `values`.
        trust: believe `kind` even where logits look like probabilities.

    Raises:
        DataError: these cannot be such predictions, or names and positions contradict each other.
    """
    checked = []
    models = _models(local(values), local(labels), role)
    for (name, model_values, model_labels), slices in zip(models, _slices(local(groups), models, role), strict=True):
        held = table(model_values, model_labels, kind, name, slices)
        notes = (*held.notes, *order_notes(model_values))
        one = check(held.values, held.labels, kind or held.kind, name, trust=trust, notes=notes)
        one = replace(one, classes=held.classes, by_name=held.by_name, ids=held.ids, groups=held.groups)
        refuse_places(one)
        checked.append(one)
    return checked


# one model or several


def held_out(calibration: Any, values: Any, labels: Any) -> tuple[Any, Any]:
    """Values and labels of a calibration set as it is given beside test values and labels, its models in their order.

    Raises:
        DataError: it is no pair, nor what holds its labels as the test set does; or its models have other names.
    """
    if holds_labels(local(calibration), labels):
        return calibration, labels
    if not isinstance(calibration, tuple | list) or len(calibration) != 2:
        raise Refusal.CALIBRATION_PAIR.of("calibration")
    fits, calibration_labels = calibration
    if isinstance(values, Mapping) and isinstance(fits, Mapping) and not holds_labels(values, labels):
        if set(fits) != set(values):
            raise Refusal.OTHER_KEYS.of("calibration", names=listed(values), others=listed(fits))
        return {name: fits[name] for name in values}, calibration_labels
    return fits, calibration_labels


def _models(values: Any, labels: Any, role: str) -> list[tuple[str, Any, Any]]:
    """Name, values and labels of each model.

    Raises:
        DataError: something is missing, or a list could be batches of one model.
    """
    if values is None:
        raise Refusal.NO_PREDICTIONS.of(role)
    if isinstance(values, Mapping) and not holds_labels(values, labels):
        return _by_key(values, labels, role)
    if not _several(values):
        return [(role, values, labels)]
    return _by_place(values, labels, role)


def _slices(groups: Any, models: Sequence[tuple[str, Any, Any]], role: str) -> list[Any]:
    """The slices of each model: by its key in a mapping, by its place in a list of as many; else those of all."""
    if isinstance(groups, Mapping):
        return _slices_by_key(groups, [name for name, _, _ in models], role)
    if len(models) > 1 and _per_model(groups, len(models), len(models[0][1])):
        return [local(one) for one in groups]
    return [groups] * len(models)


def _slices_by_key(groups: Mapping[Any, Any], names: Sequence[str], role: str) -> list[Any]:
    if set(groups) != set(names):
        raise Refusal.GROUP_KEYS.of(role, names=listed(names), others=listed(groups))
    return [local(groups[name]) for name in names]


def _by_key(values: Mapping[Any, Any], labels: Any, role: str) -> list[tuple[str, Any, Any]]:
    """Models of a mapping, labels by the same names if these are in a mapping too."""
    if isinstance(labels, Mapping) and set(labels) != set(values):
        raise Refusal.LABEL_KEYS.of(role, names=listed(values), others=listed(labels))
    models = []
    for name, model_values in values.items():
        model_labels = labels[name] if isinstance(labels, Mapping) else labels
        called = f"{name}" if role == "test" else f"{name}, {role}"
        models.append((called, local(model_values), local(model_labels)))
    return models


def _by_place(values: Any, labels: Any, role: str) -> list[tuple[str, Any, Any]]:
    """Models of a list or of an array [S, N, K]; labels are of all, or one array a model."""
    models = [local(one) for one in values]
    S, N = len(models), len(models[0])
    if _per_model(labels, S, N):
        each = [local(one) for one in labels]
        if isinstance(values, list | tuple) and role == "test" and _differ(each, role):
            raise Refusal.MODELS_OR_BATCHES.of(role, S=S)
    else:
        _refuse_batches(models, labels, role)
        each = [labels] * S
    return [(f"{role}{i}", one, model_labels) for i, (one, model_labels) in enumerate(zip(models, each, strict=True))]


def _refuse_batches(models: Sequence[Any], labels: Any, role: str) -> None:
    """Raises DataError where there are as many labels as rows in all arrays together."""
    if labels is None or isinstance(labels, str):
        return
    if len(labels) == sum(map(len, models)) != len(models[0]):
        raise Refusal.BATCHES.of(role, labels=len(labels), models=len(models))


def _differ(labels: Sequence[Any], role: str) -> bool:
    first = array(labels[0], f"{role}: labels")
    return any(not np.array_equal(array(one, f"{role}: labels"), first) for one in labels[1:])


def _several(values: Any) -> bool:
    if hasattr(values, "columns") or isinstance(values, Mapping):
        return False
    if isinstance(values, list | tuple):
        if not len(values):
            raise Refusal.NO_MODELS.of("")
        first = local(values[0])
        return hasattr(first, "columns") or (not np.isscalar(first) and _dimensions(first) == 2)
    return _dimensions(values) == 3 and len(values) > 0


def _per_model(labels: Any, S: int, N: int) -> bool:
    if labels is None or isinstance(labels, str) or np.isscalar(labels):
        return False
    if isinstance(labels, list | tuple):
        return len(labels) == S and not np.isscalar(labels[0]) and _dimensions(local(labels[0])) >= 1
    return _dimensions(labels) == 2 and len(labels) == S and tuple(np.shape(labels)) != (N, 1)


def _dimensions(values: Any) -> int:
    return int(values.ndim) if hasattr(values, "ndim") else array(values, "the predictions").ndim
