"""The commands on predictions made elsewhere: evaluate, compare, export."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from calib_bench.errors import SettingsError, UserError, nearest

if TYPE_CHECKING:
    from calib_bench.core.study import Analysis
    from calib_bench.evaluation.models import Model
    from calib_bench.evaluation.predictions import Predictions

FORMATS = """\
A file of predictions is .npz, .safetensors, .csv, .tsv, .jsonl (also .gz, .bz2, .xz, .zst), .parquet, .arrow, .feather,
or a pair logits.npy:labels.npy. It holds `labels` (or label, target, y, true_label, ground_truth..., or what --labels
names; integers 0..K-1) and `logits`, `probabilities` or `log_probabilities` [N, K]; for two classes also [N], that of
class 1, or `scores`, a margin. Tables have a column `label` and columns logit_0, logit_1... or probability_0...; other
class columns need --kind. A stored trial is runs/<study>:<key> or runs/<study>/trials/<key>.
Several seeds: a,b,c or 'seed*.npz'. Nothing read can run code."""


class _Parser(argparse.ArgumentParser):
    """Errors as the rest of the command line gives them."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{self.prog.rpartition(' ')[2]}: {message}; --help shows what it takes")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments; `name=value` stands for `--name value`.

        Raises:
            SettingsError: a flag is unknown or malformed.
        """
        flags = {flag[2:] for action in self._actions for flag in action.option_strings if flag.startswith("--")}
        spelled: list[str] = []
        for word in words:
            name, equals, value = word.partition("=")
            spelled += [f"--{name}", value] if equals and name in flags else [word]
        found, unknown = self.parse_known_intermixed_args(spelled)
        for word in unknown:
            hint = nearest(word.lstrip("-").partition("=")[0], flags)
            raise SettingsError(f"{self.prog.rpartition(' ')[2]} knows no {word!r}: {hint}")
        return found


def _parser(command: str, description: str) -> _Parser:
    parser = _Parser(
        f"python -m calib_bench {command}",
        description=description,
        epilog=FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if command != "export":
        parser.add_argument("--kind", help="what the numbers are: logits, probabilities, log_probabilities, scores")
        parser.add_argument("--labels", metavar="NAME", help="name of the labels in the files; usual names are known")
        parser.add_argument(
            "--trust-kind", action="store_true", help="believe it even where logits look like probabilities"
        )
        parser.add_argument(
            "--cross-fit", type=int, default=0, metavar="FOLDS", help="without a calibration set: by folds"
        )
        parser.add_argument("--seed", type=int, default=0, help="of the folds (default 0)")
    parser.add_argument("--out", type=Path, help="folder for the results (default under runs/)")
    return parser


def _evaluate_parser() -> _Parser:
    parser = _parser("evaluate", "Every calibrator and every metric, with intervals, on anyone's predictions.")
    parser.add_argument("predictions", nargs="*", help="the same as --test; a stored trial brings its calibration set")
    parser.add_argument("--test", nargs="+", action="extend", default=[], help="predictions to judge, one a seed")
    parser.add_argument("--calibration", nargs="+", action="extend", default=[], help="to fit on; paired with --test")
    parser.add_argument("--calibrator", help="a,b,c; all of them when not given, see `list baselines`")
    parser.add_argument("--plugins", help="folders with calibrators of your own")
    return parser


def _compare_parser() -> _Parser:
    parser = _parser("compare", "Paired differences A minus B of two predictors on the same examples.")
    parser.add_argument("a", metavar="A", help="predictions; several seeds as a,b,c or 'a*.npz'")
    parser.add_argument("b", metavar="B", help="predictions for the same examples, seed by seed")
    parser.add_argument("--calibration", nargs=2, metavar=("A_CAL", "B_CAL"), help="to fit a temperature on, likewise")
    return parser


def _export_parser() -> _Parser:
    parser = _parser(
        "export", "A stored trial as calibration.npz, selection.npz and test.npz: logits (times beta), labels."
    )
    parser.add_argument("trial", help="runs/<study>:<key> or runs/<study>/trials/<key>")
    return parser


PARSERS = {"evaluate": _evaluate_parser, "compare": _compare_parser, "export": _export_parser}


def help_of(command: str) -> str:
    """A command's help text."""
    return PARSERS[command]().format_help()


def evaluate(words: Sequence[str]) -> int:
    """Judge predictions; print a table and write report, tables and provenance."""
    given = _evaluate_parser().read(words)
    places = [*given.predictions, *given.test]
    if not places:
        taken = "all files after --calibration are calibration sets, and none is left to judge" * bool(
            given.calibration
        )
        example = "evaluate --calibration calibration.npz --test test.npz"
        raise SettingsError(f"evaluate takes predictions, for example {example}{': ' * bool(taken)}{taken}")
    from calib_bench import registry
    from calib_bench.core.syntax import expand
    from calib_bench.evaluation.evaluate import evaluate as judge

    if given.plugins:
        registry.use_plugins(Path(folder) for folder in expand("plugins", given.plugins))
    chosen = expand("calibrator", given.calibrator) if given.calibrator else None
    calibrators = registry.calibrators(chosen)
    models = _models(places, given.calibration, given)
    if chosen and models[0].calibration is None and not given.cross_fit:
        raise SettingsError("--calibrator needs something to fit on: give --calibration, or --cross-fit 5")
    with _waiting("calibrating and measuring"):
        analysis = judge(models, calibrators, given.cross_fit, given.seed, bool(chosen))
    out = given.out or _folder("evaluate", [models[0].test.name], models)
    question = "How good are these predictions, how well are they calibrated, and what can be done after training?"
    return _finish("evaluate", words, question, models, analysis, out)


