"""`completion`: a script that completes commands, options and keys in a shell."""

from __future__ import annotations

import shlex
from argparse import Namespace

from calib_bench.commands.command import Command, Option
from calib_bench.commands.table_of_commands import COMMANDS, load

BASH = """\
_calib_bench() {{
    local choices=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        choices={commands}
    else
        case "${{COMP_WORDS[1]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$choices" -- "${{COMP_WORDS[COMP_CWORD]}}"))
    if [[ "${{COMPREPLY[0]}}" == *= ]]; then compopt -o nospace; fi
}}
complete -o default -F _calib_bench calib_bench
"""
ZSH = """\
#compdef calib_bench
_calib_bench() {{
    local choices=""
    if (( CURRENT == 2 )); then
        choices={commands}
    else
        case "$words[2]" in
{cases}
        esac
    fi
    local -a keys=(${{(M)${{=choices}}:#*=}}) others=(${{${{=choices}}:#*=}})
    compadd -S "" -- $keys
    compadd -- $others
    _files
}}
compdef _calib_bench calib_bench
"""


def _call(arguments: Namespace) -> int:
    print(script(arguments.shell), end="")
    return 0


def script(shell: str) -> str:
    """The completion script of a shell: "bash", "zsh" or "fish"."""
    words = {name: " ".join(load(name).completions()) for name in COMMANDS}
    if shell == "fish":
        return _fish(words)
    cases = "\n".join(f"            {name}) choices={shlex.quote(text)} ;;" for name, text in words.items())
    return (BASH if shell == "bash" else ZSH).format(commands=shlex.quote(" ".join(COMMANDS)), cases=cases)


def _fish(words: dict[str, str]) -> str:
    lines = []
    for name, summary in COMMANDS.items():
        first = f"complete -c calib_bench -f -n __fish_use_subcommand -a {name} -d {shlex.quote(summary)}"
        later = f"complete -c calib_bench -n '__fish_seen_subcommand_from {name}' -a {shlex.quote(words[name])}"
        lines += [first, later]
    return "\n".join(lines) + "\n"


COMMAND = Command(
    "completion",
    """\
Prints a script that completes commands, options and keys of the program calib_bench, which pip installs. Load it in
every new shell by a line in ~/.bashrc or ~/.zshrc, or as a file that fish reads.""",
    (Option("SHELL", "whose completion", choices=("bash", "zsh", "fish")),),
    (
        "completion bash >> ~/.bash_completion",
        "completion zsh > ~/.calib_bench.zsh     and in ~/.zshrc, after compinit: source ~/.calib_bench.zsh",
        "completion fish > ~/.config/fish/completions/calib_bench.fish",
    ),
    _call,
)
