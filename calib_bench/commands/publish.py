"""`publish`: a study made public: what of a run folder belongs in a repository, and a gallery of such folders.

<to>/<name>/README.md          question, findings, figures, the reading, provenance; made anew each time
<to>/<name>/reading.md         what it shows and does not show; written by hand, kept
<to>/<name>/report.html        the page
<to>/<name>/figures/           PNG
<to>/<name>/tables/            CSV, numbers to seven digits, and LaTeX of those for papers
<to>/<name>/trials.csv.gz      every metric of every measured trial under every method
<to>/<name>/fits.safetensors.gz   fitted calibrators of few numbers, by `<trial key>/<method>/<parameter>`
<to>/<name>/study.json         settings, command, environment, data; read by the gallery
<to>/README.md                 its table of studies, between two marks, made anew; the rest is kept
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calib_bench import registry
from calib_bench.analysis.format import title
from calib_bench.commands.command import PLUGINS, RUN, Command, Option, flag
from calib_bench.errors import SettingsError, UserError, counted
from calib_bench.report import provenance
from calib_bench.system.files import write_bytes, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from calib_bench.core.baseline import Calibrator
    from calib_bench.core.settings import Grid, Settings, UserSettings
    from calib_bench.core.study import Analysis, Study
    from calib_bench.core.trial import Trial
    from calib_bench.store.store import Store

MOST_NUMBERS = 64
"""A fit of more numbers than this is left out: it is refitted from the logits in a moment."""
MOST_CHARACTERS = 500
"""Of a study's summary in its row of the gallery; the rest is on the study's page."""
BEGIN, END = "<!-- studies: begin -->", "<!-- studies: end -->"
READING, FACTS = "reading.md", "study.json"
PLACES = ("data", "out", "plugins")
"""Settings that say where things were on one machine, and are nobody else's."""


def _call(arguments: Namespace) -> int:
    """Rebuild the report of a run folder and put what belongs in a repository into `<to>/<name>`."""
    from calib_bench.commands.console import open_console
    from calib_bench.commands.report import rebuild
    from calib_bench.store.store import Store

    folder = arguments.run
    name = folder.resolve().name if arguments.name is None else arguments.name
    if "/" in name or name.startswith("."):
        raise SettingsError(f"name={name} is not the name of a folder")
    run = Store(folder, "read")
    refuse_smoke(folder, run.settings(), arguments.check)  # before it takes time
    refuse_other(arguments.to / name, run)
    store, study, settings, analysis = rebuild(folder, arguments.plugins)
    published = publish(store, study, settings, analysis, arguments.to, name, arguments.check)
    open_console().print(f"published: {published / 'README.md'}", markup=False)
    return 0


COMMAND = Command(
    "publish",
    """\
Rebuilds a run's report and writes what belongs in a repository: page, figures, tables, every measurement, fitted
calibrators, provenance; and a gallery of such folders. A reading.md in the folder, written by hand, is kept.""",
    (
        RUN,
        Option("--to", "folder of the gallery", Path, Path("reports"), metavar="FOLDER"),
        Option("--name", "name of the study's folder in it; otherwise that of the run folder"),
        flag("--check", "publish a smoke run as a check that the command runs, without its numbers"),
        PLUGINS,
    ),
    (
        "publish runs/digits-separation to=reports",
        "publish runs/digits-separation to=reports name=twenty_seeds",
        "publish runs/imagenet-separation to=reports --check",
    ),
    _call,
)


def refuse_smoke(path: Path, grid: Grid, check: bool) -> None:
    """Raise UserError where the run in this folder was a smoke run and is not published as a check."""
    if grid.limit is not None and not check:
        raise UserError(
            f"{path} is a smoke run, limit={grid.limit}: its numbers are not for publication; check=yes "
            "publishes it as a check that the command runs, and nothing else"
        )


def refuse_other(published: Path, store: Store) -> None:
    """Raise UserError where the folder holds another study, or the same on other data.

    It would be lost, and its reading would stand above numbers of this run.
    """
    if not (published / FACTS).exists():
        return
    old, new = json.loads((published / FACTS).read_text()), store.settings()
    digests = [{one["digest"] for one in splits} for splits in (old["splits"], store.provenance()["splits"])]
    if (old["study"], old["task"]) != (new.study, new.task) or digests[0].isdisjoint(digests[1]):
        raise UserError(
            f"{published} holds study={old['study']} of task={old['task']}, and {store.path} is another study or has "
            "other data: give name= for a folder of its own, or remove that one"
        )


