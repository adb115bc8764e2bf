"""Predictions made elsewhere, judged and compared: numbers against other packages, identities, and the two commands."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic import make

import calib_bench
from calib_bench import inference, metrics, registry
from calib_bench.analysis.result_rows import marks_note
from calib_bench.analysis.scores import METRICS, REPAIRED, SETS
from calib_bench.analysis.tables import TableSpec
from calib_bench.cli import main
from calib_bench.core.baseline import Calibrator
from calib_bench.core.settings import parse
from calib_bench.core.study import Table
from calib_bench.errors import DataError, UserError
from calib_bench.evaluation.compare import compare
from calib_bench.evaluation.evaluate import evaluate
from calib_bench.evaluation.findings import doubts_of
from calib_bench.evaluation.models import Model, calibrated, pair_up, repeated_rows, shared_rows
from calib_bench.evaluation.predictions import Predictions, check, read
from calib_bench.evaluation.scored import score
from calib_bench.inference import DECISIONS, crossed_interval
from calib_bench.planning.defaults import resolve
from calib_bench.report.evaluation_figures import DRAWN
from calib_bench.report.table_view import TableView

ALL_DRAWN = {*DRAWN} - {"slices", "standings", "by_beta"}
TEMPERATURE = registry.calibrators(("temperature_scaling",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds of an over- (a) and an underconfident (b) classifier of digits, calibration and test, as files."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    path = tmp_path_factory.mktemp("digits")
    X, y = load_digits(return_X_y=True)
    X = X / 16
    for seed in range(3):
        drawn = np.random.default_rng(seed).integers(0, 300, 200)
        for name, C in (("a", 1000.0), ("b", 0.03)):
            model = LogisticRegression(C=C, max_iter=300).fit(X[drawn], y[drawn])
            for split, rows in (("cal", slice(300, 700)), ("test", slice(700, 1300))):
                Z = model.decision_function(X[rows])
                np.savez(path / f"{name}_{split}{seed}.npz", logits=Z, labels=y[rows])
                p = model.predict_proba(X[rows])
                np.savez(path / f"{name}_p_{split}{seed}.npz", probabilities=p, labels=y[rows])
    return path


def models(folder: Path, name: str, seeds: int = 3, calibration: bool = True) -> list[Model]:
    tests = [read(str(folder / f"{name}_test{s}.npz"))[0] for s in range(seeds)]
    return pair_up(tests, [read(str(folder / f"{name}_cal{s}.npz"))[0] for s in range(seeds)] if calibration else [])


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 0
    return capsys.readouterr().out


def fails(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(words) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert hint in text
    assert "Traceback" not in text


def test_a_user_evaluates(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from scipy.optimize import minimize_scalar
    from sklearn.metrics import accuracy_score, log_loss

    cal, test, out = folder / "a_cal0.npz", folder / "a_test0.npz", tmp_path / "out"
    words = ["evaluate", "--calibration", str(cal), "--test", str(test), "--out", str(out)]
    words.append("calibrator=temperature_scaling,vector_scaling,isotonic")
    text = run(words, capsys)
    table = pd.read_csv(out / "tables" / "metrics.csv").set_index("method")
    assert list(table.index) == ["raw", "temperature_scaling", "vector_scaling", "isotonic"]
    with np.load(test) as t, np.load(cal) as c:
        p = torch.from_numpy(t["logits"]).softmax(-1).numpy()
        assert table.log_loss["raw"] == pytest.approx(log_loss(t["labels"], p), rel=1e-9)
        assert table.accuracy["raw"] == pytest.approx(accuracy_score(t["labels"], p.argmax(1)))
        Z, y = torch.from_numpy(c["logits"]), torch.from_numpy(c["labels"])
        T = minimize_scalar(
            lambda u: float(torch.nn.functional.cross_entropy(Z / np.exp(u), y)), (0.0, 1.0), tol=1e-10
        ).x
        assert table.kappa["temperature_scaling"] == pytest.approx(np.exp(T), rel=1e-4)
    assert (table.kappa_low < table.kappa)["temperature_scaling"]
    assert table.accuracy["temperature_scaling"] == table.accuracy["raw"]
    for metric in ("accuracy", "log_loss", "brier", "adaptive_ece", "classwise_ece", "aurc", "e_aurc", "mean_entropy"):
        assert (table[f"{metric}_low"] < table[f"{metric}_high"]).all(), metric
    assert table.log_loss_low["raw"] < table.log_loss["raw"] < table.log_loss_high["raw"]
    assert "overconfident" in text
    assert str(out / "report.html") in text
    provenance = json.loads((out / "provenance.json").read_text())
    digests = {k: v for one in provenance["inputs"] for k, v in one["sha256"].items()}
    assert digests == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in (cal, test)}
    assert provenance["environment"]["versions"]["numpy"] == np.__version__
    assert {p.name for p in (out / "tables").iterdir()} == {
        *(f"{n}.{s}" for n in ("evaluation", "differences") for s in ("csv", "md", "tex")), "metrics.csv", "metrics.md",
        *(f"{n}.{s}" for n in ("decisions", "decision_differences", *ALL_DRAWN) for s in ("csv", "md")), "index.json",
    }  # fmt: skip
    page = (out / "report.html").read_text()
    assert "python -m calib_bench evaluate --calibration" in page
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    run(words, capsys)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    cited = run(["cite", str(out)], capsys)
    assert "calibrator temperature_scaling" in cited
    assert "metric ece" in cited
    assert "task" not in cited


def test_an_evaluation_is_reported_again_from_the_same_files_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    test, out = tmp_path / "test.npz", tmp_path / "out"
    test.write_bytes((folder / "a_test0.npz").read_bytes())
    run(["evaluate", str(test), "--out", str(out), "bins=10"], capsys)
    metrics = (out / "tables" / "metrics.csv").read_bytes()
    (out / "report.html").unlink()
    run(["report", str(out)], capsys)
    assert (out / "report.html").exists()
    assert (out / "tables" / "metrics.csv").read_bytes() == metrics
    test.write_bytes((folder / "b_test0.npz").read_bytes())
    fails(["report", str(out)], "holds something else now", capsys)
    (out / "provenance.json").write_text("{")
    fails(["cite", str(out)], "cannot be read", capsys)


def test_a_user_compares(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", str(folder / "a_test*.npz"), str(folder / "b_test*.npz"), "--out", str(tmp_path)]
    text = run([*words, "--calibration", str(folder / "a_cal*.npz"), str(folder / "b_cal*.npz")], capsys)
    frame = pd.read_csv(tmp_path / "tables" / "comparison.csv").set_index(["stage", "metric"])
    for metric in ("log_loss", "brier"):
        total, conf, dyn = (
            frame.difference[s, metric] for s in ("as they are", "confidence", "after temperature scaling")
        )
        assert total == pytest.approx(conf + dyn, abs=1e-12)
    rows = []
    for seed in range(3):
        a, b = (read(str(folder / f"{n}_test{seed}.npz"))[0] for n in "ab")
        rows.append((metrics.log_loss_n(a.Z_NK, a.y_N) - metrics.log_loss_n(b.Z_NK, b.y_N)).numpy())
    expected = crossed_interval(rows)
    found = frame.loc["as they are", "log_loss"]
    assert (found.difference_low, found.difference_high) == pytest.approx((expected.low, expected.high))
    assert "3 models each" in text
    assert "better in Brier score" in text
    assert "nats are confidence" in text
    assert (frame.difference_holm.dropna() >= frame.difference_p.dropna() - 1e-15).all()
    kappas = pd.read_csv(tmp_path / "tables" / "kappa.csv")
    assert kappas.kappa[0] > 1 > kappas.kappa[1]
    text = run([*words[:3], "--out", str(tmp_path / "raw")], capsys)
    assert "nats are confidence" not in text


def test_rescaled_logits_differ_in_confidence_alone(folder: Path) -> None:
    a = models(folder, "a")
    sharp = [
        Model(replace(m.test, Z_NK=2 * m.test.Z_NK), replace(m.calibration, Z_NK=2 * m.calibration.Z_NK))
        for m in a
        if m.calibration is not None
    ]
    frame = compare(sharp, a).tables["comparison"].frame.set_index(["stage", "metric"])
    assert frame.difference["as they are", "accuracy"] == 0
    assert frame.difference["as they are", "log_loss"] > 0.01
    assert frame.difference["after temperature scaling", "log_loss"] == pytest.approx(0, abs=1e-9)
    assert frame.difference["confidence", "log_loss"] == pytest.approx(
        frame.difference["as they are", "log_loss"], abs=1e-9
    )
    same = compare(a, a)
    assert (same.tables["comparison"].frame.difference == 0).all()
    assert "the same predictions" in " ".join(same.warnings)
    assert all("(inconclusive)" in sentence for sentence in same.verdict[:4])


def test_comparisons_that_are_none(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = folder / "a_test0.npz"
    with np.load(good) as file:
        Z, y = file["logits"], file["labels"]
    shuffled = np.random.default_rng(0).permutation(len(y))
    for hint, logits, labels in (
        ("the same labels in another order?", Z[shuffled], y[shuffled]),
        ("600 examples", Z[:50], y[:50]),
        ("1 of 600 labels, first at row 599", Z, np.append(y[:-1], (y[-1] + 1) % 10)),
        ("different problems", np.pad(Z, ((0, 0), (0, 1))), y),
    ):
        np.savez(tmp_path / "other.npz", logits=logits, labels=labels)
        fails(["compare", str(good), str(tmp_path / "other.npz"), "--out", str(tmp_path / "o")], hint, capsys)
    fails(["compare", str(good), str(folder / "b_test*.npz"), "--out", str(tmp_path / "o")], "as many of each", capsys)
    assert not (tmp_path / "o").exists()


def test_bad_words(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test, cal, out = str(folder / "a_test0.npz"), str(folder / "a_cal0.npz"), ["--out", str(tmp_path / "o")]
    for words, hint in (
        (["evaluate"], "evaluate takes predictions"),
        (["evaluate", "--calibration", cal, test], "none is left to judge"),
        (["evaluate", test, "--calibraton", cal], "did you mean 'calibration'"),
        (["evaluate", test, "--kind", "logit"], "did you mean 'logits'"),
        (["evaluate", test, "--cross-fit", "x"], "cross-fit=x is not a whole number"),
        (["evaluate", test, "--cross-fit", "1"], "--cross-fit 1 is out of range for 600 examples: give 2 folds"),
        (["evaluate", test, "--cross-fit", "5", "--calibration", cal], "one of the two"),
        (["evaluate", test, "--seed", "-1"], "out of range"),
        (["evaluate", test, "--calibrator", "isotonic"], "something to fit on"),
        (["evaluate", test, "--calibration", cal, "--calibrator", "isotonik"], "did you mean 'isotonic"),
        (["evaluate", test, "--calibration", test], "the same"),
        (["evaluate", test, "--calibration", cal, cal], "1 test files and 2 calibration files"),
        (["evaluate", "nowhere.npz"], "does not exist"),
        (["compare", test], "the following arguments are required: B"),
        (["compare", test, test, "--calibration", cal], "expected 2 arguments"),
        (["export", test], "not a stored trial"),
    ):
        fails([*words, *out], hint, capsys)
    assert not (tmp_path / "o").exists()


def test_help_is_fast_and_says_it_all() -> None:
    code = (
        "import sys; from calib_bench.cli import main; main(['evaluate', '--help']); main(['compare', '-h']);"
        "heavy = {'torch', 'pandas', 'numpy', 'rich', 'scipy', 'pyarrow', 'pydantic'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--cross-fit" in done.stdout
    assert "A_CAL" in done.stdout
    assert "log_probabilities" in done.stdout


def test_probabilities_give_what_logits_give_where_a_shift_is_nothing(folder: Path) -> None:
    exact = evaluate(models(folder, "a", 1), TEMPERATURE)
    test, cal = (read(str(folder / f"a_p_{split}0.npz"))[0] for split in ("test", "cal"))
    vector = replace(registry.calibrators(("vector_scaling",))["vector_scaling"], shift_invariant=False)
    both = evaluate(pair_up([test], [cal]), TEMPERATURE | {"vector_scaling": vector})
    one, other = (e.tables["metrics"].frame.set_index("method") for e in (exact, both))
    for metric in ("log_loss", "brier", "ece", "accuracy", "kappa"):
        assert one[metric]["temperature_scaling"] == pytest.approx(other[metric]["temperature_scaling"], rel=1e-6)
    assert "fitted on log p" in other.remark["vector_scaling"]
    assert pd.isna(other.remark["temperature_scaling"])
    assert any("vector_scaling would be fitted differently on logits" in w for w in both.warnings)
    assert "remark" not in one or one.remark.isna().all()
    mixed = Model(test, models(folder, "a", 1)[0].calibration)
    p, _ = calibrated(mixed, vector)
    q, _ = calibrated(Model(test, cal), vector)
    assert torch.allclose(p, q, atol=1e-6)


def prior_fit(Z_NK: torch.Tensor, y_N: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logp": ((torch.bincount(y_N, minlength=Z_NK.shape[1]) + 1.0) / (len(y_N) + Z_NK.shape[1])).double().log()}


PRIOR = Calibrator(
    prior_fit, lambda params, Z: params["logp"].expand(Z.shape), keeps_argmax=False, reference="guo2017", title="Prior"
)


def test_cross_fitting_never_sees_what_it_judges(folder: Path) -> None:
    """A prior that is fitted to all labels but those of an example's fold tells which were left out."""
    (model,) = models(folder, "a", 1, calibration=False)
    y = model.test.y_N
    logp, params = calibrated(model, PRIOR, folds=4, seed=3)
    assert not params
    patterns, fold = logp.unique(dim=0, return_inverse=True)
    assert len(patterns) == 4
    for k, pattern in enumerate(patterns):
        torch.testing.assert_close(pattern, prior_fit(logp[fold != k], y[fold != k])["logp"])
    assert torch.equal(logp, calibrated(model, PRIOR, folds=4, seed=3)[0])
    assert not torch.equal(logp, calibrated(model, PRIOR, folds=4, seed=4)[0])
    found = evaluate([model], {"prior": PRIOR}, folds=4)
    assert "4 of 4 folds" not in str(found.warnings)
    assert any("cross-fitted" in warning for warning in found.warnings)


