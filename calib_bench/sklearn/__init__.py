"""The calibrators as a scikit-learn estimator: `PostHocCalibrator`.

>>> from sklearn.datasets import load_iris
>>> from sklearn.linear_model import LogisticRegression
>>> from sklearn.model_selection import cross_val_score
>>> X, y = load_iris(return_X_y=True)
>>> model = PostHocCalibrator("temperature_scaling", estimator=LogisticRegression(C=1e4, max_iter=5000))
>>> bool(cross_val_score(model, X, y, scoring="neg_log_loss").mean() > -0.2)
True
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.utils import column_or_1d, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from calib_bench.errors import UserError
from calib_bench.evaluation import fits
from calib_bench.evaluation.class_names import class_of
from calib_bench.evaluation.validation import look_like_probabilities

__all__ = ["PostHocCalibrator"]
Array = NDArray[Any]
KINDS = {
    "decision_function": "logits",
    "predict_log_proba": "log_probabilities",
    "predict_proba": "probabilities",
}
"""Methods of classifiers and what they give, the one that tells most first."""


class CalibrationError(UserError, ValueError):
    """Data that cannot be calibrated, as an error of scikit-learn's kind."""


class PostHocCalibrator(ClassifierMixin, BaseEstimator):
    """A classifier with calibrated probabilities: a calibrator behind logits, or behind another classifier.

    Without an estimator, X are logits: a column a class in the order of the sorted labels, or one column, the log odds
    of the second of two classes. With one, its decision function gives them, or where it has none, the logarithms of
    its probabilities.

    Args:
        method: name of a calibrator, as `python -m calib_bench list baselines` shows it.
        estimator: a classifier. One in `sklearn.frozen.FrozenEstimator` is fitted already, and only the calibrator is
            fitted to X and y. Any other is fitted here: the calibrator to predictions of it by cross-validation, then
            the estimator to all of X and y.
        beta: inverse temperature: logits are multiplied by it first.
        cv: folds of that cross-validation: a number, a splitter or splits.

    Attributes:
        classes_: labels, in the order of the columns of probabilities.
        fit_: the fit, a `calib_bench.evaluation.fits.Fitted`: has `save` and `to_module`.
        estimator_: the fitted estimator, where there is one.
    """

    def __init__(
        self, method: str = "temperature_scaling", *, estimator: Any = None, beta: float = 1.0, cv: Any = 5
    ) -> None:
        self.method = method
        self.estimator = estimator
        self.beta = beta
        self.cv = cv

    def fit(self, X: Any, y: Any) -> PostHocCalibrator:
        """Fit the calibrator, and the estimator where it is not frozen.

        Args:
            X: logits [N, K], or what the estimator takes.
            y: labels [N], of any type.

        Raises:
            CalibrationError: logits and labels differ in their number of classes, or columns are named like the labels
                and stand in another order; or a fold has nothing of a class to learn from; or no calibrator has that
                name, or the one that has it is not for such logits.
        """
        y = column_or_1d(y, warn=True)
        if self.estimator is None:
            names = list(map(str, getattr(X, "columns", ())))
            X, y = validate_data(self, X, y, dtype=np.float64)
            check_classification_targets(y)
            self.classes_ = _classes_of(X, y)
            _check_order(names, list(map(str, self.classes_)))
            _check_logits(X.squeeze())
            scores = X
        else:
            scores = self._fit_estimator(X, y)
        if len(self.classes_) < 2:
            raise CalibrationError(f"there is one class, {self.classes_[0]!r}: nothing is to be calibrated")
        if strange := set(y.tolist()) - set(self.classes_.tolist()):
            raise CalibrationError(f"y has the label {strange.pop()!r}, which is no class of the estimator")
        values, kind = self._predictions(scores)
        try:
            labels, is_known = np.searchsorted(self.classes_, y), self.estimator is not None
            self.fit_ = fits.fit(self.method, values, labels, self.beta, kind, trust_kind=is_known)
        except UserError as error:
            raise CalibrationError(str(error)) from error
        return self

    def _fit_estimator(self, X: Any, y: Any) -> Array:
        """Fits the estimator; the scores that the calibrator is fitted to."""
        check_classification_targets(y)
        if isinstance(self.estimator, FrozenEstimator):
            self.estimator_ = self.estimator
            scores = getattr(self.estimator_, _response(self.estimator_))(X)
        else:
            splits = list(check_cv(self.cv, y, classifier=True).split(X, y))
            _check_folds(y, [train for train, _ in splits])
            scores = cross_val_predict(clone(self.estimator), X, y, cv=splits, method=_response(self.estimator))
            self.estimator_ = clone(self.estimator).fit(X, y)
        self.classes_ = self.estimator_.classes_
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        checked: Array = np.asarray(scores)
        _check_columns(self.estimator_, checked, len(self.classes_))
        return checked

    def _predictions(self, scores: Array) -> tuple[Array, str]:
        """Scores as predictions, with their kind: one column is the log odds of the second of two classes."""
        if len(self.classes_) == 2 and (scores.ndim == 1 or scores.shape[1] == 1):
            return scores.reshape(-1), "scores"
        return scores, "logits" if self.estimator is None else KINDS[_response(self.estimator_)]

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithm of `predict_proba`."""
        check_is_fitted(self)
        if self.estimator is None:
            scores = validate_data(self, X, dtype=np.float64, reset=False)
        else:
            scores = getattr(self.estimator_, _response(self.estimator_))(X)
        values, _ = self._predictions(scores)
        logp: Array = self.fit_.log_proba(values)
        return logp

    def predict_proba(self, X: Any) -> Array:
        """Calibrated probabilities [N, K], columns in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> Array:
        """The most probable class of each row."""
        best_N = self.predict_log_proba(X).argmax(1)
        labels: Array = self.classes_[best_N]
        return labels

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if self.estimator is not None:
            tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def _classes_of(X: Array, y: Array) -> Array:
    """The labels of the columns of logits: those that occur, or 0 to K - 1 where some of these do not.

    Raises:
        CalibrationError: there are other labels, or another number of them.
    """
    K = max(X.shape[1], 2)
    labels = np.unique(y)
    if len(labels) == K:
        return labels
    if labels.dtype.kind in "iu" and labels[0] >= 0 and labels[-1] < K:
        return np.arange(K)
    raise CalibrationError(
        f"logits have {X.shape[1]} columns and y has {len(labels)} classes: give a column a class, with labels 0 to "
        f"{K - 1} where some do not occur"
    )


