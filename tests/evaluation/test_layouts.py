"""Every layout that is read and written: two splits in one file, HDF5, lines of p and y, confidence alone, slices."""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file
from scipy.special import ndtr
from scipy.stats import ttest_ind
from synthetic import make

import calib_bench
from calib_bench import metrics, registry
from calib_bench.analysis.ties import tied
from calib_bench.cli import main
from calib_bench.errors import DataError
from calib_bench.evaluation import by_slice, standings
from calib_bench.evaluation.arrays import predictions
from calib_bench.evaluation.by_slice import less_rest
from calib_bench.evaluation.compare import compare
from calib_bench.evaluation.evaluate import evaluate
from calib_bench.evaluation.models import Model
from calib_bench.evaluation.predictions import check, read, read_trial
from calib_bench.evaluation.splits import named_splits
from calib_bench.evaluation.writers import group_of
from calib_bench.inference import crossed_interval, holm

h5py = pytest.importorskip("h5py")
RNG = np.random.default_rng(0)
Z = 3 * RNG.normal(size=(700, 3))
Y = np.array([RNG.choice(3, p=np.exp(z / 2) / np.exp(z / 2).sum()) for z in Z])
P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
CAL, TEST = slice(0, 300), slice(300, 700)
CONFIDENCE, CORRECT = P.max(1), P.argmax(1) == Y
SITE = np.array(["north", "south"])[RNG.integers(0, 2, 700)]
SITE[-20:] = "tiny"
TEMPERATURE = registry.calibrators(("temperature_scaling",))
CHEAP = "calibrator=temperature_scaling"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def apart() -> pd.DataFrame:
    """Metrics of the two splits as predictions of their own, by method."""
    model = Model(check(Z[TEST], Y[TEST], "logits", "test"), check(Z[CAL], Y[CAL], "logits", "cal"))
    return measured(model)


def measured(model: Model, **options: Any) -> pd.DataFrame:
    frame = evaluate([model], TEMPERATURE, **options).tables["metrics"].frame
    return frame.set_index("method").select_dtypes("number")


def table(out: str | Path, name: str = "evaluation") -> pd.DataFrame:
    frame = calib_bench.load_results(out, name)
    return frame.set_index([name for name in ("slice", "method") if name in frame])


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["evaluate", *words]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert "Traceback" not in text
    return text


def two(form: str = "logits_val labels_val logits_test labels_test") -> dict[str, Any]:
    return dict(zip(form.split(), (Z[CAL], Y[CAL], Z[TEST], Y[TEST]), strict=True))


# two splits