def test_without_anything_to_fit_on_there_are_metrics(folder: Path) -> None:
    found = evaluate(models(folder, "a", 3, calibration=False), TEMPERATURE)
    frame = found.tables["metrics"].frame
    assert list(frame.method) == ["raw"]
    assert "--cross-fit" in found.verdict[-1]
    assert len(found.tables["models"].frame) == 3
    assert frame.log_loss[0] == pytest.approx(found.tables["models"].frame.log_loss.mean())


def test_seeds_with_tests_of_their_own(folder: Path) -> None:
    shared = models(folder, "a", 3, calibration=False)
    own = [replace_rows(m, slice(0, 500 + 10 * i)) for i, m in enumerate(shared)]
    found = evaluate(own, {})
    row = found.tables["metrics"].frame.iloc[0]
    values = found.tables["models"].frame
    for metric in ("log_loss", "brier", "smece", "debiased_squared_ece"):
        scale = "log" if metric in ("log_loss", "brier") else "identity"
        expected = crossed_interval(values[metric].to_numpy()[:, None], nested=True, scale=scale)
        low = max(expected.low, 0.0) if metric == "smece" else expected.low
        assert (row[f"{metric}_low"], row[f"{metric}_high"]) == pytest.approx((low, expected.high))
    assert row.ece_low < row.ece < row.ece_high
    assert 0 < row.aurc_low < row.aurc < row.aurc_high
    assert "of their own" in found.tables["metrics"].note


