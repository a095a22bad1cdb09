"""The commands without a cluster: usage, sentences, rendering, pages, child processes."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from streamsched.cli import pages as cli_pages
from streamsched.cli.errors import USER_ERRORS
from streamsched.cli.main import app
from streamsched.cli.output import Format, cell, field_text, printable, show_rows
from streamsched.cli.pages import page_url
from streamsched.cli.processes import Children, Ended, settings_environment
from streamsched.cli.values import read_delay, read_headers, read_moment
from streamsched.settings import Settings, load_settings

NOW_MS = 1_800_000_000_000


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Usage errors are boxed to the width of the terminal.
    monkeypatch.setenv("COLUMNS", "200")


def _run(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nonsense"], "No such command"),
        (["topics", "plan", "--partitions", "0"], "--partitions"),
        (["topics", "plan", "-o", "xml"], "--output"),
        (["jobs", "submit", "--delay", "1s", "--payload", "x"], "--tenant"),
        (["jobs", "submit", "--tenant", "t", "--payload", "x"], "--due-at and --delay"),
        (["jobs", "submit", "--tenant", "t", "--delay", "1s"], "--payload and --payload-file"),
        (["jobs", "submit", "--tenant", "t", "--delay", "1", "--payload", "x"], "no delay"),
        (
            ["jobs", "submit", "--tenant", "t", "--due-at", "2030-01-01T00:00:00", "--payload", ""],
            "RFC 3339",
        ),
        (
            ["jobs", "submit", "--tenant", "t", "--delay", "1s", "--payload", "", "--header", "x"],
            "NAME=VALUE",
        ),
        (["jobs", "cancel", "t"], "id"),
        (["jobs", "show", "t", "1", "--url", "localhost:6066"], "http://"),
        (["tenants", "set", "t"], "at least one setting"),
        (["egress", "tail", "t", "--max", "0"], "--max"),
        (["run", "--processes", "0"], "--processes"),
        (["run", "--processes", "3", "--web-port", "65534"], "do not exist"),
        (["broker", "--port", "70000"], "--port"),
    ],
)
def test_wrong_usage_has_status_2(words: list[str], said: str) -> None:
    """What was mistyped is named on standard error, and the exit status is 2."""
    status, out, err = _run(*words)
    assert (status, out) == (2, "")
    assert said in err


def test_user_errors_are_named_as_they_are() -> None:
    """Each exception that is told in a sentence exists under the name it is known by."""
    for name in USER_ERRORS:
        module, _, attribute = name.rpartition(".")
        assert issubclass(getattr(import_module(module), attribute), Exception)


def test_unknown_variable_of_the_environment_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A setting that does not exist is named, with exit status 1 and without a traceback."""
    monkeypatch.setenv("STREAMSCHED_BOOTSTRAP_SERVER", "x")
    status, out, err = _run("topics", "plan")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("streamsched: environment variable STREAMSCHED_BOOTSTRAP_SERVER is no")


@pytest.mark.parametrize(
    "text", ["bootstrap_server = 'x'\n", "web_port = 'x'\n", "bootstrap_servers = [\n"]
)
def test_bad_settings_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    """An unknown setting, a wrong type and a broken file end with status 1 and a sentence."""
    (tmp_path / "streamsched.toml").write_text(text, "utf-8")
    status, out, err = _run("topics", "plan")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("streamsched: ")


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """With --debug the exception itself comes out."""
    monkeypatch.setenv("STREAMSCHED_TYPO", "x")
    result = CliRunner().invoke(app, ["--debug", "topics", "plan"])
    assert type(result.exception).__name__ == "SettingsError"


def test_command_line_wins_over_environment_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the command, before it, environment, file: the first that speaks wins."""
    (tmp_path / "streamsched.toml").write_text("web_port = 1\nweb_host = 'file'\n", "utf-8")

    def url(*words: str) -> str:
        _, _, err = _run(*words)
        return err.split(" at ")[1].split(" (")[0]

    show = ("jobs", "show", "t", "1")
    assert url(*show) == "http://file:1"
    monkeypatch.setenv("STREAMSCHED_WEB_HOST", "127.0.0.1")
    monkeypatch.setenv("STREAMSCHED_WEB_PORT", "2")
    assert url(*show) == "http://127.0.0.1:2"
    assert url("--web-port", "3", *show) == "http://127.0.0.1:3"
    assert url("--web-port", "3", *show, "--web-port", "4") == "http://127.0.0.1:4"


def test_help_loads_nothing_heavy() -> None:
    """The program can tell its usage without Faust, librdkafka, RocksDB or pydantic."""
    heavy = [
        "faust",
        "confluent_kafka",
        "rocksdict",
        "pydantic",
        "aiohttp",
        "rich",
        "urllib.request",
    ]
    code = f"import sys, streamsched.cli.main; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_version_as_json() -> None:
    """The version comes as data."""
    status, out, _ = _run("version", "-o", "json")
    assert status == 0
    assert set(json.loads(out)) == {"version"}


# --- rendering -----------------------------------------------------------------------------


def test_table_into_a_pipe_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    """Long cells stay whole on one line where no terminal is, and lines have no blank end."""
    show_rows([{"name": "x" * 300, "paused": True, "more": None}], ("name", "paused"), Format.TABLE)
    out = capsys.readouterr().out
    assert out.splitlines() == ["NAME" + " " * 298 + "PAUSED", "x" * 300 + "  yes"]


def test_rows_as_json_are_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has all fields, those without a column too."""
    rows = [{"name": "ü", "more": [1]}]
    show_rows(rows, ("name",), Format.JSON)
    assert json.loads(capsys.readouterr().out) == rows


