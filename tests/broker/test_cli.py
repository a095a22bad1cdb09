"""Topics, jobs and tenants by the installed program, on a real Kafka."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient

from streamsched.core.names import TopicNames
from tests.broker.program import SECONDS_MAX, Run, environment_for, refusal, runner
from tests.connecting import client_options


@pytest.fixture
def names(app_id: str) -> TopicNames:
    """Topic names of this test alone."""
    return TopicNames(app_id)


@pytest.fixture
def run(kafka: str, app_id: str, tmp_path: Path) -> Run:
    """Runs the program to its end in a folder of its own."""
    return runner(environment_for(kafka, app_id), tmp_path)


def _records(kafka: str, topic: str) -> list[Any]:
    """Every committed record of a topic, partition by partition."""
    consumer = Consumer({**client_options(kafka), "group.id": "raw", "enable.partition.eof": True})
    found = []
    try:
        partitions = set(consumer.list_topics(topic, timeout=10).topics[topic].partitions)
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in partitions])
        deadline = time.monotonic() + SECONDS_MAX
        while partitions:
            assert time.monotonic() < deadline, f"{topic} was not read to its end"
            message = consumer.poll(0.5)
            if message is None:
                continue
            error = message.error()
            if error is None:
                found.append(message)
            else:
                assert error.code() == KafkaError._PARTITION_EOF
                partitions.discard(message.partition())
    finally:
        consumer.close()
    return found


# --- topics --------------------------------------------------------------------------------


def test_topics_are_planned_created_and_checked(
    run: Run, names: TopicNames, admin: AdminClient
) -> None:
    """Plan shows, check fails, apply creates, check is content; the data comes as JSON."""
    plan = json.loads(run("topics", "plan", "-o", "json").stdout)
    assert not plan["complete"]
    assert {topic["state"] for topic in plan["topics"]} == {"missing"}
    failed = run("topics", "check", "-o", "json")
    assert failed.returncode == 1
    assert len(json.loads(failed.stdout)["faults"]) == 6
    applied = run("topics", "apply", "--partitions", "3", "-o", "json")
    assert applied.returncode == 0, applied.stderr
    assert json.loads(applied.stdout)["complete"]
    assert len(admin.list_topics(timeout=10).topics[names.jobs].partitions) == 3
    assert run("topics", "check").returncode == 0
    table = run("topics", "plan").stdout.splitlines()
    assert table[0].split() == ["TOPIC", "STATE", "PARTITIONS", "CLEANUP", "POLICY", "DIFFERENCES"]
    assert table[1].split() == [names.jobs, "ok", "3", "delete"]


def test_apply_that_cannot_do_what_was_asked_fails(run: Run, names: TopicNames) -> None:
    """Another partition count for topics that exist is told and not done."""
    assert run("topics", "apply", "--partitions", "2").returncode == 0
    again = run("topics", "apply", "--partitions", "5")
    assert again.returncode == 1
    assert f"topic {names.jobs} has partitions 2 where 5 was asked for" in again.stderr


def test_too_many_copies_are_one_sentence(run: Run, names: TopicNames) -> None:
    """Plan and apply refuse in the same words, by option and by environment."""
    sentence = refusal(run("topics", "apply", "--replication-factor", "7"))
    assert sentence.startswith(f"topic {names.jobs} cannot be created: replication factor 7 ")
    assert refusal(run("topics", "plan", STREAMSCHED_REPLICATION_FACTOR="7")) == sentence


def test_plan_tells_a_program_whether_there_is_something_to_do(run: Run) -> None:
    """As in Terraform: 0 nothing, 1 an error, 2 something is missing or differs."""
    plan = ("topics", "plan", "--detailed-exitcode", "-o", "json")
    missing = run(*plan)
    assert missing.returncode == 2
    assert {t["state"] for t in json.loads(missing.stdout)["topics"]} == {"missing"}
    assert run("topics", "plan").returncode == 0
    assert run(*plan, "--bootstrap-servers", "127.0.0.1:1").returncode == 1
    assert run("topics", "apply").returncode == 0
    assert run(*plan).returncode == 0
    differs = run(*plan, "--min-insync-replicas", "2")
    assert differs.returncode == 2
    (difference,) = json.loads(differs.stdout)["topics"][0]["differences"]
    assert difference == {
        "name": "min.insync.replicas",
        "wanted": "2",
        "found": "1",
        "fixable": False,
        "blocking": False,
        "remedy": "give the topic more copies first, or lower min.insync.replicas with "
        "kafka-configs.sh",
    }


# --- jobs and tenants ----------------------------------------------------------------------


@pytest.fixture
def topics(run: Run) -> None:
    """The topics of this test's application."""
    assert run("topics", "apply", "--partitions", "3").returncode == 0


