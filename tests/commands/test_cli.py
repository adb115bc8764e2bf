"""The command line as a user meets it: help at once, and every bad input one clear paragraph with exit code 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from synthetic import sketched

from calib_bench.cli import main
from calib_bench.store.store import Store

TINY = [
    "task=digits",
    "beta=0.3,1",
    "objective=cross_entropy",
    "lr_rel=0.5",
    "seed=0",
    "epochs=2",
    "interventions=no",
    "wandb=disabled",
]


def write_parquet(path: Path, columns: dict[str, list[object]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


def png(value: int = 0) -> dict[str, object]:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def images(folder: Path, train: list[dict[str, object]] | None = None, labels: list[object] | None = None) -> Path:
    """A CIFAR10-like folder, whole unless told otherwise."""
    rows = train or [png(i) for i in range(200)]
    write_parquet(folder / "train.parquet", {"img": rows, "label": labels or [i % 10 for i in range(len(rows))]})
    write_parquet(folder / "test.parquet", {"img": [png(i) for i in range(50)], "label": [i % 10 for i in range(50)]})
    return folder


@pytest.mark.parametrize("words", [[], ["--help"], ["run", "--help"], ["help"]])
def test_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "usage: python -m calib_bench" in text
    assert "weight_decay" in text


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from calib_bench.cli import main; main(['--help']);"
        "heavy = {'torch', 'timm', 'datasets', 'wandb', 'matplotlib', 'pandas', 'sklearn', 'numpy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in ("digits", "cifar10", "imdb", "imagenet", "temperature_scaling", "label_smoothing", "wrn_16_4"):
        assert name in text
    assert main(["list", "tasks"]) == 0
    assert "temperature_scaling" not in capsys.readouterr().out


BAD = [
    (["rum"], "did you mean 'run'"),
    (["task=digits"], "did you forget the command"),
    (["run", "taks=digits"], "did you mean 'task'"),
    (["run", "task=digit"], "did you mean 'digits'"),
    (["run", "study=seperation"], "did you mean 'separation'"),
    (["run", "model=mpl"], "mlp"),
    (["run", "model=wrn_15_4", "task=cifar10"], "6n + 4"),
    (["run", "model=gru_64"], "gru_64"),
    (["run", "model=timm/resnet5000", "task=cifar10"], "resnet50"),
    (["run", "beta=0.1,,1"], "empty item"),
    (["run", "beta=-1"], "greater than 0"),
    (["run", "seed=5..2"], "runs backwards"),
    (["run", "lr=nan"], "finite"),
    (["run", "objective=focalloss"], "no objective is called"),
    (["run", "calibrator=plat"], "did you mean 'platt_scaling'"),
    (["run", "optimizer=sdg"], "sgd"),
    (["run", "schedule=cosin"], "cosine"),
    (["run", "device=cuda:99"], "device=cuda:99"),
    (["run", "device=tpu"], "auto, cpu, cuda"),
    (["run", "plugins=nowhere"], "not a folder"),
    (["run", "study=stability", "shift=noise"], "take study=separation"),
    (["run", "optimizer=adam"], "give lr_hom= or lr="),
    (["run", "task=cifar10", "data=nowhere"], "nowhere"),
    (["report"], "required: RUN"),
    (["report", "nowhere"], "not a run folder"),
    (["list", "taks"], "did you mean 'tasks'"),
    (["list", "task=digits"], "plugins"),
]


@pytest.mark.parametrize(("words", "hint"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_bad_words(words: list[str], hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = [f"out={tmp_path}"] if words[0] == "run" else []
    fails(words + extra, hint, capsys)
    assert not list(tmp_path.glob("*/trials/*"))


def fails(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command leaves with code 2, one paragraph on stderr that holds the hint, and no traceback."""
    capsys.readouterr()
    assert main(words) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert hint in text
    assert "Traceback" not in text
    assert "\n\n" not in text.strip()


def cifar(tmp_path: Path, *words: str) -> list[str]:
    base = ["run", "task=cifar10", f"data={tmp_path / 'data'}", f"out={tmp_path / 'out'}", "model=cnn_4", "limit=20"]
    return [*base, "lr=0.1", "seed=0", "beta=1", "objective=cross_entropy", "epochs=1", "wandb=disabled", *words]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALIB_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))


