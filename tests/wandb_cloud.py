"""A Weights & Biases server of the tests' own, on this machine, that keeps what it is sent.

It stands for a W&B server where the tests want to see the online path through to its end: runs that are created and
resumed, history by line offsets, files, artifacts with their versions and lineage, reports, sweeps and agents. It was
written from what the installed wandb client asks and sends, not from a server's source: no real W&B server was met, and
what the tests show is that the real client, driven by this project, leaves here what it should. What is not
answered is listed in `unanswered`, and what breaks a promise of the protocol in `faults`; tests hold both empty.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote

from wandb_graphql import execute
from wandb_server import Server

HISTORY, EVENTS, SUMMARY, OUTPUT = "wandb-history.jsonl", "wandb-events.jsonl", "wandb-summary.json", "output.log"
Json = dict[str, Any]


def node_id(kind: str, number: object) -> str:
    """An identifier as W&B's are: base64, since clients take it apart."""
    return base64.b64encode(f"{kind}:{number}".encode()).decode()


@dataclass
class Run:
    """One run: what `upsertBucket` said of it, its streams by line, its files' bytes."""

    name: str
    entity: str
    project: str
    fields: Json = field(default_factory=dict)
    config: Json = field(default_factory=dict)
    streams: dict[str, list[str]] = field(default_factory=lambda: {s: [] for s in (HISTORY, EVENTS, SUMMARY, OUTPUT)})
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None
    upserts: int = 0

    @property
    def history(self) -> list[Json]:
        return [json.loads(line) for line in self.streams[HISTORY]]

    @property
    def summary(self) -> Json:
        lines = self.streams[SUMMARY]
        return dict(json.loads(lines[-1])) if lines else {}

    @property
    def values(self) -> Json:
        """The config's values, without W&B's own."""
        return {key: item["value"] for key, item in self.config.items() if key != "_wandb"}


@dataclass
class Artifact:
    """One version of an artifact, once it is committed."""

    number: int
    key: tuple[str, str, str]  # entity, project, collection
    type: str
    digest: str
    fields: Json
    aliases: list[str] = field(default_factory=list)
    committed: bool = False
    version: int | None = None
    manifest: Json = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    used: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        return node_id("Artifact", self.number)

    @property
    def name(self) -> str:
        return self.key[2]