def good(path: Path, name: str, wrong: int, N: int = 60) -> Model:
    """Three classes, one of them .98: `wrong` of N examples wrong."""
    y = np.random.default_rng(0).integers(0, 3, N)
    p = np.full((N, 3), 0.01)
    p[np.arange(N), y] = 0.98
    p[:wrong] = np.roll(p[:wrong], 1, axis=1)
    np.savez(path / f"{name}.npz", probabilities=p, labels=y)
    return Model(read(str(path / f"{name}.npz"))[0])


def test_intervals_stay_in_range_and_few_errors_are_marked(tmp_path: Path) -> None:
    from scipy import stats

    alone = evaluate([good(tmp_path, "one", 1)], {})
    row = alone.tables["metrics"].frame.iloc[0]
    exact = stats.binomtest(59, 60).proportion_ci(method="exact")
    assert (row.accuracy_low, row.accuracy_high) == pytest.approx((exact.low, exact.high), abs=3e-3)
    several = evaluate([good(tmp_path, f"s{wrong}", wrong, 60 + wrong) for wrong in (0, 1, 4)], {})
    none = evaluate([good(tmp_path, "none", 0)], {})
    for analysis in (alone, several, none):
        row = analysis.tables["metrics"].frame.iloc[0]
        for metric, (low, high) in inference.scores.RANGES.items():
            if f"{metric}_low" in row and np.isfinite(row[f"{metric}_low"]):
                assert low <= row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"] <= high, metric
        assert "few errors: ece, adaptive ece, aurc, e aurc" in row.doubtful
        assert "fewer than 30 examples are wrong" in analysis.tables["evaluation"].note
        assert any("few errors: ece" in text for text in analysis.warnings)
    row = none.tables["metrics"].frame.iloc[0]
    assert (row.accuracy_low, row.accuracy_high) == (pytest.approx(0.025 ** (1 / 60)), 1)