def test_markup_and_control_characters_are_shown_as_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither rich's markup nor escape sequences of a job reach the terminal."""
    show_rows([{"name": "[red]a\x1b[2J\n[/red]"}], ("name",), Format.TABLE)
    assert capsys.readouterr().out.splitlines()[1] == r"[red]a\x1b[2J\n[/red]"
    assert printable("ü\udcff\u202e") == r"ü\udcff\u202e"


def test_cells_and_fields() -> None:
    """Nothing is empty, truth is yes or no, points in time are readable."""
    assert [cell(v) for v in (None, True, False, 1.5, ["a"])] == ["", "yes", "no", "1.5", '["a"]']
    assert field_text("due_at", 1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert field_text("offset", 7) == "7"


# --- values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("250ms", 250), ("90s", 90_000), ("1h30m", 5_400_000), ("2d", 172_800_000), ("0", 0)],
)
def test_delay(text: str, milliseconds: int) -> None:
    """Numbers with units add up."""
    assert read_delay(text) == timedelta(milliseconds=milliseconds)


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1.5s", "1 s", "1s ", "1w", "\u0661s"])
def test_what_is_no_delay(text: str) -> None:
    """Signs, blanks, fractions and units that we do not have are refused."""
    with pytest.raises(typer.BadParameter):
        read_delay(text)


def test_endless_delay_is_left_to_the_contract() -> None:
    """A number that no timedelta holds becomes one that is too long, not a crash."""
    assert read_delay("9" * 15 + "d") > timedelta(days=3_653)


def test_moment_and_headers() -> None:
    """Times as on the wire; the first equals sign ends a header's name."""
    assert read_moment("2027-01-15T08:00:00.0001Z", "--due-at", NOW_MS, round_up=True) == (
        NOW_MS + 1
    )
    assert read_moment(str(NOW_MS), "--due-at", NOW_MS, round_up=True) == NOW_MS
    assert read_headers(["a=b=c", "a=", "b=\udcff"]) == [("a", b"b=c"), ("a", b""), ("b", b"\xff")]


# --- pages ---------------------------------------------------------------------------------


class _Page(BaseHTTPRequestHandler):
    """Answers like a scheduler that owns one partition; the server's `said` has the answers."""

    def do_GET(self) -> None:
        status, body = self.server.said.get(self.path, (404, {"error": "elsewhere"}))
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_words: object) -> None:
        """Silence."""


@pytest.fixture
def pages() -> Iterator[ThreadingHTTPServer]:
    """A web server whose `said` maps paths to status and body."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        server.said = {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_job_is_shown_by_the_scheduler_that_has_it(
    pages: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All schedulers are asked, proxies are not; ids travel escaped."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    pages.said = {"/jobs/t/a%2Fb%20%C3%BC": (200, {"id": "a/b ü", "due_at": NOW_MS})}
    url = f"http://127.0.0.1:{pages.server_port}"
    words = ("jobs", "show", "t", "a/b ü", "--url", "http://127.0.0.1:1", "--url", url)
    status, out, _ = _run(*words, "-o", "json")
    assert (status, json.loads(out)) == (0, {"id": "a/b ü", "due_at": NOW_MS})
    status, out, _ = _run(*words)
    assert (status, out) == (0, "id      a/b ü\ndue at  2027-01-15T08:00:00.000Z\n")


def test_job_that_is_not_pending(pages: ThreadingHTTPServer) -> None:
    """The owner's word counts alone, others that know nothing are left out."""
    pages.said = {"/jobs/t/1": (404, {"error": "no pending job '1' of tenant 't'"})}
    url = f"http://127.0.0.1:{pages.server_port}"
    status, out, err = _run("jobs", "show", "t", "1", "--url", "http://127.0.0.1:1", "--url", url)
    assert (status, out) == (1, "")
    assert err == "streamsched: no pending job '1' of tenant 't'\n"


