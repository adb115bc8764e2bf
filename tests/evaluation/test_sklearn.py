"""`PostHocCalibrator` keeps scikit-learn's contract, and gives what the calibrators give."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, KFold, cross_val_predict, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils.estimator_checks import check_estimator

import calib_bench
from calib_bench.sklearn import CalibrationError, PostHocCalibrator

X, Y = load_digits(return_X_y=True)
FIT, CAL, TEST = slice(0, 600), slice(600, 1200), slice(1200, None)
NOT_LOGITS = dict.fromkeys(
    (
        "check_estimators_overwrite_params", "check_estimators_fit_returns_self", "check_readonly_memmap_input",
        "check_estimators_nan_inf", "check_classifiers_classes", "check_classifiers_train",
    ),
    "the X of this check are no logits",
)  # fmt: skip


@pytest.fixture(scope="module")
def bayes() -> GaussianNB:
    return GaussianNB(var_smoothing=1e-3).fit(X[FIT], Y[FIT])


@pytest.mark.slow
@pytest.mark.parametrize("estimator", [None, LogisticRegression(), pytest.param(GaussianNB(), marks=pytest.mark.soak)])
def test_the_contract_of_scikit_learn_holds(estimator: object) -> None:
    expected = NOT_LOGITS if estimator is None else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_estimator(PostHocCalibrator(estimator=estimator), expected_failed_checks=expected)


def test_a_fitted_classifier_keeps_its_fit_and_gains_calibration(bayes: GaussianNB) -> None:
    model = PostHocCalibrator(estimator=FrozenEstimator(bayes)).fit(X[CAL], Y[CAL])
    assert model.estimator_.estimator is bayes
    by_hand = calib_bench.fit("temperature_scaling", bayes.predict_log_proba(X[CAL]), Y[CAL])
    assert float(model.fit_.params["temperature"]) == pytest.approx(float(by_hand.params["temperature"]))
    raw, calibrated = (log_loss(Y[TEST], one.predict_proba(X[TEST])) for one in (bayes, model))
    assert calibrated < raw / 2
    assert (model.predict(X[TEST]) == bayes.predict(X[TEST])).all()


def test_margins_between_0_and_1_are_margins() -> None:
    rows = Y < 2
    margins = LinearSVC(random_state=0).fit(X[rows], Y[rows])
    scale = np.abs(margins.decision_function(X[rows])).max() * 2
    margins.coef_, margins.intercept_ = margins.coef_ / scale, margins.intercept_ / scale + 0.5
    assert 0 <= margins.decision_function(X[rows]).min() < margins.decision_function(X[rows]).max() <= 1
    model = PostHocCalibrator("platt_scaling", estimator=FrozenEstimator(margins)).fit(X[rows], Y[rows])
    assert log_loss(Y[rows], model.predict_proba(X[rows])) < 0.1


def test_zeros_of_a_forest_are_small_probabilities() -> None:
    forest = RandomForestClassifier(20, random_state=0).fit(X[FIT], Y[FIT])
    assert np.isinf(forest.predict_log_proba(X[TEST])[np.arange(597), Y[TEST]]).any()
    model = PostHocCalibrator(estimator=FrozenEstimator(forest)).fit(X[CAL], Y[CAL])
    p = model.predict_proba(X[TEST])
    assert p.min() > 0
    assert log_loss(Y[TEST], p) < 0.5


def test_an_unfitted_classifier_is_calibrated_on_predictions_it_did_not_learn_from() -> None:
    model = PostHocCalibrator("vector_scaling", estimator=LogisticRegression(max_iter=3000), cv=3).fit(X[FIT], Y[FIT])
    held_out = cross_val_predict(LogisticRegression(max_iter=3000), X[FIT], Y[FIT], cv=3, method="decision_function")
    by_hand = calib_bench.fit("vector_scaling", held_out, Y[FIT])
    assert np.allclose(model.fit_.params["bias"], by_hand.params["bias"])
    scores = LogisticRegression(max_iter=3000).fit(X[FIT], Y[FIT]).decision_function(X[TEST])
    assert np.allclose(model.predict_proba(X[TEST]), by_hand.predict_proba(scores))


def test_logits_with_names_for_classes_and_beta() -> None:
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(500, 3))
    y = np.array([rng.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in z])
    names = np.array(["ant", "bee", "cat"])
    model = PostHocCalibrator(beta=0.1).fit(z, names[y])
    assert model.classes_.tolist() == names.tolist()
    assert float(model.fit_.params["temperature"]) == pytest.approx(0.1, rel=0.15)
    assert np.allclose(model.predict_proba(z), calib_bench.fit("temperature_scaling", z, y, beta=0.1).predict_proba(z))
    assert set(model.predict(z)) <= {*names}
    absent = PostHocCalibrator("structured_vector_scaling").fit(z[y < 2], y[y < 2])
    assert absent.classes_.tolist() == [0, 1, 2]
    assert clone(model).get_params() == model.get_params()


def test_two_classes_by_one_column_or_by_a_margin() -> None:
    x, y = load_iris(return_X_y=True)
    x, y = x[y > 0], y[y > 0]
    machine = LinearSVC().fit(x, y)
    behind = PostHocCalibrator("platt_scaling", estimator=FrozenEstimator(machine)).fit(x, y)
    margins = machine.decision_function(x)[:, None]
    alone = PostHocCalibrator("platt_scaling").fit(margins, y)
    assert np.allclose(behind.predict_proba(x), alone.predict_proba(margins))
    assert behind.score(x, y) > 0.9


def test_it_works_in_a_pipeline_a_search_and_cross_validation() -> None:
    x, y = load_iris(return_X_y=True)
    pipe = make_pipeline(StandardScaler(), PostHocCalibrator(estimator=LogisticRegression(), cv=3))
    assert cross_val_score(pipe, x, y, cv=3).mean() > 0.9
    search = GridSearchCV(pipe, {"posthoccalibrator__method": ["temperature_scaling", "vector_scaling"]}, cv=3)
    assert search.fit(x, y).predict_proba(x).shape == (150, 3)


def test_a_classifier_that_has_probabilities_alone() -> None:
    neighbours = KNeighborsClassifier(20).fit(X[FIT], Y[FIT])
    model = PostHocCalibrator(estimator=FrozenEstimator(neighbours)).fit(X[CAL], Y[CAL])
    by_hand = calib_bench.fit("temperature_scaling", neighbours.predict_proba(X[CAL]), Y[CAL], kind="probabilities")
    assert np.allclose(model.predict_proba(X[TEST]), by_hand.predict_proba(neighbours.predict_proba(X[TEST])))
    assert log_loss(Y[TEST], model.predict_proba(X[TEST])) < log_loss(Y[TEST], neighbours.predict_proba(X[TEST]))


def test_logits_in_columns_of_another_order_are_refused() -> None:
    names = np.array(["cat", "dog", "bird"])
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(90, 3)), columns=names)
    y = names[np.arange(90) % 3]
    with pytest.raises(CalibrationError, match="called cat, dog, bird, and the classes in their order bird, cat, dog"):
        PostHocCalibrator().fit(frame, y)
    with pytest.raises(CalibrationError, match="called logit_cat, logit_dog, logit_bird, and the classes"):
        PostHocCalibrator().fit(frame.add_prefix("logit_"), y)
    with pytest.raises(
        CalibrationError, match="called logit_2, logit_1, logit_0, and the classes in their order 0, 1, 2"
    ):
        PostHocCalibrator().fit(frame.set_axis(["logit_2", "logit_1", "logit_0"], axis=1), np.arange(90) % 3)
    assert PostHocCalibrator().fit(frame[sorted(names)], y).classes_.tolist() == sorted(names)
    assert PostHocCalibrator().fit(frame.rename(columns=str.upper), np.arange(90) % 3).feature_names_in_[0] == "CAT"


def test_scores_of_pairs_of_classes_are_refused() -> None:
    x, y = load_iris(return_X_y=True)
    pairs = make_pipeline(StandardScaler(), SVC(decision_function_shape="ovo"))
    for estimator in (pairs, FrozenEstimator(pairs.fit(x, y)), GridSearchCV(pairs, {"svc__C": [1.0]}, cv=2)):
        with pytest.raises(CalibrationError, match="SVC gives a score for each pair of classes"):
            PostHocCalibrator(estimator=estimator, cv=2).fit(x, y)
    two = y < 2
    assert PostHocCalibrator("platt_scaling", estimator=pairs, cv=2).fit(x[two], y[two]).score(x[two], y[two]) > 0.9


def test_a_fold_without_a_class_is_refused() -> None:
    x, y = load_iris(return_X_y=True)
    with pytest.raises(CalibrationError, match="one of the 3 folds has no row of class 0 to learn from"):
        PostHocCalibrator(estimator=GaussianNB(), cv=KFold(3)).fit(x, y)


def test_what_is_wrong_is_said() -> None:
    z = np.random.default_rng(0).normal(size=(50, 3))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    with pytest.raises(CalibrationError, match="or the logarithms of the probabilities"):
        PostHocCalibrator().fit(p, np.arange(50) % 3)
    assert PostHocCalibrator().fit(np.log(p), np.arange(50) % 3).n_features_in_ == 3
    with pytest.raises(CalibrationError, match="did you mean 'temperature_scaling'"):
        PostHocCalibrator("temperature_scalin").fit(z, np.arange(50) % 3)
    with pytest.raises(ValueError, match="3 columns and y has 5 classes"):
        PostHocCalibrator().fit(z, np.arange(50) % 5)
    with pytest.raises(CalibrationError, match="Ridge has none of decision_function, predict_log_proba, predict_proba"):
        PostHocCalibrator(estimator=Ridge()).fit(z, np.arange(50) % 2)
    frozen = FrozenEstimator(LogisticRegression().fit(z, np.arange(50) % 2))
    with pytest.raises(CalibrationError, match="label 2, which is no class"):
        PostHocCalibrator(estimator=frozen).fit(z, np.arange(50) % 3)
