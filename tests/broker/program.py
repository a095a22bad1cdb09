"""The installed program `streamsched`, run as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from streamsched.kafka.broker_node import free_port
from tests.connecting import client_options, settings_variables

PROGRAM = str(Path(sys.executable).parent / "streamsched")
SECONDS_MAX = 60.0

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
"""Words of the command line; `stdin` and variables of the environment by name."""


def environment_for(kafka: str, app_id: str) -> dict[str, str]:
    """Environment in which the program finds Kafka and an application of its own."""
    own = {k: v for k, v in os.environ.items() if not k.startswith("STREAMSCHED_")}
    return own | {
        **settings_variables(client_options(kafka)),
        "STREAMSCHED_APP_ID": app_id,
        # Nobody listens there, and a scheduler that should fail to start disturbs nobody.
        "STREAMSCHED_WEB_PORT": str(free_port()),
        "COLUMNS": "200",
    }


def runner(environment: dict[str, str], folder: Path) -> Run:
    """A function that runs the program to its end in `folder`."""

    def run(*words: str, stdin: str = "", **variables: str) -> Done:
        return subprocess.run(
            [PROGRAM, *words],
            input=stdin,
            env=environment | variables,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )

    return run


@contextmanager
def started(
    words: list[str], environment: dict[str, str], folder: Path
) -> Iterator["subprocess.Popen[str]"]:
    """The program as a running process; its messages go to `folder`/messages."""
    with (
        (folder / "messages").open("w") as messages,
        subprocess.Popen(
            [PROGRAM, *words],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def refusal(done: Done, status: int = 1) -> str:
    """The one sentence of a command that ended with `status`."""
    assert done.returncode == status, done.stderr
    assert not done.stdout
    assert done.stderr.startswith("streamsched: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("streamsched: ").rstrip("\n")
