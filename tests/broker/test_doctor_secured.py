"""The doctor on a secured Kafka, as the user that a scheduler is: what it says, and how soon."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from streamsched.doctor.checks import CHECKS
from streamsched.kafka.embedded import EmbeddedKafka
from streamsched.kafka.rights import Kind, Operation, Resource, Right, Role, lacks, rights_of
from tests.broker.cluster import create_topic
from tests.broker.installation import Installation
from tests.broker.program import Done, environment_for, runner
from tests.broker.rightful import Rightful, prepared_with_rights
from tests.connecting import remember

pytestmark = pytest.mark.timeout(240)

SECONDS_MAX = 30.0
"""Twice what is promised: room for a machine that does much else."""

Found = dict[str, tuple[str, str]]
"""Outcome and sentence of each check, by its name."""
Examine = Callable[[Mapping[str, str]], tuple[int, Found]]
"""Runs the doctor with options that go over the scheduler's; its exit status, and what it found."""


@pytest.fixture(scope="module")
def rightful(secured: EmbeddedKafka) -> Rightful:
    """Somebody who makes users and hands out rights."""
    return Rightful(secured)


@pytest.fixture(scope="module")
def running(rightful: Rightful, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A scheduler with exactly its rights, which reads tenants' ingress topics."""
    folder = tmp_path_factory.mktemp("secured-doctor")
    with prepared_with_rights(rightful, folder, partitions=1, tenant_ingress=True) as (it, _):
        create_topic(rightful.admin, it.names.egress("acme"))
        create_topic(rightful.admin, it.names.egress("bobs"))
        create_topic(rightful.admin, it.names.ingress("acme"))
        it.process.start()
        it.process.wait_ready()
        yield it


@pytest.fixture
def examine(running: Installation, tmp_path: Path) -> Examine:
    """The whole program beside the scheduler, as its user or another one."""
    it = running

    def made(changed: Mapping[str, str]) -> tuple[int, Found]:
        options = {**it.process.options, **changed}
        began = time.monotonic()
        done = _doctor(options, it, tmp_path, "-o", "json")
        seconds = time.monotonic() - began
        checks = json.loads(done.stdout)["checks"]
        assert [check["check"] for check in checks] == [check.name for check in CHECKS]
        print(f"{seconds:.1f} s", *(f"{c['outcome']} {c['sentence']}" for c in checks), sep="\n")
        assert done.stderr == ""
        assert seconds < SECONDS_MAX
        return done.returncode, {c["check"]: (c["outcome"], c["sentence"]) for c in checks}

    return made


def _doctor(options: Mapping[str, str], it: Installation, folder: Path, *words: str) -> Done:
    environment = {
        **environment_for(remember(options, "the doctor's patient"), it.names.app_id),
        "STREAMSCHED_TENANT_INGRESS": "true",
        "STREAMSCHED_WEB_PORT": str(it.process.port),
        "STREAMSCHED_DATA_DIR": str(folder),
    }
    return runner(environment, folder)("doctor", *words)


@contextmanager
def without(rightful: Rightful, user: str, rights: list[Right]) -> Iterator[None]:
    """These rights taken away, and given back."""
    rightful.take(user, rights)
    try:
        yield
    finally:
        rightful.grant(user, rights)


def failures(found: Found) -> dict[str, str]:
    """The sentences of what failed."""
    return {check: sentence for check, (outcome, sentence) in found.items() if outcome == "failed"}


def test_all_is_well_with_exactly_the_rights_of_a_scheduler(
    running: Installation, examine: Examine, tmp_path: Path
) -> None:
    """Nothing it looks at needs more than a scheduler may; status 0, in full and quick."""
    it = running
    it.sender.record(None, b'{"id":"1","delay_ms":0,"payload":1}', topic=it.names.ingress("acme"))
    it.sender.flush()
    it.dispatched("acme", 1)
    status, found = examine({})
    assert status == 0
    assert {check: outcome for check, (outcome, _) in found.items() if outcome != "ok"} == {}
    assert found["group"][1].startswith("1 scheduler in group ")
    assert found["partitioner"][1] == "1 recent records lie where murmur2 puts them"
    quick = _doctor(it.process.options, it, tmp_path, "--quick")
    assert (quick.returncode, quick.stderr) == (0, "")
    assert quick.stdout == f"http://127.0.0.1:{it.process.port}: works\n"


def test_wrong_password_fails_the_login(examine: Examine) -> None:
    """It names the user and the settings; what needs a login is skipped."""
    status, found = examine({"sasl.password": "not that of the scheduler"})
    assert status == 1
    [(check, sentence)] = failures(found).items()
    assert check == "login"
    assert "does not let user 'test-" in sentence
    assert "STREAMSCHED_KAFKA__SASL_PASSWORD" in sentence
    assert found["rights"][0] == "skipped"


def test_unknown_authority_fails_tls(examine: Examine, tmp_path: Path) -> None:
    """It names the setting for the authority's file, before anybody tries to log in."""
    other = tmp_path / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(other)
    status, found = examine({"ssl.ca.location": str(other)})
    assert status == 1
    [(check, sentence)] = failures(found).items()
    assert check == "TLS"
    assert "is not trusted" in sentence
    assert "STREAMSCHED_KAFKA__SSL_CA_LOCATION" in sentence
    assert found["login"][0] == "skipped"


def test_each_missing_right_is_named(
    running: Installation, examine: Examine, rightful: Rightful
) -> None:
    """On topics, groups and ids: status 1. On topics of tenants: told, since others may go on."""
    names, user = running.names, "patient"
    rights = list(rights_of(Role.SCHEDULER, names))
    # Without its group the scheduler would end.
    patient = rightful.user(user, rights)

    def held(resource: Resource, *operations: Operation) -> list[Right]:
        return [r for r in rights if r.resource == resource and r.operation in operations]

    events = Resource(Kind.TOPIC, names.events)
    group = Resource(Kind.GROUP, names.group)
    tenants_group = Resource(Kind.GROUP, names.tenant_jobs_group)
    ids = Resource(Kind.TRANSACTIONAL_ID, names.transactional_id_prefix, prefixed=True)
    own = {
        events: [Operation.WRITE],
        group: [Operation.READ],
        tenants_group: [Operation.READ],
        ids: [Operation.WRITE],
    }
    egress = Resource(Kind.TOPIC, names.egress_prefix, prefixed=True)
    tenants = Resource(Kind.TOPIC, names.tenant_jobs_prefix, prefixed=True)
    of_tenants = {
        egress: [Operation.WRITE, Operation.DESCRIBE_CONFIGS],
        tenants: [Operation.READ],
    }
    taken = [r for of in (own, of_tenants) for one, ops in of.items() for r in held(one, *ops)]
    assert len(taken) == 7
    with without(rightful, user, taken):
        status, found = examine(patient)
    assert status == 1
    outcome, sentence = found["rights"]
    assert outcome == "failed"
    for resource, operations in (*own.items(), *of_tenants.items()):
        assert lacks(operations, resource) in sentence
    assert found["group"] == (
        "failed",
        f"group {names.group} cannot be looked at: {lacks([Operation.READ], group)}",
    )
    acme = Resource(Kind.TOPIC, names.egress("acme"))
    bobs = Resource(Kind.TOPIC, names.egress("bobs"))
    denied = [Right(acme, Operation.WRITE, ""), Right(bobs, Operation.DESCRIBE_CONFIGS, "")]
    rightful.deny(user, denied)
    with without(rightful, user, held(tenants, Operation.READ)):
        status, found = examine(patient)
    rightful.forgive(user, denied)
    assert (status, failures(found)) == (0, {})
    assert found["rights"] == ("warning", lacks([Operation.READ], tenants))
    outcome, sentence = found["egress topics"]
    assert outcome == "warning"
    for topic, operation in ((acme, Operation.WRITE), (bobs, Operation.DESCRIBE_CONFIGS)):
        assert f"egress {topic} may not be used: {lacks([operation], topic)}" in sentence


def test_user_without_any_right_is_told_of_all(
    running: Installation, examine: Examine, rightful: Rightful
) -> None:
    """A topic that may not be seen is not called missing."""
    names = running.names
    status, found = examine(rightful.user("a stranger"))
    assert status == 1
    for topic in (
        *(names.jobs, names.tenant_settings, names.changelog),
        *(names.rejected, names.dead_letters, names.events),
    ):
        assert f"on topic {topic}: grant what" in found["rights"][1]
    assert "missing" not in found["topics"][1]
