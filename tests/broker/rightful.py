"""Users of a secured Kafka who have exactly the rights of their roles."""

import contextlib
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from streamsched.core.names import TopicNames
from streamsched.kafka import admin as topics
from streamsched.kafka.embedded import EmbeddedKafka
from streamsched.kafka.rights import Kind, Right, Role, rights_of
from tests.broker.cluster import await_condition
from tests.broker.installation import Installation, delete_topics
from tests.broker.reading import GROUP
from tests.broker.scheduler_process import SchedulerProcess
from tests.broker.sending import Sender
from tests.connecting import remember

_KINDS: Final = {
    Kind.TOPIC: ResourceType.TOPIC,
    Kind.GROUP: ResourceType.GROUP,
    Kind.TRANSACTIONAL_ID: ResourceType.TRANSACTIONAL_ID,
}
_OPERATIONS: Final = {one.name.replace("_", "").lower(): one for one in AclOperation}


class Rightful:
    """Makes users and hands out rights, as somebody who may."""

    def __init__(self, kafka: EmbeddedKafka) -> None:
        self.kafka = kafka
        self.admin = AdminClient({**kafka.client_options})

    def user(self, name: str, rights: Iterable[Right] = ()) -> dict[str, str]:
        """A user with these rights and no others; the options of a client that is that user."""
        options = self.kafka.add_user(name, f"the password of {name}")
        self.grant(name, rights)
        return options

    def grant(self, user: str, rights: Iterable[Right]) -> None:
        """Give rights; in force when the call returns, as are all changes here."""
        self._create([_binding(user, right, AclPermissionType.ALLOW) for right in rights])

    def deny(self, user: str, rights: Iterable[Right]) -> None:
        """Forbid what is allowed by a prefix."""
        self._create([_binding(user, right, AclPermissionType.DENY) for right in rights])

    def take(self, user: str, rights: Iterable[Right]) -> None:
        """Take allowed rights away."""
        self._delete([_binding(user, right, AclPermissionType.ALLOW) for right in rights])

    def forgive(self, user: str, rights: Iterable[Right]) -> None:
        """Forbid no more."""
        self._delete([_binding(user, right, AclPermissionType.DENY) for right in rights])

    def _create(self, bindings: list[AclBinding]) -> None:
        if not bindings:
            return
        for done in self.admin.create_acls(bindings).values():
            done.result(20)
        await_condition("the broker knows the rights", lambda: not self._unknown(bindings))

    def _delete(self, bindings: list[AclBinding]) -> None:
        filters = [
            AclBindingFilter(
                *(b.restype, b.name, b.resource_pattern_type, b.principal, b.host),
                *(b.operation, b.permission_type),
            )
            for b in bindings
        ]
        for deleted in self.admin.delete_acls(filters).values():
            assert len(deleted.result(20)) == 1
        everything = set(bindings)
        await_condition(
            "the broker has forgotten the rights", lambda: self._unknown(bindings) == everything
        )

    def _unknown(self, bindings: list[AclBinding]) -> set[AclBinding]:
        """Those that the broker we ask does not go by."""
        everything = AclBindingFilter(
            ResourceType.ANY,
            None,  # type: ignore[arg-type]  # of any name
            ResourcePatternType.ANY,
            bindings[0].principal,
            None,  # type: ignore[arg-type]  # from anywhere
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        return set(bindings) - set(self.admin.describe_acls(everything).result(20))


def _binding(user: str, right: Right, permission: AclPermissionType) -> AclBinding:
    resource = right.resource
    pattern = ResourcePatternType.PREFIXED if resource.prefixed else ResourcePatternType.LITERAL
    operation = _OPERATIONS[right.operation.lower()]
    return AclBinding(
        *(_KINDS[resource.kind], resource.name, pattern, f"User:{user}", "*"),
        *(operation, permission),
    )


@contextlib.contextmanager
def prepared_with_rights(
    rightful: Rightful,
    folder: Path,
    *,
    partitions: int,
    egress_topics: Iterable[str] = (),
    tenant_ingress: bool = False,
    **settings: str,
) -> Iterator[tuple[Installation, str]]:
    """An installation in which everybody has exactly the rights of the role, and no more.

    Topics are made by an operator; a producer who is an operator too sends, and a worker who is an
    observer too reads, each as one user. Yields the scheduler's user as well. `settings` are those
    of the scheduler.
    """
    names = TopicNames(f"test-{uuid.uuid4().hex[:12]}", tenant_ingress)
    elsewhere = list(egress_topics)
    mine = f"{names.app_id}-"
    operator = rights_of(Role.OPERATOR, names)
    sending = rightful.user(f"{mine}sender", {*operator, *rights_of(Role.PRODUCER, names)})
    reading = rightful.user(
        f"{mine}reader",
        {
            *rights_of(Role.WORKER, names, egress_topics=elsewhere, groups=[GROUP]),
            *rights_of(Role.OBSERVER, names, groups=[GROUP]),
        },
    )
    scheduler = f"{mine}scheduler"
    scheduling = rightful.user(scheduler, rights_of(Role.SCHEDULER, names, egress_topics=elsewhere))
    topics.apply(sending, names, partitions)
    process = SchedulerProcess(
        *("", names.app_id, folder),
        options=scheduling,
        tenant_ingress=str(tenant_ingress).lower(),
        **settings,
    )
    sender = Sender(remember(sending, f"the sender of {names.app_id}"), names)
    reader = remember(reading, f"the reader of {names.app_id}")
    try:
        yield Installation(reader, names, process, sender, partitions), scheduler
    finally:
        process.kill()
        delete_topics(rightful.kafka.bootstrap_servers, names)
