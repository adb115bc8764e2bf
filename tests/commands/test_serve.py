"""The report's server: fresh while a run is under way, and deaf to all that is not the report."""

from __future__ import annotations

import http.client
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from synthetic import make, sketched

from calib_bench import registry
from calib_bench.cli import main
from calib_bench.commands import serve
from calib_bench.errors import ResourceError
from calib_bench.report.build import build
from calib_bench.store.store import Store

WORDS = ("beta=0.3,1", "seed=0,1", "objective=cross_entropy", "calibrator=temperature_scaling")


@pytest.fixture(scope="module")
@sketched("separation")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("served") / "run"
    store, settings = make(path, *WORDS)
    build(store, registry.study("separation"), settings)
    return path


@pytest.fixture
def run(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(serve, "FRESH", 0.0)
    return Path(shutil.copytree(original, tmp_path / "run", copy_function=shutil.copy2))


@pytest.fixture
def port(run: Path) -> Iterator[int]:
    store = Store(run, "read")
    site = serve.Site(store, registry.study("separation"), store.settings())
    with serve.server(site, 0) as answering:
        thread = threading.Thread(target=answering.serve_forever, args=(0.02,))
        thread.start()
        yield answering.server_address[1]
        answering.shutdown()
        thread.join()


def get(port: int, place: str, method: str = "GET", host: str | None = None) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of a request whose path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, place, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, body, dict(answer.getheaders())


def begin_again(run: Path, count: int = 3) -> list[Path]:
    """Put some trials aside, as if they were still to come."""
    aside = run.with_name("aside")
    aside.mkdir()
    taken = sorted((run / "trials").iterdir())[:count]
    return [Path(shutil.move(folder, aside / folder.name)) for folder in taken]


def test_the_report_and_its_files_are_served(run: Path, port: int) -> None:
    status, body, headers = get(port, "/")
    page = (run / "report" / "report.html").read_bytes()
    state = get(port, "/state")[1].decode()
    assert status == 200
    assert body == page.replace(b'<html lang="en">', f'<html lang="en" data-live="{state}">'.encode(), 1)
    assert headers["Content-Type"].startswith("text/html")
    assert headers["X-Content-Type-Options"] == "nosniff"
    for name in ("figures/separation.png", "tables/baselines.csv"):
        status, body, _ = get(port, f"/{name}")
        assert (status, body) == (200, (run / "report" / name).read_bytes())
    status, body, headers = get(port, "/", "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["Content-Length"]) > 1000


OUTSIDE = [
    "/../study.json", "/..%2fstudy.json", "/%2e%2e/study.json", "/figures/../../study.json",
    "/tables/..%5c..%5cstudy.json", "//etc/passwd", "/%2fetc%2fpasswd", "/tables", "/tables/", "/.hidden",
    "/tables/.hidden", "/link", "/nothing.html", "/report.html%00.png",
]  # fmt: skip


@pytest.mark.parametrize("place", OUTSIDE)
def test_nothing_outside_the_report_is_served(run: Path, port: int, place: str) -> None:
    report = run / "report"
    (report / ".hidden").write_text("x")
    (report / "tables" / ".hidden").write_text("x")
    if not (report / "link").exists():
        os.symlink(run / "study.json", report / "link")
    status, body, _ = get(port, place)
    assert status == 404
    assert b"settings" not in body
    assert b"root:" not in body


def test_only_this_machine_asks_and_only_to_read(port: int) -> None:
    assert get(port, "/", host="evil.example")[0] == 403
    assert get(port, "/", host="localhost:1")[0] == 200
    assert get(port, "/", "POST")[0] == 501


@sketched("separation")
def test_a_run_under_way_is_told_and_its_report_follows(run: Path, port: int) -> None:
    aside = begin_again(run)
    before = get(port, "/state")[1]
    page = get(port, "/")[1].decode()
    assert before.startswith(b"status")
    assert "Under way" in page
    assert "<progress" in page
    _, _, done, wanted, *_ = before.decode().split("-")
    assert int(done) < int(wanted)
    assert f"{done} of {wanted} so far" in page
    assert "/report.html" in page
    for folder in aside:
        shutil.move(folder, run / "trials" / folder.name)
    assert get(port, "/state")[1] != before
    store = Store(run, "read")
    os.utime(run / "trials" / aside[0].name)
    assert b"Everything is trained" in get(port, "/")[1]
    build(store, registry.study("separation"), store.settings())
    assert get(port, "/state")[1].startswith(b"report")
    assert b"Under way" not in get(port, "/")[1]


def test_the_browser_follows_by_itself(run: Path, port: int) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    aside = begin_again(run, 1)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"http://127.0.0.1:{port}/")
        assert page.get_by_role("heading", name="Under way").is_visible()
        shutil.move(aside[0], run / "trials" / aside[0].name)
        os.utime(run / "report" / "report.html", (time.time() + 60, time.time() + 60))
        page.get_by_role("heading", name="Start here").wait_for(timeout=20_000)
        assert said == []
        browser.close()


def test_a_port_in_use_is_said_and_bad_words_too(run: Path, port: int, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(run, "read")
    with pytest.raises(ResourceError, match=f"port {port}"):
        serve.server(serve.Site(store, registry.study("separation"), store.settings()), port)
    for words, hint in (
        (["--serve"], "required: RUN"),
        ([str(run), "--serve", "port=x"], "port=x is not a whole number"),
        ([str(run), "--serve", "port=99999"], "from 0 to 65535"),
        ([str(run), "port=80"], "for --serve"),
        ([str(run.parent), "--serve"], "not a run folder"),
    ):
        assert main(["report", *words]) == 2
        assert hint in capsys.readouterr().err
