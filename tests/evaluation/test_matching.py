"""Files brought together by names: shards, seeds, rows and classes, and which columns are the classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from calib_bench import registry
from calib_bench.errors import DataError
from calib_bench.evaluation.compare import compare
from calib_bench.evaluation.evaluate import evaluate
from calib_bench.evaluation.matching import joined, match, same_classes, seeds
from calib_bench.evaluation.models import pair_up
from calib_bench.evaluation.predictions import check, read
from calib_bench.evaluation.validation import Predictions

N, K = 120, 4
RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(N, K))
P = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
Y = np.array([RNG.choice(K, p=row) for row in P])
OTHER = LOGITS / 2 + RNG.normal(size=(N, K))
CLASSES = ["cat", "dog", "frog", "ship"]
TEMPERATURE = registry.calibrators(("temperature_scaling",))


def table(folder: Path, name: str, columns: dict[str, Any], labels: Any, **extra: Any) -> str:
    """A CSV file of columns, labels and more columns."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    pd.DataFrame({**extra, **columns, "label": labels}).to_csv(path, index=False)
    return str(path)


def columns(names: list[str], values: np.ndarray) -> dict[str, Any]:
    """The columns of an array by names."""
    return dict(zip(names, values.T, strict=True))


def words(names: list[str], rows: slice | np.ndarray = slice(None)) -> list[str]:
    """Labels as names."""
    return [names[k] for k in Y[rows]]


def loss(predictions: Predictions) -> float:
    """Mean log loss, by PyTorch."""
    return float(torch.nn.functional.cross_entropy(predictions.Z_NK.double(), predictions.y_N))


RAW = float(-np.log(P[np.arange(N), Y]).mean())


# ---- classes


@pytest.mark.parametrize(
    ("names", "labels", "kind"),
    [
        ([f"prob_{c}" for c in CLASSES], CLASSES, None),
        ([f"P({c})" for c in CLASSES], CLASSES, None),
        ([f"P(y={c}|x)" for c in CLASSES], CLASSES, None),
        (["P(0)", "P(1)", "P(2)", "P(3)"], [0, 1, 2, 3], None),
        (["n01440764", "n11939491", "n02102040", "n01784675"], None, "probabilities"),
        (["prob_n01440764", "prob_n11939491", "prob_n02102040", "prob_n01784675"], [0, 1, 2, 3], None),
        (["type1", "type2", "type3", "other"], None, "probabilities"),
        (["type0", "type1", "type3", "type2"], None, "probabilities"),
        (["prob_class1", "prob_class2", "prob_class3", "prob_class4"], ["class1", "class2", "class3", "class4"], None),
        (["class_2", "class_1", "class_0", "class_3"], None, "probabilities"),
        (["7up", "coke", "pepsi", "h2o"], None, "probabilities"),
        (["prob_1", "prob_2", "prob_3", "prob_4"], [1, 2, 3, 4], None),
        (["4", "3", "2", "1"], [4, 3, 2, 1], "probabilities"),
        ([f"{c}_prob" for c in CLASSES], CLASSES, "probabilities"),
        ([f"p_{c}" for c in CLASSES], CLASSES, "probabilities"),
        (["class3_prob", "class1_prob", "class0_prob", "class2_prob"], [3, 1, 0, 2], "probabilities"),
        (["p3", "p1", "p0", "p2"], [3, 1, 0, 2], "probabilities"),
        (["3", "5", "7", "9"], [3, 5, 7, 9], "probabilities"),
        (["prob_2", "prob_0", "prob_3", "prob_1"], [2, 0, 3, 1], None),
        (["probability_00", "probability_01", "probability_02", "probability_03"], [0, 1, 2, 3], None),
    ],
)
def test_classes_of_every_name_are_read_as_they_are_called(
    names: list[str], labels: list[Any] | None, kind: str | None, tmp_path: Path
) -> None:
    place = table(tmp_path, "p", columns(names, P), [(labels or names)[k] for k in Y])
    (predictions,) = read(place, kind=kind)
    assert predictions.Z_NK.shape == (N, K)
    assert loss(predictions) == pytest.approx(RAW)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["type0", "type1", "other", "none"], "'other' stands beside columns with numbers"),
        (["logit_1", "logit_2", "logit_3", "logit_4"], "class 0 has no column"),
    ],
)
def test_a_class_is_never_dropped(names: list[str], message: str, tmp_path: Path) -> None:
    rows = Y < 2
    place = table(tmp_path, "p", columns(names, LOGITS[rows]), Y[rows])
    with pytest.raises(DataError, match=message):
        read(place, kind="logits")


