"""How people write files of predictions: the same numbers in every dialect, or a refusal that says what was found."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from pyarrow.feather import write_feather
from safetensors.torch import save_file

from calib_bench.cli import main
from calib_bench.errors import DataError
from calib_bench.evaluation.formats import load
from calib_bench.evaluation.predictions import read

Z = np.array([[2.5, -1.25, 0.0], [0.5, 3.0, -2.0], [-0.0625, 1.0, 4.0], [9.0, 1.5, 1e-3], [1.0, -7.0, 2.0]])
Y = np.array([0, 1, 2, 0, 1])
FRAME = pd.DataFrame(Z, columns=["logit_0", "logit_1", "logit_2"]).assign(label=Y)
CSV = FRAME.to_csv(index=False)
SEMICOLON = FRAME.to_csv(index=False, sep=";", decimal=",")
QUOTED = "\n".join(",".join(f'"{field.replace(".", ",")}"' for field in line.split(",")) for line in CSV.splitlines())
RECORDS = FRAME.to_dict("records")
LINES = "".join(json.dumps({"logits": z, "label": int(y)}) + "\n" for z, y in zip(Z.tolist(), Y, strict=True))
LISTS = {"logits": Z.tolist(), "labels": Y.tolist()}


def savetxt(delimiter: str) -> bytes:
    buffer = io.BytesIO()
    header = delimiter.join(FRAME.columns)
    np.savetxt(buffer, FRAME.to_numpy(), delimiter=delimiter, header=header, fmt="%.6g")
    return buffer.getvalue()


def zipped(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return buffer.getvalue()


DIALECTS: list[tuple[str, bytes, str]] = [
    ("p.csv.gz", gzip.compress(CSV.encode()), ""),
    ("p.csv.bz2", bz2.compress(CSV.encode()), ""),
    ("p.csv.xz", lzma.compress(CSV.encode()), ""),
    ("p.csv.zst", bytes(pa.compress(CSV.encode(), "zstd")), ""),
    ("p.csv.zip", zipped({"p.csv": CSV, "__MACOSX/._p.csv": "x"}), ""),
    ("named_plain.csv", gzip.compress(CSV.encode()), ""),
    ("named_packed.csv.gz", CSV.encode(), ""),
    ("p.tsv.gz", gzip.compress(CSV.replace(",", "\t").encode()), ""),
    ("p.jsonl.gz", gzip.compress(FRAME.to_json(orient="records", lines=True).encode()), ""),
    ("semicolon.csv", SEMICOLON.encode(), "commas are read as decimal marks"),
    ("semicolon_points.csv", FRAME.to_csv(index=False, sep=";").encode(), "columns are separated by semicolons"),
    ("tabs_commas.tsv", SEMICOLON.replace(";", "\t").encode(), "commas are read as decimal marks"),
    ("quoted.csv", QUOTED.encode(), "commas are read as decimal marks"),
    ("excel.csv", ("sep=;\r\n" + SEMICOLON).encode(), "commas are read as decimal marks"),
    ("commas.tsv", CSV.encode(), "columns are separated by commas"),
    ("tabs.csv", CSV.replace(",", "\t").encode(), "columns are separated by tabs"),
    ("bars.txt", CSV.replace(",", "|").encode(), "columns are separated by bars"),
    ("printed.txt", FRAME.to_string(index=False).encode(), "columns are separated by spaces"),
    ("bom.csv", CSV.encode("utf-8-sig"), ""),
    ("utf16.csv", CSV.encode("utf-16"), ""),
    ("utf16le.csv", CSV.encode("utf-16-le"), ""),
    ("utf16be.tsv", CSV.replace(",", "\t").encode("utf-16-be"), ""),
    ("utf16_semicolon.csv", SEMICOLON.encode("utf-16"), "commas are read as decimal marks"),
    ("utf32.csv", CSV.encode("utf-32"), ""),
    ("old_mac.csv", CSV.replace("\n", "\r").encode(), ""),
    ("comment.csv", ("# model v1, epoch 3\n# by me\n" + CSV).encode(), "2 lines of comment before the header left out"),
    ("notes.csv", (CSV.replace("\n", "\n# v1\n", 2) + "# end").encode(), "3 lines of comment among the rows left out"),
    ("blanks.csv", (" \r\n\n" + CSV + "   \n").encode(), ""),
    ("savetxt.csv", savetxt(","), "the column names are those behind the first #"),
    ("savetxt.txt", savetxt(" "), "the column names are those behind the first #"),
    ("lines.jsonl", LINES.encode(), ""),
    ("lines.json", FRAME.to_json(orient="records", lines=True).encode(), ""),
    ("records.json", json.dumps(RECORDS, indent=1).encode(), ""),
    ("pandas.json", FRAME.to_json().encode(), ""),
    ("split.json", FRAME.to_json(orient="split").encode(), ""),
    ("columns.json", json.dumps({"model": "a", **LISTS}).encode(), "not used: model"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "note"), DIALECTS, ids=[name for name, *_ in DIALECTS])
def test_a_dialect_changes_no_number(name: str, content: bytes, note: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    (found,) = read(str(tmp_path / name))
    assert found.Z_NK.tolist() == Z.tolist()
    assert found.y_N.tolist() == Y.tolist()
    assert note in (found.notes or ("",))


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "feather"])
@pytest.mark.parametrize("form", ["object", "unnamed object", "pipeline"])
def test_rows_may_hold_objects_of_classes(form: str, suffix: str, tmp_path: Path) -> None:
    classes = list("abc")
    objects = [dict(zip(classes, row, strict=True)) for row in Z.tolist()]
    answers = [[{"label": c, "score": row[c]} for c in sorted(row, key=row.__getitem__)] for row in objects]
    name = "logits" if form == "object" else "prediction"
    held = answers if form == "pipeline" else objects
    more = {"meta": {"split": "t"}} if form == "object" else {"id": "a"}
    rows = [{name: one, "label": classes[y], **more} for one, y in zip(held, Y.tolist(), strict=True)]
    path = tmp_path / f"p.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif suffix == "json":
        path.write_text(json.dumps(rows))
    else:
        write = parquet.write_table if suffix == "parquet" else write_feather
        write(pa.Table.from_pylist(rows), path)
    table = pa.Table.from_pylist([{**row, "label": int(y)} for row, y in zip(rows, Y, strict=True)])
    parquet.write_table(table, tmp_path / "numbers.parquet")
    with pytest.raises(DataError, match="nothing says which number is which class"):
        read(str(tmp_path / "numbers.parquet"), kind="logits")
    (found,) = read(str(path), kind="logits")
    order = [(found.classes or ()).index(c) for c in classes]
    assert found.Z_NK[:, order].tolist() == Z.tolist()
    assert [(found.classes or ())[y] for y in found.y_N] == [classes[y] for y in Y]
    assert any("meta" in note or "id" in note for note in found.notes)


def test_a_row_may_begin_with_a_hash(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,logit_0,logit_1,label\n#1,1,2,0\n#2,3,4,1\n# end\n")
    (found,) = read(str(tmp_path / "p.csv"))
    assert found.Z_NK.tolist() == [[1, 2], [3, 4]]
    assert found.ids["id"].tolist() == ["#1", "#2"]


def test_names_are_the_same_in_either_form_of_unicode(tmp_path: Path) -> None:
    composed, apart = "\u00e9t\u00e9", "e\u0301te\u0301"
    (tmp_path / "p.csv").write_text(f"logit_{apart},logit_b,label,id\n1,2,{composed},{apart}\n3,4,b,b\n", "utf-8")
    (found,) = read(str(tmp_path / "p.csv"))
    assert found.classes == (composed, "b")
    assert found.y_N.tolist() == [0, 1]
    assert found.ids["id"].tolist() == [composed, "b"]


def test_texts_with_line_breaks_and_delimiters_in_quotes_are_no_rows(tmp_path: Path) -> None:
    words = ["one, two; three", 'a "quoted"\nline\tbreak', "", "plain", "5,5"]
    for sep, name in ((",", "p.csv"), (";", "q.csv"), ("\t", "p.tsv")):
        FRAME.assign(text=words).to_csv(tmp_path / name, index=False, sep=sep)
        (found,) = read(str(tmp_path / name))
        assert found.Z_NK.tolist() == Z.tolist()
        assert "names of rows: text" in found.notes
        assert not any("decimal" in note for note in found.notes)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_numbers_in_any_dialect(data: st.DataObject, tmp_path: Path) -> None:
    values = st.floats(-1e6, 1e6, allow_subnormal=False)
    rows = data.draw(st.lists(st.tuples(values, values), min_size=1, max_size=6))
    decimal = data.draw(st.sampled_from([".", ","]))
    sep = data.draw(st.sampled_from([";", "\t", "|"]))
    encoding = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]))
    table = pd.DataFrame(rows, columns=["logit_0", "logit_1"]).assign(label=0)
    table.to_csv(tmp_path / "p.csv", index=False, sep=sep, decimal=decimal, encoding=encoding)
    try:
        content = load(tmp_path / "p.csv")
    except DataError as error:
        refused = str(error)  # 1,234 and no other number
        assert "thousands" in refused
        return
    assert content.values.tolist() == table[["logit_0", "logit_1"]].to_numpy().tolist()
    assert content.labels.tolist() == [0] * len(rows)


def test_commas_that_could_separate_thousands_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("logit_0;logit_1;label\n1,234;5,678;0\n2;12,345;1\n")
    with pytest.raises(DataError, match="'logit_0' could be decimal marks or separate thousands"):
        read(str(tmp_path / "p.csv"))
    (tmp_path / "p.csv").write_text("logit_0;logit_1;label\n1,234;5,67;0\n2;12,345;1\n")
    (found,) = read(str(tmp_path / "p.csv"))
    assert found.Z_NK.tolist() == [[1.234, 5.67], [2.0, 12.345]]
    (tmp_path / "p.csv").write_text("logit_0;logit_1;label\n1,5;0.25;0\n2;12.5;1\n")
    with pytest.raises(DataError, match="'logit_0' is string, as '1,5' in row 0"):
        read(str(tmp_path / "p.csv"))


REFUSED: list[tuple[str, bytes, str]] = [
    ("p.csv", b"logit_0,logit_1,label\n1,2,0\n1,2\n", r"names 3 columns .*, and line 3 has 2: 1,2$"),
    ("p.csv", b"# v1\n\nlogit_0;logit_1;label\n1,5;2;0\n1;2;0;7\n", r"semicolons, names 3 .* line 5 has 4: 1;2;0;7"),
    ("p.csv", b"logit_0,logit_1,label\na,1,2,0\nb,1,2,1\n", "a first column of row names lack its name"),
    ("p.csv", b"logit_0,logit_1,label\n1,2,0,\n1,2,1,\n", "line 2 has 4: 1,2,0,; do rows end in a delimiter"),
    ("p.csv", b"logit_0,logit_1,label\n1,2,0\n# end\n1,2\n", "line 4 has 2"),
    ("p.csv", b"0.5,0.25,1\n0.5,0.5,0\n", "no header"),
    ("p.csv", b"\xff\xfex\x00y\x00,\xd8", "begins as UTF-16 text and is none"),
    ("p.csv", "größe,logit_0,label\n1,2,0\n".encode("latin-1"), "header is not UTF-8"),
    ("p.csv.gz", gzip.compress(CSV.encode())[:60], "cannot be read as gz"),
    ("p.csv.xz", lzma.compress(CSV.encode())[:60], "cannot be read as xz"),
    ("p.csv.bz2", bz2.compress(CSV.encode())[:60], "cannot be read as bz2"),
    ("p.csv.zst", bytes(pa.compress(CSV.encode(), "zstd"))[:40], "cannot be read as zst"),
    ("p.jsonl", b'{"logits": [1, 2], "label": 0}\n{"logits": [1, 2], "label": "a"}\n', "not one JSON object a line"),
    ("p.jsonl", b'{"logits": [1, 2], "label": 0}\n{"logits": [1, 2, 3], "label": 1}\n', "lists of 2 to 3 entries"),
    ("p.jsonl", b'{"logits": [1, 2], "label": 0}\n{"label": 1}\n', "no list in row 1"),
    ("p.json", b'{"logits": [[1, 2]], "label": [0, 1]}', "lists differ in length"),
    ("p.json", b"[1, 2]", "neither objects"),
    ("p.csv", b"logit_0,logit_1,label\n1,2,0\n1,x,0\n", "'logit_1' is string, as 'x' in row 1"),
    ("p.csv", b"true_label,pred_label,confidence\n1,2,0.5\n1,1,0.25\n", "'confidence' and of no class its probability"),
    ("p.csv.zip", zipped({"a.csv": CSV, "b.csv": CSV}), "holds 2 files, not one table"),
    ("p.csv.zip", zipped({"a.csv": CSV})[:80], "cannot be read as zip"),
    ("p.feather", b"FEA1" + bytes(40), "version 1"),
    ("p.csv", b'logits,label\n"[1, 2]",0\n', "is string, as '.1, 2.' in row 0, and must hold numbers"),
]


@pytest.mark.parametrize(("name", "content", "hint"), REFUSED, ids=[hint for *_, hint in REFUSED])
def test_refusals_say_what_was_found(name: str, content: bytes, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=hint) as error:
        read(str(tmp_path / name))
    assert "\n" not in str(error.value)


# labels


@pytest.mark.parametrize(
    "name",
    [
        "true_label",
        "ground_truth",
        "expected",
        "target",
        "y_true",
        "label_id",
        "True Label",
        "trueLabel",
        "gt",
        "y-true",
    ],
)
def test_usual_names_of_labels(name: str, tmp_path: Path) -> None:
    FRAME.rename(columns={"label": name}).assign(predicted_label=1).to_csv(tmp_path / "p.csv", index=False)
    np.savez(tmp_path / "p.npz", logits=Z, **{name: Y})
    for path in (tmp_path / "p.csv", tmp_path / "p.npz"):
        (found,) = read(str(path))
        assert found.y_N.tolist() == Y.tolist()
        assert found.Z_NK.tolist() == Z.tolist()


def test_labels_that_come_twice_agree_or_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    FRAME.assign(target=Y.astype(float)).to_csv(path, index=False)
    assert "labels are 'label'; not used: target" in read(str(path))[0].notes
    FRAME.assign(true_label=(Y + 1) % 3).to_csv(path, index=False)
    with pytest.raises(DataError, match="'label' and 'true_label' differ"):
        read(str(path))
    assert read(str(path), labels="true_label")[0].y_N.tolist() == ((Y + 1) % 3).tolist()
    assert read(str(path), labels="label")[0].y_N.tolist() == Y.tolist()
    np.savez(tmp_path / "p.npz", logits=Z, label=np.array(["a", "b", "c"])[Y], label_id=Y)
    (found,) = read(str(tmp_path / "p.npz"))
    assert found.y_N.tolist() == Y.tolist()
    np.savez(tmp_path / "p.npz", logits=Z, label=np.array(["a", "b", "b", "a", "c"]), label_id=Y)
    with pytest.raises(DataError, match="'label' and 'label_id' differ"):
        read(str(tmp_path / "p.npz"))


def test_a_class_that_is_called_like_labels_is_not_left_out(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    pd.DataFrame({"y": Z[:, 0], "n": Z[:, 1], "label": Y % 2}).to_csv(path, index=False)
    for labels in (None, "label"):
        with pytest.raises(DataError, match=r"'y' and 'label' differ|'y' is a name of labels and holds fractions"):
            read(str(path), kind="logits", labels=labels)
    pd.DataFrame({"false": Z[:, 0], "true": Z[:, 1], "label": Y % 2}).to_csv(path, index=False)
    (found,) = read(str(path), kind="logits")
    assert found.Z_NK.tolist() == Z[:, :2].tolist()
    FRAME.assign(y=0.5).to_csv(path, index=False)
    assert read(str(path), labels="label")[0].y_N.tolist() == Y.tolist()


def test_the_user_names_the_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sklearn.metrics import accuracy_score

    path = tmp_path / "p.csv"
    FRAME.rename(columns={"label": "species"}).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"holds no labels: it holds 'logit_0'.*--labels NAME"):
        read(str(path))
    with pytest.raises(DataError, match=r"no 'specis', which --labels names: did you mean 'species'\?"):
        read(str(path), labels="specis")
    assert main(["evaluate", str(path), "--labels", "species", "--out", str(tmp_path / "e")]) == 0
    table = pd.read_csv(tmp_path / "e" / "tables" / "metrics.csv")
    assert table.accuracy[0] == pytest.approx(accuracy_score(Y, Z.argmax(1)))
    np.savez(tmp_path / "q.npz", logits=2 * Z, kind_of_flower=Y)
    words = [
        "compare",
        str(path),
        str(tmp_path / "q.npz"),
        "labels=species,kind_of_flower",
        "--out",
        str(tmp_path / "c"),
    ]
    assert main(words) == 0
    assert main([*words[:3], "labels=species", "--out", str(tmp_path / "c")]) == 2
    assert "q.npz: it holds no 'species'" in capsys.readouterr().err
    FRAME.rename(columns={"label": "class"}).to_csv(path, index=False)
    with pytest.raises(DataError, match="if 'class' holds them, say --labels class"):
        read(str(path))


# arrays


class Evil:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_what_is_not_used_is_not_read(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    paths = np.array([Evil(mark), *[f"image_{i}.jpg" for i in range(4)]], dtype=object)
    for aside in ({"paths": paths}, {"meta": np.array(None)}, {"paths": np.array(["a"] * 5)}):
        np.savez(tmp_path / "p.npz", logits=Z, labels=Y, **aside)
        (found,) = read(str(tmp_path / "p.npz"))
        assert found.Z_NK.tolist() == Z.tolist()
        name, is_id = next(iter(aside)), "paths" in found.ids
        assert found.notes == (f"names of rows: {name}" if is_id else f"not used: {name}",)
    for held, named in (
        ({"logits": Z.astype(object), "labels": Y}, "logits"),
        ({"logits": Z, "labels": paths}, "labels"),
    ):
        np.savez(tmp_path / "p.npz", **held)
        with pytest.raises(DataError, match=f"the array '{named}' holds pickled objects"):
            read(str(tmp_path / "p.npz"))
    assert not mark.exists()


def test_a_foreign_extension_type_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    about = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Evil(mark)),
    }
    schema = pa.schema([pa.field("logits", pa.list_(pa.float64()), metadata=about), pa.field("label", pa.int64())])
    table = pa.table({"logits": pa.array(list(Z)), "label": Y}, schema=schema)
    with pa.OSFile(str(tmp_path / "p.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
        file.write_table(table)
    with suppress(DataError):
        assert read(str(tmp_path / "p.arrow"))[0].Z_NK.tolist() == Z.tolist()
    assert not mark.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn])
def test_numbers_of_every_width_are_those_of_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    values = torch.from_numpy(Z).to(dtype)
    save_file({"logits": values, "labels": torch.from_numpy(Y)}, tmp_path / "p.safetensors")
    content = load(tmp_path / "p.safetensors")
    own = dtype in (torch.float16, torch.float32, torch.float64)
    assert content.values.dtype == np.dtype(str(dtype).removeprefix("torch.") if own else "float32")
    assert content.values.tolist() == values.double().tolist()


def test_raw_bytes_are_no_numbers(tmp_path: Path) -> None:
    """As numpy saves an array of a bfloat16 that it does not know."""
    raw = torch.from_numpy(Z).bfloat16().view(torch.int16).numpy().view("V2")
    np.savez(tmp_path / "p.npz", logits=raw, labels=Y)
    with pytest.raises(DataError, match="bfloat16: save it as float32"):
        read(str(tmp_path / "p.npz"))


# columns of lists

KINDS_OF_LISTS = {
    "list": pa.list_(pa.float64()),
    "large_list": pa.large_list(pa.float32()),
    "fixed": pa.list_(pa.float32(), 3),
    "half": pa.list_(pa.float16()),
    "integers": pa.list_(pa.int16()),
}


@pytest.mark.parametrize("kind", KINDS_OF_LISTS)
@pytest.mark.parametrize("suffix", ["parquet", "feather"])
def test_lists_of_every_type(kind: str, suffix: str, tmp_path: Path) -> None:
    """More rows than are read at a time; unequal lists beside them are left alone."""
    N = 2500
    values = np.random.default_rng(0).integers(-50, 50, (N, 3)).astype(np.float64)
    element = KINDS_OF_LISTS[kind].value_type.to_pandas_dtype()
    table = pa.table(
        {
            "input_ids": pa.array([[1] * (i % 5) for i in range(N)]),
            "logits": pa.array(list(values.astype(element)), KINDS_OF_LISTS[kind]),
            "label": pa.array((np.arange(N) % 3).astype(str)).cast(pa.int8()).dictionary_encode(),
        }
    )
    path = tmp_path / f"p.{suffix}"
    parquet.write_table(table, path, row_group_size=700) if suffix == "parquet" else write_file(table, path)
    content = load(path)
    assert content.values.dtype == np.dtype(element)
    assert content.values.tolist() == values.tolist()
    assert content.labels.tolist() == (np.arange(N) % 3).tolist()
    assert content.notes == ("not used: input_ids",)


def write_file(table: pa.Table, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(table)


def test_a_number_that_is_missing_in_a_later_batch_is_named(tmp_path: Path) -> None:
    rows: list[list[int | None] | None] = [[i % 3, 2, 1] for i in range(1500)]
    rows[1200] = [1, None, 2]
    parquet.write_table(pa.table({"logits": pa.array(rows), "label": [0] * 1500}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match=r"1 of 1500 rows .* row 1200"):
        read(str(tmp_path / "p.parquet"))
    rows[1200] = None
    parquet.write_table(pa.table({"logits": pa.array(rows), "label": [0] * 1500}), tmp_path / "p.parquet")
    with pytest.raises(DataError, match="no list in row 1200"):
        read(str(tmp_path / "p.parquet"))


def test_lists_take_about_the_memory_of_their_numbers(tmp_path: Path) -> None:
    N, K = 8000, 1000
    values = np.random.default_rng(0).normal(size=(N, K)).astype(np.float32)
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), K)
    parquet.write_table(pa.table({"logits": fixed, "label": np.arange(N) % K}), tmp_path / "p.parquet")
    del fixed
    default = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(default)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        content = load(tmp_path / "p.parquet")
        peak = tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(default)
    assert (content.values == values).all()
    assert values.nbytes < peak < 2 * values.nbytes
