"""The doctor on a real Kafka: what it says of topics, group, producers and egress."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from streamsched.core.names import TopicNames
from streamsched.core.placement import partition_for
from streamsched.doctor.checks import CHECKS
from streamsched.doctor.checkup import Finding, Outcome, Subject, examine
from streamsched.kafka import admin as topics
from tests.broker.cluster import await_condition, create_topic
from tests.broker.installation import Installation, prepared
from tests.broker.program import environment_for, runner
from tests.broker.sending import Sender
from tests.connecting import client_options, client_settings

PARTITIONS = 3

Examine = Callable[..., dict[str, Finding]]


@pytest.fixture
def names(app_id: str) -> TopicNames:
    """Topic names of this test alone."""
    return TopicNames(app_id)


@pytest.fixture
def findings(kafka: str, app_id: str, tmp_path: Path) -> Examine:
    """Makes all checks with settings of this test; what each found, by its name."""

    def made(**changed: object) -> dict[str, Finding]:
        given = {"app_id": app_id, "data_dir": tmp_path, **changed}
        settings = client_settings(kafka, **given)
        return {f.check: f for f in examine(Subject(settings), CHECKS)}

    return made


def _prepare(kafka: str, names: TopicNames) -> Sender:
    topics.apply(client_options(kafka), names, PARTITIONS)
    return Sender(kafka, names)


def _answers_for_groups(admin: AdminClient, app_id: str) -> bool:
    return admin.describe_consumer_groups([app_id])[app_id].exception(60) is None


def test_cluster_without_topics_fails_and_stays_as_it_was(
    kafka: str, app_id: str, admin: AdminClient, tmp_path: Path
) -> None:
    """Missing topics fail with the command that makes them; nothing is made by looking."""
    # The first question for a group has a new broker make its topic of groups, which takes time.
    await_condition("groups can be asked for", lambda: _answers_for_groups(admin, app_id), 60)
    run = runner(environment_for(kafka, app_id), tmp_path)
    done = run("doctor", "-o", "json")
    assert done.stdout, done.stderr
    found = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert (done.returncode, done.stderr) == (1, "")
    assert not json.loads(done.stdout)["ok"]
    assert list(found) == [check.name for check in CHECKS]
    assert found["topics"]["outcome"] == "failed"
    assert "run `streamsched topics apply`" in found["topics"]["sentence"]
    bad = {name for name, check in found.items() if check["outcome"] in {"failed", "skipped"}}
    assert bad == {"topics"}, found
    assert not [t for t in admin.list_topics(timeout=10).topics if t.startswith(app_id)]
    groups = admin.list_consumer_groups().result(10).valid
    assert not [group for group in groups if group.group_id.startswith(app_id)]
    assert list(tmp_path.iterdir()) == []


def test_scheduler_that_runs_is_well(shared: Installation, tmp_path: Path) -> None:
    """Beside a running scheduler nothing fails, and the group and its folder are recognised."""
    environment = environment_for(shared.kafka, shared.names.app_id)
    environment["STREAMSCHED_DATA_DIR"] = str(shared.process.folder / "data")
    run = runner(environment, tmp_path)
    done = run("doctor", "-o", "json")
    assert done.stdout, done.stderr
    found = {check["check"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0, done.stdout
    assert found["group"]["sentence"].startswith(f"1 scheduler in group {shared.names.app_id}, ")
    assert "in use by a process" in found["data folder"]["sentence"]
    url = f"http://127.0.0.1:{shared.process.port}"
    quick = run("doctor", "--quick", "--url", url)
    assert (quick.returncode, quick.stdout) == (0, f"{url}: works\n")
    table = run("doctor").stdout.splitlines()
    assert table[0].split() == ["CHECK", "OUTCOME", "SENTENCE"]
    assert len(table) == 1 + len(CHECKS)


def test_broker_that_is_away_is_told_once(findings: Examine) -> None:
    """Only the port fails; what needs it is skipped, and the machine is looked at all the same."""
    found = findings(bootstrap_servers="127.0.0.1:1")
    outcomes = {name: f.outcome for name, f in found.items()}
    assert [name for name, o in outcomes.items() if o is Outcome.FAILED] == ["port"]
    assert outcomes["partitioner"] is Outcome.SKIPPED
    assert outcomes["data folder"] is Outcome.OK


def test_records_of_another_partitioner_are_counted(
    kafka: str, names: TopicNames, findings: Examine
) -> None:
    """Records that lie elsewhere than murmur2 puts their tenant are told, with their tenants."""
    sender = _prepare(kafka, names)
    for number in range(20):
        sender.job("good", str(number))
    sender.flush()
    elsewhere = (partition_for(b"stray", PARTITIONS) + 1) % PARTITIONS
    assert "lie where murmur2 puts them" in findings()["partitioner"].sentence
    for number in range(7):
        sender.job("stray", str(number), partition=elsewhere)
    sender.flush()
    found = findings()["partitioner"]
    assert found.outcome is Outcome.WARNING
    assert found.sentence.startswith("7 of 27 recent records lie on another partition")
    assert "(stray)" in found.sentence
    assert "partitioner=murmur2_random" in found.sentence


def test_unfit_egress_topics_are_named(
    kafka: str, names: TopicNames, admin: AdminClient, findings: Examine
) -> None:
    """Default topics and those that tenants' settings name are looked at."""
    sender = _prepare(kafka, names)
    assert findings()["egress topics"].outcome is Outcome.OK
    create_topic(admin, names.egress("a"), 1, {"max.message.bytes": "1000"})
    own = f"mine-{names.app_id}"
    create_topic(admin, own, 1, {"cleanup.policy": "compact"})
    sender.settings("b", egress_topic=own)
    sender.flush()
    found = findings()["egress topics"]
    assert found.outcome is Outcome.WARNING
    assert f"egress topic {names.egress('a')} takes batches of 1000 bytes" in found.sentence
    assert f"egress topic {own} is compacted" in found.sentence
    admin.delete_topics([own])[own].result(10)


def test_topic_that_works_and_should_be_mended_is_a_warning(
    kafka: str, names: TopicNames, admin: AdminClient, findings: Examine
) -> None:
    """A short retention stops no scheduler, and is told with the command that mends it."""
    create_topic(admin, names.jobs, PARTITIONS, {"retention.ms": "60000"})
    _prepare(kafka, names)
    assert findings()["topics"].outcome is Outcome.OK  # applying has raised it
    two = findings(replication_factor=2)["topics"]
    assert two.outcome is Outcome.WARNING
    assert "replication factor 1 where 2 is wanted" in two.sentence


def test_records_that_wait_for_a_scheduler_are_counted(kafka: str, tmp_path: Path) -> None:
    """A group without members and with unread records is a warning that says to start one."""
    with prepared(kafka, tmp_path / "it", partitions=PARTITIONS) as it:
        settings = client_settings(kafka, app_id=it.names.app_id, data_dir=tmp_path)

        def group() -> Finding:
            return next(f for f in examine(Subject(settings), CHECKS) if f.check == "group")

        assert group().sentence == f"no scheduler of {it.names.app_id} has run yet"
        it.process.start()
        it.process.wait_ready()
        it.sender.job("t", "1")
        it.sender.flush()
        it.dispatched("t", 1)
        assert it.process.terminate() == 0
        it.sender.job("t", "2")
        it.sender.job("t", "3")
        it.sender.flush()
        found = group()
        assert found.outcome is Outcome.WARNING
        assert found.sentence.startswith(f"no scheduler of {it.names.app_id} runs, and ")
        assert found.sentence.endswith("records of the ingress are not read yet: start one")