def test_losses_of_a_sample_without_errors_are_in_doubt() -> None:
    """Of a model right in 99.5% a third of samples of 200 have no error; limits of their small losses never covered."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 200)
    sharp = 4 * np.eye(3)[y] + rng.uniform(size=(200, 3))
    a, b = (Model(check(scale * sharp, y, "logits", f"{scale}")) for scale in (1.0, 1.5))
    metrics_of_a = evaluate([a], {}).tables["metrics"].frame.iloc[0]
    assert metrics_of_a.doubtful.startswith("few errors: ")
    assert {"log loss", "brier"} <= {*metrics_of_a.doubtful.removeprefix("few errors: ").split(", ")}
    frame = compare([a], [b]).tables["comparison"].frame.set_index("metric")
    assert frame.doubtful["log_loss"] == frame.doubtful["brier"] == "few errors"


def test_differences_stay_in_range(tmp_path: Path) -> None:
    a = [good(tmp_path, f"a{seed}", wrong) for seed, wrong in enumerate((0, 1, 4))]
    b = [good(tmp_path, f"b{seed}", wrong) for seed, wrong in enumerate((60, 59, 10))]
    frame = compare(a, b).tables["comparison"].frame.set_index("metric")
    for metric, (low, high) in {"accuracy": (-1, 1), "brier": (-2, 2), "ece": (-1, 1)}.items():
        assert low <= frame.difference_low[metric] <= frame.difference_high[metric] <= high
    assert frame.doubtful["ece"] == "few errors"


def masked_models(seed: int, spread: float, share: float) -> Model:
    """A model of six classes that offers no label to a share of the calibration and test rows."""
    sets = []
    for part, N in enumerate((2000, 1000)):
        rng = np.random.default_rng((seed, part))
        y = rng.integers(0, 6, N)
        Z = spread * (rng.normal(size=(N, 6)) + 2 * np.eye(6)[y])
        hidden = rng.random(N) < share
        Z[hidden, y[hidden]] = -np.inf
        sets.append(check(Z, y, "logits", f"{seed} {spread:g}"))
    return Model(*sets)


def test_sets_after_a_temperature_hold_the_label_where_rows_do_not_offer_it() -> None:
    """Thresholds of all calibration rows: of those that offer their label alone they would hold .9 x .94 = .85."""
    coverage = []
    for seed in range(8):
        scored = score([masked_models(seed, 1.0, 0.06)], REPAIRED, TEMPERATURE[REPAIRED])
        coverage.append(scored.metrics["lac_coverage"][0])
    assert np.mean(coverage) == pytest.approx(0.9, abs=0.015)


def test_models_that_do_not_offer_the_same_calibration_labels_are_compared() -> None:
    """It had ended in an error of numpy: each model's influences were those of its own rows."""
    masked, whole = masked_models(0, 1.0, 0.06), masked_models(0, 1.0, 0.0)
    table = compare([Model(whole.test, masked.calibration)], [whole]).tables["comparison"].frame
    difference = table.set_index(["stage", "metric"]).loc["after temperature scaling", "log_loss"]
    assert difference.difference_low < 0 < difference.difference_high


