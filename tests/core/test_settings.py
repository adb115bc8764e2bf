"""Words -> settings -> words: what is typed is what is meant, and what is wrong is said."""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib_bench import registry
from calib_bench.core.settings import KEYS, Settings, UserSettings, parse
from calib_bench.core.syntax import expand
from calib_bench.errors import SettingsError, counted, nearest
from calib_bench.planning.defaults import resolve
from calib_bench.store.store import Store


def test_lists_ranges_and_spacings_span_a_grid() -> None:
    settings = parse(["beta=logspace(-2,1,4)", "seed=0..3,7", "lr=0.1,1", "model=mlp,cnn", "data=/data", "yes=true"])
    assert settings.beta == (0.01, 0.1, 1.0, 10.0)
    assert settings.seed == (0, 1, 2, 3, 7)
    assert settings.lr == (0.1, 1.0)
    assert settings.model == ("mlp", "cnn")
    assert settings.yes is True
    assert expand("x", "linspace(0,1,3)") == ["0.0", "0.5", "1.0"]


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=5, unique=True),
    st.lists(st.integers(0, 1000), min_size=1, max_size=5, unique=True),
    st.sampled_from(["lr", "lr_eff", "lr_rel"]),
    st.booleans(),
)
def test_words_round_trip(beta: list[float], seed: list[int], unit: str, pretrained: bool) -> None:
    words = [f"beta={','.join(map(repr, beta))}", f"seed={','.join(map(str, seed))}", f"{unit}=0.5,1"]
    settings = parse([*words, f"pretrained={str(pretrained).lower()}"])
    assert parse(settings.words()) == settings
    assert settings.beta == tuple(beta)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("bta=1", "did you mean 'beta'"),
        ("beta", "key=value"),
        ("beta=", "no value"),
        ("=1", "no key"),
        ("beta=0", "greater than 0"),
        ("beta=-1", "greater than 0"),
        ("beta=nan", "finite"),
        ("beta=inf", "finite"),
        ("beta=abc", "valid number"),
        ("beta=1,1.0", "twice"),
        ("beta=1,,2", "empty item"),
        ("beta=logspace(1,2)", "logspace(start,stop,count)"),
        ("beta=logspace(-2,1,0)", "count"),
        ("beta=logspace(-2,999,3)", "powers of ten"),
        ("beta=linspace(0,nan,3)", "finite"),
        ("seed=4..0", "write 0..4"),
        ("seed=0..999999999", "the most is"),
        ("seed=0.5", "integer"),
        ("seed=99999999999999999999999", "less than or equal"),
        ("momentum=1.5", "less than 1"),
        ("seed=-1", "greater than or equal to 0"),
        ("batch=0", "greater than or equal to 1"),
        ("limit=x", "integer"),
        ("wandb=ofline", "did you mean 'offline'"),
        ("precision=fp16", "fp"),
        ("split=sead", "did you mean 'seed'"),
        ("yes=maybe", "neither true nor false"),
        ("spaces={}", "unknown key"),
        ("options={}", "unknown key"),
        ("budget=40", "it is a key of study=tune"),
    ],
)
def test_bad_words_are_errors_that_help(word: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(parse([word]))
    assert hint in str(caught.value)


def test_a_key_twice_and_two_units_of_the_rate_are_errors() -> None:
    with pytest.raises(SettingsError, match="given twice"):
        parse(["beta=1", "beta=2"])
    with pytest.raises(SettingsError, match="units of one learning rate"):
        parse(["lr=1", "lr_rel=1"])


@given(st.text(max_size=30))
def test_any_text_parses_or_is_a_settings_error(text: str) -> None:
    for word in (text, f"beta={text}", f"seed={text}", f"task={text}"):
        try:
            settings = parse([word])
        except SettingsError:
            continue
        assert all(math.isfinite(b) and b > 0 for b in settings.beta or ())


def test_every_key_is_described() -> None:
    assert all(UserSettings.model_fields[key].description for key in KEYS)
    for options in registry.study_options().values():
        assert all(field.description and not field.is_required() for field in options.model_fields.values())


def test_settings_without_effect_are_named() -> None:
    """Configuration files change the executor: what goes with another one is told, and not refused."""
    given = ["ray_address=10.0.0.1:6379", "retries=3", "ray_gpus=0.5", "switch_at=0.3"]
    assert parse([*given, "executor=ray"]).idle() == []
    assert parse([*given, "study=tune"]).idle() == [
        "switch_at=0.3 has no effect with study=tune: it goes with study=separation",
        "ray_address=10.0.0.1:6379 has no effect with executor=local: it goes with executor=ray",
        "ray_gpus=0.5 has no effect with executor=local: it goes with executor=ray",
    ]
    assert parse(["wandb_runs=all", "wandb=online"]).idle() == []
    assert parse(["wandb_runs=all", "wandb=disabled"]).idle() == [
        "wandb_runs=all has no effect with wandb=disabled: it goes with wandb=offline,online"
    ]


def test_nearest_names_close_choices_or_all() -> None:
    assert nearest("cifar", ["cifar10", "imdb"]) == "did you mean 'cifar10'?"
    assert nearest("zzz", ["a", "b"]) == "valid choices: a, b"


def test_a_number_and_its_noun() -> None:
    assert [counted(number, "trial") for number in (0, 1, 1200)] == ["0 trials", "1 trial", "1,200 trials"]


def test_complete_settings_have_their_parts() -> None:
    settings = resolve(parse(["beta=0.1", "seed=0..3", "limit=100", "workers=2", "wandb=disabled"]))
    assert settings.beta == (0.1, 1.0)
    assert settings.grid.spaces == settings.spaces
    assert settings.grid.seed == (0, 1, 2, 3)
    assert settings.grid.limit == 100
    assert settings.execution.workers == 2
    assert not hasattr(settings.execution, "wandb")
    assert settings.logging.wandb == "disabled"
    assert not hasattr(settings.logging, "workers")


def test_settings_of_an_older_run_folder_are_read() -> None:
    tune, separation = (resolve(parse([f"study={study}", "seed=0"])) for study in ("tune", "separation"))
    for settings, options in ((tune, {"budget": 8}), (separation, {})):
        flat = settings.model_dump(mode="json") | {"budget": 8, "switch_times": [0.5]}
        del flat["options"]
        assert Settings.model_validate(flat) == settings.model_copy(update={"options": options})


PLUG_IN = """
from typing import Annotated

from pydantic import Field

from calib_bench.core.settings import Count, StudyOptions
from calib_bench.core.study import Analysis, Study
from calib_bench.planning import tuning


class Options(StudyOptions):
    rounds: Count = Field(3, description="rounds of the game")
    bets: tuple[Annotated[float, Field(gt=0)], ...] = Field((1.0, 2.0), description="stakes of a round")


def analyse(settings, store):
    options = Options.of(settings)
    return Analysis((f"{options.rounds} rounds at {options.bets}",), {})


STUDY = Study("Who wins?", tuning.plan, analyse, figures={}, options=Options)
"""


@pytest.fixture
def game(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words that choose a plug-in study with keys of its own."""
    (tmp_path / "plug_ins").mkdir()
    (tmp_path / "plug_ins" / "game.py").write_text(PLUG_IN)
    monkeypatch.setitem(registry._plugins, "studies", {})
    monkeypatch.delitem(sys.modules, "calib_bench_plugins.game", raising=False)
    return ["study=game", f"plugins={tmp_path / 'plug_ins'}", f"out={tmp_path}"]


def test_a_plug_in_study_has_keys_of_its_own(game: list[str], tmp_path: Path) -> None:
    typed = parse([*game, "rounds=5", "bets=linspace(1,2,3)"])
    settings = resolve(typed)
    options = registry.study("game").options.of(settings)
    assert options.model_dump() == {"rounds": 5, "bets": (1.0, 1.5, 2.0)}
    assert registry.study_options()["game"] is type(options)
    assert resolve(parse(typed.words())) == settings
    assert "rounds=5 'bets=linspace(1,2,3)'" in typed.command()
    store = Store(settings.folder)
    store.write_study(settings, typed.command())
    assert Store(store.path, "read").settings() == settings
    analysis = registry.study("game").analyse(settings, store)
    assert analysis.verdict == ("5 rounds at (1.0, 1.5, 2.0)",)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("round=5", "unknown key 'round' for study=game: did you mean 'rounds'"),
        ("bta=5", "did you mean 'beta'"),
        ("rounds=0", "greater than or equal to 1; rounds: rounds of the game"),
        ("bets=1,1.0", "names 1.0 twice"),
        ("budget=3", "it is a key of study=tune"),
    ],
)
def test_wrong_keys_of_a_plug_in_study_are_errors_that_help(game: list[str], word: str, hint: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(hint)):
        resolve(parse([*game, word]))
