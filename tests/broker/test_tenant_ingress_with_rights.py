"""Ingress topics of single tenants where everybody has exactly the rights of the role."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import pytest
from confluent_kafka import KafkaError, Producer

from streamsched import Client
from streamsched.client import DeliveryError
from streamsched.engine.cluster import inspect_cluster
from streamsched.engine.reader import StartError
from streamsched.kafka import admin as topics
from streamsched.kafka.connection import KafkaProblem
from streamsched.kafka.embedded import EmbeddedKafka
from streamsched.kafka.rights import Kind, Operation, Resource, Right, Role, lacks, rights_of
from streamsched.settings import Settings
from tests.broker.cluster import await_condition
from tests.broker.installation import Installation
from tests.broker.reading import job_id, read_topics
from tests.broker.rightful import Rightful, prepared_with_rights

pytestmark = pytest.mark.timeout(240)

OWN, FOREIGN = "acme", "bobs"


@pytest.fixture(scope="module")
def rightful(secured: EmbeddedKafka) -> Rightful:
    """Somebody who makes users and hands out rights."""
    return Rightful(secured)


@pytest.fixture(scope="module")
def running(
    rightful: Rightful, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Installation, str]]:
    """A scheduler that reads the topics of two tenants, which an operator made; and its user."""
    folder = tmp_path_factory.mktemp("tenant-ingress-rights")
    with prepared_with_rights(rightful, folder, partitions=2, tenant_ingress=True) as (it, user):
        names = it.names
        operator = rightful.user("operates", rights_of(Role.OPERATOR, names))
        done = topics.apply(operator, names, tenants=[OWN, FOREIGN])
        assert set(done.created) == {names.ingress(OWN), names.ingress(FOREIGN)}
        it.process.start()
        it.process.wait_ready()
        yield it, user


@pytest.fixture(scope="module")
def producer(rightful: Rightful, running: tuple[Installation, str]) -> Mapping[str, str]:
    """Options of a user who may submit for one tenant."""
    return rightful.user("submits", rights_of(Role.PRODUCER, running[0].names, tenants=[OWN]))


@contextmanager
def client(it: Installation, options: Mapping[str, str]) -> Iterator[Client]:
    """The SDK with these options."""
    rest = {k: v for k, v in options.items() if k != "bootstrap.servers"}
    address = options["bootstrap.servers"]
    with Client(address, it.names.app_id, rest, tenant_ingress=True) as found:
        yield found


def prefixed(it: Installation) -> Resource:
    """The ingress topics of all tenants."""
    return Resource(Kind.TOPIC, it.names.tenant_jobs_prefix, prefixed=True)


def test_producer_submits_for_its_tenant_and_for_nobody_else(
    running: tuple[Installation, str], producer: Mapping[str, str]
) -> None:
    """Another's topic, the common one, and another's name on its own topic are refused."""
    it, _ = running
    with client(it, producer) as sdk:
        sdk.submit(OWN, "mine", b"x", delay=timedelta(0))
        with pytest.raises(DeliveryError) as refusal:
            sdk.submit(FOREIGN, "not mine", b"x", delay=timedelta(0))
    foreign = Resource(Kind.TOPIC, it.names.ingress(FOREIGN))
    assert lacks([Operation.WRITE], foreign) in str(refusal.value)
    claim = b'{"id":"claimed","tenant":"bobs","delay_ms":0,"payload":1}'
    assert _write(producer, it.names.jobs, claim) == KafkaError.TOPIC_AUTHORIZATION_FAILED
    assert _write(producer, it.names.ingress(OWN), claim) is None
    assert [job_id(message) for message in it.dispatched(OWN, 1)] == ["mine"]
    [rejected] = it.committed(it.names.rejected, 1)
    assert dict(rejected.headers() or ())["streamsched-error-code"] == b"foreign_tenant"
    assert it.process.tenant(FOREIGN) == {}


def test_scheduler_says_which_right_to_the_topics_is_missing_and_goes_on(
    running: tuple[Installation, str], producer: Mapping[str, str], rightful: Rightful
) -> None:
    """To the topics, the group, the topic that is handed on to; meanwhile the rest works."""
    it, user = running
    names = it.names
    group = Resource(Kind.GROUP, names.tenant_jobs_group)
    jobs = Resource(Kind.TOPIC, names.jobs)
    already = len(read_topics(it.kafka, [names.egress(OWN)]))
    ids: list[str] = []
    for right in (
        Right(prefixed(it), Operation.READ, ""),
        Right(group, Operation.READ, ""),
        Right(jobs, Operation.WRITE, ""),
    ):
        before = len(it.process.whole_log())
        rightful.take(user, [right])
        with client(it, producer) as sdk:
            ids.append(f"without {right.operation} on {right.resource}")
            sdk.submit(OWN, ids[-1], b"x", delay=timedelta(0))
        sentence = lacks([right.operation], right.resource)
        await_condition(
            f"the log says {sentence!r}",
            lambda before=before, sentence=sentence: (  # type: ignore[misc]
                sentence in it.process.whole_log()[before:]
            ),
            40,
            it.process.log,
        )
        assert it.process.is_ready(), it.process.text("/readyz")
        rightful.grant(user, [right])
        found = it.dispatched(OWN, already + len(ids))
        assert [job_id(message) for message in found[already:]] == ids
        assert it.process.whole_log()[before:].count(sentence) <= 3
    assert "Traceback" not in it.process.whole_log()


def test_operator_is_told_which_right_to_a_tenants_topic_is_missing(
    running: tuple[Installation, str], rightful: Rightful
) -> None:
    """One sentence for each of those that come with tenants' topics."""
    it, _ = running
    known, new = it.names.ingress(OWN), it.names.ingress("new")
    for operation, tenant, topic, missed in (
        (Operation.DESCRIBE, OWN, known, Operation.DESCRIBE),
        # It brings the right to see, which is missed first.
        (Operation.ALTER_CONFIGS, OWN, known, Operation.DESCRIBE_CONFIGS),
        (Operation.CREATE, "new", new, Operation.CREATE),
    ):
        right = Right(prefixed(it), operation, "")
        operator = rightful.user("operates")
        rightful.take("operates", [right])
        with pytest.raises(KafkaProblem) as refusal:
            topics.apply(operator, it.names, tenants=[tenant])
        rightful.grant("operates", [right])
        assert lacks([missed], Resource(Kind.TOPIC, topic)) in str(refusal.value)


def test_scheduler_without_its_group_for_these_topics_does_not_start(
    running: tuple[Installation, str], rightful: Rightful
) -> None:
    """The sentence, before it takes a partition."""
    names = running[0].names
    rights = rights_of(Role.SCHEDULER, names)
    [group] = [right for right in rights if right.resource.name == names.tenant_jobs_group]
    options = rightful.user("starts", [right for right in rights if right != group])
    address = options.pop("bootstrap.servers")
    settings = Settings(
        bootstrap_servers=address, app_id=names.app_id, tenant_ingress=True, kafka=options
    )
    with pytest.raises(StartError) as refusal:
        inspect_cluster(settings)
    assert str(refusal.value) == lacks([Operation.READ], group.resource)


def _write(options: Mapping[str, str], topic: str, value: bytes) -> int | None:
    """One record by a plain producer; the code of its refusal."""
    errors: list[KafkaError | None] = []
    plain = Producer({**options, "log_level": 0, "message.timeout.ms": 20_000})
    plain.produce(topic, value, on_delivery=lambda error, _: errors.append(error))
    assert plain.flush(30) == 0
    return None if errors[0] is None else errors[0].code()
