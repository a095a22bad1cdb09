"""The SDK as commands use it: faults that it would take long to find are looked for first."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from streamsched.cli.errors import CommandError, UsageRefusedError

if TYPE_CHECKING:
    from streamsched.client import Client
    from streamsched.kafka.rights import Operation
    from streamsched.settings import Settings

ANSWER_SECONDS_MAX: Final = 5.0


@contextmanager
def connected(settings: "Settings", operation: "Operation", *topics: str) -> Iterator["Client"]:
    """A client of the SDK on a cluster that answers and has `topics`, for that operation on them.

    A broker that is away is told within 5 s; the SDK alone would keep trying to deliver. What
    the SDK refuses as invalid inside the block comes out as a `UsageRefusedError`.
    Raises `KafkaProblem`, `CommandError`.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415 - loads librdkafka

    from streamsched.client import Client  # noqa: PLC0415
    from streamsched.client.connection import LIBRDKAFKA_LOG  # noqa: PLC0415
    from streamsched.kafka.connection import Connection, TopicRefusal  # noqa: PLC0415
    from streamsched.kafka.rights import Kind, Resource, lacks  # noqa: PLC0415

    if settings.log_level != "debug":
        # What it says in passing (a coordinator that loads, a node that left) it retries.
        LIBRDKAFKA_LOG.setLevel(logging.CRITICAL + 1)
    connection, own = Connection(settings), settings.names.tenant_jobs_prefix
    existing = connection.metadata(ANSWER_SECONDS_MAX).topics
    for topic in topics:
        if topic in existing:
            continue
        # Asked for by its name, a topic that we may not see is told from one that is not there.
        facts = connection.facts([topic], ANSWER_SECONDS_MAX)[topic]
        if isinstance(facts, TopicRefusal) and facts.is_of_rights:
            raise CommandError(lacks([operation], Resource(Kind.TOPIC, topic)))
        more = f" --tenant {topic.removeprefix(own)}" if topic.startswith(own) else ""
        raise CommandError(f"topic {topic} is missing: run `streamsched topics apply{more}`")
    try:
        config = {k: v for k, v in settings.client_config().items() if k != "bootstrap.servers"}
        with Client(
            settings.bootstrap_servers,
            settings.app_id,
            config,
            tenant_ingress=settings.tenant_ingress,
        ) as client:
            yield client
    except ValueError as error:
        raise UsageRefusedError(str(error)) from error
    except KafkaException as error:
        raise CommandError(
            f"Kafka's client failed ({error.args[0].str()}): check STREAMSCHED_KAFKA__… and the "
            "table `kafka` in streamsched.toml"
        ) from error