@pytest.mark.parametrize("names", [("yes", "no"), ("pos", "neg"), ("True", "False"), ("toxic", "not_toxic")])
def test_yes_before_no_with_labels_as_numbers_is_refused(names: tuple[str, str], tmp_path: Path) -> None:
    p = P[:, :2] / P[:, :2].sum(1, keepdims=True)
    y = (RNG.random(N) < p[:, 1]).astype(int)
    called = [f"prob_{name}" for name in names]
    place = table(tmp_path, "p", columns(called, p), y)
    with pytest.raises(DataError, match=f"1 usually means '{names[0]}'"):
        read(place)
    with pytest.raises(DataError, match=f"1 usually means '{names[0]}'"):
        check_frame(pd.DataFrame(columns(called, p)), y)
    (as_text,) = read(table(tmp_path, "text", columns(called, p), [names[k] for k in y]))
    (turned,) = read(table(tmp_path, "turned", columns(called[::-1], p[:, ::-1]), 1 - y))
    assert loss(as_text) == pytest.approx(loss(turned))


def check_frame(frame: pd.DataFrame, labels: Any) -> Any:
    """The evaluation of a data frame."""
    from calib_bench.api import evaluate as judged

    return judged(frame, labels, kind="probabilities", calibrators="temperature_scaling")


def test_truth_values_are_labels_by_their_names(tmp_path: Path) -> None:
    p = P[:, :2] / P[:, :2].sum(1, keepdims=True)
    y = RNG.random(N) < p[:, 1]
    one = read(table(tmp_path, "a", {"prob_True": p[:, 1], "prob_False": p[:, 0]}, y))[0]
    other = read(table(tmp_path, "b", {"prob_False": p[:, 0], "prob_True": p[:, 1]}, y))[0]
    expected = -np.log(p[np.arange(N), y.astype(int)]).mean()
    assert loss(one) == pytest.approx(expected)
    assert loss(other) == pytest.approx(expected)


@pytest.mark.parametrize("extra", ["age", "fold", "confidence", "timestamp", "margin", "level_0", "id", "max_logit"])
def test_columns_that_are_no_class_are_left_aside(extra: str, tmp_path: Path) -> None:
    numbers = RNG.random(N) if extra in ("confidence", "margin", "max_logit") else np.arange(N) % 7
    for names, kind in (([f"prob_{c}" for c in CLASSES], None), (CLASSES, "probabilities")):
        (predictions,) = read(table(tmp_path, "p", columns(names, P), words(CLASSES), **{extra: numbers}), kind=kind)
        assert predictions.Z_NK.shape[1] == K
        assert any(note.startswith(("not used", "names of rows")) and extra in note for note in predictions.notes)
        assert loss(predictions) == pytest.approx(RAW)


@pytest.mark.parametrize("called", ["P({})", "prob[{}]", "probability of class {}", "class {} (softmax)", "prob_{}.0"])
def test_numbers_inside_names_order_the_classes(called: str, tmp_path: Path) -> None:
    order = [2, 0, 3, 1]
    turned = columns([called.format(k) for k in order], P[:, order])
    assert loss(read(table(tmp_path, "p", turned, Y), kind="probabilities")[0]) == pytest.approx(RAW)
    assert check_frame(pd.DataFrame(turned), Y)["log_loss"][0] == pytest.approx(RAW)