def compare(words: Sequence[str]) -> int:
    """Compare two predictors; print a table and write report, tables and provenance."""
    given = _compare_parser().read(words)
    from calib_bench.evaluation.compare import compare as contrast

    calibration = given.calibration or [None, None]
    a, b = (_models([w], [c] if c else [], given) for w, c in zip((given.a, given.b), calibration, strict=True))
    half = [x[0].test.name for x in (a, b) if x[0].calibration is None]
    if len(half) == 1 and not given.cross_fit:
        raise SettingsError("only one of the two has a calibration set: give both with --calibration A_CAL B_CAL")
    with _waiting("comparing"):
        analysis = contrast(a, b, given.cross_fit, given.seed)
    out = given.out or _folder("compare", [a[0].test.name, b[0].test.name], [*a, *b])
    return _finish("compare", words, "Which of the two predicts better, and is it confidence?", [*a, *b], analysis, out)


def export(words: Sequence[str]) -> int:
    """Write a stored trial's predictions as npz files."""
    given = _export_parser().read(words)
    import io

    import numpy as np

    from calib_bench.evaluation.predictions import read_trial, stored
    from calib_bench.system.files import write_bytes

    found = stored(given.trial)
    if found is None:
        raise UserError(f"{given.trial} is not a stored trial: name one as runs/<study>:<key>")
    out = given.out or Path("runs") / f"export-{found[1]}"
    for split in ("selection", "calibration", "test"):
        predictions = read_trial(*found, split)
        buffer = io.BytesIO()
        np.savez(buffer, logits=predictions.Z_NK.numpy(), labels=predictions.y_N.numpy())
        write_bytes(out / f"{split}.npz", buffer.getvalue())
    print(f"written: {out}/selection.npz, calibration.npz, test.npz")
    return 0


def _models(places: Sequence[str], calibration: Sequence[str], given: argparse.Namespace) -> list[Model]:
    from calib_bench.evaluation.matching import joined
    from calib_bench.evaluation.models import pair_up
    from calib_bench.evaluation.predictions import check_kind, read

    kind = check_kind(given.kind)
    if not 0 <= given.seed < 2**63:
        raise SettingsError(f"--seed {given.seed} is out of range: give a whole number from 0")
    tests = [p for place in places for p in read(place, "test", kind, given.trust_kind, given.labels)]
    fits = [p for place in calibration for p in read(place, "calibration", kind, given.trust_kind, given.labels)]
    if not fits and all(p.trial is not None for p in tests):
        fits = [p for place in places for p in read(place, "calibration")]
    if fits and given.cross_fit:
        raise SettingsError("--cross-fit is for predictions without a calibration set: give one of the two")
    return pair_up(joined(tests), joined(fits))


def _folder(command: str, names: Sequence[str], models: Sequence[Model]) -> Path:
    """A folder under runs/ that is new, or holds an earlier result of the same test files.

    A name that another input has taken is followed by a digest of this input's paths, which differ where names do not.
    """
    import hashlib

    inputs = [path for m in models for path in m.test.sha256]
    plain = Path("runs") / "-".join([command, *names]).replace("/", "-")
    if not plain.exists() or _inputs(plain) == inputs:
        return plain
    absolute = "\n".join(str(Path(path).absolute()) for path in inputs)
    return plain.with_name(f"{plain.name}-{hashlib.sha256(absolute.encode()).hexdigest()[:8]}")


def _inputs(folder: Path) -> list[str] | None:
    """Paths of the test files that an earlier result in a folder rests on; None where that cannot be read."""
    import json

    try:
        described = json.loads((folder / "provenance.json").read_text())["inputs"]
        return [path for one in described if one["role"] == "test" for path in one["sha256"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _finish(
    command: str, words: Sequence[str], question: str, models: list[Model], analysis: Analysis, out: Path
) -> int:
    """Write everything, then print the first table, the verdict and where the report is."""
    from rich.console import Console
    from rich.markup import escape

    from calib_bench.core.settings import shell_line
    from calib_bench.report import html, tables
    from calib_bench.system import environment
    from calib_bench.system.files import write_bytes, write_json

    line = shell_line(command, words)
    everything = [(what, p) for m in models for what, p in (("test", m.test), ("calibration", m.calibration)) if p]
    provenance: dict[str, Any] = {
        "command": line,
        "inputs": [_described(what, p) for what, p in everything],
        "environment": environment.describe(),
    }
    tables.save(analysis.tables, out / "tables")
    title = f"{command.capitalize()}: {out.name.removeprefix(f'{command}-')}"
    write_bytes(out / "report.html", html.document(title, question, line, analysis, {}, provenance).encode())
    write_json(out / "provenance.json", provenance)
    console = Console(highlight=False, soft_wrap=True)
    console = console if console.is_terminal else Console(highlight=False, soft_wrap=True, width=140)
    console.print(tables.rich_table(next(iter(analysis.tables.values()))))
    for sentence in analysis.verdict:
        console.print(f"- {sentence}", markup=False)
    for warning in analysis.warnings:
        console.print(f"[yellow]note:[/] {escape(warning)}")
    console.print(f"report: {out / 'report.html'}", markup=False)
    return 0


def _described(what: str, p: Predictions) -> dict[str, Any]:
    described: dict[str, Any] = {
        "role": what, "name": p.name, "kind": p.kind, "examples": len(p.y_N), "classes": p.Z_NK.shape[1],
        "sha256": p.sha256, "notes": list(p.notes),
    }  # fmt: skip
    return described | ({"trial": p.trial.canonical()} if p.trial is not None else {})


def _waiting(text: str) -> Any:
    import contextlib

    from rich.console import Console

    console = Console(stderr=True)
    return console.status(text) if console.is_terminal else contextlib.nullcontext()
