"""What `evaluate` and `compare` share: options, predictions read from files, results written and printed."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench.commands.command import Option, flag, whole
from calib_bench.errors import SettingsError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calib_bench.core.study import Analysis
    from calib_bench.evaluation.models import Model
    from calib_bench.evaluation.predictions import Predictions

FORMATS = """\
A file of predictions is .npz, .safetensors, .csv, .tsv, .jsonl (also .gz, .bz2, .xz, .zst), .parquet, .arrow, .feather,
a pair logits.npy:labels.npy, or a group file.h5:dataset/model. It holds `labels` (or label, target, y, true_label,
ground_truth..., or what --labels names; integers 0..K-1) and `logits`, `probabilities` or `log_probabilities` [N, K];
for two classes also [N], that of class 1, or `scores`, a margin. Two splits may share a file: logits_val, labels_val,
logits_test, labels_test (or cal, calib, dev; val_logits...). Tables have a column `label` and columns logit_0,
logit_1... or probability_0...; other class columns need --kind. Columns confidence and correct suffice for what needs
no more. A stored trial is runs/<study>:<key> or runs/<study>/trials/<key>.
Several seeds: a,b,c or 'seed*.npz'. Nothing read can run code."""


RUN = "run"
"""Role of an input that is a run folder."""
OUT = Option("--out", "folder for the results; otherwise one under runs/", Path, metavar="FOLDER")
OPTIONS = (
    Option("--kind", "what the numbers are: logits, probabilities, log_probabilities, scores"),
    Option("--labels", "name of the labels in the files; usual names are known", metavar="NAME"),
    flag("--trust-kind", "believe it even where logits look like probabilities"),
    whole("--cross-fit", "without a calibration set: fit by so many folds of the test examples", 0),
    whole("--seed", "seed of the folds", 0),
    OUT,
)
"""Options of both commands."""


def read_models(
    paths: Sequence[str], calibration: Sequence[str], options: Namespace, groups: str | None = None
) -> list[Model]:
    """The models whose predictions files hold, each with its calibration set if there is one.

    Args:
        paths: files or stored trials with test predictions.
        calibration: files to fit on; stored trials and files with two splits bring theirs.
        options: values of `OPTIONS`.
        groups: the column of slices in the files to judge.

    Raises:
        UserError: a file cannot be read as predictions, or the files do not fit each other.
    """
    from calib_bench.evaluation.matching import joined
    from calib_bench.evaluation.models import pair_up
    from calib_bench.evaluation.predictions import check_kind, read

    kind = check_kind(options.kind)

    def read_all(files: Sequence[str], role: str, groups: str | None = None) -> list[Predictions]:
        return [p for path in files for p in read(path, role, kind, options.trust_kind, options.labels, groups)]

    tests = read_all(paths, "test", groups)
    fits = read_all(calibration, "calibration")
    if not fits and all(predictions.trial is not None or predictions.has_calibration for predictions in tests):
        fits = read_all(paths, "calibration")
    return pair_up(joined(tests), joined(fits))


def write_results(
    command: str, words: Sequence[str], question: str, models: list[Model], analysis: Analysis, out: Path
) -> None:
    """Write report, tables and provenance, then print the first table, the verdict and where the report is.

    Args:
        command: the command's name.
        words: what followed it, for the provenance.
        question: what the analysis answers.
        models: what was read.
        analysis: its tables and sentences.
        out: the folder.
    """
    inputs = [_input(role, predictions) for model in models for role, predictions in model.sets.items()]
    write_page(command, words, question, inputs, analysis, out)


def write_page(
    command: str,
    words: Sequence[str],
    question: str,
    inputs: Sequence[Mapping[str, Any]],
    analysis: Analysis,
    out: Path,
) -> None:
    """As `write_results`, of inputs that are described: what each is, and its files with their digests."""
    from calib_bench.commands.console import open_console, print_analysis
    from calib_bench.core.settings import shell_line
    from calib_bench.report import evaluation_figures, html, tables
    from calib_bench.system import environment
    from calib_bench.system.files import write_bytes, write_json

    line = shell_line(command, words)
    provenance = {"command": line, "inputs": inputs, "environment": environment.describe()}
    tables.save(analysis.tables, out / "tables")
    title = f"{command.capitalize()}: {out.name.removeprefix(f'{command}-')}"
    drawn = evaluation_figures.save(analysis, out / "figures")
    captions = {name: inspect.getdoc(draw) or "" for name, draw in evaluation_figures.DRAWN.items()}
    page = html.document(
        title, question, line, analysis, drawn, provenance, evaluation_figures.SECTIONS, captions=captions
    )
    write_bytes(out / "report.html", page.encode())
    write_json(out / "provenance.json", provenance)
    first = next(iter(analysis.tables.values()))
    print_analysis(analysis, first, "note", out / "report.html", open_console())


def write_predictions(
    out: Path,
    kind: str,
    values_NK: NDArray,
    labels: NDArray | None,
    names: Sequence[str] | None,
    ids: NDArray | None = None,
    more: Mapping[str, object] | None = None,
) -> None:
    """Write predictions as `evaluate` reads them.

    Args:
        out: an .npz file, or a .csv.
        kind: "logits" or "probabilities".
        values_NK: of that kind.
        labels: class indices [N]; None where they are not known.
        names: of the classes; those that are numbers in order say nothing and are left out.
        ids: what rows are called, [N].
        more: numbers and texts that an .npz file holds too.

    Raises:
        SettingsError: `out` ends otherwise.
    """
    names = None if names is None or list(names) == list(map(str, range(len(names)))) else names
    if out.suffix == ".csv":
        of = {"logits": "logit", "probabilities": "probability"}[kind]
        columns: dict[str, object] = {
            "id": ids,
            "label": [names[y] for y in labels] if names and labels is not None else labels,
        }
        columns |= {
            f"{of}_{name}": one for name, one in zip(names or range(values_NK.shape[1]), values_NK.T, strict=True)
        }
    else:
        columns = {kind: values_NK, "labels": labels, "class_names": names, "ids": ids, **(more or {})}
    write_columns(out, columns)


def write_columns(out: Path, columns: Mapping[str, object]) -> None:
    """Write arrays by name, those that are not None, as .npz or .csv.

    Raises:
        SettingsError: `out` ends otherwise.
    """
    import pandas as pd

    from calib_bench.system.files import write_bytes

    if out.suffix not in (".npz", ".csv"):
        raise SettingsError(f"out={out} ends in neither .npz nor .csv")
    arrays = {name: value for name, value in columns.items() if value is not None}
    content = pd.DataFrame(arrays).to_csv(index=False).encode() if out.suffix == ".csv" else _as_npz(arrays)
    write_bytes(out, content)


def _as_npz(arrays: Mapping[str, object]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **{name: np.asarray(value) for name, value in arrays.items()})
    return buffer.getvalue()


def _input(role: str, predictions: Predictions) -> dict[str, Any]:
    described: dict[str, Any] = {
        "role": role,
        "name": predictions.name,
        "kind": predictions.kind,
        "examples": len(predictions.y_N),
        "classes": predictions.Z_NK.shape[1],
        "sha256": predictions.sha256,
        "notes": list(predictions.notes),
    }
    if predictions.trial is not None:
        described["trial"] = predictions.trial.canonical()
    return described


def test_files(models: Sequence[Model]) -> list[str]:
    """The paths of the files that models' test predictions are from."""
    return [path for model in models for path in model.test.sha256]


def new_folder(command: str, names: Sequence[str], inputs: Sequence[str]) -> Path:
    """A folder under runs/ that is new, or holds an earlier result of the same inputs.

    A name that another input has taken is followed by a digest of this input's paths, which differ where names do not.

    Args:
        command: the command's name.
        names: of what it read.
        inputs: paths of the files that it judges.
    """
    plain = Path("runs") / "-".join([command, *names]).replace("/", "-")
    if not plain.exists() or _inputs(plain) == list(inputs):
        return plain
    absolute = "\n".join(str(Path(path).absolute()) for path in inputs)
    return plain.with_name(f"{plain.name}-{hashlib.sha256(absolute.encode()).hexdigest()[:8]}")


def _inputs(folder: Path) -> list[str] | None:
    """Paths of the files judged that an earlier result in a folder rests on; None where that cannot be read."""
    try:
        described = json.loads((folder / "provenance.json").read_text())["inputs"]
        return [path for entry in described if entry["role"] in ("test", RUN) for path in entry["sha256"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
