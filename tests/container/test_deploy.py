"""docs/deploy.md by its own lines: compose up, a scheduler killed under load, and down again."""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.errors import NotFound

from streamsched.core.names import TopicNames
from streamsched.kafka.broker_node import free_port
from tests.broker.cluster import await_condition
from tests.broker.reading import await_records, job_id, read_topics
from tests.broker.sending import Sender
from tests.container.conftest import SCHEDULER_IMAGE
from tests.kafka_container import IMAGE as KAFKA_IMAGE
from tests.kafka_container import require_image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text("utf-8")
COMPOSE, OWN_KAFKA, IMAGE = "To try: compose", "On a Kafka of yours", "The image"
BY_THE_DRIVER = {"make image", "make image PIP_NO_INDEX=1", "python3 -m pip wheel"}
"""Beginnings of lines that `python -m tests.container` runs before any test."""
SECONDS_MAX = 180
JOBS = 4_000
TENANTS = [f"load-{i}" for i in range(8)]

pytestmark = pytest.mark.timeout(900)


def lines(title: str) -> list[str]:
    """The command lines under a heading, in their order, continued ones in one."""
    section = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return "".join(blocks).replace("\\\n", " ").splitlines()


class Shell:
    """Runs the page's lines, each with the variables that those before it exported."""

    def __init__(self) -> None:
        self.kafka_port = free_port()
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("STREAMSCHED_")},
            "KAFKA_IMAGE": KAFKA_IMAGE,
            "SCHEDULER_IMAGE": SCHEDULER_IMAGE,
            "KAFKA_PORT": str(self.kafka_port),
            "SCHEDULER_A_PORT": str(free_port()),
            "SCHEDULER_B_PORT": str(free_port()),
        }
        self.ran: list[str] = []

    def run(self, line: str) -> str:
        """What one line said; it has to end with 0."""
        self.ran.append(line)
        for name, value in re.findall(r"(\w+)=(\S+)", line) if line.startswith("export ") else ():
            self._environment[name] = value
        done = subprocess.run(
            ["bash", "-c", line.replace("streamsched:latest", SCHEDULER_IMAGE)],
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            check=False,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{line}\n{said}"
        return said


def is_healthy(engine: docker.DockerClient, name: str) -> Callable[[], bool]:
    """Whether the health check of the one container whose name holds `name` is content."""

    def look() -> bool:
        with suppress(NotFound):
            found = engine.containers.list(filters={"name": name})
            return bool(found) and found[0].attrs["State"]["Health"]["Status"] == "healthy"
        return False

    return look


def await_healthy(engine: docker.DockerClient, *names: str) -> None:
    """Wait until each of the containers is."""
    for name in names:
        await_condition(f"{name} is healthy", is_healthy(engine, name), SECONDS_MAX)


@pytest.fixture
def shell(engine: docker.DockerClient) -> Iterator[Shell]:
    """A shell in which compose's Kafka is the image that is here, and nothing stays behind."""
    require_image(KAFKA_IMAGE)
    shell = Shell()
    yield shell
    for container in engine.containers.list(all=True, filters={"name": "scheduler-1"}):
        container.remove(force=True, v=True)
    shell.run(
        "COMPOSE_PROJECT_NAME=streamsched docker compose --file docker/compose.yaml "
        "--profile demo down --volumes"
    )


def test_each_line_of_the_page_works(engine: docker.DockerClient, shell: Shell) -> None:
    """Up, load, kill one of two, every job exactly once, one more by hand, and down."""
    compose = [line for line in lines(COMPOSE) if line != "make image"]
    up, export, look, logs, kill, again, down, remove = compose
    assert up.startswith("make up")
    shell.run(up)
    await_healthy(engine, "scheduler-a", "scheduler-b")
    shell.run(export)
    assert "scheduler-b" in shell.run(look)
    shell.run(logs)

    kafka = f"localhost:{shell.kafka_port}"
    sender = Sender(kafka, TopicNames())
    expected = set()
    for number in range(JOBS):
        name = f"job-{number}"
        sender.job(TENANTS[number % len(TENANTS)], name, delay_ms=number)
        expected.add(name)
    sender.flush()
    assert kill.endswith("kill scheduler-a")
    shell.run(kill)
    topics = [TopicNames().egress(tenant) for tenant in TENANTS]
    await_records(kafka, topics, JOBS, seconds=SECONDS_MAX)
    assert not engine.containers.list(filters={"name": "scheduler-a"})
    shell.run(again)
    await_healthy(engine, "scheduler-a", "scheduler-b")
    counts = Counter(job_id(record) for record in read_topics(kafka, topics))
    assert counts == Counter(expected)
    demo = [TopicNames().egress(f"tenant-{number}") for number in range(1, 20)]
    assert read_topics(kafka, demo), "the demo's load did not come through"

    address, topics_apply, start, *inside = lines(OWN_KAFKA)
    for line in (address, topics_apply, start):
        shell.run(line)
    await_healthy(engine, "scheduler-1")
    for line in inside:
        shell.run(line)

    shell.run(down)
    assert not engine.containers.list(all=True, filters={"name": "scheduler-a"})
    assert engine.volumes.list(filters={"name": "scheduler-a"})
    shell.run(remove)
    assert not engine.volumes.list(filters={"name": "scheduler-a"})

    everything = lines(COMPOSE) + lines(OWN_KAFKA) + lines(IMAGE)
    left = [line for line in everything if line not in shell.ran]
    assert all(line.startswith(tuple(BY_THE_DRIVER)) for line in left), left
