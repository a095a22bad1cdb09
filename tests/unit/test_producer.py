"""What failures of a transaction make of the producer of a partition."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from streamsched.core.cycle import Cycle
from streamsched.engine.producer import (
    FENCE_SECONDS_MAX,
    TIMEOUTS_IN_A_ROW_MAX,
    CycleFailedError,
    PartitionProducer,
    ProducerLostError,
)

NOT_DELIVERED = KafkaError(
    KafkaError._TIMED_OUT, "1 message(s) timed out on egress [0]", txn_requires_abort=True
)
REFUSED = KafkaError(KafkaError.INVALID_RECORD, "refused", txn_requires_abort=True)


class Client:
    """A client whose commits end as told, the last way for ever; `None` is a success."""

    def __init__(self, *ends: KafkaError | None) -> None:
        self._ends = list(ends)
        self._tell: Any = None

    def begin_transaction(self) -> None:
        pass

    def abort_transaction(self, _seconds: float) -> None:
        pass

    def produce(self, *_: object, on_delivery: Any = None, **__: object) -> None:
        self._tell = on_delivery or self._tell

    def produce_batch(self, _topic: str, batch: list[object], **_: object) -> int:
        return len(batch)

    def commit_transaction(self, _seconds: float) -> None:
        end = self._ends.pop(0) if len(self._ends) > 1 else self._ends[0]
        if end is not None:
            raise KafkaException(end)
        self._tell(None, Delivered())


class Delivered:
    """The last changelog record of a committed transaction."""

    def offset(self) -> int:
        return 41


def outcomes(*ends: KafkaError | None, commits: int, late: list[bool] | None = None) -> list[str]:
    """What each of so many commits came to; `late` is added to where the client was too slow."""
    noted = [] if late is None else late
    cycle = Cycle(0, 0, changelog=[(b"position", b"")])
    found: list[str] = []

    async def commit_all() -> None:
        with ThreadPoolExecutor(1) as executor:
            client = cast("Producer", Client(*ends))
            producer = PartitionProducer(
                client, 0, "changelog", executor, on_late=lambda: noted.append(True)
            )
            for _ in range(commits):
                try:
                    found.append(str(await producer.commit(cycle)))
                except (CycleFailedError, ProducerLostError) as error:
                    found.append(type(error).__name__)

    asyncio.run(commit_all())
    return found


def test_a_client_that_cannot_deliver_is_given_up() -> None:
    """It may remember a leader that a topic made again does not have, and never forget it."""
    assert TIMEOUTS_IN_A_ROW_MAX == 2
    late: list[bool] = []
    found = outcomes(NOT_DELIVERED, commits=2, late=late)
    assert found == ["CycleFailedError", "ProducerLostError"]
    assert late == [True]


@pytest.mark.parametrize("between", [None, REFUSED], ids=["a commit", "another failure"])
def test_only_timeouts_in_a_row_count(between: KafkaError | None) -> None:
    """A lost leader costs one now and then, and its client finds the next one by itself."""
    late: list[bool] = []
    found = outcomes(NOT_DELIVERED, between, NOT_DELIVERED, None, commits=4, late=late)
    assert "ProducerLostError" not in found
    assert not late
    assert found[-1] == "42"


FORBIDDEN = KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED, "no", txn_requires_abort=True)


def test_a_client_that_cannot_fence_is_given_up() -> None:
    """It may have forgotten every broker, and then it never asks again."""
    moments = iter([0.0, 1.0, FENCE_SECONDS_MAX, FENCE_SECONDS_MAX + 1])

    class Deaf(Client):
        def init_transactions(self, _: float) -> None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "no answer", retriable=True))

    async def fence() -> None:
        with ThreadPoolExecutor(1) as executor:
            client = cast("Producer", Deaf(None))
            producer = PartitionProducer(client, 0, "changelog", executor, lambda: next(moments))
            with pytest.raises(ProducerLostError, match="looks for the brokers anew"):
                await producer.fence(lambda: True)

    asyncio.run(fence())
    assert not list(moments)


class Forbidden(Client):
    """A client that knows that a topic may not be written to, and refuses records for it."""

    def __init__(self, *, in_batches: bool) -> None:
        super().__init__(None)
        self._in_batches = in_batches

    def produce(self, *_: object, **__: object) -> None:
        raise KafkaException(FORBIDDEN)

    def produce_batch(self, _topic: str, batch: list[Any], **_: object) -> int:
        if not self._in_batches:
            return len(batch)
        for message in batch:
            message["_error"] = FORBIDDEN
        return 0


@pytest.mark.parametrize(
    "client",
    [Client(FORBIDDEN), Forbidden(in_batches=False), Forbidden(in_batches=True)],
    ids=["commit", "produce", "produce_batch"],
)
def test_a_forbidden_topic_is_told_as_one_wherever_it_shows(client: Client) -> None:
    """By the commit, or by the client itself once it has heard of it."""
    cycle = Cycle(0, 0, changelog=[(b"a", b""), (b"position", b"")])

    async def commit() -> bool:
        with ThreadPoolExecutor(1) as executor:
            producer = PartitionProducer(cast("Producer", client), 0, "changelog", executor)
            with pytest.raises(CycleFailedError) as failed:
                await producer.commit(cycle)
            return failed.value.is_of_rights

    assert asyncio.run(commit())