def _check_order(names: list[str], labels: list[str]) -> None:
    """Raises CalibrationError where columns are called as the labels, as `cat` or `logit_cat`, in another order."""
    classes = [str((class_of(name, labels) or ("logits", name))[1]) for name in names]
    if classes != labels and sorted(classes) == sorted(labels):
        raise CalibrationError(
            f"columns are called {', '.join(names)}, and the classes in their order {', '.join(labels)}: give the "
            "columns in that order"
        )


def _check_logits(X: Array) -> None:
    if look_like_probabilities(X):
        raise CalibrationError("X look like probabilities: give logits, or the logarithms of the probabilities")


def _check_folds(y: Array, trains: list[Array]) -> None:
    """Raises CalibrationError where a fold has nothing of a class to learn from."""
    for train in trains:
        if lacking := set(y.tolist()) - set(y[train].tolist()):
            raise CalibrationError(
                f"one of the {len(trains)} folds has no row of class {lacking.pop()!r} to learn from: give another cv, "
                "or more rows of that class"
            )


def _check_columns(estimator: Any, scores: Array, K: int) -> None:
    """Raises CalibrationError where scores have no column a class."""
    binary: list[tuple[int, ...]] = [(), (1,), (2,)]
    shapes = {1: binary, 2: binary}.get(K, [(K,)])
    last = _last(estimator)
    if K > 2 and getattr(last, "decision_function_shape", None) == "ovo":
        raise CalibrationError(
            f"{type(last).__name__} gives a score for each pair of classes: set decision_function_shape='ovr'"
        )
    if scores.shape[1:] not in shapes:
        raise CalibrationError(
            f"{type(last).__name__} gives scores of shape {scores.shape}, not a column for each of {K} classes"
        )


def _last(estimator: Any) -> Any:
    """The classifier in which a pipeline or a search ends, or that is frozen."""
    if isinstance(estimator, FrozenEstimator):
        return _last(estimator.estimator)
    if isinstance(estimator, Pipeline):
        return _last(estimator[-1])
    return _last(estimator.best_estimator_) if hasattr(estimator, "best_estimator_") else estimator


def _response(estimator: Any) -> str:
    """The method of a classifier that tells most: its decision function, or its probabilities.

    Raises:
        CalibrationError: it has none of them.
    """
    for name in KINDS:
        if hasattr(estimator, name):
            return name
    raise CalibrationError(f"{type(estimator).__name__} has none of {', '.join(KINDS)}: give a classifier that has one")
