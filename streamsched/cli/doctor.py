"""`streamsched doctor`: each link from here to Kafka in turn, and what to do about a broken one."""

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streamsched.cli.errors import EXIT_FAILED, CommandError
from streamsched.cli.options import with_settings
from streamsched.cli.output import Format, Output, printable, show_json, show_line, show_rows
from streamsched.cli.pages import Urls, health_faults, urls_or_default

if TYPE_CHECKING:
    from streamsched.settings import Settings

COLUMNS: Final = ("check", "outcome", "sentence")


@with_settings
def doctor(
    settings: "Settings",
    *,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Only ask the scheduler on this machine whether it works; within 5 s."
        ),
    ] = False,
    urls: Urls = None,
    output: Output = Format.TABLE,
) -> None:
    """Check each link from this machine to Kafka and say what to do; change nothing.

    Exit status 1 if a check failed. With --quick one line, and status 1 if a scheduler does not
    work.
    """
    if quick:
        _ask_schedulers(settings, urls, output)
        return
    if urls:
        raise typer.BadParameter("is only for --quick", param_hint="--url")
    from streamsched.doctor.checks import CHECKS  # noqa: PLC0415 - loads the Kafka clients
    from streamsched.doctor.checkup import Outcome, Subject, examine  # noqa: PLC0415

    # What Kafka's clients say themselves stands in the sentences, as far as it matters; without a
    # handler it would go to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    findings = examine(Subject(settings), CHECKS)
    failed = any(finding.outcome is Outcome.FAILED for finding in findings)
    rows = [asdict(finding) for finding in findings]
    if output is Format.JSON:
        show_json({"ok": not failed, "checks": rows})
    else:
        show_rows(rows, COLUMNS, output)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _ask_schedulers(settings: "Settings", urls: list[str] | None, output: Format) -> None:
    if urls is None and settings.web_port == 0:
        raise CommandError(
            "web_port is 0, so the scheduler's port is not known: set STREAMSCHED_WEB_PORT, or "
            "name the scheduler with --url"
        )
    faults = health_faults(urls_or_default(urls, settings))
    failed = any(faults.values())
    if output is Format.JSON:
        rows = [{"url": url, "ok": not fault, "fault": fault} for url, fault in faults.items()]
        show_json({"ok": not failed, "schedulers": rows})
    else:
        said = (printable(f"{url}: {fault or 'works'}") for url, fault in faults.items())
        show_line("; ".join(said))
    if failed:
        raise typer.Exit(EXIT_FAILED)
