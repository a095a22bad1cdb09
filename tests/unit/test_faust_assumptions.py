"""What the engine takes for granted inside Faust, mode and aiokafka, one test each.

An upgrade that breaks one of these breaks the scheduler, often silently. Behaviour that shows
only with a broker is tested in tests/broker/test_frame.py.
"""

import asyncio
import inspect
import re
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher as RecordFetcher
from aiokafka.consumer.fetcher import FetchResult
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import Assignment, SubscriptionState
from aiokafka.structs import TopicPartition
from faust.app.base import App, BootStrategy
from faust.assignor import partition_assignor
from faust.assignor.copartitioned_assignor import CopartitionedAssignor
from faust.assignor.leader_assignor import LeaderAssignor
from faust.assignor.partition_assignor import PartitionAssignor
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer, Fetcher
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage
from mode.threads import ServiceThread, WorkerThread
from mode.worker import Worker

from streamsched.engine.app import ChunkSchema, SchedulerApp, create_app
from streamsched.engine.assignor import EvenAssignor
from streamsched.engine.reader import RebalanceListener
from streamsched.engine.recovery import InstantRecovery, InstantTableManager
from streamsched.engine.transport import ChunkConsumer
from streamsched.settings import Settings

ROOT = Path(__file__).parents[2]
PINNED = ("faust-streaming", "mode-streaming", "aiokafka", "confluent-kafka", "rocksdict")
ANYTHING: Any = None


@pytest.fixture
def app(tmp_path: Path) -> Iterator[SchedulerApp]:
    """An app that is never started, on a loop of its own."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    made = create_app(Settings(data_dir=tmp_path, app_id="assumed"), lambda _: ANYTHING)
    yield made
    if made._consumer is not None:
        made._consumer._thread.thread_loop.close()  # type: ignore[attr-defined]
    loop.close()
    asyncio.set_event_loop(None)


def parameters(function: Callable[..., object]) -> list[str]:
    """The names of a function's parameters, `self` included."""
    return list(inspect.signature(function).parameters)


def in_order(function: Callable[..., object], *fragments: str) -> bool:
    """Whether the source of `function` holds the fragments one after the other."""
    rest = inspect.getsource(function)
    for fragment in fragments:
        _, found, rest = rest.partition(fragment)
        if not found:
            return False
    return True


@pytest.mark.parametrize("package", PINNED)
def test_exactly_the_pinned_version_is_installed(package: str) -> None:
    """The packages whose internals are used are pinned, and installed as pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    without_extras = [re.sub(r"\[.*?\]", "", one) for one in project["dependencies"]]
    assert f"{package}=={version(package)}" in without_extras


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (Consumer._drain_messages, ["self", "fetcher"]),
        (Consumer.perform_seek, ["self"]),
        (Consumer.on_partitions_revoked, ["self", "revoked"]),
        (driver.Consumer._new_consumer_thread, ["self"]),
        (driver.Consumer.close, ["self"]),
        (driver.AIOKafkaConsumerThread._create_worker_consumer, ["self", "transport"]),
        (driver.AIOKafkaConsumerThread.on_thread_stop, ["self"]),
        (driver.AIOKafkaConsumerThread.__post_init__, ["self"]),
        (driver.ConsumerRebalanceListener.on_partitions_revoked, ["self", "revoked"]),
        (driver.ConsumerRebalanceListener.on_partitions_assigned, ["self", "assigned"]),
        (ServiceThread._stopped_set, ["self"]),
        (ServiceThread.on_crash, ["self", "msg", "fmt", "kwargs"]),
        (WorkerThread.run, ["self"]),
        (Recovery._resume_streams, ["self", "generation_id"]),
        (TableManager._update_channels, ["self"]),
        (App._new_transport, ["self"]),
        (App._create_directories, ["self"]),
        (Worker.install_signal_handlers, ["self"]),
        (Worker.execute_from_commandline, ["self"]),
        (RecordFetcher.fetched_records, ["self", "partitions", "timeout", "max_records"]),
        (RecordFetcher._create_fetch_waiter, ["self"]),
        (AIOKafkaConsumer.seek, ["self", "partition", "offset"]),
        (GroupCoordinator.check_errors, ["self"]),
        (GroupCoordinator.close, ["self"]),
        (GroupCoordinator._maybe_leave_group, ["self"]),
        (SubscriptionState.is_assigned, ["self", "tp"]),
        (SubscriptionState.fetch_context, ["self"]),
    ],
    ids=lambda value: getattr(value, "__qualname__", ""),
)
def test_what_is_overridden_or_called_has_this_signature(
    function: Callable[..., object], expected: list[str]
) -> None:
    """Private functions that are overridden or called exist and take these parameters."""
    assert parameters(function) == expected


def test_add_gap_is_awaited() -> None:
    """Faust awaits `_add_gap`: a plain function in its place would stop the fetcher."""
    assert inspect.iscoroutinefunction(Consumer._add_gap)
    assert inspect.iscoroutinefunction(ChunkConsumer._add_gap)


def test_the_fetcher_only_drains_the_consumer() -> None:
    """All reading goes through the method that is replaced."""
    assert in_order(Fetcher._fetcher.fun, "consumer._drain_messages(self)")


def test_every_task_of_recovery_is_replaced(app: SchedulerApp) -> None:
    """Mode starts overrides of service tasks in place of the originals, and no others are left."""
    recovery = InstantRecovery(app, app.tables, beacon=app.tables.beacon)
    tasks = {task.fun.__qualname__ for task in recovery._get_tasks()}
    names = ("_restart_recovery", "_slurp_changelogs", "_publish_stats")
    assert tasks == {f"InstantRecovery.{name}" for name in names}


def test_streams_skip_messages_of_another_generation(app: SchedulerApp) -> None:
    """A message whose generation is not the app's is dropped without a word."""

    async def received() -> list[object]:
        app.consumer_generation_id = 7
        app.flow_control.resume()
        stream: Any = app.stream(app.channel())
        for generation in (6, 7):
            message = ConsumerMessage(
                "t", 0, generation, 0.0, 0, None, None, None, None, 0, 0, TP("t", 0),
                generation_id=generation,
            )  # fmt: skip
            event = app.create_event(None, f"of {generation}", None, message)
            await stream.channel.queue.put(event)
        return [await anext(aiter(stream))]

    assert app.loop.run_until_complete(received()) == ["of 7"]