def test_calibration_examples_widen_what_a_temperature_repairs(folder: Path) -> None:
    """Only log loss and Brier after the temperature, by what `fitted` says; a calibration set of its own or not."""
    shared = models(folder, "a"), models(folder, "b")
    few = [replace(m, calibration=replace(m.calibration, Z_NK=m.calibration.Z_NK[:60], y_N=m.calibration.y_N[:60]))
           for m in shared[1] if m.calibration is not None]  # fmt: skip
    frames = [compare(*pair).tables["comparison"].frame for pair in (shared, (shared[0], few))]
    widths = [(frame.difference_high - frame.difference_low).tolist() for frame in frames]
    assert widths[1][:4] == widths[0][:4]
    assert widths[1][4] > widths[0][4]
    assert "are counted" in evaluate(shared[0], TEMPERATURE).tables["differences"].note
    crossed = evaluate(models(folder, "a", calibration=False), TEMPERATURE, folds=5)
    assert "hold for these fits" in crossed.tables["differences"].note


def test_models_of_two_kinds_are_told_and_establish_nothing(folder: Path) -> None:
    """One of three models guesses: a warning names it, here and in a comparison, and no difference is significant."""
    given = models(folder, "a")
    untouched = evaluate(given, TEMPERATURE)
    assert not any("collapsed" in text for text in untouched.warnings)
    noise = torch.randn(given[2].test.Z_NK.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    given[2] = replace(given[2], test=replace(given[2].test, Z_NK=noise))
    found = evaluate(given, TEMPERATURE)
    (warning,) = [text for text in found.warnings if "collapsed" in text]
    assert warning.startswith(f"1 of 3 models collapsed ({given[2].test.name})")
    assert set(found.tables["differences"].frame["two_kinds"]) == {"models"}
    assert "(inconclusive) against raw" in " ".join(found.verdict)
    compared = compare(given, models(folder, "b"))
    assert any("collapsed" in text for text in compared.warnings)
    assert set(compared.tables["comparison"].frame["two_kinds"]) == {"A"}
    assert "no effect in the row is established" in compared.tables["comparison"].note


def replace_rows(model: Model, rows: slice) -> Model:
    return Model(replace(model.test, Z_NK=model.test.Z_NK[rows], y_N=model.test.y_N[rows]))


def test_what_a_calibrator_says_of_its_calibration_set_is_a_warning_once(folder: Path) -> None:
    def warn(Z_NK: torch.Tensor, y_N: torch.Tensor) -> str:
        return f"only {len(y_N)} examples"

    wary = {"wary": replace(PRIOR, warn=warn), "silent": replace(PRIOR, warn=lambda Z_NK, y_N: None)}
    own = models(folder, "a", 2)
    found = evaluate(own, wary | TEMPERATURE)
    assert own[0].calibration is not None
    N = len(own[0].calibration.y_N)
    assert [w for w in found.warnings if w.startswith("wary")] == [f"wary: only {N} examples."]
    assert not any("silent" in w for w in found.warnings)


def test_a_calibrator_for_another_number_of_classes_is_left_out_in_silence_unless_chosen(folder: Path) -> None:
    def refuse(Z_NK: torch.Tensor, y_N: torch.Tensor) -> dict[str, torch.Tensor]:
        raise UserError("is for 77 classes")

    other = {"other": replace(PRIOR, fit=refuse, classes=77)}
    found = evaluate(models(folder, "a", 1), other | TEMPERATURE)
    assert not any("other" in warning for warning in found.warnings)
    assert "other" not in set(found.tables["metrics"].frame["method"])
    with pytest.raises(UserError, match="77 classes"):
        evaluate(models(folder, "a", 1), other, chosen=True)


def test_a_calibrator_that_does_not_fit_is_named(folder: Path) -> None:
    def refuse(Z_NK: torch.Tensor, y_N: torch.Tensor) -> dict[str, torch.Tensor]:
        raise UserError("only for three classes")

    picky = {"picky": replace(PRIOR, fit=refuse)}
    found = evaluate(models(folder, "a", 1), picky | TEMPERATURE)
    assert any("picky was left out: only for three classes" in warning for warning in found.warnings)
    with pytest.raises(UserError, match="three classes"):
        evaluate(models(folder, "a", 1), picky, chosen=True)


def binary(seed: int = 0, N: int = 400) -> Predictions:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=N) * 2
    return check((2 * z).round(1), (rng.random(N) < 1 / (1 + np.exp(-z))).astype(int), "scores", "margins")


