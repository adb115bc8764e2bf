"""A calibrator that fails, or is too large for its problem, ends only itself; the others report as they would alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from calib_bench import cli, registry
from calib_bench.analysis.fitting import MOST_PRODUCTS, MOST_UNKNOWNS, CalibratorError, calibrate, too_large
from calib_bench.core.baseline import Calibrator, Params
from calib_bench.errors import UserError
from calib_bench.evaluation import evaluate
from calib_bench.evaluation.models import Model, pair_up
from calib_bench.evaluation.validation import check

PLUGIN = """
import sys
import torch
from calib_bench.core.baseline import Calibrator
def fit(Z, y):
    {fit}
    return {{"t": torch.tensor(1.0)}}
def apply(params, Z):
    logp = Z.double().log_softmax(1)
    return {apply}
BASELINE = Calibrator(fit, apply, keeps_argmax=True, reference="guo2017", title="plug-in")
"""
FAULTS = {
    "raising": ("raise KeyError('boom')", "logp", "its fit raised KeyError: 'boom'"),
    "leaving": ("sys.exit(3)", "logp", r"its fit called sys.exit\(3\)"),
    "greedy": ("torch.empty(1 << 50)", "logp", "its fit ran out of memory"),
    "memory": ("raise MemoryError", "logp", r"its fit ran out of memory \(MemoryError\)"),
    "empty_handed": ("return None", "logp", "its fit raised TypeError: it gave NoneType, not a dict"),
    "numbered": ("return {'t': 1.0}", "logp", "its fit raised TypeError: its 't' is of type float, not a tensor"),
    "nan": ("pass", "logp * float('nan')", "it gave NaN"),
    "narrow": ("pass", "logp[:, :1]", r"it gave log probabilities of shape \(200, 1\)"),
    "unnormalized": ("pass", "logp + 1", "rows that do not sum to one"),
    "numpy": ("pass", "logp.numpy()", "it gave ndarray"),
}


def models(N: int = 200, K: int = 3) -> list[Model]:
    r = np.random.default_rng(0)
    sets = [check(3 * r.normal(size=(N, K)), r.integers(0, K, N), "logits", name) for name in ("test", "calibration")]
    return pair_up(sets[:1], sets[1:])


def made(fit: str, apply: str) -> Calibrator:
    scope: dict[str, Calibrator] = {}
    exec(PLUGIN.format(fit=fit, apply=apply), scope)
    return scope["BASELINE"]


@pytest.mark.parametrize("fault", FAULTS)
def test_one_that_fails_is_named_and_the_others_report(fault: str) -> None:
    own = registry.calibrators(("temperature_scaling", "vector_scaling"))
    fit, apply, said = FAULTS[fault]
    alone = evaluate.evaluate(models(), own).tables["metrics"].frame
    found = evaluate.evaluate(models(), {fault: made(fit, apply), **own})
    assert found.tables["metrics"].frame.equals(alone)
    with pytest.raises(CalibratorError, match=said):
        calibrate(made(fit, apply), models()[0].test.Z_NK, models()[0].test.y_N, models()[0].test.Z_NK)
    assert sum(warning.startswith(f"{fault} was left out: ") for warning in found.warnings) == 1


def test_one_that_was_chosen_and_fails_is_named_too_unless_none_is_left() -> None:
    own, faulty = registry.calibrators(("temperature_scaling",)), made(*FAULTS["raising"][:2])
    found = evaluate.evaluate(models(), {"faulty": faulty, **own}, chosen=True)
    assert list(found.tables["metrics"].frame.method) == ["raw", "temperature_scaling"]
    with pytest.raises(UserError, match="faulty was left out: its fit raised KeyError"):
        evaluate.evaluate(models(), {"faulty": faulty}, chosen=True)


def test_ctrl_c_ends_everything() -> None:
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(models(), {"slow": made("raise KeyboardInterrupt", "logp")})


def test_what_a_plug_in_writes_into_its_arguments_is_nobody_elses() -> None:
    own = registry.calibrators(("vector_scaling",))
    writing = made("Z[:] = 0; y[:] = 0", "logp if Z.zero_() is not None else logp")
    alone = evaluate.evaluate(models(), own).tables["metrics"].frame
    after = evaluate.evaluate(models(), {"writing": writing, **own}).tables["metrics"].frame
    assert after[after.method != "writing"].reset_index(drop=True).equals(alone)


def test_the_command_line_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "calibrator_that_leaves.py").write_text(PLUGIN.format(fit="sys.exit(3)", apply="logp"))
    for split in ("calibration", "test"):
        predictions = getattr(models()[0], split)
        np.savez(tmp_path / f"{split}.npz", logits=predictions.Z_NK.numpy(), labels=predictions.y_N.numpy())
    words = ["evaluate", "--calibration", f"{tmp_path}/calibration.npz", "--test", f"{tmp_path}/test.npz"]
    words += ["--plugins", str(folder), "--calibrator", "calibrator_that_leaves,temperature_scaling"]
    assert cli.main([*words, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "calibrator_that_leaves was left out: its fit called sys.exit(3)" in printed
    assert "Kappa is" in printed


def _never(Z_NK: torch.Tensor, y_N: torch.Tensor) -> Params:
    raise AssertionError("it was fitted")


def test_what_grows_with_pairs_of_classes_is_left_out_of_large_problems_unless_it_is_named() -> None:
    large = {name for name, calibrator in registry.calibrators().items() if calibrator.unknowns is not None}
    assert large == {"dirichlet_scaling", "matrix_scaling", "structured_matrix_scaling"}
    pairs = Calibrator(_never, lambda p, Z: Z, keeps_argmax=False, reference="", title="", unknowns=lambda K: K * K)
    own = registry.calibrators(("temperature_scaling",))
    found = evaluate.evaluate(models(6, 3000), {"pairs": pairs, **own})
    assert list(found.tables["metrics"].frame.method) == ["raw", "temperature_scaling"]
    said = next(warning for warning in found.warnings if warning.startswith("pairs was left out"))
    assert "9,000,000 numbers" in said
    assert "2.2 GB" in said
    with pytest.raises(UserError, match="it was fitted"):
        evaluate.evaluate(models(6, 3000), {"pairs": pairs}, chosen=True)


def test_the_rule_counts_classes_and_examples() -> None:
    matrix = registry.calibrators(("matrix_scaling",))["matrix_scaling"]
    assert too_large(matrix, 50_000, 1000) is None
    assert too_large(matrix, 10, 2047) is None
    assert f"more than {MOST_UNKNOWNS:,} numbers" in (too_large(matrix, 10, 2048) or "")
    assert "products" in (too_large(matrix, MOST_PRODUCTS // 1_001_000 + 1, 1000) or "")
    assert too_large(registry.calibrators(("vector_scaling",))["vector_scaling"], 10, 250_000) is None
