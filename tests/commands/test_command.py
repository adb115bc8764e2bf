"""The table of commands: every command declares what it takes, and one parser reads it, says it and completes it."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from calib_bench.cli import main
from calib_bench.commands import table_of_commands
from calib_bench.commands.command import PROGRAM, Command, Option, flag, items, number, whole
from calib_bench.commands.completion import script
from calib_bench.commands.table_of_commands import COMMANDS
from calib_bench.core.settings import KEYS
from calib_bench.errors import SettingsError

SHELLS = ("bash", "zsh", "fish")
TRIED = Command(
    "tried",
    "A command to try the parser on.",
    (
        Option("RUN", "the run folder"),
        Option("--files", "files", count="+", default=()),
        Option("--pair", "two files", count=2),
        Option("--columns", "columns", items, ()),
        Option("--format", "format", choices=("latex", "csv")),
        Option("--price", "price", number),
        Option("--sort", "order", default=""),
        whole("--max-rows", "most rows", 5, 1, 99),
        flag("--quick", "no controls"),
    ),
    ("tried RUN", "tried RUN --quick", "tried RUN --files a b"),
    lambda arguments: 0,
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_takes(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = table_of_commands.load(name)
    assert command.name == name
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: {PROGRAM} {name}")
    assert command.does in text
    for option in command.options:
        assert (option.name if option.has_name else str(option.metavar or option.key)) in text or option.choices
    for example in command.examples:
        assert f"{PROGRAM} {example}" in text
    assert main(["help", name]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_read(name: str) -> None:
    command = table_of_commands.load(name)
    for example in command.examples:
        words = shlex.split(example.partition("  ")[0].partition(" >")[0])
        assert words[0] == name
        command.parse(words[1:])


def test_help_of_every_command_imports_nothing_heavy() -> None:
    code = (
        "import sys; from calib_bench.cli import main; from calib_bench.commands.table_of_commands import COMMANDS;"
        "[main([name, '--help']) for name in COMMANDS]; main(['completion', 'fish']);"
        "heavy = {'torch', 'timm', 'datasets', 'wandb', 'matplotlib', 'pandas', 'sklearn', 'numpy'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["here", "--max-rows", "7", "--columns", "a,b", "--quick", "--sort=-x", "--files", "u", "v"],
        ["here", "--max-rows=7", "--columns=a,b", "--quick=yes", "--sort=-x", "--files", "u", "--files", "v"],
        ["here", "max_rows=7", "columns=a,b", "quick=yes", "sort=-x", "files=u", "files=v"],
        ["--quick", "here", "max-rows=7", "columns=a,b", "sort=-x", "files=u", "v"],
    ],
)
def test_the_forms_of_an_option_mean_the_same(words: list[str]) -> None:
    values = TRIED.parse(words)
    assert (values.run, values.max_rows, values.columns, values.quick) == ("here", 7, ("a", "b"), True)
    assert (values.sort, list(values.files), values.price, values.format) == ("-x", ["u", "v"], None, None)


def test_what_is_not_given_has_its_default() -> None:
    values = TRIED.parse(["./run=3"])  # a path with an equals sign, which is no option
    assert (values.run, values.max_rows, values.columns, values.quick) == ("./run=3", 5, (), False)
    assert (values.files, values.pair, values.keys) == ([], None, [])
    assert TRIED.parse(["here", "quick=no"]).quick is False


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["max-rows=3.5"], "max-rows=3.5 is not a whole number"),
        (["max-rows=0"], "max-rows=0 is out of range: give a whole number from 1 to 99"),
        (["price=cheap"], "price=cheap is not a number"),
        (["price=inf"], "price=inf is out of range"),
        (["format=latx"], "format=latx is not valid: did you mean 'latex'?"),
        (["quick=maybe"], "quick=maybe is not valid: valid choices: no, yes"),
        (["max-row=3"], "tried has no option 'max_row': did you mean 'max_rows'?"),
        (["--pric", "3"], "tried has no option 'pric': did you mean 'price'?"),
        (["price=1", "--price", "2"], "price is given twice"),
        (["price="], "price= has no value"),
        (["--price"], "expected one argument"),
        (["--pair", "a"], "expected 2 arguments"),
        (["there"], "tried does not take 'there'"),
    ],
)
def test_wrong_words_are_explained(words: list[str], says: str) -> None:
    with pytest.raises(SettingsError) as raised:
        TRIED.parse(["here", *words])
    assert says in str(raised.value)
    with pytest.raises(SettingsError, match="required: RUN"):
        TRIED.parse([])


def test_settings_may_be_written_as_options() -> None:
    command = table_of_commands.load("plan")
    words = ["--beta", "0.1,1", "--weight-decay=0.1", "gpus=8", "seed=0..4", "mine=1", "--log-format", "json"]
    values = command.parse(words)
    assert values.gpus == 8
    assert values.keys == ["beta=0.1,1", "weight_decay=0.1", "seed=0..4", "mine=1", "log_format=json"]
    with pytest.raises(SettingsError, match="plan has no option 'bta': did you mean 'beta'"):
        command.parse(["--bta", "1"])
    with pytest.raises(SettingsError, match="--beta has no value: beta is inverse temperatures"):
        command.parse(["--beta"])


def completed(shell: str, line: str, folder: Path) -> list[str]:
    """What a shell offers at the end of a line."""
    path = folder / "script"
    path.write_text(script(shell))
    words = line.split(" ")
    if shell == "fish":
        code = f"source {path}; complete -C {shlex.quote(line)}"
    elif shell == "bash":
        code = f"source {path}; COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _calib_bench 2>/dev/null"
        code += '; printf "%s\\n" "${COMPREPLY[@]}"'
    else:
        code = (
            "compdef() {}; _files() {}; compadd() { while [[ $1 != -- ]]; do shift; done; shift; print -l -- $@ }; "
            f"source {path}; words=({shlex.join(words)}); CURRENT={len(words)}; _calib_bench"
        )
    done = subprocess.run(
        [shell, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    offered = [text.partition("\t")[0] for text in done.stdout.splitlines()]
    return [text for text in offered if text.startswith(words[-1])]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_completes_commands_options_and_keys(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert set(completed(shell, "calib_bench ", tmp_path)) >= set(COMMANDS)
    assert completed(shell, "calib_bench pu", tmp_path) == ["publish"]
    assert completed(shell, "calib_bench run weight", tmp_path) == ["weight_decay=", "weights="]
    assert completed(shell, "calib_bench evaluate --cal", tmp_path) == ["--calibration", "--calibrator"]
    assert completed(shell, "calib_bench launch sl", tmp_path) == ["slurm"]
    assert completed(shell, "calib_bench cite weight", tmp_path) == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_names_everything(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert text == script(shell)
    for word in (*COMMANDS, *(f"{key}=" for key in KEYS), "--trust-kind", "--serve", "slurm"):
        assert word in text
    assert main(["completion", "bsh"]) == 2
    assert "did you mean 'bash'" in capsys.readouterr().err
