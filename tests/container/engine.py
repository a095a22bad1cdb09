"""A container engine: the one that runs, or one of this run alone."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.broker.cluster import await_condition

START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 60
LIFE_SECONDS_MAX = 5_000
BRIDGE = Path("/sys/class/net/docker0")

PLUGIN = """\
#!/bin/sh
# Lets the command of older days answer as `docker compose`.
if [ "$1" = docker-cli-plugin-metadata ]; then
    echo '{metadata}'
    exit
fi
shift
exec docker-compose "$@"
"""
METADATA = {"SchemaVersion": "0.1.0", "Vendor": "tests", "Version": "1"}


class NoEngineError(Exception):
    """No engine runs and none can be started; the text is one sentence."""


def answers() -> bool:
    """Whether an engine answers the command `docker`."""
    return shutil.which("docker") is not None and _quiet("docker", "info", "--format", "{{.ID}}")


@contextmanager
def some_engine(folder: Path) -> Iterator[None]:
    """The engine that runs, or one of our own until the end of the block, as DOCKER_HOST."""
    if answers():
        yield
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise NoEngineError(
            "no container engine runs, and starting one takes dockerd and root: start yours, "
            "or install Debian's docker.io"
        )
    had_bridge = BRIDGE.exists()
    os.environ["DOCKER_HOST"] = f"unix://{folder / 'socket'}"
    log = folder / "engine.log"
    with log.open("wb") as output:
        engine = subprocess.Popen(
            [
                *("timeout", "-k", str(STOP_SECONDS_MAX), str(LIFE_SECONDS_MAX), "dockerd"),
                *("--host", os.environ["DOCKER_HOST"], "--pidfile", str(folder / "pid")),
                *("--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")),
            ],
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        await_condition("an engine answers", answers, START_SECONDS_MAX, log.read_text)
        print("streamsched: started a container engine", file=sys.stderr)
        yield
    finally:
        engine.terminate()
        engine.wait(STOP_SECONDS_MAX + 10)
        if not had_bridge:
            _quiet("ip", "link", "delete", BRIDGE.name)


@contextmanager
def compose_plugin() -> Iterator[None]:
    """`docker compose`, by the older command docker-compose where there is only that one."""
    if _quiet("docker", "compose", "version") or shutil.which("docker-compose") is None:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="streamsched-docker-") as folder:
        plugin = Path(folder) / "cli-plugins" / "docker-compose"
        plugin.parent.mkdir()
        plugin.write_text(PLUGIN.replace("{metadata}", json.dumps(METADATA)), "utf-8")
        plugin.chmod(0o755)
        os.environ["DOCKER_CONFIG"] = folder
        try:
            yield
        finally:
            del os.environ["DOCKER_CONFIG"]


def _quiet(*command: str) -> bool:
    done = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL)
    return done.returncode == 0