def test_one_file_of_two_splits_is_two_files(apart: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("two.npz", **two())
    assert main(["evaluate", "two.npz", CHEAP, "out=out"]) == 0
    pd.testing.assert_frame_equal(table("out", "metrics")[apart.columns], apart)
    assert "the split 'val': logits_val, labels_val" in capsys.readouterr().out


FORMS = (
    "logits_cal labels_cal logits_test labels_test", "val_logits val_y test_logits test_y",
    "logits-calib y-calib logits-te y-te", "valid.logits valid.targets test.logits test.targets",
    "logits_validation y_true_validation logits_test y_true_test",
)  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_splits_are_told_by_the_names_that_people_use(form: str) -> None:
    save_file(two(form), "two.safetensors")
    test, calibration = (read("two.safetensors", role)[0] for role in ("test", "calibration"))
    assert np.array_equal(test.Z_NK, Z[TEST])
    assert np.array_equal(test.y_N, Y[TEST])
    assert np.array_equal(calibration.Z_NK, Z[CAL])
    assert test.has_calibration


def test_plain_names_go_before_splits() -> None:
    assert not named_splits(["logits", "labels", "logits_val", "labels_val"])
    assert not named_splits(["logits", "y_test"])
    assert not named_splits(["logits_cal", "logits_uncal", "labels"])
    np.savez("one.npz", logits=Z, y_test=Y)
    assert len(read("one.npz")[0].y_N) == 700


def test_a_split_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("val.npz", logits_val=Z[CAL], labels_val=Y[CAL])
    assert "split 'val' and none of the test split" in error(capsys, "val.npz")
    np.savez("test.npz", logits_test=Z[TEST], labels_test=Y[TEST])
    assert "none of the calibration split" in error(capsys, "test=test.npz", "calibration=test.npz")
    assert len(read("test.npz")[0].y_N) == 400
    assert len(read("val.npz", "calibration")[0].y_N) == 300


def test_class_names_are_of_both_splits() -> None:
    names = np.array(["cat", "dog", "eel"])
    np.savez("two.npz", class_names=names, **{**two(), "labels_val": names[Y[CAL]], "labels_test": names[Y[TEST]]})
    for role, rows in (("test", TEST), ("calibration", CAL)):
        one = read("two.npz", role)[0]
        assert one.classes == ("cat", "dog", "eel")
        assert np.array_equal(one.y_N, Y[rows])


# HDF5


def write_benchmark(path: str, datasets: int = 3, models: int = 2) -> None:
    """In CalArena's layout, two classes, the probability of class 1; the second model is worse."""
    rng = np.random.default_rng(1)
    with h5py.File(path, "w") as file:
        for d in range(datasets):
            y = rng.integers(0, 2, 400)
            for m in range(models):
                z = 2 * y - 1 + (1 + m) * rng.normal(size=400)
                p = (1 / (1 + np.exp(-1.5 * z))).astype("f4")
                group = file.create_group(f"d{d}/m{m}")
                for split, rows in (("cal", slice(0, 150)), ("test", slice(150, 400))):
                    group.create_dataset(f"probas_{split}", data=p[rows], compression="gzip")
                    group.create_dataset(f"labels_{split}", data=y[rows].astype("i4"))


def test_a_group_of_an_hdf5_file_is_read_in_the_layout_of_calarena(capsys: pytest.CaptureFixture[str]) -> None:
    write_benchmark("bench.h5")
    test, calibration = (read("bench.h5:d1/m0", role)[0] for role in ("test", "calibration"))
    with h5py.File("bench.h5") as file:
        p = file["d1/m0/probas_test"][()].astype(float)
        assert np.allclose(test.Z_NK.softmax(-1)[:, 1], p, atol=1e-7)
        assert np.array_equal(calibration.y_N, file["d1/m0/labels_cal"][()])
    assert test.name == "d1/m0"
    assert [one.name for one in read("bench.h5:d2/*")] == ["d2/m0", "d2/m1"]
    assert "did you mean 'd2/m1' or 'd2/m0'" in error(capsys, "bench.h5:d2/mo")
    assert "no group 'x/*'" in error(capsys, "bench.h5:x/*")
    with pytest.raises(DataError, match="it holds 6 predictions"):
        read("bench.h5")


def test_other_hdf5_files_are_read_or_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with h5py.File("split.h5", "w") as file:
        for split, rows in (("val", CAL), ("test", TEST)):
            file[f"{split}/logits"], file[f"{split}/labels"] = Z[rows], Y[rows]
    assert np.array_equal(read("split.h5")[0].Z_NK, Z[TEST])
    assert np.array_equal(read("split.h5", "calibration")[0].y_N, Y[CAL])
    with h5py.File("root.h5", "w") as file:
        file["logits"], file["labels"], file["class_names"] = Z, Y, np.array([b"cat", b"dog", b"eel"])
    assert read("root.h5")[0].classes == ("cat", "dog", "eel")
    with h5py.File("other.h5", "w") as file:
        file["weights/kernel"] = Z
    assert "no group of it holds predictions" in error(capsys, "other.h5")
    Path("damaged.h5").write_bytes(b"\x89HDF\r\n\x1a\n no more")
    assert "truncated, damaged or foreign" in error(capsys, "damaged.h5:a/b")
    assert "does not exist" in error(capsys, "missing.h5:a/b")


def test_without_h5py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.h5").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert 'pip install "calib_bench[hdf5]"' in error(capsys, "a.h5")


def test_groups_are_compared_and_mapped() -> None:
    write_benchmark("bench.h5", 1)
    models = [Model(*(read(f"bench.h5:d0/{m}", role)[0] for role in ("test", "calibration"))) for m in ("m0", "m1")]
    stages = compare(models[:1], models[1:]).tables["comparison"].frame["stage"]
    assert "after temperature scaling" in set(stages)
    calibration = models[0].sets["calibration"]
    fit = calib_bench.fit("temperature_scaling", calibration.Z_NK.exp(), calibration.y_N, kind="probabilities")
    fit.save("fit.safetensors")
    assert main(["apply", "fit.safetensors", "test=bench.h5:d0/m1", "out=mapped.npz"]) == 0
    mapped = np.load("mapped.npz")
    assert np.allclose(mapped["probabilities"], fit.predict_proba(models[1].test.Z_NK.exp().numpy()))
    assert np.array_equal(mapped["labels"], models[1].test.y_N)


def test_a_whole_file_gives_standings(capsys: pytest.CaptureFixture[str]) -> None:
    write_benchmark("bench.h5")
    assert main(["evaluate", "bench.h5", f"{CHEAP},isotonic", "out=out"]) == 0
    text = capsys.readouterr().out
    standings = table("out", "standings")
    frame = calib_bench.load_results("out", "experiments")
    assert len(frame) == 18
    losses = frame.pivot(index=["dataset", "model"], columns="method", values="log_loss")
    rank = losses.rank(axis=1)
    assert standings["win_rate"].to_dict() == pytest.approx(((3 - rank) / 2).mean().to_dict())
    by_dataset = (losses["temperature_scaling"] - losses["raw"]).groupby("dataset").mean()
    half = 4.302652729911275 * by_dataset.std() / np.sqrt(3)
    assert standings["from_raw"]["temperature_scaling"] == pytest.approx(by_dataset.mean())
    assert standings["from_raw_high"]["temperature_scaling"] == pytest.approx(by_dataset.mean() + half)
    assert list(standings["standing"].fillna("")).count("best") == 1
    assert standings["standing"].iloc[0] == "best"
    assert "has the lowest log loss, mean over data sets" in text
    rivals = calib_bench.load_results("out", "rivals").set_index(["dataset", "method", "model"])
    assert (rivals["standing"].xs("m0", level="model") == "best").all()
    assert len(rivals) == 12
    by_hand = read("bench.h5:d0/m1")[0]
    row = frame[(frame["dataset"] == "d0") & (frame["model"] == "m1") & (frame["method"] == "raw")].iloc[0]
    assert row["log_loss"] == pytest.approx(float(metrics.log_loss(by_hand.Z_NK, by_hand.y_N)))
    assert (Path("out") / "figures" / "standings.png").is_file()
    assert "--groups are for one of them" in error(capsys, "bench.h5", "groups=x")


def test_who_cannot_be_told_from_the_best_is_tied() -> None:
    p = {"b": 0.5, "c": 0.001, "d": float("nan")}
    assert tied({"a": 1.0, "b": 1.1, "c": 2.0, "d": 3.0, "e": float("inf")}, lambda one, top: p[one]) == {"a", "b", "d"}
    assert tied({"a": float("nan")}, lambda one, top: 1.0) == set()


def test_of_equals_none_is_called_worse_than_the_luckiest() -> None:
    """The best is chosen on the same data: held to the differences from it alone, one of 12 was called worse in 17%."""
    rng = np.random.default_rng(0)
    alone = 0
    for losses in rng.standard_normal((800, 12)):
        kept = tied(dict(enumerate(losses)), lambda one, top, x=losses: 2 * float(ndtr(-abs(x[one] - x[top]) / 2**0.5)))
        alone += len(kept) < 12
    assert alone / 800 < 0.065
    assert holm([0.03, 0.001, 0.9], from_best=True).tolist() == pytest.approx([0.09, 0.006, 0.9])


def test_one_method_leads_nobody() -> None:
    frame = pd.DataFrame([{"method": "raw", "standing": "best", "win_rate": 0.0, "log_loss": 0.5}])
    assert standings.verdict(frame, frame) == ()


# lines of p and y, pickles


@pytest.mark.parametrize("n", [100, 1000])
def test_lines_of_p_and_y(n: int) -> None:
    p = RNG.uniform(size=n).round(3)
    y = (RNG.uniform(size=n) < p).astype(int)
    Path("judge.jsonl").write_text(
        "".join(json.dumps({"p": a, "y": b}) + "\n" for a, b in zip(p, y.tolist(), strict=True))
    )
    one = read("judge.jsonl")[0]
    assert one.kind == "probabilities"
    assert np.allclose(one.Z_NK.softmax(-1)[:, 1], p)
    assert np.array_equal(one.y_N, y)


def test_p_is_no_prediction_beside_others(capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"logit_0": Z[:, 0], "logit_1": Z[:, 1], "p": 0.5, "y": Y % 2}).to_csv("p.csv", index=False)
    assert np.array_equal(read("p.csv")[0].Z_NK[:, 0], Z[:, 0])
    Path("pairs.jsonl").write_text("[0.3, 1]\n[0.4, 0]\n")
    assert "{'p': 0.8, 'y': 1}" in error(capsys, "pairs.jsonl")