def test_a_chunk_passes_the_schema_as_it_is(app: SchedulerApp) -> None:
    """An event's value is the very object that the consumer put into the message."""
    chunk: Any = object()
    message = ConsumerMessage(
        "t", 0, 0, 0.0, 0, None, None, chunk, None, 0, 0, TP("t", 0), generation_id=1
    )
    decode: Any = ChunkSchema().compile(app)
    event = app.loop.run_until_complete(decode(message, propagate=True))
    assert event.value is chunk


def test_fetched_records_without_timeout_does_not_wait() -> None:
    """Positions are read right after it: nothing may run between the two."""
    fetcher = RecordFetcher.__new__(RecordFetcher)
    fetcher._subscriptions = SimpleNamespace(reassignment_in_progress=False)
    fetcher._records = {}
    fetching = fetcher.fetched_records([TopicPartition("t", 0)], timeout=0, max_records=10)
    with pytest.raises(StopIteration) as stopped:
        fetching.send(None)
    assert stopped.value.value == {}


def test_a_paused_partition_with_a_position_is_neither_fetched_nor_reset() -> None:
    """A held partition costs the broker nothing, and no committed offset is looked for."""

    async def actions() -> tuple[Any, ...]:
        tp = TopicPartition("t", 0)
        assignment = Assignment({tp})
        assignment.state_value(tp).seek(0)
        assignment.state_value(tp).pause()
        fetcher = RecordFetcher.__new__(RecordFetcher)
        fetcher._records, fetcher._in_flight, fetcher._fetcher_timeout = {}, set(), 1.0
        fetcher._select_read_replica = lambda _: 1
        return tuple(fetcher._get_actions_per_node(assignment))

    fetches, resets, _, _, resumes = asyncio.run(actions())
    assert not fetches
    assert not resets
    assert len(resumes) == 1


def test_a_position_that_was_sought_wins_over_a_late_committed_offset() -> None:
    """Aiokafka drops a committed offset that arrives after a seek."""
    assert in_order(
        RecordFetcher._update_fetch_positions,
        "committed = await tp_state.fetch_committed()",
        "if tp_state.has_valid_position",
        "continue",
        "tp_state.reset_to(committed.offset)",
    )


def test_a_seek_discards_what_was_prefetched() -> None:
    """Records that were fetched before a seek are not returned after it."""
    assert in_order(RecordFetcher.seek_to, "subscriptions.seek(tp, offset)", "del self._records")
    assert in_order(
        FetchResult.check_assignment, "position != self._partition_records.next_fetch_offset"
    )


def test_a_follower_that_was_read_from_is_remembered_by_partition() -> None:
    """Without an entry the leader is asked, which names a follower that has the offset."""
    assert in_order(
        RecordFetcher._select_read_replica,
        "cached = self._preferred_read_replica.get(tp)",
        "return self._client.cluster.leader_for_partition(tp)",
    )


