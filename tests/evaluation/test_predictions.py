"""Reading predictions: every format gives the same numbers, nothing is guessed, nothing read can run code."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file
from synthetic import make

from calib_bench.errors import DataError, SettingsError, StoreError
from calib_bench.evaluation.predictions import check, check_kind, read
from calib_bench.evaluation.vocabulary import KINDS

Arrays = tuple[np.ndarray, np.ndarray]
Write = Callable[[Path, np.ndarray, np.ndarray, str], str]


@pytest.fixture(scope="module")
def digits() -> Arrays:
    """Logits and labels of a real classifier."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    X, y = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=500).fit(X[:400] / 16, y[:400])
    return model.decision_function(X[400:600] / 16), y[400:600]


def npz(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    np.savez(path / "p.npz", **{kind: Z, "labels": y})
    return str(path / "p.npz")


def npy(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    np.save(path / f"test_{kind}.npy", Z)
    np.save(path / "y.npy", y)
    return f"{path / f'test_{kind}.npy'}:{path / 'y.npy'}"


def safetensors(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    save_file({kind: Z, "targets": y}, path / "p.safetensors")
    return str(path / "p.safetensors")


def frame(Z: np.ndarray, y: np.ndarray, kind: str) -> pd.DataFrame:
    """Class columns in disorder around the labels, and one that is no class."""
    order = np.random.default_rng(0).permutation(Z.shape[1])
    columns = {f"{KINDS[kind][-1]}_{k}": Z[:, k] for k in order}
    return pd.DataFrame({"id": np.arange(len(y)) + 100, **columns, "label": y})


def csv(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    frame(Z, y, kind).to_csv(path / "p.csv", index=False)
    return str(path / "p.csv")


def tsv(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    frame(Z, y, kind).to_csv(path / "p.tsv", index=False, sep="\t")
    return str(path / "p.tsv")


def parquet(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    frame(Z, y, kind).to_parquet(path / "p.parquet", index=False)
    return str(path / "p.parquet")


def lists(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    pd.DataFrame({kind: list(Z), "y": y}).to_parquet(path / "lists.parquet", index=False)
    return str(path / "lists.parquet")


def csv_gz(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    frame(Z, y, kind).to_csv(path / "p.csv.gz", index=False)
    return str(path / "p.csv.gz")


def jsonl(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    rows = ({"id": i, kind: z, "label": k} for i, (z, k) in enumerate(zip(Z.tolist(), y.tolist(), strict=True)))
    (path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path / "p.jsonl")


def feather(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    frame(Z, y, kind).to_feather(path / "p.feather")
    return str(path / "p.feather")


def arrow(path: Path, Z: np.ndarray, y: np.ndarray, kind: str) -> str:
    """A stream of batches with lists, as `datasets` saves them."""
    table = pa.table({kind: pa.array(list(Z)), "labels": y})
    with pa.OSFile(str(path / "p.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=7)
    return str(path / "p.arrow")


FORMATS: list[Write] = [npz, npy, safetensors, csv, tsv, parquet, lists, csv_gz, jsonl, feather, arrow]


@pytest.mark.parametrize("write", FORMATS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("kind", ["logits", "probabilities", "log_probabilities"])
def test_every_format_gives_the_same_numbers(write: Write, kind: str, digits: Arrays, tmp_path: Path) -> None:
    Z, y = digits
    logp = torch.from_numpy(Z).log_softmax(-1)
    given_ = {"logits": Z, "probabilities": logp.exp().numpy(), "log_probabilities": logp.numpy()}[kind]
    (found,) = read(write(tmp_path, given_, y, kind))
    torch.testing.assert_close(found.Z_NK.log_softmax(-1), logp, rtol=0, atol=1e-9)
    assert found.kind == kind
    assert found.exact == (kind == "logits")
    assert found.y_N.tolist() == y.tolist()
    assert found.y_N.dtype == torch.int64
    assert all(len(digest) == 64 for digest in found.sha256.values())
    if write in (csv, tsv, parquet, csv_gz, jsonl, feather):
        assert "names of rows: id" in found.notes


def test_unnamed_class_columns_need_a_kind(digits: Arrays, tmp_path: Path) -> None:
    Z, y = digits
    data = pd.DataFrame(Z, columns=list("abcdefghij")).assign(label=y)
    data.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(DataError, match="--kind logits"):
        read(str(tmp_path / "p.csv"))
    (found,) = read(str(tmp_path / "p.csv"), kind="logits")
    assert found.Z_NK.numpy() == pytest.approx(Z, abs=0)
    assert "classes 0 to 9 are the columns a, b, c" in found.notes[0]
    data.assign(id=1).to_csv(tmp_path / "p.csv", index=False)
    (found,) = read(str(tmp_path / "p.csv"), kind="logits")
    assert found.Z_NK.numpy() == pytest.approx(Z, abs=0)
    assert "names of rows: id" in found.notes
    swapped = pd.DataFrame({"1": Z[:, 1], "0": Z[:, 0], "label": y % 2})
    swapped.to_csv(tmp_path / "p.csv", index=False)
    (found,) = read(str(tmp_path / "p.csv"), kind="logits")
    assert found.Z_NK.numpy() == pytest.approx(Z[:, :2], abs=0)


NAMES = ["cat", "dog", "frog"]


@pytest.mark.parametrize("labels", [pytest.param(None, id="numbers"), pytest.param(NAMES, id="texts")])
@pytest.mark.parametrize("place", [0, 3])
def test_an_unnamed_column_of_another_range_is_no_class(labels: list[str] | None, place: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Z, y = 3 * rng.normal(size=(30, 3)), np.arange(30) % 3
    frame = pd.DataFrame(Z, columns=NAMES).assign(label=y if labels is None else np.array(labels)[y])
    frame.to_csv(tmp_path / "p.csv", index=False)
    assert read(str(tmp_path / "p.csv"), kind="logits")[0].y_N.tolist() == y.tolist()
    frame.insert(place, "height", np.linspace(150, 190, len(y)))
    frame.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(DataError, match="column 'height' holds numbers about 170"):
        read(str(tmp_path / "p.csv"), kind="logits")


def test_probabilities_of_rare_classes_are_of_any_range(tmp_path: Path) -> None:
    p = np.array([[0.98, 0.012, 0.008], [0.979, 0.011, 0.01], [0.4, 0.3, 0.3]])
    for kind, values in (("probabilities", p), ("log_probabilities", np.log(p))):
        pd.DataFrame(values, columns=NAMES).assign(label=[0, 0, 1]).to_csv(tmp_path / "p.csv", index=False)
        assert read(str(tmp_path / "p.csv"), kind=kind)[0].Z_NK.shape == (3, 3)


def test_a_mask_is_of_no_range(tmp_path: Path) -> None:
    frame = pd.DataFrame({"cat": [1.0, 2.0], "dog": [0.5, 3.0], "frog": [-1e9, -1e9], "label": [0, 1]})
    frame.to_csv(tmp_path / "p.csv", index=False)
    assert read(str(tmp_path / "p.csv"), kind="logits")[0].Z_NK.shape == (2, 3)


def test_a_column_that_is_often_the_largest_and_never_the_label_is_no_class(tmp_path: Path) -> None:
    Z = np.tile([[1.0, 0.0], [0.0, 1.0]], (50, 1))
    labels = np.tile(["cat", "dog"], 50)
    rare, often = np.full(100, -1.0), np.tile([1.75, 0.5, 0.5], 34)[:100]
    for values in (rare, often):
        pd.DataFrame({"cat": Z[:, 0], "dog": Z[:, 1], "height": values, "label": labels}).to_csv(
            tmp_path / "p.csv", index=False
        )
        if values is rare:
            assert read(str(tmp_path / "p.csv"), kind="logits")[0].classes == ("cat", "dog", "height")
    with pytest.raises(DataError, match="'height' is the largest in 34 of 100 rows and the label of none"):
        read(str(tmp_path / "p.csv"), kind="logits")


@pytest.mark.parametrize("summary", ["max", "mean", "peak"])
def test_a_summary_of_the_classes_is_none_of_them(summary: str, tmp_path: Path) -> None:
    Z, y = 2 * np.random.default_rng(0).normal(size=(90, 3)), np.array(["cat", "dog", "bird"])[np.arange(90) % 3]
    held = pd.DataFrame(Z, columns=["cat", "dog", "bird"])
    held[summary] = Z.mean(1) if summary == "mean" else Z.max(1)
    held.assign(label=y).to_csv(tmp_path / "p.csv", index=False)
    if summary == "peak":
        with pytest.raises(DataError, match="'peak' is the largest in 90 of 90 rows and the label of none"):
            read(str(tmp_path / "p.csv"), kind="logits")
        return
    (found,) = read(str(tmp_path / "p.csv"), kind="logits")
    assert found.Z_NK.shape == (90, 3)
    assert f"not used: {summary}" in found.notes


@pytest.mark.parametrize("labels", [[0, 1, 2], NAMES], ids=["numbers", "texts"])
def test_a_column_before_the_classes_is_none_of_them(labels: list[object], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y, Z = np.arange(300) % 3, rng.normal(size=(300, 4))
    Z[np.arange(300), y + 1] += 1
    frame = pd.DataFrame(Z, columns=["bias", *NAMES]).assign(label=np.array(labels)[y])
    frame.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(DataError, match="the label of no row, as if" if labels[0] == 0 else "'bias' is the largest in"):
        read(str(tmp_path / "p.csv"), kind="logits")
    frame.drop(columns="bias").to_csv(tmp_path / "p.csv", index=False)
    assert read(str(tmp_path / "p.csv"), kind="logits")[0].y_N.tolist() == y.tolist()


NAMED: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "texts in bytes": ({"labels": np.array([b"yes", b"no", b"yes"]), "classes": np.array([b"no", b"yes"])}, ""),
    "floats": ({"labels": np.array([2.0, 1.0, 2.0]), "classes": np.array([1.0, 2.0])}, ""),
    "numbers": (
        {"labels": np.array([1, 0, 1]), "classes": np.array(["yes", "no"])},
        "; labels are numbers, of which 0 is yes and 1 is no",
    ),
}


@pytest.mark.parametrize("shape", [(3, 2), (3, 1), (3,)], ids=str)
@pytest.mark.parametrize("how", NAMED)
def test_an_archive_names_the_classes(how: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    arrays, note = NAMED[how]
    Z = np.array([[-1.0, 1.0], [2.0, -2.0], [-3.0, 3.0]])
    logits = Z if shape == (3, 2) else 2 * Z[:, 1].reshape(shape)
    np.savez(tmp_path / "p.npz", logits=logits, **arrays)
    (found,) = read(str(tmp_path / "p.npz"))
    assert found.Z_NK.tolist() == Z.tolist()
    assert found.y_N.tolist() == [1, 0, 1]
    assert any(text.startswith("the file names the classes") and text.endswith(note) for text in found.notes)


def test_a_column_may_turn_from_whole_numbers_to_fractions_late(tmp_path: Path) -> None:
    N = 150_000
    rows = ["probability_0,probability_1,label", *["1,0,0"] * N, "0.25,0.75,1"]
    (tmp_path / "p.csv").write_text("\n".join(rows))
    (found,) = read(str(tmp_path / "p.csv"))
    assert found.Z_NK[-1].exp().tolist() == pytest.approx([0.25, 0.75])


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_two_classes_in_one_column(shape: tuple[int, ...]) -> None:
    z = np.array([-3.0, 0.2, 40.0])
    p = 1 / (1 + np.exp(-z))
    y = np.array([0, 1, 1])
    for kind, values in (("logits", z), ("scores", z), ("probabilities", p)):
        found = check(values.reshape(shape), y, kind, "x")
        assert found.Z_NK.softmax(-1)[:, 1].numpy() == pytest.approx(p, rel=1e-12)
        assert not found.exact
    certain = check(np.array([0.0, 1.0]), np.array([0, 1]), "probabilities", "x")
    assert certain.Z_NK.softmax(-1).tolist() == [[1.0, 0.0], [0.0, 1.0]]


GOOD = np.array([[2.0, -1.0, 0.0], [0.5, 3.0, -2.0], [0.0, 1.0, 4.0], [9.0, 1.0, 1.0]])
LABELS = np.array([0, 1, 2, 0])
P = np.array([[0.5, 0.25, 0.25]] * 4)


def change(array: np.ndarray, value: float, *at: int) -> np.ndarray:
    out = array.astype(float)
    out[at] = value
    return out


BAD = [
    (GOOD, LABELS[:3], "logits", "3 labels for 4 rows"),
    (GOOD.T, LABELS, "logits", "look transposed"),
    (GOOD, GOOD, "logits", "argmax"),
    (GOOD, LABELS + 1, "logits", "subtract 1"),
    (GOOD, LABELS - 1, "logits", "not known"),
    (GOOD, change(LABELS, -100, 1), "logits", "1 labels .* row 1: -100; -100 often means a place without a label"),
    (GOOD, change(LABELS, 7, 2), "logits", "row 2: 7"),
    (GOOD, change(LABELS, 0.5, 2), "logits", "row 2: 0.5"),
    (GOOD, change(LABELS, np.nan, 1), "logits", "row 1: nan"),
    (GOOD, np.array(list("abca")), "logits", "not text"),
    (GOOD, LABELS > 0, "logits", "integers 0 to 2, not bool"),
    (change(GOOD, np.nan, 2, 1), LABELS, "logits", "1 of 4 rows .* row 2"),
    (change(GOOD, np.inf, 1, 1), LABELS, "logits", "row 1"),
    (change(GOOD, -np.inf, 3), LABELS, "logits", "row 3"),
    (change(P, -0.25, 2, 1), LABELS, "probabilities", "negative somewhere, the first is row 2"),
    (change(P, 0.3, 1, 1), LABELS, "probabilities", "row 1, whose sum is 1.05"),
    (np.log(change(P, 0.3, 1, 1)), LABELS, "log_probabilities", "row 1"),
    (P, LABELS, "logits", "--kind probabilities"),
    (-np.log(P), LABELS, "logits", "turn the sign"),
    (np.log10(P), LABELS, "log_probabilities", "logarithms to base 10 .* Multiply them by 2.30259; .* --trust-kind"),
    (np.log2(P), LABELS, "logits", "logarithms to base 2 .* Multiply them by 0.693147; .* --trust-kind"),
    (np.array([0.1, -0.9, 0.4, 1.2]), np.array([-1, 1, 1, -1]), "scores", r"\(labels \+ 1\) // 2"),
    (np.array([2, 1, 0, 1]), np.array([3, 1, 0, 1]), "scores", "a column for each class"),
    (np.array([0.1, 0.9, 0.4, 1.0]), np.array([0, 1, 1, 0]), "scores", "--trust-kind"),
    (np.array([0.1, 0.9, 0.4, 1.2]), np.array([0, 1, 1, 0]), "probabilities", "row 3 .* above 1"),
    (np.array([-0.1, -3, -2, -1]), np.array([0, 1, 1, 0]), "log_probabilities", "2 classes"),
    (GOOD, LABELS, "scores", "one number a row"),
    (GOOD[:0], LABELS[:0], "logits", "empty"),
    (GOOD[None], LABELS, "logits", "shape"),
    (GOOD.astype(str), LABELS, "logits", "numbers, not text"),
    (GOOD + 1j, LABELS, "logits", "numbers"),
]


@pytest.mark.parametrize(("values", "labels", "kind", "hint"), BAD, ids=[hint for *_, hint in BAD])
def test_numbers_that_cannot_be_right(values: np.ndarray, labels: np.ndarray, kind: str, hint: str) -> None:
    with pytest.raises(DataError, match=hint) as error:
        check(values, labels, kind, "mine")
    assert str(error.value).startswith("mine: ")
    assert "\n" not in str(error.value)


def test_what_is_right_but_worth_saying() -> None:
    assert check(P, LABELS, "logits", "x", trust=True).exact
    absent = check(GOOD, np.array([0, 0, 1, 1]), "logits", "x")
    assert absent.notes == ("no example of class 2",)
    assert "normalized" in check(P + 3e-4 / 3, LABELS, "probabilities", "x").notes[0]
    masked = check(change(GOOD, -np.inf, 0, 1), LABELS, "logits", "x")
    assert "probability zero" in masked.notes[0]
    assert not check(np.log(P), LABELS, "logits", "x").exact
    assert check(np.log10(P), LABELS, "logits", "x", trust=True).exact
    with np.errstate(divide="ignore"):  # zeros and ones are alike to every base
        assert not check(np.log(np.eye(3)[LABELS]), LABELS, "log_probabilities", "x").exact
    assert check(GOOD[:, :2], LABELS > 0, "logits", "x").y_N.tolist() == [0, 1, 1, 0]


def test_numbers_that_were_sorted_are_noted() -> None:
    p, y = -np.sort(-np.random.default_rng(0).dirichlet(np.ones(3), 60), axis=1), np.arange(60) % 3
    for kind, values in (("probabilities", p), ("logits", 3 * np.log(p))):
        (note,) = check(values, y, kind, "x").notes
        assert "if they were sorted" in note
    for others in (p[:19], np.r_[p[:59], p[59:, ::-1]], np.tile(p[:1], (60, 1)), p[:, :2] / p[:, :2].sum(1)[:, None]):
        assert "sorted" not in " ".join(check(others, y[: len(others)] % others.shape[1], "probabilities", "x").notes)


FILES = [
    ({"logit": GOOD}, "holds no labels"),
    ({"logits": GOOD, "lables": LABELS}, "did you mean 'labels'"),
    ({"logist": GOOD, "labels": LABELS}, "did you mean 'logits'"),
    ({"labels": LABELS}, "valid choices: logits"),
    ({"logits": GOOD, "labels": LABELS, "y": LABELS + 1}, "labels twice, and those in 'labels' and 'y' differ"),
    ({"logits": GOOD, "logit": GOOD, "y": LABELS}, "more than one"),
    ({"scores": GOOD[:, 0], "probs": P, "y": LABELS}, "more than one"),
]


@pytest.mark.parametrize(("arrays", "hint"), FILES, ids=[hint for _, hint in FILES])
def test_names_that_do_not_say(arrays: dict[str, np.ndarray], hint: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(DataError, match=hint):
        read(str(tmp_path / "p.npz"))


def test_a_kind_that_is_said_is_not_asked_for_again(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", predictions=GOOD, metrics=["a"], label_ids=LABELS)
    with pytest.raises(DataError, match=r"'predictions', 'metrics'\): call one logits") as error:
        read(str(tmp_path / "p.npz"), kind="logits")
    assert "say --kind" not in str(error.value)


def test_a_flag_goes_before_a_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "p.npz", logits=P, labels=LABELS, extra=1)
    (found,) = read(str(tmp_path / "p.npz"), kind="probabilities")
    assert found.kind == "probabilities"
    assert set(found.notes) >= {"not used: extra", "'logits' taken as probabilities, as --kind says"}
    np.savez(tmp_path / "p.npz", arr_0=GOOD, y=LABELS)
    assert read(str(tmp_path / "p.npz"), kind="logits")[0].exact
    np.savez(tmp_path / "p.npz", logits=GOOD, probabilities=P, y=LABELS)
    assert read(str(tmp_path / "p.npz"))[0].kind == "logits"
    assert read(str(tmp_path / "p.npz"), kind="probabilities")[0].kind == "probabilities"
    with pytest.raises(SettingsError, match="did you mean 'logits'"):
        check_kind("logit")


TABLES = [
    ("logit_0,logit_0,label\n1,2,0\n", "more than one column called 'logit_0'"),
    ("logit_0,logit0,label\n1,2,0\n", "same class"),
    ("logit_0,logit_2,label\n1,2,0\n", "class 1 has no column"),
    ("logit_1,logit_2,label\n1,2,0\n", "class 0 has no column"),
    ("0.5,0.25,1\n0.5,0.5,0\n", "no header"),
    ("logit_0:logit_1:label\n1:2:0\n", "separate columns by commas"),
    ("logit_0,logit_1,label\n1,2,0\n1,2\n", "cannot be read as csv"),
    ("logit_0,logit_1,label\n", "empty"),
    ("", "is empty"),
    ("logit_0,logit_1,label\n1,a,0\n", "'logit_1' is string"),
    ("logit_0,logit_1,label\n1,2,dog\n", "not text"),
    ("logit_0,logit_1,label\n1,,0\n", "1 of 1 rows"),
    ("logit_0,logit_1,label\n1,2,\n1,2,0\n", "row 0: nan"),
]


@pytest.mark.parametrize(("text", "hint"), TABLES, ids=[hint for _, hint in TABLES])
def test_tables_that_cannot_be_right(text: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(DataError, match=hint):
        read(str(tmp_path / "p.csv"))


@pytest.mark.parametrize("words", [("TRUE", "FALSE"), ("FALSE", "TRUE"), ("false", "true"), ("True", "False")])
def test_classes_may_be_called_true_and_false(words: tuple[str, str], tmp_path: Path) -> None:
    Z, y = GOOD[:, :2], np.array([0, 1, 1, 0])
    held = pd.DataFrame(Z, columns=[f"logit_{word}" for word in words]).assign(label=np.array(words)[y])
    held.to_csv(tmp_path / "p.csv", index=False)
    (found,) = read(str(tmp_path / "p.csv"))
    assert found.Z_NK.numpy() == pytest.approx(Z)
    assert found.y_N.tolist() == y.tolist()


@pytest.mark.parametrize("summary", ["logit_max", "logit_top", "true_logit"])
def test_one_logit_of_several_is_no_log_odds(summary: str, tmp_path: Path) -> None:
    held = pd.DataFrame({"logit_0": GOOD[:, 0], summary: GOOD[:, 1], "label": [0, 1, 1, 0]})
    held.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(DataError, match=f"column '{summary}' stands beside 'logit_0'"):
        read(str(tmp_path / "p.csv"))


class Evil:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_nothing_read_can_run_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = np.array([Evil(mark)], dtype=object)
    np.savez(tmp_path / "p.npz", logits=evil, labels=LABELS)
    np.save(tmp_path / "logits.npy", evil)
    np.save(tmp_path / "y.npy", LABELS)
    for suffix in ("npz", "npy", "pt", "pkl", "safetensors", "parquet", "csv"):
        (tmp_path / f"raw_logits.{suffix}").write_bytes(pickle.dumps(Evil(mark)))
    pair = f"{tmp_path / 'logits.npy'}:{tmp_path / 'y.npy'}"
    for word in (str(tmp_path / "p.npz"), pair, *(str(p) for p in tmp_path.glob("raw_*"))):
        with pytest.raises(DataError):
            read(word)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()
    with pytest.raises(DataError, match=r"numpy\.savez"):
        read(str(tmp_path / "raw_logits.pt"))
    with pytest.raises(DataError, match="pickled"):
        read(str(tmp_path / "p.npz"))


def test_words(tmp_path: Path) -> None:
    for seed in (0, 1, 10, 2):
        np.savez(tmp_path / f"s{seed}.npz", logits=GOOD + seed, labels=LABELS)
    assert [p.name for p in read(str(tmp_path / "s*.npz"))] == ["s0", "s1", "s2", "s10"]
    assert [p.name for p in read(f"{tmp_path / 's10.npz'},{tmp_path / 's0.npz'}")] == ["s10", "s0"]
    for word, hint in (
        (str(tmp_path / "t*.npz"), "no file matches"),
        (str(tmp_path / "s.npz"), f"did you mean '{tmp_path}/s"),
        (str(tmp_path), "is a folder"),
        (f"{tmp_path / 's0.npz'}:{tmp_path / 's1.npz'}", "not a pair"),
        (str(tmp_path / "x.txt"), "does not exist"),
    ):
        with pytest.raises(DataError, match=hint):
            read(word)
    with pytest.raises(SettingsError, match="empty item"):
        read(f"{tmp_path / 's0.npz'},")
    np.save(tmp_path / "a.npy", GOOD)
    with pytest.raises(DataError, match="labels too"):
        read(str(tmp_path / "a.npy"))
    with pytest.raises(DataError, match="does not say what"):
        read(f"{tmp_path / 'a.npy'}:{tmp_path / 'a.npy'}")


def test_stored_trials(tmp_path: Path) -> None:
    words = ("beta=0.3,1", "objective=cross_entropy", "seed=0..1", "lr=0.1", "calibrator=temperature_scaling")
    store, _ = make(tmp_path / "run", *words, diverged=[(0.3, 1)])
    folders = sorted((store.path / "trials").iterdir())
    done = 0
    for folder in folders:
        short = f"{store.path}:{folder.name[:12]}"
        if not (folder / "logits.safetensors").exists():
            with pytest.raises(DataError, match="diverged"):
                read(str(folder))
            continue
        (found,) = read(str(folder))
        done += 1
        assert found.trial is not None
        expected = found.trial.beta * store.logits(found.trial)["test"].double()
        assert torch.equal(found.Z_NK, expected)
        assert torch.equal(found.y_N, store.labels(found.trial)["test"])
        (calibration,) = read(short, "calibration")
        assert torch.equal(calibration.y_N, store.labels(found.trial)["calibration"])
        assert found.exact
    assert done == len(folders) - 1 >= 3
    with pytest.raises(StoreError, match="holds no trial"):
        read(f"{store.path}:zzz")
    with pytest.raises(DataError, match="name one of its trials"):
        read(str(store.path))
    logits = folders[0] / "logits.safetensors"
    if logits.exists():
        logits.write_bytes(logits.read_bytes()[:-1] + b"x")
        with pytest.raises(StoreError, match="damaged"):
            read(str(folders[0]))


@given(
    values=hnp.arrays(
        st.sampled_from([np.float64, np.float32, np.float16, np.int64]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        elements=None,
    ),
    labels=hnp.arrays(st.sampled_from([np.int64, np.uint8, np.float32]), hnp.array_shapes(max_dims=2, max_side=5)),
    kind=st.sampled_from(sorted(KINDS)),
)
def test_any_arrays_are_taken_whole_or_refused(values: np.ndarray, labels: np.ndarray, kind: str) -> None:
    with np.errstate(all="ignore"):
        try:
            found = check(values, labels, kind, "x")
        except DataError:
            return
    assert len(found.Z_NK) == len(values)
    assert found.y_N.tolist() == labels.reshape(-1).tolist()
    assert not found.Z_NK.log_softmax(-1).isnan().any()
    assert int(found.y_N.max()) < found.Z_NK.shape[1]


@given(p=hnp.arrays(np.float64, (6, 4), elements=st.floats(0, 1)), shift=st.floats(-1e-2, 1e-2))
def test_probabilities_survive_or_are_refused(p: np.ndarray, shift: float) -> None:
    p = (p + 1e-12) / (p + 1e-12).sum(1, keepdims=True)
    y = np.arange(6) % 4
    if (p + shift / 4 < 0).any() or abs(shift) > 1.01e-3:
        with pytest.raises(DataError):
            check(p + shift / 4, y, "probabilities", "x")
    elif abs(shift) < 0.99e-3:
        found = check(p + shift / 4, y, "probabilities", "x").Z_NK.softmax(-1).numpy()
        assert found == pytest.approx((p + shift / 4) / (1 + shift), abs=1e-12)


@pytest.mark.parametrize("write", FORMATS, ids=lambda f: f.__name__)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_refused_in_words(write: Write, data: st.DataObject, tmp_path: Path) -> None:
    word = write(tmp_path, GOOD, LABELS, "logits")
    path = Path(word.partition(":")[0])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 10, 1, 0]))])
    try:
        (found,) = read(word)
    except DataError as error:
        text = str(error)
    else:
        text = ""
        assert not found.Z_NK.log_softmax(-1).isnan().any()
    assert "\n" not in text or "two lines of Python" in text


@pytest.mark.parametrize(
    "suffix", ["npz", "npy", "csv", "tsv", "parquet", "safetensors", "csv.gz", "jsonl", "json", "feather", "arrow"]
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_foreign_files_are_refused_in_words(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"logits.{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read(f"{path}:{path}" if suffix == "npy" else str(path))
    assert "unsafely" not in str(error.value)


def test_a_wide_file_is_read_in_little_more_than_its_numbers(tmp_path: Path) -> None:
    """Peak of what numpy holds, over the float32 array of the file."""
    import tracemalloc

    rng = np.random.default_rng(0)
    Z = rng.normal(size=(200, 16_000)).astype(np.float32)
    np.savez(tmp_path / "wide.npz", logits=Z, labels=rng.integers(0, 16_000, 200))
    tracemalloc.start()
    try:
        (read_back,) = read(str(tmp_path / "wide.npz"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert torch.equal(read_back.Z_NK, torch.from_numpy(Z))
    assert peak < 2.5 * Z.nbytes


@pytest.mark.parametrize("ours", [False, True])
def test_an_array_of_somebody_else_is_copied(ours: bool) -> None:
    values = np.random.default_rng(0).normal(size=(6, 3))
    checked = check(values, np.array([0, 1, 2, 0, 1, 2]), "logits", "test", ours=ours)
    assert np.shares_memory(checked.Z_NK.numpy(), values) == ours