def test_no_scheduler_is_one_sentence() -> None:
    """Where nobody answers, the address and the reason are told."""
    status, out, err = _run("jobs", "show", "t", "1", "--url", "http://127.0.0.1:1/")
    assert (status, out) == (1, "")
    assert err == (
        "streamsched: no scheduler answers at http://127.0.0.1:1 (Connection refused); "
        "name the running schedulers with --url\n"
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:6066"),
        ("::", "http://[::1]:6066"),
        ("fe80::1", "http://[fe80::1]:6066"),
        ("box", "http://box:6066"),
    ],
)
def test_address_of_pages(host: str, url: str) -> None:
    """A scheduler that listens everywhere is found on this machine."""
    assert page_url(Settings(web_host=host)) == url


# --- health ------------------------------------------------------------------------------


def test_quick_doctor_tells_a_scheduler_that_works(
    pages: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line and status 0 where both probes are content; the address is that of the settings."""
    pages.said = {"/livez": (200, "ok\n"), "/readyz": (200, "ok\n")}
    monkeypatch.setenv("STREAMSCHED_WEB_PORT", str(pages.server_port))
    url = f"http://127.0.0.1:{pages.server_port}"
    assert _run("doctor", "--quick") == (0, f"{url}: works\n", "")
    status, out, _ = _run("doctor", "--quick", "-o", "json")
    assert (status, json.loads(out)) == (
        0,
        {"ok": True, "schedulers": [{"url": url, "ok": True, "fault": ""}]},
    )


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ({"/livez": (200, "ok\n"), "/readyz": (503, "not ready\na: b\nc: d\n")}, "a: b; c: d"),
        ({"/livez": (200, "ok\n"), "/readyz": (500, "")}, "not ready: status 500"),
        ({"/livez": (404, "nothing")}, "something else than a scheduler answers there"),
    ],
)
def test_quick_doctor_tells_what_is_wrong(
    pages: ThreadingHTTPServer, said: dict[str, tuple[int, str]], fault: str
) -> None:
    """One line with each fault that the scheduler names, and status 1."""
    pages.said = said
    status, out, err = _run("doctor", "--quick", "--url", f"http://127.0.0.1:{pages.server_port}/")
    assert (status, err, out.count("\n")) == (1, "", 1)
    assert fault in out


def test_quick_doctor_of_several_fails_with_one(pages: ThreadingHTTPServer) -> None:
    """All that were named are asked, and one that is away is enough to fail."""
    pages.said = {"/livez": (200, "ok\n"), "/readyz": (200, "ok\n")}
    url = f"http://127.0.0.1:{pages.server_port}"
    status, out, _ = _run("doctor", "--quick", "--url", url, "--url", "http://127.0.0.1:1")
    assert status == 1
    assert out == (
        f"{url}: works; http://127.0.0.1:1: no scheduler answers (Connection refused): start it, "
        "or see in its log why it ended\n"
    )


def test_quick_doctor_waits_for_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that takes the connection and says nothing is told as one that hangs."""
    monkeypatch.setattr(cli_pages, "HEALTH_SECONDS_MAX", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        status, out, _ = _run("doctor", "--quick", "--url", url)
    assert status == 1
    assert "no answer within 0.2 s" in out or "timed out" in out


def test_quick_doctor_waits_for_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name service that hangs, which no timeout of a socket ends, is not waited for either."""
    resolve, ended = socket.getaddrinfo, threading.Event()

    def slow(*words: object, **options: object) -> object:
        ended.wait(5)
        return resolve(*words, **options)

    monkeypatch.setattr(cli_pages, "HEALTH_SECONDS_MAX", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", slow)
    try:
        status, out, _ = _run("doctor", "--quick", "--url", "http://127.0.0.1:1")
    finally:
        ended.set()
    assert status == 1
    assert "no answer within 0.2 s" in out


def test_quick_doctor_must_know_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler on a port of its own choice has to be named."""
    monkeypatch.setenv("STREAMSCHED_WEB_PORT", "0")
    status, out, err = _run("doctor", "--quick")
    assert (status, out) == (1, "")
    assert "--url" in err


# --- child processes -----------------------------------------------------------------------


def test_children_are_reported_with_their_status(capfd: pytest.CaptureFixture[str]) -> None:
    """A child's own exit status comes back under its name."""
    children = Children()
    children.start("good", ["version"], {})
    assert children.wait(30) == Ended("good", 0)
    children.start("bad", ["nonsense"], {})
    assert children.wait(30) == Ended("bad", 2)
    assert not children.stop()
    assert "No such command" in capfd.readouterr().err


def test_death_by_a_signal_is_told_as_such() -> None:
    """The guardian's status for a killed child reads as the signal."""
    assert str(Ended("x", 256 - 9)) == "x was killed by signal 9"
    assert str(Ended("x", 1)) == "x ended with status 1"


def test_settings_survive_the_way_into_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a parent has from options, a child reads from its environment."""
    settings = Settings(app_id="x", data_dir=Path("a/b"), web_port=0, standby_replicas=2)
    for name, value in settings_environment(settings).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