def test_the_lines_that_a_refused_pickle_gets_convert_it(capsys: pytest.CaptureFixture[str]) -> None:
    Path("names.pkl").write_bytes(pickle.dumps({"logits": Z, "labels": Y}))
    Path("pairs.p").write_bytes(pickle.dumps(((Z[CAL], Y[CAL]), (Z[TEST], Y[TEST]))))
    torch.save({"logits": torch.from_numpy(Z), "labels": torch.from_numpy(Y)}, "names.pt")
    np.savez("names.npz", logits=Z.astype(object), labels=Y)
    for name, lines in (("names.pkl", (0, 1)), ("pairs.p", (0, 2)), ("names.pt", (0, 1)), ("names.npz", (0, 1))):
        text = error(capsys, name)
        code = [line.strip() for line in text.splitlines() if line.startswith("  ")]
        exec("\n".join(code[i] for i in lines), {})
        plain = read(f"{name.split('.')[0]}-plain.npz")[0]
        assert np.array_equal(plain.Z_NK, Z[TEST] if name == "pairs.p" else Z)
    np.save("logits.npy", Z.astype(object))
    np.save("labels.npy", Y)
    code = [line.strip() for line in error(capsys, "logits.npy:labels.npy").splitlines() if line.startswith("  ")]
    exec("\n".join(code), {})
    assert np.array_equal(read("logits-plain.npy:labels.npy")[0].Z_NK, Z)


