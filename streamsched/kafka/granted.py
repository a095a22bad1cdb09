"""Which rights of a list a user has, as far as the broker can be asked.

It tells of topics and groups by their names. What is granted for all names with a prefix, and for
transactional ids, shows only when it is used.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from streamsched.kafka.connection import Connection, TopicRefusal
from streamsched.kafka.rights import Kind, Operation, Resource, Right, lacks

ANSWER_SECONDS_MAX: Final = 10.0


def missing_rights(connection: Connection, rights: Iterable[Right]) -> list[str]:
    """A sentence for each topic and group on which any of `rights` is missing.

    Of a topic that does not exist nothing is said. Raises `KafkaAway`.
    """
    needed: dict[Resource, list[Operation]] = {}
    for right in rights:
        if not right.resource.prefixed:
            needed.setdefault(right.resource, []).append(right.operation)
    topics = [resource.name for resource in needed if resource.kind is Kind.TOPIC]
    facts = connection.facts(topics, ANSWER_SECONDS_MAX)
    found: list[str] = []
    for resource, operations in needed.items():
        if resource.kind is Kind.TOPIC:
            fact = facts[resource.name]
            if isinstance(fact, TopicRefusal) and not fact.is_of_rights:
                continue
            allowed = fact.operations
        elif resource.kind is Kind.GROUP:
            allowed = connection.group_operations(resource.name, ANSWER_SECONDS_MAX)
        else:
            continue
        found += _sentence(operations, allowed, resource)
    return found


def _sentence(
    operations: Sequence[Operation], allowed: frozenset[Operation], resource: Resource
) -> list[str]:
    missing = [operation for operation in operations if operation not in allowed]
    return [lacks(missing, resource)] if missing else []
