"""The world of the contract's tests on the driver: no broker, and a clock moved by hand."""

from typing import Any

import orjson

from streamsched.core.cycle import OutRecord
from streamsched.testing import Driver, Record
from tests.contract.world import Headers, Produced, Received

STEP_MS = 50
WAIT_MS_MAX = 120_000
"""How much simulated time a wait may take."""


class DriverWorld:
    """Implements `tests.contract.world.World`."""

    lead_ms = 5_000

    def __init__(self, app_id: str = "contract", partitions: int = 3) -> None:
        self.app_id = app_id
        self.partitions = partitions
        self.driver = Driver(app_id=app_id, partitions=partitions)
        self.names = self.driver.names

    def now_ms(self) -> int:
        """The driver's clock."""
        return self.driver.now_ms

    def submit(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        timestamp_ms: int | None = None,
        partition: int | None = None,
    ) -> Produced:
        """Pipe a record in."""
        record = Record(key, value, list(headers), timestamp_ms)
        return Produced(*self.driver.pipe(record, partition))

    def publish_settings(self, key: bytes | None, value: bytes | None) -> None:
        """In force with the next cycle."""
        self.driver.pipe_settings(key, value)
        self.driver.settle()

    def wait_for_egress(self, topic: str, count: int) -> list[Received]:
        """Move the clock until the records are there."""
        for _ in range(WAIT_MS_MAX // STEP_MS):
            if self.count(topic) >= count:
                break
            self.driver.advance(STEP_MS)
        found = [_received(record) for record in self.driver.log if record.topic == topic]
        assert len(found) >= count, f"{len(found)} of {count} records on {topic}"
        return found[:count]

    def wait_for_events(self, count: int) -> list[dict[str, Any]]:
        """Move the clock until the events are there."""
        found = self.wait_for_egress(self.names.events, count)
        return [orjson.loads(record.value or b"") for record in found]

    def wait_for_rejected(self, count: int) -> list[Received]:
        """Move the clock until the records are there."""
        return self.wait_for_egress(self.names.rejected, count)

    def wait_for_dead_letters(self, count: int) -> list[Received]:
        """Move the clock until the records are there."""
        return self.wait_for_egress(self.names.dead_letters, count)

    def settle(self) -> None:
        """Run until there is nothing to do at this moment."""
        self.driver.settle()

    def pass_time(self, milliseconds: int) -> None:
        """Move the clock."""
        self.driver.advance(milliseconds)

    def count(self, topic: str) -> int:
        """How many records the topic holds."""
        return sum(record.topic == topic for record in self.driver.log)


def _received(record: OutRecord) -> Received:
    return Received(
        record.topic,
        record.partition,
        record.key,
        record.value,
        list(record.headers),
        record.timestamp_ms,
    )
