"""A scheduler in a container, from our image, to be killed and started again by tests."""

from typing import Any

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from tests.broker.cluster import await_condition

HEALTHY_SECONDS_MAX = 120.0


class SchedulerContainer:
    """One container of the image, as locked up as docs/deploy.md advises, with its own volume."""

    def __init__(self, image: str, kafka: str, app_id: str, network: Network) -> None:
        """Does not start it; `kafka` is an address that holds in the network."""
        self._made = DockerContainer(
            image,
            network=network,
            env={
                "STREAMSCHED_BOOTSTRAP_SERVERS": kafka,
                "STREAMSCHED_APP_ID": app_id,
                "STREAMSCHED_LOG_FORMAT": "json",
            },
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges:true"],
        )
        self._started = False

    def start(self) -> None:
        """Start it, or start it again with the volume that it has."""
        if self._started:
            self._made.get_wrapped_container().start()
        else:
            self._made.start()
            self._started = True

    def await_healthy(self) -> None:
        """Wait until the engine's health check finds it working."""
        await_condition(
            "the container is healthy",
            lambda: self.state()["Health"]["Status"] == "healthy",
            HEALTHY_SECONDS_MAX,
            lambda: f"{self.state()}\n{self.log()}",
        )

    def state(self) -> dict[str, Any]:
        """What the engine says of it now."""
        container = self._made.get_wrapped_container()
        container.reload()
        return dict(container.attrs["State"])

    def kill(self) -> None:
        """Kill -9 of all that is in it."""
        container = self._made.get_wrapped_container()
        container.kill("SIGKILL")
        container.wait()

    def stop(self, seconds: int) -> int:
        """SIGTERM, and SIGKILL after so many seconds; its exit status."""
        container = self._made.get_wrapped_container()
        container.stop(timeout=seconds)
        return int(container.wait()["StatusCode"])

    def run(self, *words: str) -> tuple[int, str]:
        """Run a command in it; its exit status and what it said."""
        status, output = self._made.exec(list(words))
        return status, output.decode(errors="replace")

    def log(self) -> str:
        """The end of its log."""
        return b"".join(self._made.get_logs()).decode(errors="replace")[-6_000:]

    def remove(self) -> None:
        """Remove it with its volume."""
        self._made.stop()
