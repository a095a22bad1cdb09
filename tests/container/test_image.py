"""The scheduler's image: what it may do, how it ends, and the central promise through kills."""

import random
import re
from collections.abc import Callable
from typing import Any

import docker
import pytest

from streamsched.core.names import TopicNames
from tests.broker.test_kill import JOBS, kill_once
from tests.container.conftest import SCHEDULER_IMAGE
from tests.container.scheduler_container import SchedulerContainer

GRACE_SECONDS = 15
KILLS_MAX = 6

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def config(engine: docker.DockerClient) -> dict[str, Any]:
    """The image's configuration."""
    return dict(engine.images.get(SCHEDULER_IMAGE).attrs["Config"])


def test_image_says_how_it_wants_to_be_run(config: dict[str, Any]) -> None:
    """Not root, one volume, SIGTERM, a health check, labels, and nothing of pip's options."""
    assert config["User"] == "10001:10001"
    assert list(config["Volumes"]) == ["/data"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    label = "org.opencontainers.image."
    assert config["Labels"][f"{label}title"] == "streamsched"
    assert re.fullmatch(r"\d+\.\d+\.\d+", config["Labels"][f"{label}version"])
    assert re.fullmatch(r"[0-9a-f]{40}", config["Labels"][f"{label}revision"])
    assert not [variable for variable in config["Env"] if variable.startswith("PIP_")]


def test_nothing_but_the_volume_can_be_written(scheduler: SchedulerContainer) -> None:
    """With a read-only root it works, knows time zones, and is not root."""
    scheduler.start()
    scheduler.await_healthy()
    assert scheduler.run("id", "-u") == (0, "10001\n")
    assert scheduler.run("touch", "/data/written")[0] == 0
    status, said = scheduler.run("touch", "/opt/streamsched/written")
    assert status != 0
    assert "Read-only" in said
    zone = "import zoneinfo; print(zoneinfo.ZoneInfo('Europe/Berlin'))"
    assert scheduler.run("python3", "-c", zone) == (0, "Europe/Berlin\n")


def test_stop_ends_it_in_order(scheduler: SchedulerContainer) -> None:
    """SIGTERM reaches the scheduler, which ends with status 0 and is not killed for it."""
    scheduler.start()
    scheduler.await_healthy()
    assert scheduler.stop(GRACE_SECONDS) == 0, scheduler.log()


def test_every_job_is_dispatched_exactly_once_though_the_container_is_killed(
    kafka: str,
    make_scheduler: Callable[[str], SchedulerContainer],
    app_id: str,
    rng: random.Random,
) -> None:
    """Kill -9 of the container while it dispatches, start it again: each id is there once."""
    # A kill that meets no open transaction tests little: so until one has met one.
    for number in range(KILLS_MAX):
        names = TopicNames(f"{app_id}-{number}")
        scheduler = make_scheduler(names.app_id)
        scheduler.start()
        scheduler.await_healthy()
        kill_at = rng.randrange(JOBS // 10, JOBS // 2)
        aborted = kill_once(kafka, names, scheduler, kill_at)
        scheduler.stop(GRACE_SECONDS)
        print(f"killed at {kill_at}, {aborted} records aborted")
        if aborted:
            break
    else:
        pytest.fail(f"none of {KILLS_MAX} kills met an open transaction")