@pytest.mark.parametrize("shift", [0, 1])
def test_numbers_as_text_that_name_classes_are_no_positions(shift: int, tmp_path: Path) -> None:
    order, path = [2, 0, 3, 1], tmp_path / "p.npz"
    names = np.array([str(k + shift) for k in order])
    np.savez(path, probabilities=P[:, order], labels=Y + shift, classes=names)
    if shift:
        assert loss(read(str(path))[0]) == pytest.approx(RAW)
    else:
        with pytest.raises(DataError, match="which may be such names or positions"):
            read(str(path))


def test_a_class_of_whole_numbers_is_a_class(tmp_path: Path) -> None:
    Z = LOGITS.copy()
    Z[:, 2] = Z[:, 2].round()
    frame = columns(CLASSES, Z) | {"frog": Z[:, 2].astype(int)}
    (predictions,) = read(table(tmp_path, "p", frame, words(CLASSES)), kind="logits")
    assert torch.equal(predictions.Z_NK, torch.from_numpy(Z))


def test_digits_as_text_are_labels(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    pd.DataFrame({"logits": LOGITS.tolist(), "label": Y.astype(str)}).to_json(path, orient="records", lines=True)
    assert read(str(path))[0].y_N.tolist() == Y.tolist()


def test_a_score_of_the_top_class_is_not_taken_for_the_classes(tmp_path: Path) -> None:
    p = P[:, :2] / P[:, :2].sum(1, keepdims=True)
    place = table(tmp_path, "p", {"cat": p[:, 0], "dog": p[:, 1], "score": p.max(1)}, Y % 2)
    with pytest.raises(DataError, match="may be 'score' alone or the columns like 'cat'"):
        read(place, kind="probabilities")


FRAME = pd.DataFrame(P, columns=[f"prob_{name}" for name in CLASSES])


@pytest.mark.parametrize(
    ("frame", "labels"),
    [
        (FRAME, words(CLASSES)),
        (FRAME, Y),
        (FRAME.assign(age=40.5, id=range(N)), Y),
        (FRAME.iloc[:, ::-1].assign(fold=1), words(CLASSES)),
        (FRAME.set_axis([f"P({name})" for name in CLASSES], axis=1), words(CLASSES)),
        (pd.DataFrame(LOGITS[:, ::-1], columns=[f"class{k}_logit" for k in (3, 2, 1, 0)]), Y),
        (pd.DataFrame(LOGITS[:, ::-1], columns=[f"{name}_logit" for name in CLASSES[::-1]]), words(CLASSES)),
        (FRAME.assign(label=words(CLASSES), age=3.5), None),
        (pd.DataFrame(LOGITS, columns=CLASSES).assign(age=3.5), Y),
        (pd.DataFrame(LOGITS).rename(columns="logit_{}".format).assign(sample_id=range(N)), Y),
    ],
)
def test_data_frames_are_read_as_their_columns_are_called(frame: pd.DataFrame, labels: Any) -> None:
    from calib_bench.api import evaluate as judged

    assert judged(frame, labels, calibrators="temperature_scaling")["log_loss"][0] == pytest.approx(RAW)


def test_two_kinds_with_classes_in_other_orders_need_labels_by_name(tmp_path: Path) -> None:
    both = columns([f"prob_{c}" for c in CLASSES[::-1]], P[:, ::-1]) | columns([f"logit_{c}" for c in CLASSES], LOGITS)
    with pytest.raises(DataError, match="in another order, in others, and labels are numbers"):
        read(table(tmp_path, "numbers", both, Y))
    assert loss(read(table(tmp_path, "text", both, words(CLASSES)))[0]) == pytest.approx(RAW)


def test_a_column_of_no_class_in_a_data_frame_is_refused() -> None:
    with pytest.raises(DataError, match=r"column 'height' stands beside 'prob_cat'"):
        check_frame(FRAME.assign(height=1.8), Y)


# ---- shards


def shards(folder: Path, names: list[str]) -> list[Predictions]:
    """The rows in as many files as names, of sizes that differ."""
    ends = (N * np.linspace(0, 1, len(names) + 1) ** 1.2).round().astype(int)
    logits = [f"logit_{k}" for k in range(K)]
    places = [
        table(folder, name, columns(logits, LOGITS[a:b]), Y[a:b], row=np.arange(a, b))
        for name, a, b in zip(names, ends[:-1], ends[1:], strict=True)
    ]
    return [read(place)[0] for place in places]


@pytest.mark.parametrize(
    "names",
    [
        ["test-00000-of-00002", "test-00001-of-00002"],
        ["part_1_of_4", "part_2_of_4", "part_3_of_4", "part_4_of_4"],
        ["preds_rank0", "preds_rank1", "preds_rank2"],
        ["batch_0", "batch_1", "batch_2"],
        [f"shard{k}" for k in range(12)],
        ["chunk-01", "chunk-02"],
    ],
)
def test_shards_are_one_model_in_the_order_of_their_numbers(names: list[str], tmp_path: Path) -> None:
    parts = shards(tmp_path, names)
    (whole,) = joined(parts[::-1])
    assert whole.Z_NK.tolist() == LOGITS.tolist()
    assert whole.y_N.tolist() == Y.tolist()
    assert whole.ids["row"].tolist() == list(range(N))
    assert len(whole.sha256) == len(names)
    assert f"{len(names)} shards were joined" in whole.notes
    if len(names) > 2:
        with pytest.raises(DataError, match="is missing"):
            joined([parts[0], *parts[2:]])


def test_shards_of_two_seeds_are_two_models(tmp_path: Path) -> None:
    parts = shards(tmp_path, ["seed0_part1", "seed0_part2", "seed1_part1", "seed1_part2"])
    models = joined(parts)
    assert [len(model.y_N) for model in models] == [len(parts[k].y_N) + len(parts[k + 1].y_N) for k in (0, 2)]
    assert seeds(models) == [0, 1]


def test_models_that_are_called_like_shards_are_not_joined(tmp_path: Path) -> None:
    logits = [f"logit_{k}" for k in range(K)]
    for extra in ({}, {"id": [f"x{i}" for i in range(N)]}, {"index": np.arange(N)}):
        places = [
            table(tmp_path, f"model_{k}_of_2", columns(logits, Z), Y, **extra) for k, Z in ((1, LOGITS), (2, OTHER))
        ]
        with pytest.raises(DataError, match=r"hold .* if they are seeds or models"):
            joined([read(place)[0] for place in places])
    (alone,) = joined(read(table(tmp_path / "annotators_2_of_3", "test", columns(logits, LOGITS), Y)))
    assert alone.name == "test"


def test_files_with_examples_of_their_own_are_noted_unless_they_are_seeds(tmp_path: Path) -> None:
    parts = shards(tmp_path, ["preds_0", "preds_1"])
    assert any("call them part0, part1" in text for text in evaluate(pair_up(parts, []), {}).warnings)
    parts = shards(tmp_path, ["seed0", "seed1"])
    assert not any("call them part0" in text for text in evaluate(pair_up(parts, []), {}).warnings)


def test_ranks_of_matrices_are_no_shards(tmp_path: Path) -> None:
    logits = [f"logit_{k}" for k in range(K)]
    models = [read(table(tmp_path, f"lora_rank{r}", columns(logits, Z), Y))[0] for r, Z in ((8, LOGITS), (16, OTHER))]
    assert [len(p.y_N) for p in joined(models)] == [N, N]


# ---- seeds


def called(*places: str) -> list[Predictions]:
    """Predictions of files of such names, the k-th of them with logits k times those of the first."""
    made = [check((k + 1.0) * LOGITS, Y, "logits", place) for k, place in enumerate(places)]
    return [replace(p, sha256={place: ""}) for p, place in zip(made, places, strict=True)]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["runs/seed3/test.csv", "runs/seed11/test.csv"], [3, 11]),
        (["a_seed=007.npz", "a_seed=010.npz"], [7, 10]),
        (["seed1/e20_seed3.npz", "seed1/e30_seed4.npz"], [3, 4]),
        (["m1.npz", "m2.npz"], [1, 2]),
        (["m1_e10.npz", "m2_e20.npz"], None),
        (["one.npz", "two.npz"], None),
        (["x/a.npz", "y/a.npz"], None),
        (["seed1.npz", "seed1.csv"], None),
    ],
)
def test_seeds_by_names(places: list[str], expected: list[int] | None) -> None:
    assert seeds(called(*places)) == expected


