"""How an egress topic is judged by what the broker tells of it."""

from dataclasses import replace

import pytest

from streamsched.core.destinations import Problem
from streamsched.kafka.connection import TopicFacts
from streamsched.kafka.egress_survey import judge
from streamsched.kafka.rights import Operation

GOOD = TopicFacts(
    topic="t",
    topic_id="id",
    partitions=3,
    replication_factor=1,
    leaderless=0,
    operations=frozenset(Operation),
    configs={"cleanup.policy": "delete", "max.message.bytes": "1000"},
)
COMPACTED = replace(GOOD, configs={**GOOD.configs, "cleanup.policy": "delete,compact"})


def test_good_topic_has_no_problem() -> None:
    """A topic with leaders, rights and room may be written to, with the broker's figures."""
    found = judge("t", 3, 0, GOOD, 1000)
    assert (found.problem, found.partitions, found.max_message_bytes) == (None, 3, 1000)


@pytest.mark.parametrize(
    ("facts", "leaderless", "message_bytes_min", "problem"),
    [
        (COMPACTED, 0, 0, Problem.COMPACTED),
        (
            replace(GOOD, operations=frozenset(Operation) - {Operation.WRITE}),
            0,
            0,
            Problem.FORBIDDEN,
        ),
        (GOOD, 0, 1001, Problem.TOO_SMALL),
        (
            replace(GOOD, configs={**GOOD.configs, "min.insync.replicas": "2"}),
            0,
            0,
            Problem.REFUSES,
        ),
        (GOOD, 1, 0, Problem.LEADERLESS),
        (COMPACTED, 1, 0, Problem.COMPACTED),
    ],
)
def test_each_fault_has_its_problem(
    facts: TopicFacts, leaderless: int, message_bytes_min: int, problem: Problem
) -> None:
    """Each fault is told apart, a lasting one before a passing one, with a remedy or a reason."""
    found = judge("t", 3, leaderless, facts, message_bytes_min)
    assert found.problem is problem
    assert found.detail
