"""`streamsched topics plan --acls`: who needs which rights, for those who hand them out."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streamsched.cli.errors import UsageRefusedError
from streamsched.cli.output import Format, show_json, show_line
from streamsched.kafka.rights import Right, Role, kafka_acls_commands, rights_of

if TYPE_CHECKING:
    from streamsched.settings import Settings

_PANEL: Final = "With --acls"

Acls = Annotated[
    bool,
    typer.Option("--acls", help="The rights that each role needs instead.", rich_help_panel=_PANEL),
]
Principals = Annotated[
    list[str] | None,
    typer.Option(
        "--principal",
        metavar="ROLE=User:NAME",
        help=f"Who has a role ({', '.join(Role)}); again for others. User:APP_ID-ROLE each, if "
        "none is given.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
Tenants = Annotated[
    list[str] | None,
    typer.Option(
        "--tenant",
        metavar="NAME",
        help="Whose ingress topic is wanted; again for others. With --acls: whose jobs workers "
        "read, and producers submit if tenants have ingress topics. All tenants', if none is "
        "given.",
        show_default=False,
    ),
]
Groups = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="NAME",
        help="Consumer group of workers and observers; again for others. Those that begin with "
        "APP_ID-worker and APP_ID-observer, if none is given.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]
EgressTopics = Annotated[
    list[str] | None,
    typer.Option(
        "--egress-topic",
        metavar="NAME",
        help="A topic that tenants name in their settings; again for others.",
        show_default=False,
        rich_help_panel=_PANEL,
    ),
]


def show_rights(
    settings: "Settings",
    principals: Sequence[str] | None,
    tenants: Sequence[str] | None,
    groups: Sequence[str] | None,
    egress_topics: Sequence[str] | None,
    output: Format,
) -> None:
    """Print the rights of each principal: a shell script with the reasons, or JSON.

    Raises `UsageRefusedError`.
    """
    granted = [
        (
            role,
            principal,
            rights_of(
                role,
                settings.names,
                tenants=tenants or (),
                groups=groups or (),
                egress_topics=egress_topics or (),
            ),
        )
        for role, principal in _principals(principals, settings.app_id)
    ]
    if output is Format.JSON:
        show_json(
            {
                "rights": [
                    _row(who, principal, right)
                    for who, principal, rights in granted
                    for right in rights
                ]
            }
        )
        return
    for role, principal, rights in granted:
        _show_script(role, principal, rights, settings.bootstrap_servers)


def _principals(given: Sequence[str] | None, app_id: str) -> list[tuple[Role, str]]:
    if not given:
        return [(role, f"User:{app_id}-{role}") for role in Role]
    found = []
    for text in given:
        role, _, principal = text.partition("=")
        kind, _, name = principal.partition(":")
        if role not in set(Role) or not kind or not name:
            raise UsageRefusedError(
                f"--principal {text!r} is none: write ROLE=User:NAME, with one of the roles "
                f"{', '.join(Role)}"
            )
        found.append((Role(role), principal))
    return found


def _row(role: Role, principal: str, right: Right) -> dict[str, str]:
    return {
        "role": role.value,
        "principal": principal,
        "resource_type": right.resource.kind.value,
        "resource_name": right.resource.name,
        "pattern_type": right.resource.pattern,
        "operation": right.operation.value,
        "why": right.why,
    }


def _show_script(
    role: Role, principal: str, rights: Sequence[Right], bootstrap_servers: str
) -> None:
    show_line(f"# {role}: {principal}")
    for granted, words in kafka_acls_commands(rights, principal, bootstrap_servers):
        for right in granted:
            show_line(f"#   {right.operation} {right.resource}: {right.why}")
        show_line(shlex.join(words))
    show_line("")
