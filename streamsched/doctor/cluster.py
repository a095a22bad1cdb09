"""What the cluster says once it answers: its brokers, our topics and rights, egress, the group."""

import time
from collections.abc import Sequence
from typing import Final

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    TopicPartition,
)
from confluent_kafka.admin import ConsumerGroupDescription, OffsetSpec

from streamsched.client import connection as client
from streamsched.client.tenants import ReadError, read_settings, tenants_of
from streamsched.doctor.checkup import Address, Subject, Verdict, failed, ok, warning, worst
from streamsched.doctor.links import reach
from streamsched.doctor.transactions import is_forbidden
from streamsched.engine.producer import BATCH_BYTES_MAX
from streamsched.kafka import admin
from streamsched.kafka.connection import KafkaAway, TopicFacts, refusal_text
from streamsched.kafka.egress_survey import forbidden, judge
from streamsched.kafka.granted import missing_rights, unseen_prefixes
from streamsched.kafka.rights import Kind, Operation, Resource, Role, lacks, rights_of

ANSWER_SECONDS_MAX: Final = 10.0

TOLD_MAX: Final = 5
"""Of what there may be thousands, so many are named and the rest is counted."""

_NO_COORDINATOR_YET: Final = frozenset(
    {
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)


def check_login(subject: Subject) -> Verdict:
    """Whether Kafka answers this user."""
    user = subject.settings.client_config().get("sasl.username")
    try:
        subject.cluster = subject.kafka.metadata(ANSWER_SECONDS_MAX)
    except KafkaAway as away:
        return failed(f"{away}; if it refuses the login, correct STREAMSCHED_KAFKA__SASL_…")
    who = f"as {user}" if user else "without a login"
    return ok(f"Kafka answers {who}")


def check_brokers(subject: Subject) -> Verdict:
    """Whether the addresses that the brokers tell clients to use can be used from here."""
    faults = []
    brokers = sorted(subject.metadata.brokers.values(), key=lambda broker: broker.id)
    for broker in brokers:
        address = Address(str(broker.host), broker.port)
        fault = "" if address in subject.reachable else reach(address)
        if fault:
            faults.append(
                f"broker {broker.id} sends clients to {address}, which takes no connection from "
                f"here ({fault}): correct its advertised.listeners, or let the firewall through"
            )
    count = len(brokers)
    return worst(faults, [], f"{count} broker{'s' * (count != 1)}, all to be reached from here")


def check_topics(subject: Subject) -> Verdict:
    """Whether our own topics are as a scheduler needs them."""
    settings = subject.settings
    found = admin.plan(settings, settings.names)
    cautions = [
        f"topic {topic.topic} has {d.name} {d.found} where {d.wanted} is wanted: {d.remedy}"
        for topic in found.topics
        for d in topic.differences
        if not d.blocking
    ]
    return worst(admin.faults_of(found), cautions, f"all topics of {settings.app_id} are as needed")


def check_rights(subject: Subject) -> Verdict:
    """Whether this user may do with our topics, groups and ids what a scheduler does."""
    names = subject.settings.names
    rights = rights_of(Role.SCHEDULER, names)
    faults = missing_rights(subject.kafka, rights)
    if is_forbidden(subject.settings, names.transactional_id(0)):
        ids = Resource(Kind.TRANSACTIONAL_ID, names.transactional_id_prefix, prefixed=True)
        faults.append(lacks([Operation.WRITE], ids))
    # Somebody may have granted the topics of all tenants by their full names instead.
    cautions = unseen_prefixes(subject.kafka, rights)
    return worst(faults, cautions, "what can be asked about is allowed")


def check_egress(subject: Subject) -> Verdict:
    """Whether the topics that jobs are dispatched to can be written to."""
    names = subject.settings.names
    existing = subject.metadata.topics
    topics = {topic for topic in existing if topic.startswith(names.egress_prefix)}
    named, unread = _named_in_settings(subject)
    topics |= {topic for topic in named if topic in existing}
    cautions = [unread] if unread else []
    unfit = []
    for topic, facts in subject.kafka.facts(sorted(topics), ANSWER_SECONDS_MAX).items():
        if isinstance(facts, TopicFacts):
            found = judge(topic, facts.partitions, facts.leaderless, facts, BATCH_BYTES_MAX)
            if found.problem is not None:
                unfit.append(f"egress topic {topic} {found.detail}")
        elif facts.is_of_rights:
            unfit.append(f"egress topic {topic} {forbidden(topic, facts.operations)}")
        elif not facts.is_missing:
            unfit.append(f"egress topic {topic} cannot be looked at: {refusal_text(facts.error)}")
    room = subject.settings.egress_topics_max - len(topics)
    if room <= 0:
        cautions.append(
            f"there are {len(topics)} egress topics, and no more are created: remove old ones, or "
            "raise STREAMSCHED_EGRESS_TOPICS_MAX"
        )
    return worst([], [*told(unfit), *cautions], f"egress topics are fit: {len(topics)}")


def check_group(subject: Subject) -> Verdict:
    """Whether schedulers form a group, and how many records wait for them.

    A broker that nobody has asked for a group yet makes its internal topic of groups now.
    """
    group = _group(subject)
    app_id = subject.settings.app_id
    if isinstance(group, KafkaError):
        if group.code() == KafkaError.GROUP_ID_NOT_FOUND:
            return ok(f"no scheduler of {app_id} has run yet")
        fault = refusal_text(group)
        if group.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            fault = lacks([Operation.READ], Resource(Kind.GROUP, app_id))
        return failed(f"group {app_id} cannot be looked at: {fault}")
    if group.state is ConsumerGroupState.DEAD:
        return ok(f"no scheduler of {app_id} has run yet")
    lag = _lag(subject)
    waiting = f"{lag} records of the ingress are not read yet"
    count = len(group.members)
    if not count:
        text = f"no scheduler of {app_id} runs, and {waiting}"
        return warning(f"{text}: start one") if lag else ok(text)
    text = f"{count} scheduler{'s' * (count != 1)} in group {app_id}, {waiting}"
    if group.state is not ConsumerGroupState.STABLE:
        return warning(f"{text}; the group is changing ({group.state.name}): look again")
    return ok(text)


def told(texts: Sequence[str]) -> list[str]:
    """The first few of `texts`, and how many more there are."""
    more = len(texts) - TOLD_MAX
    return [*texts[:TOLD_MAX], *([f"and {more} more"] if more > 0 else [])]


def _group(subject: Subject) -> ConsumerGroupDescription | KafkaError:
    """The group as its coordinator describes it, or the refusal; one that is new is waited for."""
    app_id = subject.settings.app_id
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while True:
        future = subject.kafka.client.describe_consumer_groups(
            [app_id], request_timeout=ANSWER_SECONDS_MAX
        )[app_id]
        found: ConsumerGroupDescription | KafkaError = subject.kafka.outcome(
            future, ANSWER_SECONDS_MAX
        )
        is_passing = isinstance(found, KafkaError) and found.code() in _NO_COORDINATOR_YET
        if not is_passing or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


def _lag(subject: Subject) -> int:
    """Records of the ingress behind what the group has committed; all, where it has nothing."""
    kafka, app_id = subject.kafka, subject.settings.app_id
    partitions = [
        TopicPartition(subject.settings.names.jobs, number) for number in range(subject.partitions)
    ]
    if not partitions:
        return 0
    request = ConsumerGroupTopicPartitions(app_id, partitions)
    future = kafka.client.list_consumer_group_offsets(
        [request], request_timeout=ANSWER_SECONDS_MAX
    )[app_id]
    committed = kafka.outcome(future, ANSWER_SECONDS_MAX)
    if isinstance(committed, KafkaError):
        return 0
    read = {p.partition: p.offset for p in committed.topic_partitions if p.offset >= 0}
    ends = kafka.client.list_offsets(
        {p: OffsetSpec.latest() for p in partitions},  # type: ignore[no-untyped-call]
        isolation_level=IsolationLevel.READ_COMMITTED,
        request_timeout=ANSWER_SECONDS_MAX,
    )
    lag = 0
    for partition, future in ends.items():
        end = kafka.outcome(future, ANSWER_SECONDS_MAX)
        if not isinstance(end, KafkaError):
            lag += max(0, end.offset - read.get(partition.partition, 0))
    return lag


def _named_in_settings(subject: Subject) -> tuple[set[str], str]:
    """Egress topics that tenants' settings name, or why those cannot be read."""
    settings = subject.settings
    if settings.names.tenant_settings not in subject.metadata.topics:
        return set(), ""
    options = {k: v for k, v in settings.client_config().items() if k != "bootstrap.servers"}
    try:
        view = read_settings(
            client.Connection(settings.bootstrap_servers, settings.app_id, options),
            # A scheduler has no right to the groups of readers.
            settings.names.group,
        )
    except (ReadError, ValueError) as error:
        return set(), f"what tenants' settings name is not known: {error}"
    return {t.egress_topic for t in tenants_of(view).values() if t.egress_topic}, ""
