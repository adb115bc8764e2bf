"""Nothing that is read can run code, and no secret is written: the sources, and every file of a whole run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from faulty import ROOT, TINY
from synthetic import sketched

from calib_bench.cli import main
from calib_bench.system.redaction import HIDDEN, redact, redacted

PACKAGE = [*sorted((ROOT / "calib_bench").rglob("*.py")), *sorted((ROOT / "tasks").glob("*.py"))]
PACKAGE += sorted((ROOT / "baselines").glob("*.py"))
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "yaml", "jsonpickle"}
"""Modules whose readers can run what they read."""
NAMES = {"eval", "exec", "compile", "__import__", "breakpoint"}
CALLS = {
    "torch.load": ("weights_only", True), "np.load": ("allow_pickle", False), "numpy.load": ("allow_pickle", False),
    "torch.hub.load": ("never", None), "torch.jit.load": ("never", None), "os.system": ("never", None),
    "os.popen": ("never", None), "pd.read_pickle": ("never", None), "pandas.read_pickle": ("never", None),
    "pd.eval": ("never", None), "tarfile.open": ("never", None), "shutil.unpack_archive": ("never", None),
}  # fmt: skip
"""Calls that need an argument of this value, or may not be at all."""
SAFE = {"yaml.safe_dump", "yaml.safe_load"}
"""All of yaml that may be used."""
IMPORTERS = {"calib_bench/registry.py"}
"""The only module that imports by file name or computed name, besides imports of the package's own."""


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def findings(source: str, where: str) -> Iterator[str]:
    """What in a module could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            whole = isinstance(node, ast.Import)
            yield from (
                f"{where} imports {n}" for n in names if n.split(".")[0] in MODULES and not (whole and n == "yaml")
            )
        if not isinstance(node, ast.Call):
            continue
        name, keywords = dotted(node.func), {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        if name.startswith("yaml.") and name not in SAFE:
            yield f"{where}:{node.lineno} calls {name}"
        if name in NAMES:
            yield f"{where}:{node.lineno} calls {name}"
        if name in CALLS:
            argument, value = CALLS[name]
            if argument == "never" or keywords.get(argument) is not value:
                yield f"{where}:{node.lineno} calls {name} without {argument}={value}"
        if keywords.get("shell") or keywords.get("trust_remote_code") or keywords.get("allow_pickle"):
            yield f"{where}:{node.lineno} calls {name} with {keywords}"
        if name.endswith(("extractall", "exec_module", "unsafe_load")) and where not in IMPORTERS:
            yield f"{where}:{node.lineno} calls {name}"


def test_no_module_can_run_what_it_reads() -> None:
    assert len(PACKAGE) > 80
    found = [text for path in PACKAGE for text in findings(path.read_text(), str(path.relative_to(ROOT)))]
    assert found == []


@pytest.mark.parametrize("source", [
    "import pickle", "from yaml import load", "eval(x)", "torch.load(f)", "torch.load(f, weights_only=False)",
    "np.load(f)", "np.load(f, allow_pickle=True)", "subprocess.run(x, shell=True)", "z.extractall(p)",
    "load_dataset(n, trust_remote_code=True)", "spec.loader.exec_module(m)", "os.system(x)",
])  # fmt: skip
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert list(findings(source, "somewhere.py"))


def test_plug_ins_come_only_from_folders_on_the_command_line(tmp_path: Path) -> None:
    """Not from the working directory, not from the data's, not from the store's."""
    spy = f"open({str(tmp_path / 'ran')!r}, 'w')"
    for folder in ("", "tasks", "baselines", "plugins", "runs/digits-separation"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "spy.py").write_text(spy)
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "calib_bench", "list"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "spy" not in done.stdout
    assert not (tmp_path / "ran").exists()


PLANTED = {
    "WANDB_API_KEY": "1f" * 20,
    "HF_TOKEN": "hf_PlantedSecretOfTheHub0123456789",
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDSECRET000",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+of/the+object/store0000",
    "DATABASE_PASSWORD": "correct-horse-planted",
    "HTTPS_PROXY": "http://planted-user:planted-pass@127.0.0.1:9",
    "MY_TOKENS": "planted-token-list",
}


@pytest.mark.slow
@sketched("over_beta")
def test_planted_secrets_are_in_no_file_of_a_whole_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = [value for name, value in PLANTED.items() if name != "HTTPS_PROXY"] + ["planted-user", "planted-pass"]
    mine = tmp_path / "mine"
    mine.mkdir()
    leak = "os.environ['HF_TOKEN'] + ' at https://planted-user:planted-pass@host/x?token=planted-query-token'"
    (mine / "leaky.py").write_text(
        '"""Raises an error with secrets in it."""\nimport os\nfrom calib_bench.core.baseline import Objective\n\n\n'
        f"def leaky(Z, y, strength):\n    raise ValueError({leak})\n\n\n"
        'BASELINE = Objective(leaky, strengths=(0.1,), reference="guo2017", title="Leaky")\n'
    )
    words = [w for w in TINY if not w.startswith(("wandb", "beta", "seed", "lr_rel"))]
    words += [
        "beta=1",
        "seed=0",
        "lr_rel=0.5",
        "objective=cross_entropy,leaky",
        f"plugins={mine}",
        "workers=1",
    ]
    out = tmp_path / "out"
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    assert main(["run", *words, "wandb=offline", f"out={out}"]) == 1
    assert main(["report", str(out / "digits-separation"), f"plugins={mine}"]) == 0
    files = [path for path in out.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert any(path.parent.name == "failed" for path in files)
    texts = {str(path): path.read_bytes() for path in files}
    texts |= {"what is printed": "".join(capfd.readouterr()).encode()}
    for name, content in texts.items():
        for secret in [*secrets, "planted-query-token"]:
            assert secret.encode() not in content, f"{secret} is in {name}"
    assert HIDDEN.encode() in texts[str(next(path for path in files if path.parent.name == "failed"))]


@pytest.mark.parametrize(("text", "expected"), [
    ("s3://key:secret@bucket/runs", "s3://***@bucket/runs"),
    ("https://token@host/x", "https://***@host/x"),
    ("https://host/x?a=1&X-Amz-Signature=abc&b=2", "https://host/x?a=1&X-Amz-Signature=***&b=2"),
    ("https://host/x?token=abc#there", "https://host/x?token=***#there"),
    ("https://host/x?keyboard=1&monkey=2", "https://host/x?keyboard=1&monkey=2"),
    ("mail me@example.org, or see https://example.org/a@b", "mail me@example.org, or see https://example.org/a@b"),
    ("beta=0.1 key=abc", "beta=0.1 key=abc"),
])  # fmt: skip
def test_what_is_hidden_in_a_text_and_what_is_not(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(redact(text)) == expected
    assert redacted({"a": [text, 1, None]}) == {"a": [expected, 1, None]}


def test_values_of_secret_variables_are_hidden_and_short_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVICE_API_KEY", "long-enough-a-secret")
    monkeypatch.setenv("SHORT_TOKEN", "beta")
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")
    assert redact("long-enough-a-secret, beta=1, qwertyuiop") == "***, beta=1, qwertyuiop"