def publish(
    store: Store, study: Study, settings: Settings, analysis: Analysis, to: Path, name: str, check: bool = False
) -> Path:
    """Writes the folder of a study whose report is built, and the gallery beside it.

    Args:
        check: it is published as a check that the command runs on these data: page and provenance, and no numbers.

    Returns:
        The folder.

    Raises:
        UserError: the run was a smoke run, whose numbers are not results, and is no check.
        StoreError: the store cannot be read or the folder cannot be written.
    """
    from calib_bench.execute import analysis_pool

    refuse_smoke(store.path, settings, check)
    folder, report = to / name, Path(store.path) / "report"
    if check:
        metadata = _metadata(store, study, settings, analysis) | {"summary": [_check(settings)]}
        write_bytes(folder / "report.html", (report / "report.html").read_bytes())
        write_json(folder / FACTS, metadata)
        write_bytes(folder / "README.md", _check_page(name, analysis, metadata).encode())
        gallery(to)
        return folder
    for kind in ("figures", "tables"):
        shutil.rmtree(folder / kind, ignore_errors=True)
        for path in sorted((report / kind).glob("*")):
            if path.suffix in PUBLISHED:
                write_bytes(folder / kind / path.name, PUBLISHED[path.suffix](path))
    write_bytes(folder / "report.html", _page_of_png((report / "report.html").read_bytes()))
    _write_measurements(folder, analysis)
    with analysis_pool.workers(settings):
        _write_fits(folder, store, analysis)
    metadata = _metadata(store, study, settings, analysis)
    write_json(folder / FACTS, metadata)
    figures = [figure for figure in study.figures if (folder / "figures" / f"{figure}.png").exists()]
    path = folder / READING
    reading = path.read_text() if path.exists() else ""
    write_bytes(folder / "README.md", _page(name, analysis, metadata, reading, figures).encode())
    gallery(to)
    return folder


def _page_of_png(page: bytes) -> bytes:
    """The page without links to the files of figures that are not published."""
    return re.sub(rb' <a href="figures/[^"]*\.(svg|pdf)">\w+</a>', b"", page)


