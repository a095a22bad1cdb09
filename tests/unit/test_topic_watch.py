"""Topics of our own that change under a running scheduler, as the brokers tell of them."""

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError

from streamsched.engine import topic_watch as module
from streamsched.engine.cluster import Cluster
from streamsched.engine.reader import StartError
from streamsched.engine.topic_watch import TopicWatch
from streamsched.kafka.connection import KafkaAway, TopicRefusal
from streamsched.settings import Settings

SETTINGS = Settings(app_id="test")
NAMES = SETTINGS.names
CLUSTER = Cluster(1, "jobs", "changelog", "settings", 3_600_000)
GONE = TopicRefusal(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
FORBIDDEN = TopicRefusal(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))
SECONDS_MAX = 30.0


class Brokers:
    """What the brokers say; stands where the watch has its connection."""

    def __init__(self) -> None:
        """All is as it was at the start."""
        self.ids: dict[str, str | TopicRefusal] = {
            NAMES.jobs: "jobs",
            NAMES.changelog: "changelog",
            NAMES.tenant_settings: "settings",
        }
        self.are_away = False
        self.requests = 0

    def topic_ids(self, topics: list[str], seconds: float) -> dict[str, str | TopicRefusal]:
        """See `Connection.topic_ids`."""
        assert seconds == module.ANSWER_SECONDS_MAX
        self.requests += 1
        if self.are_away:
            raise KafkaAway("no answer")
        return {topic: self.ids[topic] for topic in topics}


class World:
    """A watch, the brokers it asks, its clock, and how it ended the process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing is started."""
        self.brokers = Brokers()
        self.now = 0.0
        self.ended: list[BaseException] = []
        monkeypatch.setattr(module, "Connection", lambda _: self.brokers)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.watch = TopicWatch(SETTINGS, CLUSTER, self.ended.append)

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a test's coroutine while the watch is started."""

        async def watched() -> None:
            self.watch.start()
            try:
                async with asyncio.timeout(SECONDS_MAX):
                    await work()
            finally:
                self.watch.stop()

        asyncio.run(watched())

    def look(self) -> bool | str:
        """What one look finds, or the sentence it ends the process with."""
        try:
            return self.watch._look_once()
        except StartError as error:
            return str(error)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """All is as it was at the start."""
    return World(monkeypatch)


@pytest.mark.parametrize(
    ("topic", "remedy"),
    [
        (NAMES.jobs, f"delete the topic {NAMES.changelog}"),
        (NAMES.changelog, "delete the consumer group 'test'"),
        (NAMES.tenant_settings, "start the scheduler again"),
    ],
)
def test_a_topic_made_anew_is_told_with_both_ids_and_a_remedy(
    world: World, topic: str, remedy: str
) -> None:
    """Whoever asked hears of it, and the process ends with the same sentence."""
    was = str(world.brokers.ids[topic])
    world.brokers.ids[topic] = "another"

    async def work() -> None:
        with pytest.raises(StartError) as raised:
            await world.watch.look()
        said = str(raised.value)
        assert f"topic {topic} was deleted and made anew" in said
        assert f"its id was {was} and is another now" in said
        assert remedy in said
        assert world.ended == [raised.value]

    world.run(work)


def test_topics_are_looked_at_though_nobody_asks(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition that goes on without any trouble is not told anything else."""
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)

    async def work() -> None:
        world.brokers.ids[NAMES.changelog] = "another"
        while not world.ended:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.002)

    world.run(work)


def test_those_who_ask_at_the_same_time_share_a_request(world: World) -> None:
    """Partitions that are taken over together cost two requests at most."""

    async def work() -> None:
        assert await asyncio.gather(*(world.watch.look() for _ in range(40))) == [True] * 40
        assert world.brokers.requests <= 2

    world.run(work)
    assert not world.ended


def test_brokers_that_do_not_tell_end_nothing(world: World) -> None:
    """Away, or without the right: it is not known, however long that lasts."""
    world.brokers.are_away = True
    assert world.look() is False
    world.brokers.are_away = False
    for topic in world.brokers.ids:
        world.brokers.ids[topic] = FORBIDDEN
    for _ in range(5):
        world.now += module.MISSING_SECONDS_MAX
        assert world.look() is False


@pytest.mark.parametrize("topic", [NAMES.jobs, NAMES.changelog])
def test_a_topic_that_stays_away_is_gone(world: World, topic: str) -> None:
    """Not before every answer of a while said so: brokers that start may not know it yet."""
    was, world.brokers.ids[topic] = world.brokers.ids[topic], GONE
    is_known = topic != NAMES.changelog
    assert world.look() is is_known
    world.now += module.MISSING_SECONDS_MAX
    assert world.look() is is_known
    world.brokers.ids[topic] = was
    assert world.look() is True
    world.brokers.ids[topic] = GONE
    world.now += 1
    assert world.look() is is_known
    world.brokers.are_away = True
    world.now += module.MISSING_SECONDS_MAX
    assert world.look() is False
    world.brokers.are_away = False
    world.now += 1
    assert world.look() is is_known
    world.now += module.MISSING_SECONDS_MAX + 1
    assert f"topic {topic} was deleted while" in str(world.look())


def test_without_the_settings_topic_the_settings_in_force_stay(world: World) -> None:
    """The scheduler goes on as long as it is away."""
    world.brokers.ids[NAMES.tenant_settings] = GONE
    for _ in range(5):
        world.now += module.MISSING_SECONDS_MAX
        assert world.look() is True


def test_an_unforeseen_error_ends_the_process_and_no_wait_is_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked would wait for a thread that is no more."""
    monkeypatch.setattr(world.brokers, "topic_ids", lambda *_: {})

    async def work() -> None:
        for _ in range(2):
            with pytest.raises(KeyError):
                await world.watch.look()

    world.run(work)
    assert [type(error) for error in world.ended] == [KeyError, KeyError]
