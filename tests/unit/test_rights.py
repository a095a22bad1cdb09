"""The list of rights: what the documents say of it, and what it promises."""

import re
from pathlib import Path

import pytest

from streamsched.core.names import TopicNames
from streamsched.kafka.rights import Kind, Operation, Resource, Role, lacks, rights_of

NAMES = TopicNames()
TEXT = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")


def documented(role: Role) -> set[tuple[str, Resource]]:
    """What the table of docs/security.md grants a role."""
    [row] = re.findall(rf"^\| `{role}` \| [^|]+ \| (.*) \|$", TEXT, re.MULTILINE)
    found = set()
    for line in row.split("<br>"):
        operations, kind, names = re.fullmatch(
            r"([A-Za-z, ]+?)(?: (group|transactional id))? (`.*`)", line
        ).groups()  # type: ignore[union-attr]
        for name in re.findall("`([^`]+)`", names):
            for operation in operations.split(", "):
                resource = Resource(
                    Kind((kind or "topic").replace(" ", "-")),
                    name.removesuffix("*"),
                    prefixed=name.endswith("*"),
                )
                found.add((operation, resource))
    return found


@pytest.mark.parametrize("role", Role)
def test_documents_have_exactly_the_rights_of_each_role(role: Role) -> None:
    """Neither more nor less than the commands that are printed."""
    rights = rights_of(role, NAMES)
    assert documented(role) == {(right.operation.value, right.resource) for right in rights}


@pytest.mark.parametrize("role", Role)
def test_no_right_is_listed_twice_or_brought_by_another(role: Role) -> None:
    """Each right stands once; Describe is not listed where Read or Write brings it."""
    held = [(r.resource, r.operation) for r in rights_of(role, NAMES, egress_topics=["else"])]
    assert len(held) == len(set(held))
    for resource, operation in held:
        if operation is Operation.DESCRIBE:
            assert (resource, Operation.READ) not in held
            assert (resource, Operation.WRITE) not in held


def test_worker_of_a_tenant_reads_nothing_of_others() -> None:
    """Its own topic, its own group, and the settings."""
    rights = rights_of(Role.WORKER, NAMES, tenants=["acme"], groups=["acme-sms"])
    named = {str(right.resource) for right in rights}
    assert named == {
        "topic streamsched.egress.acme",
        "group acme-sms",
        "topic streamsched.tenant-settings",
        "group streamsched-reader-*",
    }


def test_sentence_names_all_that_is_missing_on_a_resource() -> None:
    """Which rights, on what, and what to do."""
    ids = Resource(Kind.TRANSACTIONAL_ID, "x-", prefixed=True)
    assert lacks([Operation.WRITE], ids).startswith("this user lacks Write on transactional id x-*")
    three = [Operation.READ, Operation.WRITE, Operation.CREATE]
    said = lacks(three, Resource(Kind.TOPIC, "t"))
    assert said.startswith("this user lacks Read, Write and Create on topic t: grant what ")


def test_with_ingress_topics_of_tenants_a_producer_submits_for_its_own_alone() -> None:
    """The topic is the tenant's; the scheduler reads all of these, in a group of their own."""
    names = TopicNames(tenant_ingress=True)
    [right] = rights_of(Role.PRODUCER, names, tenants=["acme"])
    assert (right.operation, str(right.resource)) == ("Write", "topic streamsched.jobs.acme")
    [right] = rights_of(Role.PRODUCER, names)
    assert str(right.resource) == "topic streamsched.jobs.*"
    without = {*rights_of(Role.SCHEDULER, NAMES)}
    more = {*rights_of(Role.SCHEDULER, names)} - without
    assert {(right.operation.value, str(right.resource)) for right in more} == {
        ("Read", "topic streamsched.jobs.*"),
        ("Read", "group streamsched-tenant-jobs"),
    }
    more = {*rights_of(Role.OPERATOR, names, tenants=["acme"])} - {*rights_of(Role.OPERATOR, NAMES)}
    assert {(right.operation.value, str(right.resource)) for right in more} == {
        (operation, "topic streamsched.jobs.acme")
        for operation in ("Describe", "Create", "AlterConfigs")
    }
