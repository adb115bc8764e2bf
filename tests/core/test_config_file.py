"""Settings as a TOML file: `config=FILE`, and the file that every run leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from calib_bench.core.config_file import as_toml, with_config
from calib_bench.core.settings import parse
from calib_bench.errors import SettingsError
from calib_bench.planning.defaults import resolve, spelled_out


def settings(*words: str) -> dict[str, object]:
    """Complete settings of words, as plain values."""
    return dict(resolve(parse(with_config(words))))


def test_what_is_typed_wins_and_units_of_one_rate_replace_each_other(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text('beta = [0.1, 1, 10]\nseed = "0..4"\nlr_rel = [0.5, 1]\nyes = true\ntask = "digits"\n')
    words = with_config([f"config={file}", "lr=0.1", "seed=7"])
    assert words == ["beta=0.1,1,10", "yes=true", "task=digits", "lr=0.1", "seed=7"]
    assert with_config(["beta=1"]) == ["beta=1"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        (
            "model=mlp_16,cnn_4",
            "objective=label_smoothing:0.1,mixup",
            "epochs=3",
            "out=a folder",
            "beta=logspace(-1,1,3)",
        ),
        ("task=imagenet", "model=timm/resnet18", "lr=0.1,0.2", "warmup=0,1"),
        ("task=imdb", "model=gru_8", "carry=none", "lr_hom=1e-3"),
        ("study=tune", "budget=7", "optimizer=adam", "lr=1e-3"),
        ("task=imagenet", "pretrained=true"),
        ("budgets=1,2", "interventions=no"),
        ("design=settling", "lr_hom=0.5", "beta=1,10"),
    ],
)
def test_the_file_of_a_run_gives_its_settings_again(words: tuple[str, ...], tmp_path: Path) -> None:
    asked = resolve(parse(words))
    file = tmp_path / "study.toml"
    file.write_text(as_toml(spelled_out(asked)))
    repeated = resolve(parse(with_config([f"config={file}"])))
    assert repeated.spaces == asked.spaces
    assert repeated.grid == asked.grid
    assert repeated.execution == asked.execution
    assert repeated.logging == asked.logging


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("beta = [0.1,", "is not a TOML file"),
        ("[grid]\nbeta = 1\n", "grid is no setting"),
        ('config = "other.toml"', "config is no setting"),
        ("betta = 1", "unknown key 'betta'.*beta"),
        ("beta = []", "has no value"),
    ],
)
def test_what_is_no_file_of_settings_is_refused(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(content)
    with pytest.raises(SettingsError, match=message):
        settings(f"config={file}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.toml cannot be read: No such file"):
        with_config([f"config={tmp_path / 'missing.toml'}"])


def test_secrets_are_not_written() -> None:
    text = as_toml({"out": "s3://key:secret@host/bucket"})
    assert "secret" not in text