@pytest.mark.usefixtures("topics")
def test_job_is_submitted_as_described(
    run: Run, kafka: str, names: TopicNames, tmp_path: Path
) -> None:
    """Every option arrives on the ingress topic, bytes of a file untouched."""
    (tmp_path / "body").write_bytes(b"\x00\xff")
    words = ["jobs", "submit", "--tenant", "acme", "--id", "ä", "--delay", "1h30m", "--key", "k"]
    words += ["--payload-file", "body", "--header", "a=1", "--header", "a=2=3"]
    done = run(*words, "--expires-at", "2030-01-01T00:00:00.0009Z", "-o", "json")
    assert done.returncode == 0, done.stderr
    (record,) = _records(kafka, names.jobs)
    assert json.loads(done.stdout) == {
        "tenant": "acme",
        "id": "ä",
        "partition": record.partition(),
        "offset": record.offset(),
    }
    assert (record.key(), record.value()) == (b"acme", b"\x00\xff")
    assert record.headers() == [
        ("a", b"1"),
        ("a", b"2=3"),
        ("streamsched-id", "ä".encode()),
        ("streamsched-delay-ms", b"5400000"),
        ("streamsched-expires-at", b"1893456000000"),
        ("streamsched-key", b"k"),
    ]


@pytest.mark.usefixtures("topics")
def test_cancel_is_a_null_value_on_the_same_partition(
    run: Run, kafka: str, names: TopicNames
) -> None:
    """A cancel follows its job."""
    run("jobs", "submit", "--tenant", "t", "--id", "1", "--delay", "1h", "--payload", "x")
    assert run("jobs", "cancel", "t", "1").returncode == 0
    job, cancel = _records(kafka, names.jobs)
    assert (cancel.partition(), cancel.value()) == (job.partition(), None)
    assert cancel.headers() == [("streamsched-id", b"1"), ("streamsched-op", b"cancel")]


@pytest.mark.usefixtures("topics")
def test_json_lines_with_bad_ones_among_them(run: Run, kafka: str, names: TopicNames) -> None:
    """Good lines go through byte for byte and in order; each bad one is named by its number."""
    lines = [
        '{"id": "1", "tenant": "a", "due_at": "2030-01-01T00:00:00Z", "payload": {"n":1.10 }}',
        "no json",
        "",
        '{"id": "2", "delay_ms": 3600000, "payload": 12345678901234567890123, "key": "k"}',
        '{"id": "3", "tenant": "a", "due": 1, "payload": 1}',
        '{"id": "4", "tenant": "a", "due_at": 1893456000, "payload": 1}',
        '{"id": "5", "delay_ms": 0, "payload": "", "headers": {"streamsched-op": "cancel"}}',
        '{"id": "1", "tenant": "a", "op": "cancel"}',
        '{"id": "6", "tenant": "a", "delay_ms": 1}',
    ]
    words = ("jobs", "submit", "--tenant", "a", "-o", "json")
    done = run(*words, stdin="\n".join(lines))
    assert done.returncode == 1
    outcome = json.loads(done.stdout)
    assert (outcome["submitted"], outcome["cancelled"], outcome["refused"]) == (2, 1, 5)
    assert [fault["line"] for fault in outcome["faults"]] == [2, 5, 6, 7, 9]
    told = done.stderr.splitlines()
    assert [line.split(":")[1] for line in told] == [f" line {n}" for n in (2, 5, 6, 7, 9)]
    assert "unknown field 'due'" in told[1]
    assert "are these seconds?" in told[2]
    assert [
        (r.value(), dict(r.headers())["streamsched-id"]) for r in _records(kafka, names.jobs)
    ] == [
        (b'{"n":1.10 }', b"1"),
        (b"12345678901234567890123", b"2"),
        (None, b"1"),
    ]