def test_all_is_shared_out_by_one_call_that_is_replaced(app: SchedulerApp) -> None:
    """Faust looks its assignor of equal topics up in the module at each rebalance."""
    assert in_order(
        PartitionAssignor._perform_assignment,
        "assignor = CopartitionedAssignor(",
        "assignor.get_assignment().items()",
    )
    assert "num_partitions" in parameters(CopartitionedAssignor.__init__)
    assert in_order(
        CopartitionedAssignor.__init__,
        "self.num_partitions = num_partitions",
        "self.replicas =",
        "self._client_assignments = cluster_asgn",
    )
    assert isinstance(app.assignor, PartitionAssignor)
    assert partition_assignor.CopartitionedAssignor is EvenAssignor


def test_whoever_misses_a_leader_asks_again_without_a_pause() -> None:
    """Why updates of metadata are paced, and by which method each of them goes."""
    routine = RecordFetcher._fetch_requests_routine
    assert in_order(routine, "if invalid_metadata:", "force_metadata_update()", "FIRST_COMPLETED")
    assert "sleep" not in inspect.getsource(routine)
    assert in_order(
        AIOKafkaClient._md_synchronizer,
        "while True",
        "await self._metadata_update(self.cluster, topics)",
    )


def test_a_node_that_is_not_known_is_not_looked_for() -> None:
    """Why metadata is updated where a leader refers to such a node, and where that is heard of."""
    assert in_order(
        RecordFetcher._proc_fetch_request, "self._update_preferred_read_replica(tp, part_data[3])"
    )
    assert in_order(
        RecordFetcher._select_read_replica, "broker_metadata(node_id) is not None", "leader_for"
    )
    assert "force_metadata" not in inspect.getsource(RecordFetcher._select_read_replica)


def test_the_listener_hears_of_a_revocation_before_anything_is_awaited() -> None:
    """Aiokafka calls the hook as a function and awaits what it returns."""
    assert in_order(
        GroupCoordinator._on_join_prepare, "listener.on_partitions_revoked", "await res"
    )
    assert not inspect.iscoroutinefunction(RebalanceListener.on_partitions_revoked)
    assert in_order(
        driver.ConsumerRebalanceListener.on_partitions_assigned,
        "_coordinator.generation",
        "consumer_generation_id = generation",
    )


def test_heartbeats_go_on_while_partitions_are_given_up() -> None:
    """The heartbeat task is stopped only after the revoke hook has returned."""
    assert in_order(
        GroupCoordinator.ensure_active_group, "_on_join_prepare", "_stop_heartbeat_task"
    )


def test_neither_producer_nor_web_server_of_faust_is_started(app: SchedulerApp) -> None:
    """The boot strategy's switches win, also over `faust worker --with-web`."""
    app.conf.web_enabled = True
    strategy = app.boot_strategy
    assert isinstance(strategy, BootStrategy)
    assert not list(strategy.kafka_producer())
    assert not list(strategy.web_server())


def test_the_table_gives_the_changelog_its_name(app: SchedulerApp) -> None:
    """Faust derives the name that `TopicNames` has, and knows it as a changelog."""
    assert app.tables.changelog_topics == {app.settings.names.changelog}
    assert isinstance(app.tables, InstantTableManager)


def test_faust_creates_no_topic(app: SchedulerApp) -> None:
    """`topic_allow_declare=False` keeps Faust from asking the broker."""
    app.loop.run_until_complete(app.topic("never-made").declare())


def test_without_leader_topic_nothing_is_subscribed_for_it(app: SchedulerApp) -> None:
    """`topic_disable_leader=True` keeps the leader's topic out of the subscription."""
    before = set(app.topics)
    app.loop.run_until_complete(LeaderAssignor(app).on_start())
    assert set(app.topics) == before


def test_resuming_streams_signals_the_end_of_the_rebalance() -> None:
    """Faust's own resumption does all that ours needs, in this order."""
    assert in_order(
        Recovery._resume_streams,
        "app.on_rebalance_complete.send()",
        "consumer_generation_id != generation_id",
        "consumer.perform_seek()",
        "self.completed.set()",
        "app.flow_control.resume()",
        "consumer.resume_flow()",
        "_fetcher.maybe_start()",
        "app.on_rebalance_end()",
    )


def test_actors_of_isolated_partitions_are_stopped_on_revocation_only() -> None:
    """A retained partition keeps its actor; its chunks carry the new generation."""
    assert in_order(App._update_assignment, "revoked = self._assignment - assigned")
