"""What a test of the contract may do to the world, whatever the world is made of.

Records go in raw and come out raw; a test knows nothing of what lies between. No test says how
long something takes: `wait_…` lets the world go on until what it waits for is there, and fails
when it does not come. `lead_ms` is a time ahead that is long enough for what was submitted to
be pending well before it is due.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

Headers = Sequence[tuple[str, bytes | None]]


class Produced(NamedTuple):
    """Where a submitted record stands on the ingress topic."""

    partition: int
    offset: int


class Received(NamedTuple):
    """A record as a read_committed consumer sees it."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp_ms: int

    def header(self, name: str) -> bytes | None:
        """The one header of that name. Fails where there are none or several."""
        [value] = [value for given, value in self.headers if given == name]
        return value


class World(Protocol):
    """A running scheduler of at least two ingress partitions, with topics of its own."""

    @property
    def app_id(self) -> str:
        """What the names of its topics begin with."""
        ...

    @property
    def partitions(self) -> int:
        """How many partitions the ingress topic has."""
        ...

    @property
    def lead_ms(self) -> int:
        """How far ahead a job must be due to be pending for a while."""
        ...

    def now_ms(self) -> int:
        """The wall clock that the scheduler goes by, epoch milliseconds."""
        ...

    def submit(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> Produced:
        """Produce a raw record to the ingress topic and wait until it is acknowledged.

        Without `partition` Kafka's default for the key decides; without `timestamp_ms` it is now.
        """
        ...

    def publish_settings(self, key: bytes | None, value: bytes | None) -> None:
        """Produce a raw record to the settings topic; returns once it is in force or refused."""
        ...

    def wait_for_egress(self, topic: str, count: int) -> list[Received]:
        """The first `count` records on any topic, in order; waits until they are there."""
        ...

    def wait_for_events(self, count: int) -> list[dict[str, Any]]:
        """The first `count` events, in the order of their arrival, as decoded JSON."""
        ...

    def wait_for_rejected(self, count: int) -> list[Received]:
        """The first `count` rejected records."""
        ...

    def wait_for_dead_letters(self, count: int) -> list[Received]:
        """The first `count` dead letters."""
        ...

    def settle(self) -> None:
        """Let everything that was submitted be taken in, and let what is due leave."""
        ...

    def pass_time(self, milliseconds: int) -> None:
        """Let at least that much time pass."""
        ...

    def count(self, topic: str) -> int:
        """How many committed records a topic holds at this moment; 0 if it does not exist."""
        ...
