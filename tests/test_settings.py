"""Words -> settings -> words: what is typed is what is meant, and what is wrong is said."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calib_bench.core.settings import KEYS, Settings, parse
from calib_bench.core.syntax import expand
from calib_bench.errors import SettingsError, nearest


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
    ],
)
def test_bad_words_are_errors_that_help(word: str, hint: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse([word])
    assert hint in str(caught.value)


def test_a_key_twice_and_two_units_of_the_rate_are_errors() -> None:
    with pytest.raises(SettingsError, match="given twice"):
        parse(["beta=1", "beta=2"])
    with pytest.raises(SettingsError, match="units of one rate"):
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
    assert all(Settings.model_fields[key].description for key in KEYS)


def test_nearest_names_close_choices_or_all() -> None:
    assert nearest("cifar", ["cifar10", "imdb"]) == "did you mean 'cifar10'?"
    assert nearest("zzz", ["a", "b"]) == "valid choices: a, b"
