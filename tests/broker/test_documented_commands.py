"""The commands in the documents about a cluster do what is said of them."""

import re
import shlex
from pathlib import Path

import pytest

from tests.broker.installation import Installation
from tests.broker.program import Run, environment_for, runner

DOCS = Path(__file__).parents[2] / "docs"
PORTS = re.compile(r"http://127\.0\.0\.1:606[67]")


def _commands(name: str) -> list[list[str]]:
    """The words of each command of ours in the shell's blocks of a document, in their order."""
    blocks = re.findall(
        r"^```sh\n(.*?)^```", (DOCS / name).read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("streamsched ")]


@pytest.fixture
def beside(shared: Installation, tmp_path: Path) -> Run:
    """Runs the program with the settings of a scheduler that runs."""
    environment = environment_for(shared.kafka, shared.names.app_id)
    environment["STREAMSCHED_WEB_PORT"] = str(shared.process.port)
    environment["STREAMSCHED_DATA_DIR"] = str(shared.process.folder / "data")
    return runner(environment, tmp_path)


def test_commands_of_the_doctor(shared: Installation, beside: Run) -> None:
    """Beside a scheduler that works each of them succeeds."""
    commands = _commands("doctor.md")
    assert len(commands) == 4
    for words in commands:
        here = [PORTS.sub(f"http://127.0.0.1:{shared.process.port}", word) for word in words]
        done = beside(*here)
        assert done.returncode == 0, (here, done.stdout, done.stderr)


def test_commands_of_topics(kafka: str, app_id: str, tmp_path: Path) -> None:
    """In their order, on a cluster without topics: all succeed, and in the end nothing is left."""
    run = runner(environment_for(kafka, app_id), tmp_path)
    commands = _commands("topics.md")
    assert [words[1] for words in commands] == ["plan", "apply", "check", "plan", "plan"]
    for words in commands:
        done = run(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