def test_calibration_sets_go_to_the_tests_of_their_seed() -> None:
    tests = called("seed2/test.npz", "seed10/test.npz", "seed1/test.npz")
    rows = torch.arange(N).flip(0)
    fits = [replace(p, Z_NK=p.Z_NK[rows], y_N=p.y_N[rows]) for p in called(*(f"s/cal_seed{k}.npz" for k in (1, 2, 10)))]
    models = pair_up(tests, fits)
    assert [next(iter(m.calibration.sha256)) for m in models if m.calibration] == [
        "s/cal_seed2.npz",
        "s/cal_seed10.npz",
        "s/cal_seed1.npz",
    ]
    with pytest.raises(DataError, match="the calibration set lacks 2"):
        pair_up(tests, called("cal_seed1.npz", "cal_seed3.npz", "cal_seed10.npz"))


def test_files_whose_names_differ_in_two_numbers_are_taken_in_one_order_or_refused() -> None:
    a, fits = called("m1_e10.npz", "m2_e20.npz"), called("c_m1_e30.npz", "c_m2_e15.npz")
    rows = torch.arange(N).flip(0)
    fits = [replace(p, Z_NK=p.Z_NK[rows], y_N=p.y_N[rows]) for p in fits]
    assert [m.calibration.name for m in pair_up(a, fits) if m.calibration] == ["c_m1_e30.npz", "c_m2_e15.npz"]
    with pytest.raises(DataError, match="stand in different orders, 1, 2 and 2, 1"):
        pair_up(a, fits[::-1])


