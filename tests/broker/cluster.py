"""Changes of topics that are visible to every client when the call returns.

The controller answers a request before the broker that clients ask has heard of the change.
"""

import time
from collections.abc import Callable, Mapping

from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

_SECONDS_MAX = 20.0


def await_condition(
    what: str,
    condition: Callable[[], bool],
    seconds: float = _SECONDS_MAX,
    tell: Callable[[], str] = lambda: "",
) -> None:
    """Wait until `condition()` holds; fails after `seconds` with `what` and what `tell()` says."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}\n{tell()}")
        time.sleep(0.02)


def partition_count(admin: AdminClient, topic: str) -> int:
    """Partitions with a leader; 0 where there is no such topic."""
    found = admin.list_topics(timeout=10).topics.get(topic)
    return 0 if found is None else sum(p.leader >= 0 for p in found.partitions.values())


def await_partitions(admin: AdminClient, topic: str, count: int) -> None:
    """Wait until `topic` has `count` partitions, 0 meaning until it is gone."""
    await_condition(
        f"{topic} has {count} partitions", lambda: partition_count(admin, topic) == count
    )


def create_topic(
    admin: AdminClient, topic: str, partitions: int = 1, configs: Mapping[str, str] | None = None
) -> None:
    """Create `topic` and wait until it can be used."""
    new = NewTopic(topic, partitions, config=dict(configs or {}))
    admin.create_topics([new])[topic].result(10)
    await_partitions(admin, topic, partitions)


def delete_topic(admin: AdminClient, topic: str) -> None:
    """Delete `topic` and wait until it is gone."""
    admin.delete_topics([topic])[topic].result(10)
    await_partitions(admin, topic, 0)


def set_config(admin: AdminClient, topic: str, name: str, value: str) -> None:
    """Change a topic's configuration."""
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