def _small_png(path: Path) -> bytes:
    """A drawing in 128 colours, which it has hardly more of: a third of the bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(buffer, "png", optimize=True)
    return buffer.getvalue()


def _small_csv(path: Path) -> bytes:
    """A table whose numbers have seven significant digits at most, as trials.csv.gz has: no interval knows more."""
    return re.sub(rb"-?\d+\.\d{7,}(e[+-]\d+)?", lambda match: b"%.7g" % float(match[0]), path.read_bytes())


PUBLISHED: dict[str, Callable[[Path], bytes]] = {".png": _small_png, ".csv": _small_csv, ".tex": Path.read_bytes}
"""What is made of a file of the report, by its suffix."""


def _write_measurements(folder: Path, analysis: Analysis) -> None:
    frame = analysis.result.measurements
    if frame is not None and len(frame):
        kept = frame.drop(columns="fit_seconds", errors="ignore")
        content = kept.to_csv(index=False, lineterminator="\n", float_format="%.7g").encode()
        write_bytes(folder / "trials.csv.gz", gzip.compress(content, mtime=0))


def _write_fits(folder: Path, store: Store, analysis: Analysis) -> None:
    """The parameters of every calibrator that was measured, fitted again to the stored logits."""
    from safetensors.torch import save

    from calib_bench.analysis.trial_predictions import on_trials

    frame = analysis.result.measurements
    if frame is None or not len(frame):
        return
    methods = {key: set(of_trial) - {"raw"} for key, of_trial in frame.groupby("key")["method"]}
    of_arms = {trial.key: trial for arm in analysis.result.arms or () for trial in arm.trials.values()}
    trials = [trial for key, trial in of_arms.items() if key in methods]
    calibrators = registry.calibrators(sorted(set().union(*methods.values())))
    fits = dict(chain.from_iterable(on_trials(_small_fits, store, trials, calibrators, methods)))
    if fits:
        write_bytes(folder / "fits.safetensors.gz", gzip.compress(save(fits), mtime=0))


def _small_fits(
    calibrators: Mapping[str, Calibrator], store: Store, methods: Mapping[str, set[str]], trials: Iterable[Trial]
) -> list[list[tuple[str, Tensor]]]:
    """By trial ("KEY/METHOD/PARAMETER", its value) of the methods whose fit is of few numbers."""
    return [list(_fits(store, trial, {name: calibrators[name] for name in methods[trial.key]})) for trial in trials]


def _fits(store: Store, trial: Trial, calibrators: Mapping[str, Calibrator]) -> Iterator[tuple[str, Tensor]]:
    import torch

    Z_NK, y_N = trial.beta * store.logits(trial)["calibration"].double(), store.labels(trial)["calibration"]
    for method, calibrator in calibrators.items():
        if calibrator.unknowns is not None and calibrator.unknowns(Z_NK.shape[1]) > MOST_NUMBERS:
            continue
        params = calibrator.fit(Z_NK, y_N)
        tensors = {name: torch.as_tensor(value).clone().contiguous() for name, value in params.items()}
        if sum(value.numel() for value in tensors.values()) <= MOST_NUMBERS:
            yield from ((f"{trial.key}/{method}/{name}", value) for name, value in tensors.items())


def _metadata(store: Store, study: Study, settings: Settings, analysis: Analysis) -> dict[str, Any]:
    from calib_bench.planning import plan as planning

    return {
        **store.provenance(),
        "task": settings.task,
        "study": settings.study,
        "question": study.question,
        "summary": list(analysis.summary or analysis.verdict[:1]),
        "settings": shareable(settings),
        "training": provenance.training(store, planning.read(settings, study, store)),
    }


def shareable(settings: UserSettings) -> dict[str, Any]:
    """Settings without the places of one machine; of folders with shifted data their names."""
    from calib_bench.core.corruption import source_name

    shift = [source_name(source) for source in settings.shift]
    return settings.model_dump(mode="json", exclude=set(PLACES)) | {"shift": shift}


def _check(grid: Grid) -> str:
    size = "" if grid.limit is None else f" on at most {grid.limit} examples of each split"
    return f"A path check and nothing else: it shows that the command runs{size}, and none of its numbers is a result."


def _check_page(name: str, analysis: Analysis, metadata: Mapping[str, Any]) -> str:
    lines = [f"# {name}", "", *metadata["summary"], "", _made(metadata)]
    lines += ["", "What the run warned of:", *(f"- {warning}" for warning in analysis.warnings)]
    return "\n".join([*lines, *_provenance(metadata)])


def _made(metadata: Mapping[str, Any]) -> str:
    trained = metadata["training"]
    return (
        f"Command: `{metadata['command']}`. {counted(trained['trials'], 'trial')} ({trained['failed']:,} failed), "
        f"{trained['device time']} of training in all, on {trained['device']}. [The page](report.html)"
    )


def _provenance(metadata: Mapping[str, Any]) -> list[str]:
    environment = ", ".join(f"{key} {value}" for key, value in _flat(metadata["environment"]))
    return ["", "## Provenance", environment + ".", *(_data(split) for split in metadata["splits"]), ""]


def _page(name: str, analysis: Analysis, metadata: Mapping[str, Any], reading: str, figures: Iterable[str]) -> str:
    lines = [
        f"# {name}",
        "",
        metadata["question"],
        "",
        f"{_made(metadata)}; every number comes from stored results by `python -m calib_bench report`.",
        "",
        *(f"![{title(figure)}](figures/{figure}.png)" for figure in figures),
        "",
        "## What the report said",
        *(f"- {sentence}" for sentence in analysis.verdict),
    ]
    if analysis.warnings:
        lines += ["", "Before quoting a number:", *(f"- {warning}" for warning in analysis.warnings)]
    lines += ["", reading.rstrip()] if reading else []
    lines += ["", "## Tables", *(_table(name, table.title, table.paper) for name, table in analysis.tables.items())]
    return "\n".join([*lines, *_provenance(metadata)])


def _table(name: str, table_title: str, paper: bool) -> str:
    return f"- {table_title}: [CSV](tables/{name}.csv)" + (f", [LaTeX](tables/{name}.tex)" if paper else "")


def _data(split: Mapping[str, Any]) -> str:
    sizes = ", ".join(f"{size:,} {part}" for part, size in split["sizes"].items())
    return f"Data: {split['source']}, {sizes}; digest {split['digest'][:20]}."


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key, value


def _beginning(text: str) -> str:
    """A text, of a long one the sentences and clauses that fit into a row of the gallery."""
    if len(text) <= MOST_CHARACTERS:
        return text
    end = max(text.rfind(mark, 0, MOST_CHARACTERS) for mark in (". ", "; ")) + 1
    return f"{text[: end or MOST_CHARACTERS]} …"


def gallery(to: Path) -> None:
    """Makes the table of studies in `<to>/README.md` anew, of every folder that has a study.json."""
    path = to / "README.md"
    text = path.read_text() if path.exists() else f"# Published studies\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        text = f"{text.rstrip()}\n\n{BEGIN}\n{END}\n"
    head, rest = text.split(BEGIN, 1)
    rows = ["| study | command | what it says |", "| --- | --- | --- |"]
    for place in sorted(to.glob("*/study.json")):
        metadata = json.loads(place.read_text())
        summary = _beginning(" ".join(metadata["summary"])).replace("|", "\\|")
        rows.append(f"| [{place.parent.name}]({place.parent.name}/README.md) | `{metadata['command']}` | {summary} |")
    write_bytes(path, f"{head}{BEGIN}\n{chr(10).join(rows)}\n{END}{rest.split(END, 1)[1]}".encode())