def test_two_classes() -> None:
    found = evaluate(pair_up([binary(0)], [binary(1)]), TEMPERATURE)
    row = found.tables["metrics"].frame.set_index("method").loc["raw"]
    assert row.ece_positive_low < row.ece_positive_high
    assert any("taken as log odds" in warning for warning in found.warnings)
    kappa = found.tables["metrics"].frame.kappa[1]
    assert kappa == pytest.approx(2, rel=0.3)


def test_certain_and_wrong_is_an_infinite_loss() -> None:
    p = np.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.6], [0.7, 0.3]] * 10)
    test = check(p, np.array([1, 1, 0, 0] * 10), "probabilities", "certain")
    found = evaluate(pair_up([test], [binary(1)]), TEMPERATURE)
    frame = found.tables["metrics"].frame.set_index("method")
    assert frame.log_loss["raw"] == np.inf
    assert np.isnan(frame.log_loss_low["raw"])
    assert np.isfinite(frame.brier_low["raw"])
    compare([Model(test)], [Model(replace(test, Z_NK=test.Z_NK.flip(1)))])


def test_every_interval_is_about_its_metric(folder: Path) -> None:
    for seeds in (1, 3):
        row = evaluate(models(folder, "a", seeds, calibration=False), {}).tables["metrics"].frame.iloc[0]
        for name in [m for m in METRICS if not m.endswith("_positive") and m not in SETS]:
            if name in ("debiased_squared_ece", "smece", "mce") and seeds == 1:
                assert f"{name}_low" not in row or np.isnan(row[f"{name}_low"])
            else:
                assert row[f"{name}_low"] < row[f"{name}_high"], name
                assert row[f"{name}_low"] - 0.02 < row[name] < row[f"{name}_high"] + 0.02, name


def test_what_confidence_is_worth_to_a_decision(folder: Path) -> None:
    """Sets with intervals, of raw predictions and after temperature scaling; differences are those of the means."""
    for seeds in (1, 3):
        found = evaluate(models(folder, "a", seeds), TEMPERATURE)
        table = found.tables["decisions"].frame.set_index("method")
        change = found.tables["decision_differences"].frame.set_index("method").loc["temperature_scaling"]
        for name in (*DECISIONS, *SETS):
            assert (table[f"{name}_low"] <= table[name]).all(), name
            assert (table[name] <= table[f"{name}_high"]).all(), name
            assert change[name] == pytest.approx(table[name].iloc[1] - table[name].iloc[0], abs=1e-12), name
            assert change[f"{name}_low"] <= change[f"{name}_high"] or np.isnan(change[f"{name}_low"]), name
    alone = evaluate(models(folder, "a", 1, calibration=False), {}).tables["decisions"].frame
    assert not [column for column in alone if column.startswith(("lac", "aps", "raps"))]


def test_decisions_of_two_predictors_are_paired(folder: Path) -> None:
    a, b = models(folder, "a", 2), models(folder, "b", 2)
    frame = compare(a, b).tables["decisions"].frame
    assert set(frame["metric"]) == {*DECISIONS, *SETS}
    assert set(frame["stage"]) == {"as they are", "after temperature scaling"}
    assert (frame["difference"] - (frame["a"] - frame["b"])).abs().max() < 1e-12
    same = compare(a, a).tables["decisions"].frame
    assert (same["difference"] == 0).all()