class Cloud(Server):
    """The server; `good` and `then` as in `Server`, and may be changed while it runs.

    Attributes:
        runs, artifacts, views, sweeps, projects: what was sent.
        blobs: artifacts' files, by MD5 as base64.
        cut: {run: lines}: of the next history that this run sends, so many lines are kept, and all that follows fails
            until `good` is set again, as when a server goes down between the parts of a long upload.
        requests: how often each GraphQL field, "file_stream" and "upload" was asked.
        unanswered, faults: see above.
    """

    def __init__(self, good: float = 1e9, then: str = "fail") -> None:
        super().__init__(good, then)
        self.projects: dict[tuple[str, str], Json] = {}
        self.kept: dict[tuple[str, str, str], Run] = {}
        self.artifacts: list[Artifact] = []
        self.blobs: dict[str, bytes] = {}
        self.views: dict[str, Json] = {}
        self.sweeps: dict[str, Json] = {}
        self.cut: dict[str, int] = {}
        self.requests: dict[str, int] = {}
        self.unanswered: list[str] = []
        self.faults: list[str] = []
        self.lock = threading.RLock()

    def reply(self, path: str, body: bytes) -> Any:
        with self.lock:
            try:
                return self.route(path, body)
            except Exception:
                self.faults.append(traceback.format_exc())
                return None

    def route(self, path: str, body: bytes) -> Any:
        kind, _, rest = path.lstrip("/").partition("/")
        if kind == "graphql":
            asked = json.loads(body)
            root = {n.removeprefix("on_"): self.counted(n) for n in dir(self) if n.startswith("on_")}
            return {"data": execute(asked["query"], asked.get("variables") or {}, root, self.unanswered)}
        if kind == "files" and rest.endswith("/file_stream"):
            return self.stream(*map(unquote, rest.removesuffix("/file_stream").split("/")), json.loads(body))
        if kind == "upload":
            return self.uploaded(*map(unquote, rest.split("/")), body)
        self.unanswered.append(path)
        return {}

    def counted(self, name: str) -> Callable[..., Any]:
        def call(**arguments: Any) -> Any:
            self.requests[name.removeprefix("on_")] = self.requests.get(name.removeprefix("on_"), 0) + 1
            return getattr(self, name)(**arguments)

        return call

    # runs

    def run(self, name: str) -> Run:
        """The run of this id, whichever project it is in."""
        (found,) = [run for run in self.kept.values() if run.name == name]
        return found

    def on_upsertBucket(self, input: Json) -> Json:
        known = {s["id"]: s for s in self.kept_by_id()}
        entity, project = input.get("entityName") or "me", input.get("modelName") or "uncategorized"
        name = input.get("name") or known[input["id"]]["name"]
        self.on_upsertModel({"entityName": entity, "name": project})
        inserted = (entity, project, name) not in self.kept
        run = self.kept.setdefault((entity, project, name), Run(name, entity, project))
        self.runs[name] = run.fields
        run.upserts += 1
        run.fields |= {k: v for k, v in input.items() if k not in ("config", "summaryMetrics")}
        if "config" in input:
            run.config = json.loads(input["config"])
        return {"bucket": self.bucket(run), "inserted": inserted}

    def kept_by_id(self) -> list[Json]:
        return [self.bucket(run) for run in self.kept.values()]

    def bucket(self, run: Run) -> Json:
        """A run as GraphQL gives it."""
        lines = run.streams
        told = run.config.get("_wandb", {}).get("value", {})
        return {
            "id": node_id("Run", f"{run.entity}/{run.project}/{run.name}"),
            "name": run.name,
            "displayName": run.fields.get("displayName", run.name),
            "description": run.fields.get("description", ""),
            "notes": run.fields.get("notes"),
            "tags": run.fields.get("tags", []),
            "sweepName": run.fields.get("sweep"),
            "config": json.dumps(run.config),
            "wandbConfig": lambda keys: json.dumps({k: told[k] for k in keys if k in told}),
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(lines[HISTORY]),
            "eventsLineCount": len(lines[EVENTS]),
            "logLineCount": len(lines[OUTPUT]),
            "historyTail": json.dumps(lines[HISTORY][-1:]),
            "eventsTail": json.dumps(lines[EVENTS][-1:]),
            "project": self.project(run.entity, run.project),
            "state": "running" if run.exit_code is None else "finished" if run.exit_code == 0 else "failed",
        }

    def project(self, entity: str, project: str) -> Json | None:
        """A project as GraphQL gives it."""
        if (entity, project) not in self.projects:
            return None

        def run(name: str, missingOk: bool = True) -> Json | None:
            found = self.kept.get((entity, project, name))
            return self.bucket(found) if found else None

        def kind(name: str) -> Json:
            return {"artifactCollection": lambda name: self.collection(entity, project, name), "name": name}

        return {
            "__typename": "Project",
            "id": node_id("Project", f"{entity}/{project}"),
            "internalId": node_id("ProjectInternalId", f"{entity}/{project}"),
            "name": project,
            "entityName": entity,
            "createdAt": "2026-01-01T00:00:00Z",
            "isBenchmark": False,
            "user": None,
            "readOnly": False,
            "entity": {"id": node_id("Entity", entity), "name": entity},
            "bucket": run,
            "run": run,
            "artifactType": kind,
            "artifact": lambda name: self.found(entity, project, name),
            "allViews": lambda **_: self.all_views(entity, project),
            "sweep": lambda sweepName: self.sweeps.get(sweepName),
        }

    def on_model(self, name: str = "", entityName: str = "") -> Json | None:
        return self.project(entityName or "me", name)

    def on_project(self, name: str = "", entityName: str = "") -> Json | None:
        return self.project(entityName or "me", name)

    def on_models(self, entityName: str, **_: Any) -> Json:
        owned = [self.project(*key) for key in self.projects if key[0] == entityName]
        edges = [{"node": node, "cursor": str(n)} for n, node in enumerate(owned)]
        return {"edges": edges, "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}}

    def on_upsertModel(self, input: Json) -> Json:
        key = (input.get("entityName") or "me", input["name"])
        inserted = self.projects.setdefault(key, {}) == {}
        return {"model": self.project(*key), "project": self.project(*key), "inserted": inserted}

    def stream(self, entity: str, project: str, name: str, sent: Json) -> Any:
        """Lines of a run's streams, each at its offset; None is an error."""
        self.requests["file_stream"] = self.requests.get("file_stream", 0) + 1
        run = self.kept[entity, project, name]
        for stream, chunk in (sent.get("files") or {}).items():
            lines, at, new = run.streams[stream], chunk["offset"], chunk["content"]
            if at > len(lines):
                self.faults.append(f"{name}: {stream} has {len(lines)} lines, and more are sent for {at}")
            if stream == HISTORY and name in self.cut:
                lines[at:] = new[: self.cut.pop(name)]
                self.good = 0
                return None
            if stream == HISTORY and lines[at : at + len(new)] not in ([], new):
                self.faults.append(f"{name}: lines {at}... of the history are overwritten with others")
            lines[at : at + len(new)] = new
        if sent.get("complete"):
            run.exit_code = sent.get("exitcode")
        return {}

    def on_createRunFiles(self, input: Json) -> Json:
        key = [input["entityName"], input["projectName"], input["runName"]]
        files = [{"name": name, "uploadUrl": self.place("run", *key, name)} for name in input["files"]]
        return {"runID": node_id("Run", "/".join(key)), "uploadHeaders": [], "files": files}

    def on_markRunFilesUploaded(self, input: Json) -> Json:
        return {"success": True}

    # uploads

    def place(self, *parts: str) -> str:
        """Where to put something."""
        return "/".join([self.url, "upload", *(quote(part, safe="") for part in parts)])

    def uploaded(self, kind: str, *rest: Any) -> Json:
        self.requests["upload"] = self.requests.get("upload", 0) + 1
        *key, content = rest
        if kind == "run":
            self.kept[tuple(key[:3])].files[key[3]] = content
        elif kind == "manifest":
            self.artifact(key[0]).manifest = json.loads(content)
        elif kind == "blob":
            if base64.b64encode(hashlib.md5(content).digest()).decode() != key[0]:
                self.faults.append(f"{key[1]} is not what was announced")
            self.blobs[key[0]] = content
        return {}

    # artifacts

    def artifact(self, id: str) -> Artifact:
        (found,) = [artifact for artifact in self.artifacts if artifact.id == id]
        return found

    def versions(self, *key: str) -> list[Artifact]:
        """The committed versions of a collection, the oldest first."""
        found = [a for a in self.artifacts if a.key == key and a.committed]
        return sorted(found, key=lambda a: a.version or 0)

    def files_of(self, artifact: Artifact) -> dict[str, bytes]:
        """An artifact's files, by its manifest."""
        return {name: self.blobs[entry["digest"]] for name, entry in artifact.manifest["contents"].items()}

    def on_createArtifact(self, input: Json) -> Json:
        names = input.get("artifactCollectionNames") or [input["artifactCollectionName"]]
        key = (input["entityName"], input["projectName"], names[0])
        versions = self.versions(*key)
        artifact = next((a for a in versions if a.digest == input["digest"]), None)
        if artifact is None:
            artifact = Artifact(len(self.artifacts), key, input["artifactTypeName"], input["digest"], input)
            self.artifacts.append(artifact)
        if (run := input.get("runName")) and run not in artifact.made:
            artifact.made.append(run)
        self.name_it(artifact, [item["alias"] for item in input.get("aliases", [])])
        latest = {"id": versions[-1].id, "versionIndex": versions[-1].version} if versions else None
        state = "COMMITTED" if artifact.committed else "PENDING"
        sequence = {"id": node_id("Sequence", "/".join(key)), "latestArtifact": latest}
        return {"artifact": {"id": artifact.id, "state": state, "artifactSequence": sequence}}

    def name_it(self, artifact: Artifact, aliases: list[str]) -> None:
        for alias in aliases:
            for other in self.artifacts:
                if other.key == artifact.key and alias in other.aliases:
                    other.aliases.remove(alias)
            artifact.aliases.append(alias)

    def on_createArtifactManifest(self, input: Json) -> Json:
        where = self.place("manifest", input["artifactID"])
        file = {"id": node_id("File", input["artifactID"]), "uploadUrl": where, "uploadHeaders": []}
        return {"artifactManifest": {"id": node_id("Manifest", input["artifactID"]), "file": file}}

    def on_createArtifactFiles(self, input: Json) -> Json:
        edges = []
        for spec in input["artifactFiles"]:
            known = spec["md5"] in self.blobs
            node = {
                "artifact": {"id": spec["artifactID"]},
                "storagePath": spec["md5"],
                "uploadUrl": None if known else self.place("blob", spec["md5"], spec["name"]),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
            }
            edges.append({"node": node})
        return {"files": {"edges": edges}}

    def on_commitArtifact(self, input: Json) -> Json:
        artifact = self.artifact(input["artifactID"])
        lacking = [name for name, e in artifact.manifest["contents"].items() if e["digest"] not in self.blobs]
        if lacking and "ref" not in str(artifact.manifest):
            self.faults.append(f"{artifact.name} is committed without {lacking}")
        if not artifact.committed:
            artifact.version, artifact.committed = len(self.versions(*artifact.key)), True
        return {"artifact": {"id": artifact.id, "digest": artifact.digest}}

    def on_useArtifact(self, input: Json) -> Json:
        artifact = self.artifact(input["artifactID"])
        if input["runName"] not in artifact.used:
            artifact.used.append(input["runName"])
        return {"artifact": {"id": artifact.id}}

    def on_clientIDMapping(self, clientID: str) -> Json | None:
        found = [a.id for a in self.artifacts if a.fields.get("clientID") == clientID]
        return {"serverID": found[-1]} if found else None

    def found(self, entity: str, project: str, name: str) -> Json | None:
        """An artifact by name and alias or version."""
        collection, _, alias = name.partition(":")
        for a in self.versions(entity, project, collection):
            if (alias or "latest") in (*a.aliases, f"v{a.version}"):
                return {"id": a.id, "digest": a.digest, "versionIndex": a.version, "artifactType": {"name": a.type}}
        return None

    def collection(self, entity: str, project: str, name: str) -> Json | None:
        if not self.versions(entity, project, name):
            return None
        return {"__typename": "ArtifactSequence", "name": name, "digestAlgorithm": "MANIFEST_MD5"}

    # who is there, and what it can

    def on_viewer(self) -> Json:
        team = {"edges": [{"node": {"name": "us"}}]}
        me = {"id": node_id("User", 1), "entity": "me", "username": "me", "name": "me", "email": "", "admin": False}
        return {**me, "flags": "{}", "teams": team, "deletedAt": None, "apiKeys": {"edges": []}}

    def on_serverInfo(self) -> Json:
        return {"features": [], "cliVersionInfo": {"max_cli_version": "1.0.0"}, "latestLocalVersionInfo": None}

    def on_entity(self, name: str) -> Json:
        return {"id": node_id("Entity", name), "name": name, "xxhashDigestsEnabled": False, "organization": None}

    # reports

    def on_upsertView(self, input: Json) -> Json:
        inserted = "id" not in input
        id = input.get("id") or node_id("View", len(self.views))
        if not inserted and id not in self.views:
            raise KeyError(id)
        view = self.views.setdefault(id, {"id": id, "createdAt": "2026-01-01T00:00:00Z", "updates": -1})
        view |= {k: v for k, v in input.items() if k != "id"} | {"updatedAt": "2026-01-01T00:00:00Z"}
        view["updates"] += 1
        return {"view": self.on_view(id), "inserted": inserted}

    def on_view(self, id: str) -> Json | None:
        view = self.views.get(id)
        return {**view, "project": self.project(view["entityName"], view["projectName"])} if view else None

    def all_views(self, entity: str, project: str) -> Json:
        owned = [v for v in self.views.values() if (v["entityName"], v["projectName"]) == (entity, project)]
        edges = [{"node": {**view, "user": None}, "cursor": view["id"]} for view in owned]
        return {"edges": edges, "pageInfo": {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}}

    # sweeps

    def on_upsertSweep(self, input: Json) -> Json:
        name = f"sweep{len(self.sweeps)}"
        key = (input["entityName"], input["projectName"])
        self.on_upsertModel({"entityName": key[0], "name": key[1]})
        self.sweeps[name] = {
            "id": node_id("Sweep", name),
            "name": name,
            "config": input["config"],
            "method": "grid",
            "state": "RUNNING",
            "description": input.get("description"),
            "project": self.project(*key),
            "runs": {"edges": []},
            "points": None,
            **dict.fromkeys(("createdAt", "heartbeatAt", "updatedAt", "bestLoss", "controller", "scheduler")),
            "earlyStopJobRunning": False,
        }
        return {"sweep": self.sweeps[name], "configValidationWarnings": []}

    def on_createAgent(self, input: Json) -> Json:
        return {"agent": {"id": node_id("Agent", input["sweep"])}}

    def on_agentHeartbeat(self, input: Json) -> Json:
        """The next point of the grid, when nothing runs; the end, when there is none."""
        from itertools import product

        import yaml

        sweep = self.sweeps[base64.b64decode(input["id"]).decode().removeprefix("Agent:")]
        content = yaml.safe_load(sweep["config"])
        if sweep["points"] is None:
            keys = list(content["parameters"])
            grid = product(*(content["parameters"][key]["values"] for key in keys))
            sweep["points"] = [dict(zip(keys, point, strict=True)) for point in grid]
            sweep["told"] = []
        commands: list[Json] = []
        if not json.loads(input.get("runState") or "{}"):
            if not sweep["points"]:
                commands = [{"type": "exit"}]
            else:
                point, name = sweep["points"].pop(0), f"{sweep['name']}run{len(sweep['told'])}"
                sweep["told"].append({"run": name, "point": point})
                key = (*(self.project_of(sweep)), name)
                # as W&B does: the run is there before its process is
                self.kept[key] = Run(name, *key[:2], fields={"sweep": sweep["name"]})
                args = {k: {"value": v} for k, v in point.items()}
                commands = [{"type": "run", "run_id": name, "program": content.get("program"), "args": args}]
        return {"agent": {"id": input["id"]}, "commands": json.dumps(commands)}

    def project_of(self, sweep: Json) -> tuple[str, str]:
        return sweep["project"]["entityName"], sweep["project"]["name"]


@contextlib.contextmanager
def cloud(good: float = 1e9, then: str = "fail") -> Iterator[Cloud]:
    """A server that runs until the end of the block."""
    server = Cloud(good, then)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.release.set()
        server.shutdown()
        server.server_close()
