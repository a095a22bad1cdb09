"""What a scheduler must know of the cluster before it touches a partition."""

import asyncio
from dataclasses import dataclass
from typing import Final

import structlog

from streamsched.engine.reader import StartError
from streamsched.kafka import admin
from streamsched.kafka.connection import (
    Connection,
    KafkaAway,
    KafkaProblem,
    LoginRefused,
    TopicFacts,
)
from streamsched.kafka.granted import missing_rights
from streamsched.kafka.rights import Role, rights_of
from streamsched.settings import Settings

ANSWER_SECONDS_MAX: Final = 10.0
RETRY_SECONDS: Final = 0.5
START_ATTEMPTS: Final = 3
"""How often a scheduler asks for Kafka's first answer: the two may be started together."""

log = structlog.get_logger()


class AwayAtStartError(StartError):
    """Kafka does not answer, which may pass."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Facts read once at start; a topic made anew is recognised by its id (`TopicWatch`)."""

    partitions: int
    """Of the ingress topic, and of the changelog."""
    jobs_topic_id: str
    changelog_topic_id: str
    settings_topic_id: str
    changelog_delete_retention_ms: int
    """How long a tombstone is readable."""

    @property
    def state_age_ms_max(self) -> int:
        """How old state may be, or how long the log be read, before tombstones may be missed.

        Half of what they last: one half for the state, the other for reading the rest.
        """
        return self.changelog_delete_retention_ms // 2


async def inspect_when_there(settings: Settings) -> Cluster:
    """As `inspect_cluster`, on a thread, and again while Kafka is away; up to about 40 s."""
    for _ in range(START_ATTEMPTS - 1):
        try:
            return await asyncio.to_thread(inspect_cluster, settings)
        except AwayAtStartError:
            log.warning("Kafka does not answer yet and is asked again")
            await asyncio.sleep(RETRY_SECONDS)
    return await asyncio.to_thread(inspect_cluster, settings)


def inspect_cluster(settings: Settings) -> Cluster:
    """Look whether a scheduler can run on the cluster; blocking, up to about 20 s.

    Raises `StartError` with a sentence per fault: broker away, right missing, topic missing or
    unfit.
    """
    names = settings.names
    try:
        connection = Connection(settings)
        connection.refuse_hopeless()
        # Asked first for its clear answer when Kafka is away; the rest would take longer to fail.
        connection.metadata(ANSWER_SECONDS_MAX)
        # Before the topics: who may not see one takes it for missing.
        faults = missing_rights(connection, rights_of(Role.SCHEDULER, names))
        if faults:
            raise StartError("; ".join(faults))
        unfit = admin.check(settings, names)
        if unfit:
            raise StartError("; ".join(unfit))
        wanted = [names.jobs, names.changelog, names.tenant_settings]
        facts = connection.facts(wanted, ANSWER_SECONDS_MAX)
    except LoginRefused as refused:
        raise StartError(str(refused)) from refused
    except KafkaAway as away:
        raise AwayAtStartError(str(away)) from away
    except KafkaProblem as problem:
        raise StartError(str(problem)) from problem
    found = [fact for fact in map(facts.get, wanted) if isinstance(fact, TopicFacts)]
    if len(found) < len(wanted):
        raise StartError(f"topics {', '.join(wanted)} cannot be described: grant Describe on them")
    jobs, changelog, tenant_settings = found
    return Cluster(
        jobs.partitions,
        jobs.topic_id,
        changelog.topic_id,
        tenant_settings.topic_id,
        int(changelog.configs["delete.retention.ms"]),
    )
