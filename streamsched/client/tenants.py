"""Tenants' settings: the records to publish, and the settings topic read to its end."""

import time
from dataclasses import dataclass
from typing import Final

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from streamsched.client.connection import Connection
from streamsched.client.faults import reading_fault
from streamsched.client.jobs import Record, tenant_key
from streamsched.core.names import DEFAULT_TENANT, TopicNames
from streamsched.core.rate import UNLIMITED
from streamsched.core.settings_view import SettingsView
from streamsched.core.tenant_settings import (
    NOTHING,
    OwnSettings,
    decode_settings,
    encode_settings,
    merge,
)

READ_SECONDS_MAX: Final = 30.0
NEW_TOPIC_SECONDS_MAX: Final = 2.0
"""How long a topic that was just created may stay unknown to the broker we ask."""


class ReadError(Exception):
    """A topic cannot be read; the text names it and the reason."""


@dataclass(frozen=True, slots=True)
class TenantSettings:
    """One tenant's own settings record; `None` is a field that the record leaves out.

    `fault` is empty, or says why the newest record is invalid; the other fields then are those
    of the last valid record, as far as the topic still has it.
    """

    rate: str | None = None
    burst: int | None = None
    paused: bool | None = None
    egress_topic: str | None = None
    egress_partitions: int | None = None
    events: str | None = None
    fault: str = ""


def settings_key(tenant: str) -> bytes:
    """The record key of a tenant's settings, or of `*`. Raises `ValueError`."""
    return DEFAULT_TENANT.encode() if tenant == DEFAULT_TENANT else tenant_key(tenant)


def settings_record(tenant: str, settings: TenantSettings | None, names: TopicNames) -> Record:
    """The record that publishes `settings` whole, or removes the tenant's own (`None`).

    Raises `ValueError` for what the scheduler would not accept.
    """
    value = None
    if settings is not None:
        fields = ("rate", "burst", "paused", "egress_topic", "egress_partitions", "events")
        given = {name: getattr(settings, name) for name in fields}
        value = orjson.dumps({name: field for name, field in given.items() if field is not None})
        value = encode_settings(decode_settings(value, names))
    return Record(names.tenant_settings, settings_key(tenant), value, [], tenant, None)


def pause_record(tenant: str, view: SettingsView, *, paused: bool, names: TopicNames) -> Record:
    """The tenant's newest settings with `paused` changed.

    Raises `ValueError` where the newest record is invalid: changing the one before it would
    silently take back what somebody meant to publish.
    """
    settings_key(tenant)
    settings = tenants_of(view).get(tenant, TenantSettings())
    if settings.fault:
        raise ValueError(
            f"the newest settings record of tenant {tenant!r} is invalid ({settings.fault}): "
            "publish the whole record with set_tenant"
        )
    changed = TenantSettings(
        rate=settings.rate,
        burst=settings.burst,
        paused=paused,
        egress_topic=settings.egress_topic,
        egress_partitions=settings.egress_partitions,
        events=settings.events,
    )
    return settings_record(tenant, changed, names)


def tenants_of(view: SettingsView) -> dict[str, TenantSettings]:
    """What the settings log says of each tenant, `*` included, by name."""
    found: dict[str, TenantSettings] = {}
    for tenant in sorted(view.tenants()):
        entry = view.get(tenant)
        if entry is not None:
            found[tenant] = _shown(entry.valid or NOTHING, entry.fault)
    return found


def egress_topic_of(view: SettingsView, tenant: str, names: TopicNames) -> str:
    """The topic that the tenant's jobs are dispatched to, by the settings as they stand."""
    tenant_key(tenant)
    records = [
        entry.valid if (entry := view.get(name)) is not None and entry.valid else NOTHING
        for name in (tenant, DEFAULT_TENANT)
    ]
    return merge(records[0], records[1], tenant, names).egress_topic


def read_settings(connection: Connection, group: str | None = None) -> SettingsView:
    """Read the settings topic at read_committed from its start to its present end.

    It joins no group; Kafka asks for the right to one all the same, which is `group`, else one of
    the names that readers have. Raises `ReadError`.
    """
    names = connection.names
    topic = names.tenant_settings
    view = SettingsView(names)
    # From the leader, whatever the rack: the end of a follower's log can be behind.
    options: dict[str, object] = {
        "enable.partition.eof": True,
        "fetch.wait.max.ms": 50,
        "client.rack": "",
    }
    if group is not None:
        options["group.id"] = group
    consumer = Consumer(connection.consumer_config(None, **options))
    try:
        deadline = time.monotonic() + NEW_TOPIC_SECONDS_MAX
        while not (partitions := partitions_of(consumer, topic, names)):
            if time.monotonic() > deadline:
                raise ReadError(f"topic {topic} does not exist: run `streamsched topics apply`")
            time.sleep(0.1)
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
        unread = set(partitions)
        deadline = time.monotonic() + READ_SECONDS_MAX
        while unread:
            message = consumer.poll(0.5)
            if time.monotonic() > deadline:
                raise ReadError(f"topic {topic} was not read within {READ_SECONDS_MAX:.0f} s")
            if message is None:
                continue
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                unread.discard(message.partition() or 0)
            elif error is not None:
                fault = reading_fault(error, topic, group, names)
                raise ReadError(f"topic {topic} cannot be read: {fault}")
            else:
                view.feed(message.offset() or 0, message.key(), message.value())
    finally:
        consumer.close()
    view.complete = True
    return view


def partitions_of(consumer: Consumer, topic: str, names: TopicNames) -> list[int]:
    """The topic's partitions, none where it does not exist. Raises `ReadError`."""
    try:
        found = consumer.list_topics(topic, timeout=10).topics[topic]
    except KafkaException as error:
        raise ReadError(
            f"topic {topic} cannot be looked up: {error.args[0].str()}; check the address and "
            "that the brokers are up"
        ) from error
    if found.error is None:
        return sorted(found.partitions)
    if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        return []
    fault = reading_fault(found.error, topic, None, names)
    raise ReadError(f"topic {topic} cannot be looked up: {fault}")


def _shown(own: OwnSettings, fault: str) -> TenantSettings:
    rate = (UNLIMITED if own.rate is None else str(own.rate)) if own.rate_given else None
    return TenantSettings(
        rate=rate,
        burst=own.burst,
        paused=own.paused,
        egress_topic=own.egress_topic,
        egress_partitions=own.egress_partitions,
        events=own.events,
        fault=fault,
    )
