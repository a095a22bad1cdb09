"""Each right of the list is needed: without it a sentence names it, and nothing else is wrong."""

import asyncio
import itertools
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaError
from confluent_kafka.admin import (
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from streamsched import Client
from streamsched.client import DeliveryError, ReadError
from streamsched.core.names import TopicNames
from streamsched.engine.cluster import inspect_cluster
from streamsched.engine.patience import Patience
from streamsched.engine.producer import IdForbiddenError, PartitionProducer, connect
from streamsched.engine.reader import StartError
from streamsched.kafka import admin as topics
from streamsched.kafka.connection import Connection, KafkaProblem
from streamsched.kafka.egress_survey import EgressSurvey
from streamsched.kafka.embedded import EmbeddedKafka
from streamsched.kafka.jars import kafka_tool_command
from streamsched.kafka.rights import Kind, Operation, Resource, Right, Role, rights_of
from streamsched.settings import Settings
from tests.broker.cluster import await_condition, create_topic, delete_topic, set_config
from tests.broker.program import environment_for, refusal, runner
from tests.broker.rightful import Rightful
from tests.connecting import java_properties, remember

pytestmark = pytest.mark.timeout(240)

NAMES = TopicNames("rights")
MADE = TopicNames("made")
"""Of an installation whose topics come and go."""
ELSEWHERE = "elsewhere"
WORKERS = f"{NAMES.worker_group_prefix}-1"
OBSERVERS = f"{NAMES.observer_group_prefix}-1"
PASSES = ""


def rights_in_tests(role: Role) -> tuple[Right, ...]:
    """The rights of a role here."""
    names = MADE if role is Role.OPERATOR else NAMES
    return rights_of(role, names, egress_topics=[ELSEWHERE])


EVERY_RIGHT = [(role, right) for role in Role for right in rights_in_tests(role)]


class People:
    """One user for each role, who tries to do what the role has to do."""

    def __init__(self, rightful: Rightful) -> None:
        self.rightful = rightful
        self._options = {role: rightful.user(role.value, rights_in_tests(role)) for role in Role}
        self._numbers = itertools.count()
        admin = rightful.admin
        everything = rightful.kafka.client_options
        for names in (NAMES, MADE):
            topics.apply(everything, names, 1)
        create_topic(admin, NAMES.egress("acme"))
        create_topic(admin, ELSEWHERE)
        with Client(everything["bootstrap.servers"], NAMES.app_id, _rest(everything)) as client:
            client.set_tenant("acme", rate="5/s")

    def settings(self, role: Role, names: TopicNames = NAMES) -> Settings:
        """The settings of a process of this user's."""
        options = self._options[role]
        return Settings(
            bootstrap_servers=options["bootstrap.servers"],
            app_id=names.app_id,
            kafka=_rest(options),
        )

    def attempt(self, role: Role, missing: Right | None = None) -> str:
        """Do everything that the role has to do; what it is refused for first, or `PASSES`.

        Topics are brought into a state in which the right that is `missing` is needed.
        """
        if missing is not None and missing.operation is Operation.CREATE:
            self._remove(missing.resource.name)
        return {
            Role.SCHEDULER: self._schedule,
            Role.PRODUCER: self._produce,
            Role.WORKER: self._work,
            Role.OPERATOR: self._operate,
            Role.OBSERVER: self._observe,
        }[role]()

    def await_pass(self, role: Role) -> None:
        """Wait until the role can do all that it has to do."""
        last = [""]

        def passes() -> bool:
            last[0] = self.attempt(role)
            return last[0] == PASSES

        await_condition(f"the {role} can do all", passes, 30, lambda: last[0])

    def _schedule(self) -> str:
        settings = self.settings(Role.SCHEDULER)
        try:
            inspect_cluster(settings)
            asyncio.run(_fence(settings))
        except (StartError, IdForbiddenError) as error:
            return str(error)
        survey = EgressSurvey(
            Connection(settings),
            NAMES,
            topics_max=1000,
            replication_factor=1,
            min_insync_replicas=1,
            message_bytes_min=0,
        )
        new = NAMES.egress(f"new-{next(self._numbers)}")
        wanted = {NAMES.egress("acme"): 1, ELSEWHERE: 1, new: 1}
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = survey.run_once(wanted, set(wanted), set(), time.monotonic()).destinations
            faults = [d.detail for d in found.values() if d.problem not in (None, "topic_unknown")]
            if faults or all(d.problem is None for d in found.values()):
                return "; ".join(faults)
        raise AssertionError(found)

    def _produce(self) -> str:
        options = self._options[Role.PRODUCER]
        with Client(options["bootstrap.servers"], NAMES.app_id, _rest(options)) as client:
            try:
                client.submit("acme", "id", b"x", delay=timedelta(hours=1))
                client.cancel("acme", "id")
            except DeliveryError as error:
                return str(error)
        return PASSES

    def _work(self) -> str:
        options = self._options[Role.WORKER]
        with Client(options["bootstrap.servers"], NAMES.app_id, _rest(options)) as client:
            try:
                for topic, group in ((None, None), (None, WORKERS), (ELSEWHERE, None)):
                    with client.dispatched("acme", group=group, topic=topic, timeout=1) as jobs:
                        list(jobs)
            except ReadError as error:
                return str(error)
        return PASSES

    def _operate(self) -> str:
        settings = self.settings(Role.OPERATOR, MADE)
        options = self._options[Role.OPERATOR]
        try:
            topics.apply(settings, MADE, 1)
            assert not topics.check(settings, MADE)
            with Client(options["bootstrap.servers"], MADE.app_id, _rest(options)) as client:
                client.set_tenant("acme", rate="5/s")
                client.pause("acme")
                assert client.tenants()["acme"].paused
        except (KafkaProblem, DeliveryError, ReadError) as error:
            return str(error)
        return PASSES

    def _remove(self, topic: str) -> None:
        admin = self.rightful.admin
        if topic in admin.list_topics(timeout=10).topics:
            delete_topic(admin, topic)

    def _observe(self) -> str:
        outcomes = [NAMES.rejected, NAMES.dead_letters, NAMES.events]
        consumer = Consumer(
            {
                **self._options[Role.OBSERVER],
                "group.id": OBSERVERS,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
            }
        )
        consumer.subscribe(outcomes)
        unread = set(outcomes)
        try:
            deadline = time.monotonic() + 20
            while unread and time.monotonic() < deadline:
                message = consumer.poll(0.2)
                error = message.error() if message is not None else None
                if message is None or error is None:
                    continue
                if error.code() != KafkaError._PARTITION_EOF:
                    return error.str()
                unread.discard(message.topic() or "")
        finally:
            consumer.close()
        assert not unread
        return PASSES


async def _fence(settings: Settings) -> None:
    with ThreadPoolExecutor(1) as executor:
        client = connect(settings, 0, Patience())
        producer = PartitionProducer(client, 0, NAMES.changelog, executor)
        assert await producer.fence(lambda: True)
        producer.close()


def _rest(options: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in options.items() if name != "bootstrap.servers"}


@pytest.fixture(scope="module")
def people(secured: EmbeddedKafka) -> People:
    """One user a role, with the topics that they need; all can do what they have to."""
    found = People(Rightful(secured))
    for role in Role:
        found.await_pass(role)
    return found


@contextmanager
def without(people: People, role: Role, *rights: Right) -> Iterator[None]:
    """Rights of a user taken away, and given back."""
    people.rightful.take(role.value, rights)
    try:
        yield
    finally:
        people.rightful.grant(role.value, rights)


def expected(role: Role, right: Right) -> str:
    """What the sentence for a missing right says at least."""
    resource, operation = right.resource, right.operation
    if role is Role.OBSERVER:
        # A consumer that is not ours; the words are Kafka's.
        return resource.name if resource.kind is Kind.TOPIC else "Group authorization failed"
    if resource.kind is Kind.TRANSACTIONAL_ID:
        return "Transactional Id authorization failed"
    if resource == Resource(Kind.GROUP, NAMES.worker_group_prefix, prefixed=True):
        resource = Resource(Kind.GROUP, WORKERS)
    if resource == Resource(Kind.TOPIC, NAMES.egress_prefix, prefixed=True):
        new = operation is Operation.CREATE
        resource = Resource(Kind.TOPIC, NAMES.egress("new-" if new else "acme"))
    if operation is Operation.ALTER_CONFIGS:
        # It brings the right to see, which is missed first.
        operation = Operation.DESCRIBE_CONFIGS
    return f"lacks {operation} on {resource}"


@pytest.mark.parametrize(
    ("role", "right"),
    EVERY_RIGHT,
    ids=[f"{role}-{r.operation}-{r.resource.kind}-{r.resource.name}" for role, r in EVERY_RIGHT],
)
def test_each_right_is_needed_and_named(people: People, role: Role, right: Right) -> None:
    """Taken away, the sentence says which one it is; given back, the role can do all it has to."""
    last = [""]

    def is_refused_for_it() -> bool:
        last[0] = people.attempt(role, right)
        return expected(role, right) in last[0]

    with without(people, role, right):
        await_condition(f"{expected(role, right)} is said", is_refused_for_it, 30, lambda: last[0])
    print(last[0])


@pytest.mark.parametrize("role", Role)
def test_all_rights_given_back_are_enough(people: People, role: Role) -> None:
    """Nobody has to start anything again."""
    people.await_pass(role)


def test_operator_who_may_only_look_is_told_what_to_correct_takes(people: People) -> None:
    """AlterConfigs is more than seeing: without it a topic stays as it is."""
    role, topic = Role.OPERATOR, Resource(Kind.TOPIC, MADE.events)
    [alter] = [
        right
        for right in rights_in_tests(role)
        if right.resource == topic and right.operation is Operation.ALTER_CONFIGS
    ]
    see = Right(topic, Operation.DESCRIBE_CONFIGS, "")
    set_config(people.rightful.admin, MADE.events, "cleanup.policy", "compact")
    people.rightful.grant(role.value, [see])
    last = [""]

    def is_said() -> bool:
        last[0] = people.attempt(role)
        return f"lacks AlterConfigs on {topic}" in last[0]

    with without(people, role, alter):
        await_condition("it is said", is_said, 30, lambda: last[0])
    people.rightful.take(role.value, [see])
    people.await_pass(role)


def test_nobody_needs_more_than_is_listed_and_nothing_of_the_cluster(people: People) -> None:
    """Each user has exactly the rights of the list; none is about the cluster."""
    for role in Role:
        have = rights_held(people.rightful.admin, role.value)
        wanted = {as_row(right) for right in rights_in_tests(role)}
        assert have == wanted
        assert "cluster" not in {kind for kind, *_ in have}


def test_scheduler_without_a_right_ends_with_one_sentence(people: People, tmp_path: Path) -> None:
    """What shows at the start, and what only shows when a partition is taken: status 1, no more."""
    settings = people.settings(Role.SCHEDULER)
    remember(settings.client_config(), "the scheduler of the tests of rights")
    run = runner(environment_for("the scheduler of the tests of rights", NAMES.app_id), tmp_path)
    rights = rights_in_tests(Role.SCHEDULER)
    [ids] = [right for right in rights if right.resource.kind is Kind.TRANSACTIONAL_ID]
    [group] = [right for right in rights if right.resource.kind is Kind.GROUP]
    for right in (ids, group):
        sentence = f"this user lacks {right.operation} on {right.resource}: grant what"
        with without(people, Role.SCHEDULER, right):
            await_condition(
                "the right is gone", lambda: people.attempt(Role.SCHEDULER) != PASSES, 30
            )
            began = time.monotonic()
            done = run("run")
            print(f"{time.monotonic() - began:.1f} s: {done.stderr}")
        assert done.returncode == 1, done.stderr
        assert done.stderr.count(sentence) == 1, done.stderr
        assert "Traceback" not in done.stderr
        people.await_pass(Role.SCHEDULER)


@pytest.mark.parametrize(
    ("words", "lacking"),
    [
        (
            ["jobs", "submit", "--tenant", "t", "--delay", "1s", "--payload", "x"],
            f"Write on topic {NAMES.jobs}",
        ),
        (["tenants", "set", "t", "--rate", "1/s"], f"Write on topic {NAMES.tenant_settings}"),
        (["tenants", "pause", "t"], f"Read on topic {NAMES.tenant_settings}"),
        (["egress", "tail", "t"], f"Read on topic {NAMES.tenant_settings}"),
        (["topics", "plan"], f"Describe, DescribeConfigs on topic {NAMES.jobs}"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_command_of_a_user_without_rights_is_one_sentence(
    people: People, tmp_path: Path, words: list[str], lacking: str
) -> None:
    """A topic that the user may not see is not called missing."""
    known_as = "nobody of the tests of rights"
    remember(people.rightful.user("nobody"), known_as)
    run = runner(environment_for(known_as, NAMES.app_id), tmp_path)
    assert f"this user lacks {lacking.replace(', ', ' and ')}: grant" in refusal(run(*words))


@pytest.mark.timeout(300)
def test_printed_commands_grant_what_is_listed(people: People, tmp_path: Path) -> None:
    """Run by a shell, with Kafka's own tool in the place of its script, as somebody who may."""
    options = {"ADDRESS": people.rightful.kafka.bootstrap_servers}
    run = runner(environment_for(options["ADDRESS"], NAMES.app_id), tmp_path)
    everybody = [word for role in Role for word in ("--principal", f"{role}=User:printed {role}")]
    given = ["--egress-topic", ELSEWHERE, "--tenant", "acme", "--group", "g"]
    script = run("topics", "plan", "--acls", *everybody, *given)
    assert script.returncode == 0, script.stderr
    listed = run("topics", "plan", "--acls", "-o", "json", *everybody, *given)

    (tmp_path / "kafka-acls.sh").write_text(
        f"#!/bin/sh\nexec {shlex.join(kafka_tool_command('org.apache.kafka.tools.AclCommand'))} "
        '"$@"\n'
    )
    (tmp_path / "kafka-acls.sh").chmod(0o755)
    properties = java_properties(options["ADDRESS"])
    (tmp_path / "admin.properties").write_text(
        "".join(f"{name}={value}\n" for name, value in properties.items())
    )
    done = subprocess.run(
        ["timeout", "-s", "KILL", "200", "sh", "-e", "-c", script.stdout],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    rows = json.loads(listed.stdout)["rights"]
    assert {row["role"] for row in rows} == set(Role)
    for role in Role:
        wanted = {
            (r["resource_type"], r["resource_name"], r["pattern_type"], r["operation"].lower())
            for r in rows
            if r["role"] == role
        }
        await_condition(
            f"the rights of the {role} are those listed",
            lambda role=role, wanted=wanted: (  # type: ignore[misc]
                rights_held(people.rightful.admin, f"printed {role}") == wanted
            ),
        )


def as_row(right: Right) -> tuple[str, str, str, str]:
    """A right as `rights_held` tells it."""
    resource = right.resource
    return resource.kind.value, resource.name, resource.pattern, right.operation.lower()


def rights_held(admin: AdminClient, user: str) -> set[tuple[str, str, str, str]]:
    """What the cluster allows a user."""
    everything = AclBindingFilter(
        ResourceType.ANY,
        None,  # type: ignore[arg-type]  # of any name
        ResourcePatternType.ANY,
        f"User:{user}",
        None,  # type: ignore[arg-type]  # from anywhere
        AclOperation.ANY,
        AclPermissionType.ALLOW,
    )
    return {
        (
            acl.restype.name.lower().replace("_", "-"),
            acl.name,
            acl.resource_pattern_type.name.lower(),
            acl.operation.name.lower().replace("_", ""),
        )
        for acl in admin.describe_acls(everything).result(20)
    }