def test_what_is_known_of_classes_follows_their_order(tmp_path: Path) -> None:
    p = np.array([[0.0, 1.0], [1 / 7, 6 / 7], [np.exp(-6.3), 1 - np.exp(-6.3)], [np.exp(-0.4), 1 - np.exp(-0.4)]])
    (first,) = read(table(tmp_path, "first", columns(["prob_cat", "prob_dog"], p), ["cat", "dog", "dog", "cat"]))
    (turned,) = read(table(tmp_path, "turned", columns(["prob_dog", "prob_cat"], p[:, ::-1]), ["dog"] * 4))
    found = same_classes(first, turned)
    assert "no example of class 1" in turned.notes
    assert "no example of class 0" in found.notes
    assert "no example of class 1" not in found.notes
    assert first.zeros is not None
    assert found.zeros is not None
    assert len(set(first.zeros.step_K.tolist())) == 2
    assert found.zeros.step_K.tolist() == first.zeros.step_K.tolist()


# ---- rows


def with_ids(ids: Any, name: str = "id") -> Predictions:
    return replace(check(LOGITS[: len(ids)], Y[: len(ids)], "logits", "p"), ids={name: np.asarray(ids)})


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        (["a", "b", "c"], ["a", "b", "c"], "same"),
        (["a", "b", "c"], ["c", "a", "b"], "order"),
        ([1, 2, 3], ["3", "1", "2"], "order"),
        ([1.0, 2.0, 3.0], [3, 1, 2], "order"),
        (["/x/a.png", "/x/b.png", "/x/c.png"], ["/y/z/c.png", "/y/z/a.png", "/y/z/b.png"], "order"),
        (["/x/1/a.png", "/x/1/b.png", "/x/2/a.png"], ["/y/2/a.png", "/y/1/a.png", "/y/1/b.png"], "order"),
        (["/x/1/a.png", "/x/1/b.png", "/x/2/a.png"], ["C:\\1\\a.png", "C:\\1\\b.png", "C:\\2\\a.png"], "same"),
        (["a", "b", "c"], ["b", "c", "d"], "other"),
        (["a", "a", "b"], ["a", "b", "a"], "other"),
        (["g", "g", "g", "h"], ["h", "g", "g", "g"], "unknown"),
    ],
)
def test_rows_by_their_names(one: list[Any], other: list[Any], kind: str) -> None:
    a, b = with_ids(one), with_ids(other, "sample_id")
    assert match(a, b).kind == kind
    order = match(a, b).order
    if order is not None:
        ends = [[str(text).removesuffix(".0")[-5:] for text in texts] for texts in (one, other)]
        assert [ends[1][i] for i in order] == ends[0]


