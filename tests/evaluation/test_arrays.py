"""Predictions as notebooks hold them: the same numbers whatever holds them, by names where there are any."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

import calib_bench
from calib_bench.errors import DataError, SettingsError
from calib_bench.evaluation.arrays import predictions
from calib_bench.evaluation.frames import array
from calib_bench.evaluation.matching import same_classes
from calib_bench.evaluation.predictions import read

N, K = 60, 3
RNG = np.random.default_rng(0)
Z = (2 * RNG.normal(size=(N, K))).round(2)
P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
Y = np.array([RNG.choice(K, p=p) for p in P])
NAMES = ["cat", "dog", "frog"]
WORDS = np.array(NAMES)[Y]
T = torch.from_numpy(Z)
MIXED = RNG.permutation(N)
TEXT_INDEX = [f"image {i}" for i in range(N)]

SAME: dict[str, tuple[Any, Any]] = {
    "arrays": (Z, Y),
    "lists": (Z.tolist(), Y.tolist()),
    "tensors": (T, torch.from_numpy(Y)),
    "gradients": (T.clone().requires_grad_(), torch.from_numpy(Y)),
    "rows of tensors": ([row.clone().requires_grad_() for row in T], list(torch.from_numpy(Y))),
    "a generator": ((row for row in Z), Y),
    "sparse": (T.to_sparse(), Y),
    "conjugate": (torch.complex(T, T).real, Y),
    "objects": (Z.astype(object), Y.astype(object)),
    "read-only": (np.broadcast_to(Z, Z.shape), Y),
    "negative strides": (Z[::-1].copy()[::-1], Y[::-1].copy()[::-1]),
    "nothing masked": (np.ma.masked_invalid(Z), np.ma.array(Y)),
    "labels [N, 1]": (Z, Y[:, None]),
    "a list of one model": ([Z], Y),
    "one of one": (Z[None], Y[None]),
    "frame": (pd.DataFrame(Z), pd.Series(Y)),
    "index from 5": (pd.DataFrame(Z, index=np.arange(5, N + 5)), pd.Series(Y, index=np.arange(5, N + 5))),
    "shuffled alike": (pd.DataFrame(Z).iloc[MIXED], pd.Series(Y).iloc[MIXED]),
    "index of one, the other counted": (pd.DataFrame(Z), pd.Series(Y, index=TEXT_INDEX)),
    "frame of labels": (pd.DataFrame(Z), pd.DataFrame({"label": Y})),
    "nullable": (pd.DataFrame(Z).convert_dtypes(), pd.Series(Y, dtype="Int64")),
    "categories": (pd.DataFrame(Z), pd.Series(Y).astype("category")),
    "arrow": (pa.table({str(k): Z[:, k] for k in range(K)}), pa.array(Y)),
    "matched rows": (pd.DataFrame(Z, index=TEXT_INDEX), pd.Series(Y, index=TEXT_INDEX).iloc[MIXED]),
    "names": (pd.DataFrame(Z, columns=NAMES), WORDS),
    "rows by name": ([dict(zip(NAMES, row, strict=True)) for row in Z], WORDS),
    "rows that hold all": ([{"logits": row, "label": y} for row, y in zip(Z, Y, strict=True)], None),
    "answers of a pipeline": (
        [[{"label": NAMES[k], "score": row[k]} for k in np.argsort(-row)] for row in Z],
        WORDS,
    ),
    "names in another order": (pd.DataFrame(Z, columns=NAMES)[["frog", "cat", "dog"]], pd.Series(WORDS)),
    "names and categories": (pd.DataFrame(Z, columns=NAMES), pd.Series(WORDS).astype("category")),
    "names and numbers": (pd.DataFrame(Z, columns=NAMES), Y),
    "numbers in another order": (pd.DataFrame(Z)[[2, 0, 1]], Y),
    "numbered names": (pd.DataFrame(Z, columns=["logit_0", "logit_1", "logit_2"]).iloc[:, [2, 0, 1]], Y),
    "numbered from 1": (pd.DataFrame(Z, columns=[1, 2, 3]), Y + 1),
    "any numbers": (pd.DataFrame(Z, columns=[3, 17, 5])[[5, 3, 17]], np.array([3, 17, 5])[Y]),
    "its own labels": (pd.DataFrame(Z).add_prefix("logit_").assign(id=1, true_label=Y), None),
    "labels by name": (pd.DataFrame(Z).add_prefix("logit_").assign(species=Y, label=0), "species"),
    "a column of lists": (pd.DataFrame({"logits": list(Z), "ids": [[1] * (i % 4) for i in range(N)], "y": Y}), None),
    "arrays by name": ({"logits": Z, "labels": Y, "paths": np.array([None] * N)}, None),
    "texts of numbers": (Z, Y.astype(str)),
    "bytes": (pd.DataFrame(Z, columns=NAMES), np.array(WORDS).astype("S")),
    "models by name": ({"seed 0": Z}, {"seed 0": Y}),
}  # fmt: skip


@pytest.mark.parametrize("how", SAME)
def test_the_same_numbers_whatever_holds_them(how: str) -> None:
    (found,) = predictions(*SAME[how], None, "test")
    rows = found.Z_NK.double().log_softmax(-1)
    loss = float(-rows.gather(1, found.y_N[:, None]).mean())
    assert loss == pytest.approx(log_loss(Y, P), rel=1e-12)
    assert found.kind == "logits"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_narrow_tensors_are_what_they_hold(dtype: torch.dtype) -> None:
    (found,) = predictions(T.to(dtype).requires_grad_(), Y, None, "test")
    assert found.Z_NK.tolist() == T.to(dtype).double().tolist()


def test_a_frame_says_what_its_numbers_are() -> None:
    (found,) = predictions(pd.DataFrame(P).add_prefix("prob_"), Y, None, "test")
    assert found.kind == "probabilities"
    frame = calib_bench.evaluate(pd.DataFrame(P, columns=NAMES), pd.Series(WORDS), kind="probabilities")
    assert frame["log_loss"][0] == pytest.approx(log_loss(Y, P), rel=1e-9)
    assert frame["accuracy"][0] == np.mean(P.argmax(1) == Y)


def numbers(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame(Z).add_prefix("logit_").assign(**columns)


REFUSED: dict[str, tuple[Callable[[], tuple[Any, Any]], str]] = {
    "no labels": (lambda: (Z, None), "labels are missing: give an array"),
    "no predictions": (lambda: (None, Y), "predictions are missing"),
    "an empty list": (lambda: ([], []), "the list is empty"),
    "empty": (lambda: (Z[:0], Y[:0]), "empty"),
    "an empty frame": (lambda: (pd.DataFrame(Z[:0]), pd.Series(Y[:0])), "empty"),
    "a name without columns": (lambda: (Z, "label"), "'label' names a column, and the predictions have none"),
    "meta": (lambda: (T.to("meta"), Y), "meta device"),
    "masked": (lambda: (np.ma.masked_less(Z, -3), Y), "masked, the first in row"),
    "masked labels": (lambda: (Z, np.ma.masked_equal(Y, 0)), "labels: some numbers are masked"),
    "missing": (lambda: (pd.DataFrame(Z).convert_dtypes().mask(lambda d: d < -3), Y), "missing"),
    "ragged": (lambda: ([[1.0, 2.0], [1.0]], [0, 1]), "cannot be read as an array"),
    "texts": (lambda: (Z, WORDS), "not text"),
    "a generator of batches": (lambda: (iter([Z[:20], Z[20:]]), Y), "as many labels"),
    "batches": (lambda: ([Z[:20], Z[20:40], Z[40:]], Y), "as many labels .60. as rows in all 3 arrays together"),
    "batches with labels": (lambda: ([Z[:40], Z[40:]], [Y[:40], Y[40:]]), "batches of one model: .*concatenate"),
    "even batches": (lambda: ([Z[:30], Z[30:]], [Y[:30], Y[30:]]), "batches of one model"),
    "a strange name": (lambda: (pd.DataFrame(Z, columns=NAMES), np.where(Y == 0, "cats", WORDS)), "did you mean 'cat'"),
    "a strange number": (lambda: (pd.DataFrame(Z, columns=[1, 2, 3]), Y), "'1' to '3', and none is that of label 0"),
    "index in two orders": (lambda: (pd.DataFrame(Z), pd.Series(Y).iloc[MIXED]), "one of them only counts"),
    "other rows": (lambda: (pd.DataFrame(Z, index=TEXT_INDEX), pd.Series(Y, [*TEXT_INDEX[1:], "x"])), "'x' of the"),
    "a name twice": (lambda: (pd.DataFrame(Z, columns=["a", "a", "b"]), Y), "more than one column called 'a'"),
    "class 0 alone": (lambda: (pd.DataFrame({"prob_0": P[:, 0]}), Y > 0), "that of class 0: give that of class 1"),
    "two that differ": (lambda: (numbers(label=Y, target=(Y + 1) % 3), None), "'label' and 'target' differ"),
    "no such column": (lambda: (numbers(label=Y), "lable"), "did you mean 'label'"),
    "no column of labels": (lambda: (numbers(), None), "holds no labels"),
    "a long text": (lambda: (pd.DataFrame({"logits": ["x" * 300] * N, "label": Y}), None), "is text"),
    "other models": (lambda: ({"a": Z}, {"b": Y}), "predictions are of a, labels of b"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_told_is_refused(what: str) -> None:
    make, hint = REFUSED[what]
    with pytest.raises(DataError, match=hint) as error:
        calib_bench.evaluate(*make())
    assert "\n" not in str(error.value)


def test_calibration_columns_are_matched_by_name() -> None:
    """Where columns come in other orders, the fit is that of one order; with numbers as labels there is no telling."""
    rng = np.random.default_rng(1)
    other = 3 * rng.normal(size=(200, K))
    right = np.array([rng.choice(K, p=np.exp(z / 3) / np.exp(z / 3).sum()) for z in other])
    test, cal = pd.DataFrame(Z, columns=NAMES), pd.DataFrame(other, columns=NAMES)
    words = np.array(NAMES)[right]
    how: dict[str, Any] = {"calibrators": "temperature_scaling"}
    plain = calib_bench.evaluate(Z, Y, (other, right), **how)
    assert list(plain["method"]) == ["raw", "temperature_scaling"]
    turned = calib_bench.evaluate(test, WORDS, (cal[["frog", "cat", "dog"]], words), **how)
    assert turned["log_loss"].tolist() == pytest.approx(plain["log_loss"].tolist(), rel=1e-12)
    assert turned["kappa"][1] == pytest.approx(plain["kappa"][1], rel=1e-12)
    assert any("matched by their names" in text for text in turned.attrs["warnings"])
    bare = calib_bench.evaluate(test, WORDS, (other, right), **how)
    assert any("classes 0 to 2 were taken for" in text for text in bare.attrs["warnings"])
    assert not any("were taken for" in text for text in turned.attrs["warnings"] + plain.attrs["warnings"])
    with pytest.raises(DataError, match="labels are numbers"):
        calib_bench.evaluate(test, Y, (cal[["frog", "cat", "dog"]], right), **how)
    with pytest.raises(DataError, match=r"'bird'|'frog'"):
        calib_bench.evaluate(
            test, WORDS, (cal.rename(columns={"frog": "bird"}), np.where(right == 2, "cat", words)), **how
        )
    whole = calib_bench.evaluate(
        pd.DataFrame(Z).add_prefix("logit_").assign(species=Y), "species",
        pd.DataFrame(other).add_prefix("logit_").assign(species=right), **how,
    )  # fmt: skip
    assert whole["log_loss"].tolist() == pytest.approx(plain["log_loss"].tolist(), rel=1e-12)
    with pytest.raises(DataError, match="pair"):
        calib_bench.evaluate(Z, Y, other, **how)


def test_models_are_paired_by_name() -> None:
    rng = np.random.default_rng(2)
    cal = rng.normal(size=(100, K))
    right = rng.integers(0, K, 100)
    how: dict[str, Any] = {"calibrators": ["temperature_scaling"]}
    one = calib_bench.evaluate({"a": Z, "b": 2 * Z}, Y, ({"a": cal, "b": 2 * cal}, right), **how)
    other = calib_bench.evaluate({"a": Z, "b": 2 * Z}, Y, ({"b": 2 * cal, "a": cal}, right), **how)
    assert one["log_loss"].tolist() == other["log_loss"].tolist()
    assert one["log_loss"][1] == pytest.approx(calib_bench.evaluate(Z, Y, (cal, right), **how)["log_loss"][1], rel=1e-6)
    with pytest.raises(DataError, match="test set are a, b, those of the calibration set a, c"):
        calib_bench.evaluate({"a": Z, "b": Z}, Y, ({"a": cal, "c": cal}, right), **how)
    apart = calib_bench.evaluate({"a": Z[:40], "b": Z[20:]}, {"b": Y[20:], "a": Y[:40]})
    halves = [log_loss(Y[rows], P[rows]) for rows in (slice(0, 40), slice(20, None))]
    assert apart["log_loss"][0] == pytest.approx(np.mean(halves), rel=1e-9)


def test_logits_that_look_like_probabilities_are_believed_where_that_is_said() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(3), len(Y))
    how: dict[str, Any] = {"kind": "logits", "calibrators": "temperature_scaling"}
    with pytest.raises(DataError, match="trust_kind=True"):
        calib_bench.evaluate(p[:30], Y[:30], (p[30:], Y[30:]), **how)
    trusted = calib_bench.evaluate(p[:30], Y[:30], (p[30:], Y[30:]), trust_kind=True, **how)
    other = calib_bench.evaluate(p[:30] - 1, Y[:30], (p[30:] - 1, Y[30:]), **how)
    assert trusted["log_loss"].tolist() == pytest.approx(other["log_loss"].tolist())
    with pytest.raises(DataError, match="trust_kind=True"):
        calib_bench.fit("temperature_scaling", p, Y)
    fits = [
        calib_bench.fit("temperature_scaling", p, Y, trust_kind=True),
        calib_bench.fit("temperature_scaling", p - 1, Y),
    ]
    assert float(fits[0].params["temperature"]) == pytest.approx(float(fits[1].params["temperature"]))


def test_arrays_that_may_be_sequences_of_one_model_are_noted() -> None:
    several = Z.reshape(4, 15, K), Y.reshape(4, 15)
    assert any("values.reshape(-1, K)" in text for text in calib_bench.evaluate(*several).attrs["warnings"])
    named, labels = ({f"seed {i}": values for i, values in enumerate(side)} for side in several)
    for values, right in ((named, labels), (np.stack([Z, Z]), Y)):
        frame = calib_bench.evaluate(values, right)
        assert not any("reshape" in text for text in frame.attrs["warnings"])


@pytest.mark.parametrize("form", ["rows", "pipeline"])
def test_rows_that_name_their_classes_have_no_places_for_numbers(form: str) -> None:
    rows: list[Any] = [dict(zip(NAMES, row, strict=True)) for row in Z.tolist()]
    if form == "pipeline":
        rows = [[{"label": k, "score": row[k]} for k in sorted(row, key=row.__getitem__)] for row in rows]
    with pytest.raises(DataError, match="nothing says which number is which class"):
        calib_bench.evaluate(rows, Y)
    with pytest.raises(DataError, match="nothing says which number is which class"):
        calib_bench.evaluate(rows[:30], WORDS[:30], (Z[30:], Y[30:]), calibrators="vector_scaling")
    with pytest.raises(DataError, match="nothing says which number is which class"):
        calib_bench.fit("vector_scaling", Z, Y).predict_proba(rows)
    fit = calib_bench.fit("vector_scaling", rows, WORDS)
    assert fit.class_names == tuple(NAMES)  # by the alphabet, not by the first row's scores
    expected = calib_bench.fit("vector_scaling", pd.DataFrame(Z, columns=NAMES), WORDS).predict_proba(Z)
    np.testing.assert_allclose(fit.predict_proba(rows), expected, rtol=1e-9)


def test_the_answer_of_the_most_probable_class_alone_is_refused() -> None:
    with pytest.raises(DataError, match="top_k=None"):
        calib_bench.evaluate([{"label": name, "score": 0.9} for name in WORDS], WORDS, kind="probabilities")
    twice = [[{"label": name, "score": 0.5} for name in ("cat", "cat", "dog")] for _ in WORDS]
    with pytest.raises(DataError, match="more than one label called 'cat'"):
        calib_bench.evaluate(twice, WORDS, kind="probabilities")


def test_one_calibrator_may_be_named_alone() -> None:
    frame = calib_bench.evaluate(Z, Y, folds=2, calibrators="temperature_scaling")
    assert list(frame["method"]) == ["raw", "temperature_scaling"]
    both = calib_bench.evaluate(Z, Y, folds=2, calibrators="temperature_scaling,histogram_binning")
    assert list(both["method"]) == ["raw", "temperature_scaling", "histogram_binning"]
    with pytest.raises(SettingsError, match="did you mean 'temperature_scaling"):
        calib_bench.evaluate(Z, Y, folds=2, calibrators="temperature_scalin")


def test_what_is_worth_saying_is_said() -> None:
    def notes(values: Any, labels: Any) -> list[str]:
        return list(predictions(values, labels, None, "test")[0].notes)

    assert "labels were matched to predictions by their index" in notes(*SAME["matched rows"])
    assert "classes 0 to 2 are the columns cat, dog, frog" in notes(*SAME["names and numbers"])
    assert "columns were put in the order of their numbers" in notes(*SAME["numbers in another order"])
    assert any("not in that of their index" in text for text in notes(Z, pd.Series(Y).iloc[MIXED]))
    assert "labels are 'species'; not used: label" in notes(*SAME["labels by name"])
    assert notes(pd.DataFrame(Z), pd.Series(Y)) == []
    assert notes(Z, pd.Series(Y, index=np.arange(N) * 7 + 3)) == []


@pytest.mark.parametrize("labels", [Y, np.array(WORDS)], ids=["numbers", "texts"])
def test_a_column_of_another_range_is_no_class(labels: np.ndarray) -> None:
    held = pd.DataFrame(Z, columns=NAMES).assign(height=170.0)
    with pytest.raises(DataError, match="column 'height' holds numbers about 170"):
        predictions(held, labels, None, "test")
    (found,) = predictions(held.add_prefix("logit_"), labels, None, "test")
    assert found.Z_NK.shape == (N, 4)


@pytest.mark.parametrize("name", ["prob_no", "prob_negative", "prob_False"])
def test_a_single_column_of_the_negative_class_is_refused(name: str) -> None:
    p = P[:, 1] / P[:, :2].sum(1)
    with pytest.raises(DataError, match="is that of class 0: give that of class 1"):
        calib_bench.evaluate(pd.DataFrame({name: 1 - p}), Y % 2, kind="probabilities")
    frame = calib_bench.evaluate(pd.DataFrame({"prob_yes": p, "label": Y % 2}))
    assert frame["log_loss"][0] == pytest.approx(log_loss(Y % 2, np.stack([1 - p, p], 1)), rel=1e-9)


@pytest.mark.parametrize("prefix", ["", "logit_"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
def test_classes_may_be_called_by_numbers_below_zero(order: list[int], prefix: str, tmp_path: Path) -> None:
    held, y = pd.DataFrame(Z[:, :3], columns=[-1, 0, 1]).iloc[:, order].add_prefix(prefix), Y % 3 - 1
    places = [order.index(label) for label in (Y % 3).tolist()]
    (found,) = predictions(held, y, None, "test")
    assert found.y_N.tolist() == places
    with pytest.raises(DataError, match=r"the label '2' is the name of no class"):
        predictions(held, y + 1, None, "test")
    held.add_prefix("" if prefix else "logit_").assign(label=y).to_csv(tmp_path / "p.csv", index=False)
    (found,) = read(str(tmp_path / "p.csv"))
    by_name = dict(zip(found.classes or (), found.Z_NK.T.numpy(), strict=True))
    for name, column in zip(("-1", "0", "1"), Z[:, :3].T, strict=True):
        assert by_name[name] == pytest.approx(column)
    assert [(found.classes or ())[place] for place in found.y_N] == [*map(str, y)]


def test_an_open_file_is_arrays_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", logits=Z, labels=Y, paths=np.array(["a", None] * 30, dtype=object))
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        frame = calib_bench.evaluate(file)
    assert frame["log_loss"][0] == pytest.approx(log_loss(Y, P), rel=1e-9)


@given(order=st.permutations(range(K)), rows=st.permutations(range(N)))
def test_orders_of_named_columns_and_rows_change_nothing(order: list[int], rows: list[int]) -> None:
    held = pd.DataFrame(Z, columns=NAMES, index=TEXT_INDEX).iloc[:, order]
    (first,) = predictions(pd.DataFrame(Z, columns=NAMES), pd.Series(WORDS), None, "test")
    (turned,) = predictions(held, pd.Series(WORDS, index=TEXT_INDEX).iloc[rows], None, "test")
    found = same_classes(first, turned)
    assert found.classes == tuple(NAMES)
    assert found.Z_NK.tolist() == Z.tolist()
    assert found.y_N.tolist() == Y.tolist()


def test_arrays_of_foreign_types_keep_their_numbers() -> None:
    assert array([torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0])], "x").tolist() == [
        [1, 2],
        [3, 4],
    ]
    assert array(pd.Series([1, 2], dtype="Int64"), "x").tolist() == [1, 2]
    assert array(torch.tensor([1.5], dtype=torch.bfloat16), "x").dtype == np.float32
    with pytest.raises(DataError, match="None is given"):
        array(None, "x")
