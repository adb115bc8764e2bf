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
from sklearn.utils import column_or_1d, get_tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from calib_bench.errors import UserError
from calib_bench.evaluation import fits

__all__ = ["PostHocCalibrator"]
Array = NDArray[Any]


class CalibrationError(UserError, ValueError):
    """Data that cannot be calibrated, as an error of scikit-learn's kind."""


class PostHocCalibrator(ClassifierMixin, BaseEstimator):
    """A classifier with calibrated probabilities: a calibrator behind logits, or behind another classifier.

    Without an estimator, X are logits: a column a class, or one column, the log odds of the second of two classes. With
    one, its decision function gives them, or where it has none, the logarithms of its probabilities.

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
            CalibrationError: logits and labels differ in their number of classes; or no calibrator has that name, or
                the one that has it is not for such logits.
        """
        y = column_or_1d(y, warn=True)
        if self.estimator is None:
            X, y = validate_data(self, X, y, dtype=np.float64)
            check_classification_targets(y)
            self.classes_ = _classes_of(X, y)
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
        if isinstance(self.estimator, FrozenEstimator):
            self.estimator_ = self.estimator
            scores = getattr(self.estimator_, _response(self.estimator_))(X)
        else:
            splits = check_cv(self.cv, y, classifier=True)
            scores = cross_val_predict(clone(self.estimator), X, y, cv=splits, method=_response(self.estimator))
            self.estimator_ = clone(self.estimator).fit(X, y)
        self.classes_ = self.estimator_.classes_
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        checked: Array = np.asarray(scores)
        return checked

    def _predictions(self, scores: Array) -> tuple[Array, str]:
        """Scores as predictions, with their kind: one column is the log odds of the second of two classes."""
        if len(self.classes_) == 2 and (scores.ndim == 1 or scores.shape[1] == 1):
            return scores.reshape(-1), "scores"
        is_log = self.estimator is not None and _response(self.estimator_) == "predict_log_proba"
        return scores, "log_probabilities" if is_log else "logits"

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


def _response(estimator: Any) -> str:
    """The method of a classifier that tells most: its decision function, or the logarithms of its probabilities.

    Raises:
        CalibrationError: it is no classifier with either.
    """
    if not (hasattr(estimator, "decision_function") or hasattr(estimator, "predict_log_proba")):
        what = f"{type(estimator).__name__} has neither decision_function nor predict_log_proba"
        raise CalibrationError(f"{what}: give a classifier that has one of them")
    return "decision_function" if hasattr(estimator, "decision_function") else "predict_log_proba"