@pytest.mark.usefixtures("topics")
def test_many_json_lines(run: Run, kafka: str, names: TopicNames) -> None:
    """Several chunks of lines all arrive, and without a tenant each line needs its own."""
    line = '{"id": "%d", "tenant": "t%d", "due_at": 1893456000000, "payload": %d}'
    count = 5_000
    done = run(
        "jobs", "submit", "-o", "json", stdin="\n".join(line % (n, n % 7, n) for n in range(count))
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["submitted"] == count
    assert sorted(int(r.value()) for r in _records(kafka, names.jobs)) == list(range(count))
    refused = run("jobs", "submit", stdin='{"id": "1", "delay_ms": 1, "payload": 1}')
    assert refused.returncode == 1
    assert "--tenant" in refused.stderr


@pytest.mark.usefixtures("topics")
def test_input_that_is_something_else_is_not_read_to_its_end(run: Run) -> None:
    """After 1,000 refused lines the rest is left, and that is said."""
    done = run("jobs", "submit", "-o", "json", stdin="?\n" * 3_000)
    assert done.returncode == 1
    assert json.loads(done.stdout)["refused"] == 1_000
    assert "stopped before the end of the input" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("topics")
def test_settings_are_published_changed_and_listed(run: Run, kafka: str, names: TopicNames) -> None:
    """Set, pause, resume and unset write whole records; list shows what is published."""
    words = ["tenants", "set", "acme", "--rate", "40/s", "--burst", "3", "--events", "all"]
    assert run(*words).returncode == 0
    refused = run("tenants", "set", "acme", "--rate", "40")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "40" in refused.stderr
    assert run("tenants", "set", "*", "--rate", "1/s", "--no-paused").returncode == 0
    assert run("tenants", "pause", "acme").returncode == 0
    listed = run("tenants", "list", "-o", "json")
    assert listed.returncode == 0
    assert "no scheduler answers at" in listed.stderr
    shown = {row["tenant"]: row for row in json.loads(listed.stdout)}
    assert list(shown) == ["*", "acme"]
    assert shown["acme"]["state"] is None
    assert shown["acme"]["settings"]["paused"] is True
    assert run("tenants", "resume", "acme").returncode == 0
    assert run("tenants", "unset", "acme").returncode == 0
    published = [(r.key(), r.value()) for r in _records(kafka, names.tenant_settings)]
    assert [(key, value and json.loads(value)) for key, value in published] == [
        (b"acme", {"rate": "40/s", "burst": 3, "events": "all"}),
        (b"*", {"rate": "1/s", "paused": False}),
        (b"acme", {"rate": "40/s", "burst": 3, "events": "all", "paused": True}),
        (b"acme", {"rate": "40/s", "burst": 3, "events": "all", "paused": False}),
        (b"acme", None),
    ]


@pytest.mark.usefixtures("topics")
def test_whoever_reads_a_tenant_without_a_topic_is_told(run: Run, names: TopicNames) -> None:
    """It may be that no job of it was ever due, or that the name is misspelt."""
    tail = run("egress", "tail", "nobody", "--timeout", "0")
    assert (tail.returncode, tail.stdout) == (0, "")
    assert f"waiting for topic {names.egress('nobody')}" in tail.stderr


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tenants", "set", "acme", "--rate", "0/s"], "would stop the tenant for ever; pause it"),
        (["tenants", "set", "a.b", "--rate", "1/s"], "tenant 'a.b' is not legal"),
        (["tenants", "set", "acme", "--egress-topic", "__x"], "is reserved"),
        (["jobs", "cancel", "acme", ""], "id '' has 0 bytes"),
        (
            ["jobs", "submit", "--tenant", "a b", "--delay", "1s", "--payload", "x"],
            "tenant 'a b' is not legal",
        ),
        (["jobs", "submit", "--tenant", "a", "--delay", "9999d", "--payload", ""], "ten years"),
        (["egress", "tail", "a b"], "tenant 'a b' is not legal"),
    ],
)
def test_what_the_contract_refuses_is_one_sentence(run: Run, words: list[str], said: str) -> None:
    """Values that the scheduler would not accept are refused before anything is published."""
    assert said in refusal(run(*words), 2)