@pytest.mark.parametrize(("name", "called"), [("PassengerId", "p{}"), ("user_id", "{}"), ("text", "a text of {}")])
def test_rows_of_one_class_in_another_order_are_matched(name: str, called: str, tmp_path: Path) -> None:
    logits, rows = [f"logit_{k}" for k in range(K)], np.lexsort((RNG.random(N), Y))
    by_class = np.argsort(Y, kind="stable")
    assert Y[rows].tolist() == Y[by_class].tolist()
    one, other = (
        table(tmp_path, file, columns(logits, LOGITS[order]), Y[order], **{name: [called.format(i + 3) for i in order]})
        for file, order in (("a", by_class), ("b", rows))
    )
    (a,), (b,) = read(one), read(other)
    assert match(a, b).order is not None
    theirs = replace(b, ids={name: np.array([f"request {i}" for i in range(N)])})
    assert match(a, theirs).kind == "unknown"


def test_no_names_tell_nothing() -> None:
    nameless = check(LOGITS, Y, "logits", "p")
    assert match(nameless, with_ids(range(N))).kind == "unknown"


# ---- what may not change a number


def figures(frame: pd.DataFrame) -> np.ndarray:
    """All the numbers of a table."""
    return frame.select_dtypes("number").to_numpy(float)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.permutations(range(N)), order=st.permutations(range(K)))
def test_orders_of_named_rows_and_columns_change_no_number(rows: list[int], order: list[int], tmp_path: Path) -> None:
    ids = [f"img/{i:04}.png" for i in range(N)]
    called = [f"logit_{name}" for name in CLASSES]
    plain_a, plain_b = (
        table(tmp_path, name, columns(called, Z), words(CLASSES), id=ids) for name, Z in (("a", LOGITS), ("b", OTHER))
    )
    turned = table(
        tmp_path,
        "turned",
        columns([called[k] for k in order], OTHER[np.ix_(rows, order)]),
        words(CLASSES, np.array(rows)),
        id=[f"other/{ids[i]}" for i in rows],
    )
    a, b, c = (pair_up(read(place), []) for place in (plain_a, plain_b, turned))
    expected, actual = (compare(a, other, 0, 0).tables for other in (b, c))
    assert expected.keys() == actual.keys()
    for name, one in expected.items():
        np.testing.assert_allclose(figures(actual[name].frame), figures(one.frame), rtol=1e-9, atol=1e-12)
    fit = pair_up(read(plain_a), read(plain_b))
    fit_turned = pair_up(read(plain_a), read(turned))
    one, other = (evaluate(models, TEMPERATURE, 0, 0, True).tables["metrics"].frame for models in (fit, fit_turned))
    np.testing.assert_allclose(figures(other), figures(one), rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:overflow")
def test_logits_whose_squares_overflow_are_measured() -> None:
    from calib_bench.api import evaluate as judged

    values = judged(1e200 * LOGITS, Y, calibrators="temperature_scaling")["log_loss"]
    below = LOGITS.max(1) - LOGITS[np.arange(N), Y]
    assert values[0] == pytest.approx(1e200 * below.mean())
