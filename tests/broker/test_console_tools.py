"""Clients that we did not write: Kafka's own console producer and consumer."""

import subprocess
import time
from datetime import UTC, datetime

import pytest
from confluent_kafka.admin import AdminClient

from streamsched.kafka.jars import kafka_tool_command
from tests.broker.installation import Installation
from tests.broker.reading import dispatched_at_ms, job_id
from tests.connecting import java_properties

PRODUCER = "org.apache.kafka.tools.ConsoleProducer"
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
TENANT = "console"


def run_tool(main_class: str, *arguments: str, lines: str = "") -> str:
    """Run one of Kafka's tools to its end; returns what it printed."""
    done = subprocess.run(
        ["timeout", "-s", "KILL", "90", *kafka_tool_command(main_class, *arguments)],
        input=lines,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def connecting(kafka: str, option: str) -> list[str]:
    """Words that have a tool come to this Kafka, by an option that takes one property."""
    return [word for pair in java_properties(kafka).items() for word in (option, "=".join(pair))]


def produce(kafka: str, topic: str, lines: list[str], *properties: str) -> None:
    """Produce a record for each line."""
    words = [word for name in properties for word in ("--property", name)]
    words += connecting(kafka, "--producer-property")
    text = "".join(f"{line}\n" for line in lines)
    run_tool(PRODUCER, "--bootstrap-server", kafka, "--topic", topic, *words, lines=text)


def consume(kafka: str, topic: str, count: int) -> list[list[str]]:
    """The first `count` committed records: headers, key, value."""
    printed = run_tool(
        CONSUMER,
        *("--bootstrap-server", kafka, "--topic", topic, "--from-beginning"),
        *("--max-messages", str(count), "--timeout-ms", "60000"),
        *connecting(kafka, "--consumer-property"),
        *("--consumer-property", "isolation.level=read_committed"),
        *("--property", "print.headers=true"),
        *("--property", "print.key=true"),
    )
    return [line.split("\t") for line in printed.splitlines()]


@pytest.mark.timeout(240)
def test_console_producer_and_consumer_are_enough(
    kafka: str, shared: Installation, admin: AdminClient
) -> None:
    """Settings, jobs, a replacement and a cancel by hand; the consumer shows what was promised."""
    names = shared.names
    produce(
        kafka, names.tenant_settings, [f'{TENANT}\t{{"rate":"40/s","burst":2}}'], "parse.key=true"
    )
    shared.process.await_tenant(TENANT, rate="40/s", burst=2)
    due = datetime.fromtimestamp(time.time() + 8, UTC).isoformat(timespec="milliseconds")
    produce(
        kafka,
        names.jobs,
        [
            f"streamsched-id:now,streamsched-delay-ms:0,trace:abc\t{TENANT}\tfirst",
            f"streamsched-id:later,streamsched-due-at:{due},streamsched-key:k\t{TENANT}\told",
            f"streamsched-id:later,streamsched-due-at:{due},streamsched-key:k\t{TENANT}\tlast",
            f"streamsched-id:never,streamsched-delay-ms:20000\t{TENANT}\tnever",
            f"streamsched-id:never,streamsched-op:cancel\t{TENANT}\t",
            f"streamsched-id:gone,streamsched-delay-ms:20000\t{TENANT}\tgone",
            f"streamsched-id:gone\t{TENANT}\tNULL",
        ],
        "parse.headers=true",
        "parse.key=true",
        "null.marker=NULL",
    )
    shared.dispatched(TENANT, 2)
    shown = consume(kafka, names.egress(TENANT), 2)
    assert [(key, value) for _, key, value in shown] == [("now", "first"), ("k", "last")]
    headers = dict(pair.split(":", 1) for pair in shown[0][0].split(","))
    assert headers["trace"] == "abc"
    assert headers["streamsched-id"] == "now"
    assert headers["streamsched-tenant"] == TENANT
    first, last = shared.dispatched(TENANT, 2)
    due_ms = int(datetime.fromisoformat(due).timestamp() * 1000)
    assert job_id(last) == "later"
    assert dispatched_at_ms(first) < due_ms <= dispatched_at_ms(last)
    outcomes = sorted((event["event"], event["id"]) for event in shared.events(TENANT))
    assert outcomes == [("cancelled", "gone"), ("cancelled", "never"), ("replaced", "later")]
