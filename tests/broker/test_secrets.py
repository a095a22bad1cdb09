"""A password is nowhere but where it was put: not in a log, a page, a file or a process list."""

import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from streamsched.kafka.embedded import EmbeddedKafka
from tests.broker.conftest import PLAIN_LOGIN
from tests.broker.installation import Installation, prepared
from tests.broker.program import PROGRAM, environment_for, runner
from tests.connecting import settings_variables

PAGES = ("/metrics", "/readyz?verbose", "/livez", "/tenants", "/jobs/acme/none")
PASSWORD = PLAIN_LOGIN["sasl.password"]


@pytest.fixture
def told(secured: EmbeddedKafka, tmp_path: Path) -> Iterator[Installation]:
    """A scheduler that says all it can; its password comes from a file.

    It logs in by SASL PLAIN, where the password itself is in a request.
    """
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    options = {**secured.client_options, **PLAIN_LOGIN, "debug": "security,conf,protocol"}
    del options["sasl.password"]
    options["sasl.password.file"] = str(tmp_path / "password")
    with prepared(
        secured.bootstrap_servers,
        tmp_path / "run",
        partitions=1,
        options=options,
        log_level="debug",
    ) as it:
        yield it


def _pages(port: int) -> str:
    """Everything that a scheduler answers."""
    found = []
    for path in PAGES:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                found.append(answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                found.append(error.read().decode())
    return "\n".join(found)


def _command_lines() -> str:
    """Those of all processes of the machine."""
    lines = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return "\n".join(" ".join(words) for words in lines)


def test_running_scheduler_tells_no_password(told: Installation) -> None:
    """At debug, with librdkafka's debugging on, while it works and after it was stopped."""
    told.process.start()
    told.process.wait_ready()
    told.sender.job("acme", "a")
    told.sender.flush()
    assert told.dispatched("acme", 1)
    assert PASSWORD not in _pages(told.process.port)
    assert PROGRAM.rpartition("/")[0] in _command_lines()
    assert PASSWORD not in _command_lines()
    assert told.process.terminate() == 0
    log = told.process.whole_log()
    # It is not for silence that nothing is found.
    assert "aiokafka" in log or '"level": "debug"' in log
    assert PASSWORD not in log
    for path in told.process.folder.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes(), path


RUN, CHECK = ("run",), ("--debug", "topics", "check")


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        pytest.param(RUN, {}, id="wrong-password-run"),
        pytest.param(CHECK, {}, id="wrong-password"),
        pytest.param(RUN, {"sasl.mechanisms": "PLAIN"}, id="plain-run"),
        pytest.param(CHECK, {"sasl.mechanisms": "PLAIN"}, id="plain"),
        pytest.param(CHECK, {"sasl.mechanisms": "NONE-SUCH"}, id="mechanism"),
        pytest.param(CHECK, {"sasl.password.file": "/dev/null"}, id="twice"),
        pytest.param(RUN, {"security.protocol": "plaintext"}, id="no-login"),
    ],
)
def test_errors_tell_no_password(
    secured: EmbeddedKafka, tmp_path: Path, command: tuple[str, ...], fault: dict[str, str]
) -> None:
    """A wrong password at debug, with tracebacks on; and options that are refused beside it."""
    password = "another-password-that-stands-nowhere-else"
    options = {**secured.client_options, "sasl.password": password, "debug": "all", **fault}
    done = runner(environment_for("", "secrets"), tmp_path)(
        *command, "--log-level", "debug", **settings_variables(options)
    )
    assert done.returncode == 1
    assert done.stderr
    assert password not in done.stderr + done.stdout


def test_password_from_a_folder_of_secrets(secured: EmbeddedKafka, tmp_path: Path) -> None:
    """What an orchestrator mounts as files is enough to log in."""
    options = secured.client_options
    (tmp_path / "secrets").mkdir()
    secret = tmp_path / "secrets" / "STREAMSCHED_KAFKA__SASL_PASSWORD"
    secret.write_text(options.pop("sasl.password"))
    run = runner(environment_for("", "secrets"), tmp_path)
    variables = settings_variables(options)
    assert run("topics", "plan", **variables).returncode == 1
    done = run("topics", "plan", STREAMSCHED_SECRETS_DIR="secrets", **variables)
    assert done.returncode == 0, done.stderr
