"""What recent records tell: of clocks, and of the producers' partitioner.

Kafka tells no time of its own, and a record written to learn it would be there for good. So the
newest timestamp of our topics is looked at again and again for a moment. Where it moves, a record
was written between two looks, and its timestamp lies as far from ours as the clocks differ. Where
it does not, one thing can still be seen: a timestamp that is ahead of us.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec

from streamsched.client.faults import reading_fault
from streamsched.core import headers
from streamsched.core.placement import partition_for
from streamsched.core.rejection import Rejection
from streamsched.core.wire import decode
from streamsched.doctor.checkup import Outcome, Subject, Verdict, failed, ok, warning
from streamsched.doctor.cluster import ANSWER_SECONDS_MAX, told
from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.engine.unnamable import plain_record
from streamsched.kafka.connection import refusal_text
from streamsched.settings import Settings

CLOCK_WATCH_SECONDS: Final = 2.0
CLOCK_LOOK_SECONDS: Final = 0.1
CLOCK_WARNING_MS: Final = 1_000
"""As much as a scheduler's own clock may step back before it is no longer ready."""
CLOCK_FAILED_MS: Final = 30_000

RECENT_RECORDS_MAX: Final = 200
"""Of each ingress partition, so many of its last records are looked at."""
READ_SECONDS_MAX: Final = 10.0


class Look(NamedTuple):
    """The newest timestamp in our topics, and when it was asked for, by this machine's clock."""

    at_ms: int
    newest_ms: int


def check_clock(subject: Subject) -> Verdict:
    """Whether this machine's clock agrees with those of brokers, producers and schedulers."""
    partitions = [
        TopicPartition(topic, number)
        for topic in (subject.settings.names.jobs, subject.settings.names.changelog)
        if topic in subject.metadata.topics
        for number in subject.metadata.topics[topic].partitions
    ]
    looks: list[Look] = []
    deadline = time.monotonic() + CLOCK_WATCH_SECONDS
    while partitions:
        newest_ms = _newest_ms(subject, partitions)
        if isinstance(newest_ms, KafkaError):
            text = f"the broker does not tell ({refusal_text(newest_ms)})"
            return Verdict(Outcome.SKIPPED, f"{text}: see yourself that clocks are synchronised")
        looks.append(Look(time.time_ns() // 1_000_000, newest_ms))
        if time.monotonic() > deadline or looks[-1].newest_ms > looks[0].newest_ms:
            break
        time.sleep(CLOCK_LOOK_SECONDS)
    return judge_clock(looks)


def judge_clock(looks: Sequence[Look]) -> Verdict:
    """What `looks`, one after the other, say of this machine's clock."""
    if not looks or looks[-1].newest_ms < 0:
        return ok("no record is there to compare clocks by")
    last = looks[-1]
    ahead_ms = last.newest_ms - last.at_ms
    if ahead_ms > CLOCK_WARNING_MS:
        return _clock_off(
            ahead_ms, f"a record is {ahead_ms / 1000:.1f} s ahead of this machine's clock"
        )
    if len(looks) < 2 or last.newest_ms <= looks[-2].newest_ms:
        return ok(
            "no record is ahead of this machine's clock; more can be seen only while some are "
            "written"
        )
    # It was written after the look before; what it waited in its producer counts as difference.
    behind_ms = looks[-2].at_ms - last.newest_ms
    if behind_ms > CLOCK_WARNING_MS:
        return _clock_off(
            behind_ms,
            f"a record that was written just now is {behind_ms / 1000:.1f} s behind this machine's "
            "clock",
        )
    return ok("this machine's clock and that of a record that was written just now agree")


def check_partitioner(subject: Subject) -> Verdict:
    """Whether recent producers of the ingress placed their records by murmur2 of the tenant."""
    count = subject.partitions
    if not count:
        return ok("there is no ingress topic yet, or this user may not see it")
    placed: Counter[bool] = Counter()
    strangers: dict[str, None] = {}
    now_ms = time.time_ns() // 1_000_000
    try:
        for message in _recent(subject.settings, count):
            tenant = _tenant(message, now_ms)
            if tenant is not None:
                fits = partition_for(tenant.encode(), count) == message.partition()
                placed[fits] += 1
                if not fits:
                    strangers[tenant] = None
    except KafkaException as error:
        names = subject.settings.names
        fault = reading_fault(error.args[0], names.jobs, names.group, names)
        return failed(f"the ingress cannot be read: {fault}")
    total = placed.total()
    if placed[False]:
        return warning(
            f"{placed[False]} of {total} recent records lie on another partition than murmur2 "
            f"puts their tenant on ({', '.join(told(list(strangers)))}), so they are moved and a "
            "cancel may overtake its job: set partitioner=murmur2_random in those producers"
        )
    return ok(f"{total} recent records lie where murmur2 puts them")


def _clock_off(off_ms: int, text: str) -> Verdict:
    verdict = failed if off_ms > CLOCK_FAILED_MS else warning
    return verdict(f"{text}: synchronise the clocks of brokers, producers and schedulers")


def _newest_ms(subject: Subject, partitions: list[TopicPartition]) -> int | KafkaError:
    """The newest timestamp of all records in `partitions`, -1 where there is none."""
    answers = subject.kafka.client.list_offsets(
        {p: OffsetSpec.max_timestamp() for p in partitions},  # type: ignore[no-untyped-call]
        request_timeout=ANSWER_SECONDS_MAX,
    )
    newest_ms = -1
    for future in answers.values():
        found = subject.kafka.outcome(future, ANSWER_SECONDS_MAX)
        if isinstance(found, KafkaError):
            return found
        newest_ms = max(newest_ms, found.timestamp)
    return newest_ms


def _recent(settings: Settings, partitions: int) -> list[Message]:
    """The last records of each ingress partition; what is read within the time, if it is more."""
    topic = settings.names.jobs
    consumer = Consumer(
        settings.client_config(
            **{
                # Never joined and never committed, since the positions are given; but Kafka's
                # client asks for it, and a scheduler has no right to another one.
                "group.id": settings.names.group,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 50,
            }
        ),
        logger=LIBRDKAFKA_LOG,
    )
    messages: list[Message] = []
    try:
        positions = []
        for number in range(partitions):
            partition = TopicPartition(topic, number)
            first, end = consumer.get_watermark_offsets(partition, ANSWER_SECONDS_MAX)
            if end > first:
                start = max(first, end - RECENT_RECORDS_MAX)
                positions.append(TopicPartition(topic, number, start))
        consumer.assign(positions)
        unread = {position.partition for position in positions}
        deadline = time.monotonic() + READ_SECONDS_MAX
        while unread and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None:
                continue
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                unread.discard(message.partition() or 0)
            else:
                raise KafkaException(error)
    finally:
        consumer.close()
    return messages


def _tenant(message: Message, now_ms: int) -> str | None:
    """Whose record it is; `None` for one that is rejected, and for one that was moved already."""
    record = plain_record(message)
    if record.headers is None or any(name == headers.MOVED for name, _ in record.headers):
        return None
    command = decode(record, now_ms)
    return None if isinstance(command, Rejection) else command.tenant
