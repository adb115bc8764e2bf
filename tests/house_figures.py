"""Figures of the house: `python tests/house_figures.py` prints each beside its limit, and fails where one is above it.

A limit is what has been reached: lower it when the code gets better, never raise it without saying why in CONTRIBUTING.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from radon.complexity import cc_visit

ROOT = Path(__file__).parents[1]
FOLDERS = ("calib_bench", "tasks", "baselines")
EMPTY_NAMES = {"found", "own", "said", "some", "told", "known", "given", "whole", "asked"}
"""Names of locals that do not say what they hold."""
BELOW = {
    "tasks": ("tasks", "core", "data", "models", "system", "errors"),
    "baselines": ("baselines", "core", "metrics", "inference", "system", "errors"),
}
"""What the folders that import-linter does not see may import."""

SPEAKING = ("analysis", "studies", "evaluation", "report")
"""Folders whose functions write sentences for people."""

LIMITS = {
    "modules in the package's root": 6,
    "imports of own modules inside functions, outside cli.py, api.py and commands/": 10,
    "imports of tasks/ and baselines/ from floors above them": 0,
    "functions that take the whole settings": 50,
    "empty locals": 23,
    "cyclomatic complexity, mean in hundredths": 359,
    "functions of complexity above 10, per thousand": 8,
    "highest complexity": 13,
    "lines of a function, mean in tenths": 93,
    "lines that write sentences": 423,
    "lines of package, tasks, baselines": 61736,
}


def main() -> int:
    """Print the figures; 1 where one is above its limit."""
    figures = measure()
    width = max(map(len, LIMITS))
    for name, limit in LIMITS.items():
        mark = "" if figures[name] <= limit else "   above its limit"
        print(f"{name:{width}}  {figures[name]:>6}  of {limit:>6}{mark}")
    return int(any(figures[name] > limit for name, limit in LIMITS.items()))


def measure() -> dict[str, int]:
    """Every figure by its name in `LIMITS`."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    blocks = [block.complexity for path in paths for block in cc_visit(path.read_text())]
    lengths = [node.end_lineno - node.lineno + 1 for node in functions if node.end_lineno]
    return {
        "modules in the package's root": len(list((ROOT / "calib_bench").glob("*.py"))),
        "imports of own modules inside functions, outside cli.py, api.py and commands/": sum(
            lazy_imports(tree) for path, tree in trees.items() if not is_top(path)
        ),
        "imports of tasks/ and baselines/ from floors above them": sum(
            len(upward(path, tree)) for path, tree in trees.items()
        ),
        "functions that take the whole settings": sum(map(takes_settings, functions)),
        "empty locals": sum(count_empty_names(tree) for tree in trees.values()),
        "cyclomatic complexity, mean in hundredths": round(100 * sum(blocks) / len(blocks)),
        "functions of complexity above 10, per thousand": round(1000 * sum(c > 10 for c in blocks) / len(blocks)),
        "highest complexity": max(blocks),
        "lines of a function, mean in tenths": round(10 * sum(lengths) / len(lengths)),
        "lines that write sentences": sum(
            len(sentence_lines(tree)) for path, tree in trees.items() if path.relative_to(ROOT).parts[1] in SPEAKING
        ),
        "lines of package, tasks, baselines": sum(path.read_text().count("\n") for path in paths),
    }


def is_top(path: Path) -> bool:
    """Whether a file is of the command line, whose imports wait until a command is chosen."""
    inside = path.relative_to(ROOT).parts
    return inside[1] in ("__init__.py", "__main__.py", "cli.py", "api.py", "commands")


def own_imports(node: ast.AST) -> Iterator[str]:
    """Names of the package's modules that are imported anywhere below a node."""
    for child in ast.walk(node):
        if isinstance(child, ast.ImportFrom) and child.module and child.module.split(".")[0] == "calib_bench":
            yield child.module


def lazy_imports(tree: ast.Module) -> int:
    """Number of imports of own modules inside functions."""
    lazy = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for child in ast.walk(node)
        if isinstance(child, ast.ImportFrom) and (child.module or "").split(".")[0] == "calib_bench"
    }
    return len(lazy)


def upward(path: Path, tree: ast.Module) -> list[str]:
    """Modules that a file of tasks/ or baselines/ imports and may not."""
    allowed = BELOW.get(path.relative_to(ROOT).parts[0])
    if allowed is None:
        return []
    return [name for name in own_imports(tree) if "." in name and name.split(".")[1] not in allowed]


def takes_settings(function: ast.FunctionDef) -> bool:
    """Whether a parameter is annotated with the whole settings."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return any(a.annotation is not None and ast.unparse(a.annotation) in ("Settings", "Resolved") for a in arguments)


def count_empty_names(tree: ast.Module) -> int:
    """Number of places where a local of an empty name is written or read."""
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
    names += [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]
    return sum(name in EMPTY_NAMES for name in names)


def sentence_lines(tree: ast.Module) -> set[int]:
    """Lines inside functions that lie in a string of four or more words; docstrings do not count."""
    docstrings = {id(node.body[0].value) for node in ast.walk(tree) if is_documented(node)}
    lines: set[int] = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for node in ast.walk(function):
                if id(node) not in docstrings and len(words_of(node)) >= 4:
                    lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def is_documented(node: ast.AST) -> bool:
    """Whether a node is a module, class or function that begins with a docstring."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef)
    return isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None


def words_of(node: ast.AST) -> list[str]:
    """The words of a string or an f-string, each inserted value as one; none of another node."""
    if isinstance(node, ast.Constant):
        return node.value.split() if isinstance(node.value, str) else []
    if not isinstance(node, ast.JoinedStr):
        return []
    parts = [str(part.value) if isinstance(part, ast.Constant) else " value " for part in node.values]
    return "".join(parts).split()


if __name__ == "__main__":
    sys.exit(main())