def test_a_stored_trial_is_judged_as_in_its_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from calib_bench.analysis.measure import measure_arm
    from calib_bench.planning import tuning

    words = ("beta=0.3,1", "objective=cross_entropy", "seed=0..1", "lr=0.1", "calibrator=temperature_scaling")
    store, settings = make(tmp_path / "run", *words)
    arm = next(a for a in tuning.arms(settings, store.scores(settings.select)) if a.trial.beta == 0.3)
    expected = measure_arm(store, arm, TEMPERATURE).frame.set_index(["seed", "method"])
    places = [str(store.folder(trial)) for trial in arm.trials.values()]
    run(["evaluate", *places, "--calibrator", "temperature_scaling", "--out", str(tmp_path / "e")], capsys)
    found = pd.read_csv(tmp_path / "e" / "tables" / "models.csv")
    for row in found.to_dict("records"):
        seed = next(seed for seed, trial in arm.trials.items() if trial.key == row["model"])
        for metric in ("log_loss", "brier", "ece", "classwise_ece", "aurc", "ece_null", "ece_p"):
            assert row[metric] == pytest.approx(expected[metric][seed, row["method"]], rel=1e-12)
    assert len(found) == 4

    text = run(["export", places[0], "--out", str(tmp_path / "x")], capsys)
    assert "test.npz" in text
    (back,), (stored,) = read(str(tmp_path / "x" / "test.npz")), read(places[0])
    assert torch.equal(back.Z_NK, stored.Z_NK)
    assert torch.equal(back.y_N, stored.y_N)

    other = next(a for a in tuning.arms(settings, store.scores(settings.select)) if a.trial.beta == 1)
    b = [str(store.folder(trial)) for trial in other.trials.values()]
    text = run(["compare", ",".join(places), ",".join(b), "--out", str(tmp_path / "c")], capsys)
    assert "2 models each" in text
    assert "nats are confidence" in text
    fails(["compare", places[0], b[1], "--out", str(tmp_path / "c")], "no pair", capsys)


def test_leaks_and_mismatches(folder: Path) -> None:
    (model,) = models(folder, "a", 1)
    with pytest.raises(DataError, match="the same"):
        pair_up([model.test], [model.test])
    with pytest.raises(DataError, match="number of classes"):
        pair_up([model.test], [binary()])


def _save(path: Path, rng: np.random.Generator, N: int = 60) -> None:
    path.parent.mkdir(exist_ok=True)
    np.savez(path, logits=rng.normal(size=(N, 3)), labels=np.arange(N) % 3)


def test_files_of_one_name_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a/test", "a/cal", "b/test"):
        _save(tmp_path / f"{name}.npz", rng)
    fit = ["--calibration", "a/cal.npz", "--calibrator", "temperature_scaling"]
    for words in (["a/test.npz", *fit], ["b/test.npz"], ["b/test.npz"]):
        run(["evaluate", "--test", *words], capsys)
    first, second = sorted(Path("runs").iterdir())
    assert first.name == "evaluate-test"
    assert (first / "tables" / "differences.csv").is_file()
    assert not (second / "tables" / "differences.csv").exists()
    for folder, path in ((first, "a/test.npz"), (second, "b/test.npz")):
        inputs = json.loads((folder / "provenance.json").read_text())["inputs"]
        assert [list(one["sha256"]) for one in inputs if one["role"] == "test"] == [[path]]


def test_tables_of_an_earlier_result_do_not_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    test, cal, out = tmp_path / "test.npz", tmp_path / "cal.npz", tmp_path / "out"
    _save(test, rng)
    _save(cal, rng)
    words = ["evaluate", "--test", str(test), "--out", str(out)]
    run([*words, "--calibration", str(cal), "--calibrator", "temperature_scaling"], capsys)
    assert (out / "tables" / "differences.tex").is_file()
    (out / "tables" / "mine.csv").write_text("x")
    run(words, capsys)
    assert not (out / "fits.safetensors").exists()
    left = {path.stem for path in (out / "tables").iterdir()}
    assert left == {"evaluation", "metrics", "decisions", "index", "mine", *ALL_DRAWN}


@pytest.mark.parametrize("rows", [slice(0, 300), np.random.default_rng(1).permutation(400)], ids=["slice", "shuffled"])
def test_calibration_rows_in_the_test_set_are_counted(rows: slice | np.ndarray) -> None:
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(400, 4)), np.arange(400) % 4
    model = pair_up([check(Z, y, "logits", "test")], [check(Z[rows], y[rows], "logits", "cal")])[0]
    assert shared_rows(model) == len(y[rows])
    warnings = evaluate([model], {}).warnings
    assert any(f"{len(y[rows])} of the {len(y[rows])} calibration rows of cal" in text for text in warnings)
    other_labels = pair_up([check(Z, y, "logits", "test")], [check(Z[:300], (y[:300] + 1) % 4, "logits", "cal")])[0]
    assert shared_rows(other_labels) == 0


def test_files_that_hold_the_same_predictions_are_no_two_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(60, 3)), np.arange(60) % 3
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", logits=Z, labels=y)
    one, two = (str(tmp_path / f"{name}.npz") for name in ("one", "two"))
    for again in (one, two):
        assert main(["evaluate", one, again, "--out", str(tmp_path / "out")]) == 2
        assert "the same predictions as those of" in capsys.readouterr().err
    np.savez(two, logits=Z + 1e-9, labels=y)
    assert main(["evaluate", one, two, "--out", one]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_test_rows_that_may_be_copies_are_counted() -> None:
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(400, 4)), np.arange(400) % 4
    some, few = np.r_[0:400, 0:40, 0:20], np.r_[0:400, 0:2]
    warnings = evaluate(pair_up([check(Z[some], y[some], "logits", "t")], []), {}).warnings
    assert any("100 of the 460 test rows of t are like another one" in text for text in warnings)
    assert repeated_rows(check(Z[few], y[few], "logits", "t")) == 0
    other_labels = np.r_[y, (y[:40] + 1) % 4]
    assert repeated_rows(check(Z[np.r_[0:400, 0:40]], other_labels, "logits", "t")) == 0
    certain = np.eye(4)[y]
    assert repeated_rows(check(certain, y, "probabilities", "t")) == 0


