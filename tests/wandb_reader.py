"""What offline runs wrote, read back from their .wandb files."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, struct.Struct("<IHB")


def records(path: Path) -> list[Any]:
    """Every record of a .wandb file: LevelDB-style blocks, (checksum, length, type) before each part of a record."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, found, pending, at = path.read_bytes(), [], b"", 7
    assert data[:4] == b":W&B"
    while at + HEADER.size <= len(data):
        if BLOCK - at % BLOCK < HEADER.size:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(data, at)
        at += HEADER.size
        pending += data[at : at + length]
        at += length
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(pending)
            found.append(record)
            pending = b""
    return found


def values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_gzip(path: Path) -> list[Any]:
    """The entries of a manifest that was written to a file of its own."""
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def table(run: dict[str, Any], name: str) -> dict[str, Any]:
    """A logged table: columns and data."""
    (entry,) = [row[name] for row in run["history"] if name in row] or [nested(run, name)]
    return json.loads((run["folder"] / "files" / entry["path"]).read_text())


def nested(run: dict[str, Any], name: str) -> dict[str, Any]:
    """Of a history that keeps an object's parts under keys of their own: the object."""
    row = next(row for row in run["history"] if f"{name}/path" in row)
    return {key.removeprefix(f"{name}/"): value for key, value in row.items() if key.startswith(f"{name}/")}


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Config, history, summary and naming of every offline run in a run folder, by run id."""
    runs: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        run: dict[str, Any] = {"config": {}, "history": [], "summary": {}, "metrics": {}, "made": [], "used": []}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                run |= {"id": record.run.run_id, "project": record.run.project, "group": record.run.run_group}
                run |= {"job_type": record.run.job_type, "name": record.run.display_name, "sweep": record.run.sweep_id}
                run["tags"] = list(record.run.tags)
                run["config"] |= values(record.run.config.update)
            elif kind == "history":
                run["history"].append(values(record.history.item))
            elif kind == "summary":
                run["summary"] |= values(record.summary.update)
            elif kind == "metric":
                run["metrics"][record.metric.name or record.metric.glob_name] = record.metric.step_metric
            elif kind == "artifact":
                found = record.artifact
                files = {entry.path: entry.digest for entry in found.manifest.contents}
                if found.manifest.manifest_file_path:
                    lines = read_gzip(Path(found.manifest.manifest_file_path))
                    files = {entry["path"]: entry["digest"] for entry in lines}
                item = {"name": found.name, "type": found.type, "digest": found.digest, "files": files}
                run["used" if found.use_after_commit else "made"].append(item)
        run["history"] = [{k: v for k, v in row.items() if not k.startswith("_")} for row in run["history"]]
        run["folder"] = path.parent
        assert run["id"] not in runs, "one run, one folder"
        runs[run["id"]] = run
    return runs
