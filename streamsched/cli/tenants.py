"""`streamsched tenants`: publishing tenants' settings, and how tenants are doing."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from streamsched.cli.errors import CommandError, SentenceGroup, say
from streamsched.cli.options import with_settings
from streamsched.cli.output import Format, Output, show_fields, show_json, show_rows
from streamsched.cli.pages import Urls, ask, urls_or_default
from streamsched.cli.sdk import connected
from streamsched.kafka.rights import Operation

if TYPE_CHECKING:
    from streamsched.client import TenantSettings
    from streamsched.settings import Settings

app = typer.Typer(
    cls=SentenceGroup, no_args_is_help=True, help="Tenants' rates and other settings."
)

Tenant = Annotated[
    str,
    typer.Argument(help="The tenant's name, or '*' for the defaults of all.", show_default=False),
]

COLUMNS: Final = (
    *("tenant", "status", "rate", "burst", "paused"),
    *("pending", "due", "egress_topic", "note"),
)


@app.command("set")
@with_settings
def set_(
    settings: "Settings",
    tenant: Tenant,
    rate: Annotated[
        str | None, typer.Option(help="Such as 40/s, 1/m, 1/333ms, or unlimited.")
    ] = None,
    burst: Annotated[int | None, typer.Option(help="Jobs that may leave at once.")] = None,
    paused: Annotated[
        bool | None, typer.Option("--paused/--no-paused", help="Whether jobs stay pending.")
    ] = None,
    egress_topic: Annotated[
        str | None, typer.Option(help="Where its jobs are dispatched to.")
    ] = None,
    egress_partitions: Annotated[
        int | None, typer.Option(help="Partitions of that topic, where it is created.")
    ] = None,
    events: Annotated[str | None, typer.Option(help="outcomes or all.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Publish a tenant's settings.

    They replace the previous ones whole: what is left out takes the value of '*', then the
    built-in one.
    """
    given = {
        "rate": rate,
        "burst": burst,
        "paused": paused,
        "egress_topic": egress_topic,
        "egress_partitions": egress_partitions,
        "events": events,
    }
    own: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not own:
        raise typer.BadParameter("give at least one setting; `tenants unset` removes them all")
    with connected(settings, Operation.WRITE, settings.names.tenant_settings) as client:
        offset = client.set_tenant(tenant, **own)
    show_fields({"tenant": tenant, "offset": offset, **own}, output)


@app.command("unset")
@with_settings
def unset(settings: "Settings", tenant: Tenant, output: Output = Format.TABLE) -> None:
    """Remove a tenant's own settings, so that those of '*' apply."""
    with connected(settings, Operation.WRITE, settings.names.tenant_settings) as client:
        show_fields({"tenant": tenant, "offset": client.unset_tenant(tenant)}, output)


@app.command("pause")
@with_settings
def pause(settings: "Settings", tenant: Tenant, output: Output = Format.TABLE) -> None:
    """Keep a tenant's jobs pending; the rest of its settings stays (last writer wins)."""
    with connected(settings, Operation.READ, settings.names.tenant_settings) as client:
        show_fields({"tenant": tenant, "offset": client.pause(tenant), "paused": True}, output)


@app.command("resume")
@with_settings
def resume(settings: "Settings", tenant: Tenant, output: Output = Format.TABLE) -> None:
    """Dispatch a paused tenant's jobs again (last writer wins)."""
    with connected(settings, Operation.READ, settings.names.tenant_settings) as client:
        show_fields({"tenant": tenant, "offset": client.resume(tenant), "paused": False}, output)


@app.command("list")
@with_settings
def list_(settings: "Settings", url: Urls = None, output: Output = Format.TABLE) -> None:
    """Show all tenants: their settings as published, and their state at the schedulers."""
    states, answered, faults = _states(urls_or_default(url, settings))
    published = _published(settings, answered=answered)
    for fault in faults:
        say(f"{fault}; name the running schedulers with --url")
    if not answered:
        say("these are the settings as published; what is pending only a scheduler knows")
    names = sorted({*states, *published})
    if output is Format.JSON:
        show_json(
            [
                {
                    "tenant": name,
                    "settings": asdict(published[name]) if name in published else None,
                    "state": states.get(name),
                }
                for name in names
            ]
        )
        return
    show_rows(
        [_row(name, published.get(name), states.get(name)) for name in names], COLUMNS, output
    )


def _states(urls: list[str]) -> tuple[dict[str, dict[str, Any]], bool, list[str]]:
    """Each tenant as its scheduler sees it; whether any answered; who did not, and why."""
    states: dict[str, dict[str, Any]] = {}
    answered = False
    faults = []
    for answer in ask(urls, "/tenants"):
        tenants = answer.body.get("tenants")
        if answer.status == 200 and isinstance(tenants, list):
            answered = True
            states.update({str(tenant["tenant"]): tenant for tenant in tenants})
        else:
            why = answer.fault or f"status {answer.status}"
            faults.append(f"no scheduler answers at {answer.url} ({why})")
    return states, answered, faults


def _published(settings: "Settings", *, answered: bool) -> "dict[str, TenantSettings]":
    """The settings records; none, with a note, where only the schedulers can be reached."""
    from streamsched.client import ReadError  # noqa: PLC0415 - loads librdkafka
    from streamsched.kafka.connection import KafkaProblem  # noqa: PLC0415

    try:
        with connected(settings, Operation.READ, settings.names.tenant_settings) as client:
            return client.tenants()
    except (KafkaProblem, ReadError, CommandError) as error:
        if not answered:
            raise
        say(f"published settings are left out: {error}")
        return {}


def _row(name: str, own: "TenantSettings | None", state: dict[str, Any] | None) -> dict[str, Any]:
    """A line of the table: what applies, where a scheduler says it, else what was published."""
    shown: dict[str, Any] = {} if own is None else asdict(own)
    shown.update(state or {})
    notes = []
    if own is not None and own.fault:
        notes.append(f"newest settings are invalid: {own.fault}")
    if state is not None and state.get("reason"):
        notes.append(str(state["reason"]))
    return {**shown, "tenant": name, "note": "; ".join(notes)}