def test_test_rows_that_may_be_views_of_one_example_are_counted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names, y = np.repeat(np.arange(200), 2), np.repeat(np.arange(200) % 3, 2)
    views = dict(zip(["prob_0", "prob_1", "prob_2"], rng.dirichlet(np.ones(3), 400).T, strict=True))

    def sentences(image_id: np.ndarray, label: np.ndarray) -> list[str]:
        pd.DataFrame({"image_id": image_id, **views, "label": label}).to_csv(tmp_path / "t.csv", index=False)
        noted = evaluate(pair_up(read(str(tmp_path / "t.csv")), []), {}).warnings
        return [text for text in noted if "for an example of its own" in text]

    (text,) = sentences(names, y)
    assert text.startswith("400 of the 400 test rows of t are like another one in 'image_id' and the label")
    assert "the mean of their probabilities" in text
    frame = calib_bench.evaluate(pd.read_csv(tmp_path / "t.csv"))
    assert text.partition(" are like ")[2] in " ".join(frame.attrs["warnings"])
    of_two_labels, folds = np.r_[(y[0] + 1) % 3, y[1:]], np.arange(400) % 4
    for image_id, label in ((names, of_two_labels), (folds, y), (y, y), (np.r_[0, 0:399], np.r_[0, 0:399] % 3)):
        assert not sentences(image_id, label)


@pytest.mark.parametrize("written", ["float32", "float16", "6 digits", "probabilities"])
def test_calibration_rows_in_the_test_set_are_counted_however_they_are_written(written: str) -> None:
    rng = np.random.default_rng(0)
    Z, y = 2 * rng.normal(size=(400, 4)), np.arange(400) % 4
    Z[:9, 0] = -np.inf
    kind = "probabilities" if written == "probabilities" else "logits"
    P = np.exp(Z) / np.exp(Z).sum(1, keepdims=True)
    values = P if kind == "probabilities" else Z.round(6) if written == "6 digits" else Z.astype(written)
    calibration = [check(values[:200], y[:200], kind, "cal")]
    assert shared_rows(pair_up([check(Z, y, "logits", "test")], calibration)[0]) > 160
    assert shared_rows(pair_up([check(Z[200:], y[200:], "logits", "test")], calibration)[0]) == 0


def test_rows_are_the_same_only_as_a_whole() -> None:
    """Wide rows that agree wherever a glance falls, but not elsewhere, are no rows of the test set."""
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(50, 200)), np.arange(50)
    other = Z.copy()
    other[:30, 1] += 0.1
    model = pair_up([check(Z, y, "logits", "test")], [check(other, y, "logits", "cal")])[0]
    assert shared_rows(model) == 20
    one = [check(Z, y, "logits", "test")], [check(rng.permutation(other)[:0:-1], y[1:], "logits", "cal")]
    assert shared_rows(pair_up(*one)[0]) == 0


def test_coarse_rows_that_repeat_by_chance_are_no_leak() -> None:
    rng = np.random.default_rng(0)
    p = rng.integers(1, 10, size=800) / 10
    y = np.arange(800) % 2
    model = pair_up([check(p[:400], y[:400], "probabilities", "t")], [check(p[400:], y[400:], "probabilities", "c")])[0]
    assert shared_rows(model) == 0


def test_a_note_on_doubtful_intervals_stands_where_a_row_is_marked() -> None:
    marks = pd.DataFrame({"method": ["raw", "isotonic"], "doubtful": [None, "few errors: ece"]})
    spec = TableSpec("Rows")
    grid = resolve(parse(["task=digits"])).grid
    assert [marks_note(rows)[:10] for rows in (marks, marks[:1])] == [" doubtful:", ""]
    assert ["doubtful:" in spec.table(rows, grid).note for rows in (marks, marks[:1])] == [True, False]
    wide = marks.assign(**{f"n{i}": i for i in range(20)})
    assert TableView.of(Table("Rows", wide, first=("n0",))).brief(12).shown == ("method", "doubtful", "n0")


def test_a_warning_of_doubtful_intervals_names_rows_or_is_not_there() -> None:
    marks = pd.DataFrame({"method": ["raw", "isotonic"], "doubtful": [float("nan"), "few errors: ece"]})
    assert doubts_of(marks[:1], "method") == []
    assert doubts_of(marks, "method") == [
        "Some intervals may cover less than 95% (see the table's note). isotonic: few errors: ece."
    ]
