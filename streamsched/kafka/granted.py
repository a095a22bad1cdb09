"""Which rights of a list a user has, as far as the broker can be asked.

It tells of topics and groups by their names. Of what is granted for all names with a prefix it
tells whether there is anything at all; the rest, and what is granted for transactional ids, shows
only when it is used.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from streamsched.kafka.connection import Connection, TopicRefusal
from streamsched.kafka.rights import Kind, Operation, Resource, Right, lacks

ANSWER_SECONDS_MAX: Final = 10.0

NOBODYS: Final = "of.nobody"
"""The end of a topic's name that is asked for in place of all with its prefix. No tenant has a dot
in its name, so there is no such topic, and Kafka tells whether there is none or we may not know."""


def missing_rights(connection: Connection, rights: Iterable[Right]) -> list[str]:
    """A sentence for each topic and group on which any of `rights` is missing.

    Of a topic that does not exist nothing is said. Raises `KafkaAway`.
    """
    needed = {
        resource: operations
        for resource, operations in _by_resource(rights).items()
        if not resource.prefixed
    }
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


def unseen_prefixes(connection: Connection, rights: Iterable[Right]) -> list[str]:
    """A sentence for each prefix in `rights` of whose topics this user may see none.

    Topics that are granted by their full names can be used all the same. Raises `KafkaAway`.
    """
    needed = {
        f"{resource.name}{NOBODYS}": (resource, operations)
        for resource, operations in _by_resource(rights).items()
        if resource.prefixed and resource.kind is Kind.TOPIC
    }
    found: list[str] = []
    for name, fact in connection.facts(list(needed), ANSWER_SECONDS_MAX).items():
        resource, operations = needed[name]
        if isinstance(fact, TopicRefusal) and fact.is_of_rights:
            # The right to create shows nobody what is there.
            seeing = [one for one in operations if one is not Operation.CREATE]
            found += _sentence(seeing, fact.operations, resource)
    return found


def _by_resource(rights: Iterable[Right]) -> dict[Resource, list[Operation]]:
    found: dict[Resource, list[Operation]] = {}
    for right in rights:
        found.setdefault(right.resource, []).append(right.operation)
    return found


def _sentence(
    operations: Sequence[Operation], allowed: frozenset[Operation], resource: Resource
) -> list[str]:
    missing = [operation for operation in operations if operation not in allowed]
    return [lacks(missing, resource)] if missing else []