# confidence alone


def write_confidence() -> None:
    for name, rows in (("cal", CAL), ("test", TEST)):
        frame = pd.DataFrame({"confidence": CONFIDENCE[rows], "correct": CORRECT[rows], "site": SITE[rows]})
        frame.to_csv(f"{name}.csv", index=False)


def test_confidence_and_correctness_give_what_a_confidence_can(
    apart: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    write_confidence()
    assert main(["evaluate", "test=test.csv", "calibration=cal.csv", f"{CHEAP},isotonic", "out=out"]) == 0
    text = capsys.readouterr().out
    frame = table("out", "metrics")
    same = ("accuracy", "ece", "adaptive_ece", "smece", "mce", "aurc", "e_aurc", "auroc", "augrc", "mean_confidence")
    for name in same:
        assert frame[name]["raw"] == pytest.approx(apart[name]["raw"]), name
    brier = np.square(CONFIDENCE - CORRECT)[TEST].mean()
    assert frame["brier"]["raw"] == pytest.approx(brier)
    assert not {"log_loss", "kappa", "classwise_ece", "mean_entropy", "lac_size", "ece_positive"} & {*frame.columns}
    assert (frame["accuracy"] == frame["accuracy"]["raw"]).all()
    assert frame["brier"]["temperature_scaling"] < brier
    assert "out of reach" in text
    assert "Brier score of the confidence" in text
    for name in ("reliability", "risk_coverage"):
        assert (Path("out") / "figures" / f"{name}.png").is_file()
    fits = "out/fits.safetensors:temperature_scaling"
    pd.DataFrame({"confidence": CONFIDENCE[TEST]}).to_csv("new.csv", index=False)
    for name in ("test.csv", "new.csv"):
        assert main(["apply", fits, f"test={name}", "out=mapped.csv"]) == 0
        mapped = pd.read_csv("mapped.csv")
        loss = np.square(mapped["confidence"] - CORRECT[TEST]).mean()
        assert loss == pytest.approx(frame["brier"]["temperature_scaling"])
    np.savez("two.npz", logits=Z[:, :2], labels=Y % 2)
    capsys.readouterr()
    assert main(["apply", fits, "test=two.npz"]) == 2
    assert "fitted to confidences in one answer" in capsys.readouterr().err


def test_confidence_alone_is_refused_where_it_cannot_do(capsys: pytest.CaptureFixture[str]) -> None:
    write_confidence()
    np.savez("logits.npz", logits=Z[:, :2], labels=Y % 2)
    assert "both sets in one form" in error(capsys, "test=test.csv", "calibration=logits.npz")
    capsys.readouterr()
    assert main(["compare", "test.csv", "test.csv"]) == 2
    assert "compare needs the predictions of all classes" in capsys.readouterr().err
    pd.DataFrame({"confidence": CONFIDENCE, "correct": Y}).to_csv("labels.csv", index=False)
    assert "must hold 1 and 0" in error(capsys, "labels.csv")
    pd.DataFrame({"confidence": 100 * CONFIDENCE, "correct": CORRECT}).to_csv("percent.csv", index=False)
    assert "above 1" in error(capsys, "percent.csv")
    frame = pd.DataFrame({"confidence": CONFIDENCE, "correct": CORRECT, "cat": P[:, 0], "dog": P[:, 1], "label": Y})
    frame.to_csv("classes.csv", index=False)
    assert "--kind" in error(capsys, "classes.csv")


# slices


def test_slices_are_measured_as_files_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("two.npz", **two(), site_test=SITE[TEST])
    assert main(["evaluate", "two.npz", "groups=site", CHEAP, "out=out"]) == 0
    text = capsys.readouterr().out
    frame = table("out", "slice_metrics")
    north = np.flatnonzero(SITE[TEST] == "north")
    own = Model(check(Z[TEST][north], Y[TEST][north], "logits", "north"), check(Z[CAL], Y[CAL], "logits", "cal"))
    alone = measured(own)
    for method in alone.index:
        for name in alone:
            assert frame.loc[("north", method), name] == pytest.approx(alone.loc[method, name], nan_ok=True), name
    assert frame.loc[("north", "raw"), "examples"] == len(north)
    assert "tiny (20)" in text
    assert np.isnan(frame.loc[("tiny", "raw"), "accuracy"])
    gap = CONFIDENCE[TEST][north] - CORRECT[TEST][north]
    assert frame.loc[("north", "raw"), "overconfidence"] == pytest.approx(gap.mean())
    differences = table("out", "slice_differences")
    loss = metrics.log_loss_n(torch.from_numpy(Z[TEST]), torch.from_numpy(Y[TEST])).numpy()
    inside = SITE[TEST] == "north"
    welch = ttest_ind(loss[inside], loss[~inside], equal_var=False)
    row = differences.loc[("north", "raw")]
    assert row["log_loss"] == pytest.approx(loss[inside].mean() - loss[~inside].mean())
    assert row["log_loss_p"] == pytest.approx(welch.pvalue, abs=0.01)
    assert row["log_loss_holm"] >= row["log_loss_p"]
    assert {index[0] for index in differences.index} == {"north", "south"}
    assert (Path("out") / "figures" / "slices.png").is_file()
    report = Path("out/report.html").read_text()
    assert "Each slice of site less the rest" in report


def test_a_slice_less_the_rest_is_two_independent_means() -> None:
    x, inside = RNG.normal(size=500) ** 2, RNG.uniform(size=500) < 0.2
    interval = crossed_interval([less_rest(x, inside)])
    one, other = x[inside], x[~inside]
    error_of_both = np.sqrt(one.var(ddof=1) / len(one) + other.var(ddof=1) / len(other))
    assert interval.mean == pytest.approx(one.mean() - other.mean())
    assert interval.high - interval.mean == pytest.approx(1.9647 * error_of_both, rel=5e-3)


def test_a_small_slice_without_errors_is_no_better_for_certain() -> None:
    """Slices of 30 of a model that is right in 98%: most have no error, and were found to differ in .58 of samples."""
    rng = np.random.default_rng(0)
    inside, differs = np.arange(1000) < 30, 0
    for _ in range(60):
        confidence = 1 - 0.02 * rng.exponential(size=1000).clip(0, 25)
        correct = (rng.uniform(size=1000) < confidence).astype(float)
        loss = -np.log(np.where(correct > 0, confidence, 1 - confidence))
        intervals = [
            by_slice.difference(metric, [values], [correct], [inside], False)
            for metric, values in (("accuracy", correct), ("log_loss", loss))
        ]
        differs += any(interval.low > 0 or interval.high < 0 for interval in intervals)
        assert all(interval.p < 0.05 or interval.low <= 0 <= interval.high for interval in intervals)
    assert differs <= 5


def test_overconfidence_of_a_slice_without_errors_is_in_doubt() -> None:
    """It is below zero with limits that say so for certain, though an error or two are what such examples lack."""
    sharp = 4 * np.eye(3)[Y[TEST]] + RNG.uniform(size=(400, 3))
    test = replace(check(sharp, Y[TEST], "logits", "test"), groups=np.repeat(["a", "b"], [50, 350]).astype(object))
    frame = evaluate([Model(test)], {}, groups="half").tables["slice_metrics"].frame.set_index("slice")
    assert frame.overconfidence_high["a"] < 0
    assert frame.doubtful["a"].endswith(", overconfidence")


def test_slices_with_too_few_examples_are_compared_with_nothing() -> None:
    test = check(Z[TEST], Y[TEST], "logits", "test")
    many = np.array([f"s{i % 25}" for i in range(400)], dtype=object)
    with pytest.raises(DataError, match="no slice of 'part' has 30 examples"):
        evaluate([Model(replace(test, groups=many))], {}, groups="part")
    few = np.array(["few"] * 5 + ["most"] * 395, dtype=object)
    analysis = evaluate([Model(replace(test, groups=few))], {}, groups="part")
    assert any("few (5)" in warning for warning in analysis.warnings)
    assert "slice_differences" not in analysis.tables
    assert "no slice differs" in analysis.verdict[-1]


def test_confidence_alone_by_slice() -> None:
    write_confidence()
    (test,) = read("test.csv", groups="site")
    frame = evaluate([Model(test)], {}, groups="site").tables["slices"].frame.set_index("slice")
    assert "log_loss" not in frame
    assert frame.loc["south", "accuracy"] == pytest.approx(CORRECT[TEST][SITE[TEST] == "south"].mean())


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("sites", "did you mean 'site'"), ("label", "among examples of one label"), ("logit_0", "holds predictions"),
        ("weight", "slices can be 50 at most"), ("split", "nothing is to be compared"),
    ],
)  # fmt: skip
def test_columns_that_can_be_no_slices_are_refused(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame(Z, columns=[f"logit_{k}" for k in range(3)])
    frame.assign(label=Y, site=SITE, weight=P[:, 0], split="test").to_csv("t.csv", index=False)
    assert hint in error(capsys, "t.csv", f"groups={word}")


def test_names_in_memory_and_in_archives_are_the_same_in_either_form_of_unicode() -> None:
    classes, turned = ["caf\u00e9", "na\u00efve"], ["cafe\u0301", "nai\u0308ve"]
    values, labels, expected = Z[:, :2], np.array(classes)[Y % 2], (Y % 2).tolist()
    frame, texts = pd.DataFrame(values, columns=turned), pd.Series(labels)
    for held, y in ((frame, texts), (frame.add_prefix("logit_").assign(label=texts), None)):
        (one,) = predictions(held, y, None, "test")
        assert (one.classes, one.y_N.tolist()) == (tuple(classes), expected)
    np.savez("p.npz", logits=values, labels=labels, classes=turned)
    with h5py.File("p.h5", "w") as file:
        file["logits"], file["labels"], file["classes"] = values, labels.astype(object), turned
    for name in ("p.npz", "p.h5"):
        (one,) = read(name)
        assert (one.classes, one.y_N.tolist()) == (tuple(classes), expected)


@pytest.mark.parametrize(
    "hold",
    [
        list,
        tuple,
        np.array,
        pd.Series,
        pd.Categorical,
        lambda held: pd.Series(held, index=range(700)).astype("category"),
    ],
    ids=["list", "tuple", "array", "series", "categorical", "categories"],
)
def test_slices_in_memory_may_lack_values(hold: Any) -> None:
    held = [None if i % 3 == 0 else f"s{i % 3}" for i in range(700)]
    counts = calib_bench.evaluate(Z, Y, groups=hold(held), calibrators=[]).tables["slices"].groupby("slice").examples
    assert counts.first().to_dict() == {"(empty)": 234, "s1": 233, "s2": 233}


def test_slices_in_memory_are_called_by_what_they_are() -> None:
    ages = pd.Series(np.arange(700) % 90, index=RNG.permutation(700), dtype="Int64").replace(7, pd.NA)
    frame = calib_bench.evaluate(pd.DataFrame(Z), Y, groups=pd.cut(np.arange(700) % 90, [-1, 29, 59, 89]))
    assert set(frame.tables["slices"]["slice"]) == {"(-1, 29]", "(29, 59]", "(59, 89]"}
    halves = (ages // 45).rename("half")
    frame = calib_bench.evaluate(pd.DataFrame(Z, index=ages.index), Y, groups=halves.sample(frac=1, random_state=0))
    by_half = frame.tables["slices"].groupby("slice").accuracy.first()
    assert set(by_half.index) == {"0", "1", "(empty)"}
    assert by_half["1"] == pytest.approx(CORRECT[(halves == 1).fillna(False).to_numpy(bool)].mean())


def test_files_without_columns_have_no_slices(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("logits.npy", Z)
    np.save("labels.npy", Y)
    assert "no columns beside its predictions" in error(capsys, "logits.npy:labels.npy", "groups=site")


# what is exported is read


def test_every_exported_layout_gives_equal_results(capsys: pytest.CaptureFixture[str]) -> None:
    store, _ = make(Path("run"), "beta=0.3", "seed=0", CHEAP)
    key = next((store.path / "trials").iterdir()).name
    for layout in ("npz", "jsonl", "splits", "hdf5"):
        assert main(["export", f"run:{key}", f"format={layout}", f"out={layout}"]) == 0
    assert main(["export", f"run:{key}", "format=hdf5", "out=hdf5"]) == 0
    group = group_of(store.trial(key), "digits")
    words = {
        "npz": ("npz/test.npz", "npz/calibration.npz"),
        "jsonl": ("jsonl/test.jsonl", "jsonl/calibration.jsonl"),
        "splits": ("splits/predictions.npz",) * 2,
        "hdf5": (f"hdf5/predictions.h5:{group}",) * 2,
    }
    stored = Model(*(read_trial(store, key, role) for role in ("test", "calibration")))
    for layout, files in words.items():
        again = Model(*(read(file, role)[0] for file, role in zip(files, ("test", "calibration"), strict=True)))
        for role, one in stored.sets.items():
            logp, same_logp = (p.Z_NK.double().log_softmax(-1) for p in (one, again.sets[role]))
            assert torch.allclose(logp, same_logp, rtol=1e-12, atol=1e-12)
            assert torch.equal(one.y_N, again.sets[role].y_N)
            assert layout == "hdf5" or torch.equal(one.Z_NK, again.sets[role].Z_NK)
    pd.testing.assert_frame_equal(measured(again), measured(stored), rtol=1e-5)
    capsys.readouterr()
    assert main(["export", f"run:{key}", "format=h5"]) == 2
    assert "hdf5" in capsys.readouterr().err
    Path("hdf5/predictions.h5").write_text("no HDF5")
    assert main(["export", f"run:{key}", "format=hdf5", "out=hdf5"]) == 2
    assert "predictions.h5 is there, and no HDF5 file" in capsys.readouterr().err