def test_missing_data_names_the_places_tried(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALIB_BENCH_DATA", str(tmp_path))
    fails(["run", "task=imagenet", f"out={tmp_path}"], "huggingface.co/datasets/ILSVRC/imagenet-1k", capsys)
    fails(["run", "task=imagenet", f"out={tmp_path}"], "hf auth login", capsys)
    fails(["run", "task=imdb", f"out={tmp_path}"], "$CALIB_BENCH_DATA/imdb", capsys)


def test_bad_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    fails(cifar(tmp_path), str(data), capsys)

    write_parquet(data / "train.parquet", {"picture": [png()], "label": [0]})
    write_parquet(data / "test.parquet", {"picture": [png()], "label": [0]})
    fails(cifar(tmp_path), "picture", capsys)

    images(data, labels=[i % 10 if i != 7 else 12 for i in range(200)])
    fails(cifar(tmp_path), "12", capsys)

    images(data, train=[png(i) if i != 9 else {"bytes": b"no image", "path": None} for i in range(200)])
    fails(cifar(tmp_path), "9", capsys)

    images(data)
    content = (data / "train.parquet").read_bytes()
    (data / "train.parquet").write_bytes(content[: len(content) // 2])
    fails(cifar(tmp_path), "train.parquet", capsys)

    images(data)
    fails([*cifar(tmp_path, "split=shared")[:-1], "model=mlp"], "twice", capsys)


def test_an_unwritable_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    fails(["run", *TINY, f"out={tmp_path / 'file'}"], "cannot be written", capsys)


def test_a_batch_that_does_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path / "data")
    fails(["run", *TINY, "model=mlp_99999_99999", f"out={tmp_path}"], "memory", capsys)


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["report", "runs/digits-seperation"], "runs/digits-separation"),
        (["table", "digits-separation"], "runs/digits-separation"),
        (["export", "runs/digits-separatio:abc"], "runs/digits-separation"),
        (["evaluate", "runs/digits-separatio:abc"], "runs/digits-separation"),
        (["run", "task=folder", "data=mine.cvs"], "mine.csv"),
        (["run", "task=cifar10", "data=run"], "runs"),
        (["run", "config=mine.cs"], "mine.csv"),
    ],
)
def test_a_missing_path_gets_the_nearest(
    words: list[str], nearest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits-separation").mkdir(parents=True)
    (tmp_path / "runs" / "digits-separation" / "store.json").touch()
    (tmp_path / "mine.csv").touch()
    fails(words, f"did you mean '{nearest}'?", capsys)


@pytest.mark.parametrize("model", ["resnet5O", "mlp_x", "lstm", "timm/resnet5O"])
def test_a_wrong_model_is_all_that_a_plan_says(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"model={model}"]) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert "did you mean" in printed.err or "takes inputs of kind tokens" in printed.err


def test_an_image_too_small_for_a_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["plan", *TINY, f"out={tmp_path}", "model=timm/vit_tiny_patch16_224", "lr_hom=1"]
    fails([word for word in small if not word.startswith("lr_rel")], "cannot process images of shape", capsys)


def test_digits_take_no_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(["run", *TINY, f"out={tmp_path}", "data=mine.csv"], "give task=folder data=mine.csv", capsys)


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "bta=1", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_plan_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.set_num_threads(2)
    assert main(["plan", *TINY, f"out={tmp_path / 'out'}"]) == 0
    assert torch.get_num_threads() == 1, "the speed is measured as trials train"
    text = capsys.readouterr().out
    assert ": 0 done, 2 to run in this round, in 1 group" in text
    assert "3 trials to run in all rounds" in text
    assert "are added" not in text, "one rate is no grid"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("answer", "trained"), [("n", 0), ("", 0), ("y", 3)])
def test_a_long_run_is_asked_about_on_a_terminal(
    answer: str, trained: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from calib_bench.commands import run_study
    from calib_bench.core.settings import parse
    from calib_bench.errors import SettingsError

    monkeypatch.setattr(run_study, "ASK_ABOVE_HOURS", 0.0)
    monkeypatch.setattr("builtins.input", lambda *_: answer)
    settings = parse([*TINY, "model=mlp_8", f"out={tmp_path}"])
    if trained:
        with sketched("separation"):
            assert run_study.run_study(settings, ask=True) == 0
    else:
        with pytest.raises(SettingsError, match="not started"):
            run_study.run_study(settings, ask=True)
    assert len(Store(settings.folder, "peek").stored_keys()) == trained
