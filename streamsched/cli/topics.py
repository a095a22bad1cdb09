"""`streamsched topics`: the scheduler's own topics, planned, created and checked."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from streamsched.cli.errors import EXIT_FAILED, SentenceGroup, UsageRefusedError, say
from streamsched.cli.options import with_settings, with_topic_settings
from streamsched.cli.output import Format, Output, show_json, show_rows
from streamsched.cli.rights import Acls, EgressTopics, Groups, Principals, Tenants, show_rights
from streamsched.core.tenant_settings import TENANT_PATTERN

if TYPE_CHECKING:
    from streamsched.kafka.admin import Plan, TopicPlan
    from streamsched.settings import Settings

app = typer.Typer(
    cls=SentenceGroup, no_args_is_help=True, help="The scheduler's own topics on the cluster."
)

Partitions = Annotated[
    int | None,
    typer.Option(
        min=1, help="Of the ingress topic; 4 unless it exists. Its tenants are spread over them."
    ),
]

EXIT_CHANGES: Final = 2
"""As Terraform has it, on request only; wrong usage, which has the same status, is told as such."""

COLUMNS: Final = ("topic", "state", "partitions", "cleanup_policy", "differences")


@app.command("plan")
@with_topic_settings
def plan(
    settings: "Settings",
    *,
    partitions: Partitions = None,
    detailed_exitcode: Annotated[
        bool,
        typer.Option(
            "--detailed-exitcode",
            help="Exit status 2 where something is missing or differs, 0 where nothing does.",
        ),
    ] = False,
    acls: Acls = False,
    principals: Principals = None,
    tenants: Tenants = None,
    groups: Groups = None,
    egress_topics: EgressTopics = None,
    output: Output = Format.TABLE,
) -> None:
    """Show which topics are missing or differ from what is wanted; change nothing.

    With --acls: the rights that each role needs, as kafka-acls commands, without asking Kafka.
    """
    if acls:
        show_rights(settings, principals, tenants, groups, egress_topics, output)
        return
    if principals or groups or egress_topics:
        raise UsageRefusedError(
            "--principal, --group and --egress-topic are about rights: add --acls"
        )
    from streamsched.kafka import admin  # noqa: PLC0415 - loads librdkafka

    found = admin.plan(settings, settings.names, partitions, _own_ingress(settings, tenants))
    _show(found, output)
    if detailed_exitcode and not found.complete:
        raise typer.Exit(EXIT_CHANGES)


@app.command("apply")
@with_topic_settings
def apply(
    settings: "Settings",
    partitions: Partitions = None,
    tenants: Tenants = None,
    output: Output = Format.TABLE,
) -> None:
    """Create what is missing and correct what can be corrected in place.

    Nothing is deleted, no partition count changed and no limit lowered; exit status 1 if a
    difference is left.
    """
    from streamsched.kafka import admin  # noqa: PLC0415 - loads librdkafka

    done = admin.apply(settings, settings.names, partitions, _own_ingress(settings, tenants))
    for topic in done.created:
        say(f"created topic {topic}")
    for topic in done.changed:
        say(f"corrected the configuration of topic {topic}")
    _show(done.after, output)
    left = [sentence for topic in done.after.topics for sentence in _left(topic)]
    for sentence in left:
        say(sentence)
    if left:
        raise typer.Exit(EXIT_FAILED)


@app.command("check")
@with_settings
def check(settings: "Settings", output: Output = Format.TABLE) -> None:
    """Exit with status 1 if a scheduler could not run on the topics as they are."""
    from streamsched.kafka import admin  # noqa: PLC0415 - loads librdkafka

    faults = admin.check(settings, settings.names)
    if output is Format.JSON:
        show_json({"ok": not faults, "faults": list(faults)})
    for fault in faults:
        say(fault)
    if faults:
        raise typer.Exit(EXIT_FAILED)
    say(f"all topics of {settings.app_id} are as needed")


def _own_ingress(settings: "Settings", tenants: Sequence[str] | None) -> Sequence[str]:
    """The tenants whose own ingress topics are wanted. Raises `UsageRefusedError`."""
    if tenants and not settings.tenant_ingress:
        raise UsageRefusedError(
            "--tenant asks for ingress topics of tenants' own, which no scheduler reads: set "
            "STREAMSCHED_TENANT_INGRESS=true here and for the schedulers"
        )
    for tenant in tenants or ():
        if not TENANT_PATTERN.fullmatch(tenant.encode(errors="replace")):
            raise UsageRefusedError(f"--tenant {tenant!r} is none: 1 to 100 of A-Z a-z 0-9 _ -")
    return tenants or ()


def _show(found: "Plan", output: Format) -> None:
    rows = [_row(topic) for topic in found.topics]
    if output is Format.JSON:
        show_json({"complete": found.complete, "topics": rows})
        return
    table = [
        {
            **row,
            "cleanup_policy": row["configs"]["cleanup.policy"],
            "differences": ", ".join(
                f"{d['name']} {d['found']} instead of {d['wanted']}" for d in row["differences"]
            ),
        }
        for row in rows
    ]
    show_rows(table, COLUMNS, output)


def _row(topic: "TopicPlan") -> dict[str, Any]:
    return {
        "topic": topic.topic,
        "state": topic.state.value,
        "partitions": topic.partitions,
        "configs": dict(topic.configs),
        "differences": [{**asdict(d), "remedy": d.remedy} for d in topic.differences],
    }


def _left(topic: "TopicPlan") -> list[str]:
    if topic.state.value == "missing":
        return [f"topic {topic.topic} was created but is not to be seen yet: run this again"]
    return [
        f"topic {topic.topic} has {d.name} {d.found} where {d.wanted} was asked for: {d.remedy}"
        for d in topic.differences
    ]
