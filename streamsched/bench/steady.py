"""Jobs that fall due all the time, and a reader that notes how late each of them comes."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Final, Self

import msgspec
import orjson

from streamsched.bench.child import Child
from streamsched.bench.cluster import BenchCluster
from streamsched.bench.errors import BenchError
from streamsched.bench.load import ID_PREFIX, Load, load_producer, now_ms
from streamsched.bench.receiver import READY, Order, Received

LEAD_MS: Final = 2_000
"""How long before its due time a job is produced."""

RECEIVER_READY_SECONDS_MAX: Final = 30.0
FLUSH_SECONDS_MAX: Final = 60.0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was done to a scheduler, and from when to when its effect is looked at."""

    name: str
    at_ms: int
    until_ms: int


class SteadyProducer:
    """A thread that produces each job of a load `LEAD_MS` before it is due; a context manager.

    Leaving it waits until all were produced. Raises `BenchError` where one was refused.
    """

    def __init__(self, bootstrap_servers: str, topic: str, load: Load) -> None:
        """Produces nothing yet."""
        self._producer = load_producer(bootstrap_servers)
        self._topic = topic
        self._load = load
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steady producer", daemon=True)
        self._failures: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._stopping.set()
        self._thread.join()
        if kind is None and self._failures:
            raise BenchError(f"jobs could not be written to {self._topic}: {self._failures[0]}")

    def _run(self) -> None:
        producer, load = self._producer, self._load
        for index, (key, value) in enumerate(load.records()):
            while (rest := load.due_of(index) - LEAD_MS - now_ms()) > 0:
                if self._stopping.wait(rest / 1_000):
                    return
                producer.poll(0)
            producer.produce(
                self._topic,
                value,
                key,
                on_delivery=lambda error, _: self._failures.append(error.str()) if error else None,
            )
        if producer.flush(FLUSH_SECONDS_MAX):
            self._failures.append("not all were acknowledged in time")


@contextmanager
def receiving(
    cluster: BenchCluster,
    topics: Sequence[str],
    jobs: int,
    seconds_max: float,
    *,
    id_prefix: str = ID_PREFIX,
    with_each: bool = False,
) -> Iterator[Callable[[], Received]]:
    """A reader in a process of its own, ready to note `jobs` jobs of `topics`.

    What is yielded waits for its end and tells what it has noted. Raises `BenchError` where it is
    not ready in time, or does not end within `seconds_max` and the time of getting ready.
    """
    order = Order(cluster.bootstrap_servers, list(topics), jobs, seconds_max, id_prefix, with_each)
    argument = orjson.dumps(asdict(order)).decode()
    with Child("receiver", "streamsched.bench.receiver", [argument], cluster.folder) as own:
        own.wait_until(lambda: own.output().startswith(READY), RECEIVER_READY_SECONDS_MAX, READY)

        def received() -> Received:
            printed = own.wait_end(seconds_max + RECEIVER_READY_SECONDS_MAX)
            return msgspec.json.decode(printed.removeprefix(READY), type=Received)

        yield received
