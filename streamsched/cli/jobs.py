"""`streamsched jobs`: submitting, cancelling and looking at jobs."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamsched.cli.errors import EXIT_FAILED, CommandError, SentenceGroup, say
from streamsched.cli.options import with_settings
from streamsched.cli.output import Format, Output, printable, show_fields, show_json
from streamsched.cli.pages import Answer, Urls, ask, urls_or_default
from streamsched.cli.sdk import connected
from streamsched.cli.values import read_delay, read_headers, read_moment
from streamsched.kafka.rights import Operation

if TYPE_CHECKING:
    from streamsched.cli.job_lines import Fault, Outcome
    from streamsched.settings import Settings

app = typer.Typer(cls=SentenceGroup, no_args_is_help=True, help="Submit, cancel and show jobs.")

Tenant = Annotated[str, typer.Argument(help="The tenant's name.", show_default=False)]
Id = Annotated[str, typer.Argument(help="The job's id.", show_default=False)]


@app.command("submit")
@with_settings
def submit(
    settings: "Settings",
    tenant: Annotated[
        str | None, typer.Option(help="Whose job it is; for JSON lines, of those without one.")
    ] = None,
    id: Annotated[str | None, typer.Option(help="Default: a fresh one.")] = None,  # noqa: A002
    due_at: Annotated[
        str | None,
        typer.Option(help="RFC 3339 with an offset (2026-01-31T10:00:00Z), or epoch ms."),
    ] = None,
    delay: Annotated[str | None, typer.Option(help="From now on: 250ms, 90s, 1h30m.")] = None,
    payload: Annotated[str | None, typer.Option(help="What the worker gets, as it is.")] = None,
    payload_file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="A file with the payload, any bytes."),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="May be repeated.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="Jobs with equal keys keep together.")] = None,
    expires_at: Annotated[
        str | None, typer.Option(help="Never dispatched after it; as --due-at.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Submit one job by options, or many as JSON lines on standard input.

    A line is an envelope: id, tenant, due_at or delay_ms, payload, key, headers, expires_at, op.
    """
    single = (id, due_at, delay, payload, payload_file, key, expires_at)
    if not header and all(value is None for value in single):
        _submit_lines(settings, tenant, output)
        return
    if tenant is None:
        raise typer.BadParameter("say whose job it is with --tenant")
    if (due_at is None) == (delay is None):
        raise typer.BadParameter("give one of --due-at and --delay")
    if (payload is None) == (payload_file is None):
        raise typer.BadParameter("give one of --payload and --payload-file")
    now_ms = time.time_ns() // 1_000_000
    job: dict[str, Any] = {
        "due_at": due_at and read_moment(due_at, "--due-at", now_ms, round_up=True),
        "delay": None if delay is None else read_delay(delay),
        "expires_at": expires_at
        and read_moment(expires_at, "--expires-at", now_ms, round_up=False),
        "headers": read_headers(header or []),
        "key": key,
    }
    body = _payload(payload, payload_file)
    with connected(settings, Operation.WRITE, settings.names.ingress(tenant)) as client:
        show_fields(client.submit(tenant, id, body, **job)._asdict(), output)


@app.command("cancel")
@with_settings
def cancel(settings: "Settings", tenant: Tenant, id: Id, output: Output = Format.TABLE) -> None:  # noqa: A002
    """Cancel a pending job.

    Whether it was still pending is told by the event cancelled or cancel_not_found.
    """
    with connected(settings, Operation.WRITE, settings.names.ingress(tenant)) as client:
        show_fields(client.cancel(tenant, id)._asdict(), output)


@app.command("show")
@with_settings
def show(
    settings: "Settings",
    tenant: Tenant,
    id: Id,  # noqa: A002
    url: Urls = None,
    output: Output = Format.TABLE,
) -> None:
    """Show a pending job, from the scheduler that holds it."""
    from urllib.parse import quote  # noqa: PLC0415 - needed here only

    path = f"/jobs/{quote(tenant, safe='')}/{quote(id, safe='')}"
    answers = ask(urls_or_default(url, settings), path)
    for answer in answers:
        if answer.status == 200:
            show_fields(answer.body, output)
            return
    raise CommandError(_why_not_shown(answers))


def _why_not_shown(answers: list[Answer]) -> str:
    said = [str(a.body["error"]) for a in answers if "error" in a.body]
    # Only the owner of the tenant's partition knows; what it says counts alone.
    known = [text for text in said if text.startswith("no pending job")]
    silent = [
        f"no scheduler answers at {a.url} ({a.fault or f'status {a.status}'})"
        for a in answers
        if "error" not in a.body
    ]
    remedy = "; name the running schedulers with --url" if not known else ""
    return "; ".join(known[:1] or [*said, *silent]) + remedy


def _submit_lines(settings: "Settings", tenant: str | None, output: Format) -> None:
    from streamsched.cli.job_lines import JobLines  # noqa: PLC0415 - loads librdkafka

    if sys.stdin.isatty():
        raise typer.BadParameter(
            "describe a job with --tenant, --delay and --payload, or send JSON lines on "
            "standard input"
        )
    # Each line may be of another tenant, whose topic is looked for when it is written to.
    topics = () if settings.tenant_ingress else (settings.names.jobs,)
    with connected(settings, Operation.WRITE, *topics) as client:
        lines = JobLines(client, tenant, _say_fault, _say_progress)
        try:
            outcome = lines.submit(sys.stdin.buffer)
        finally:
            if sys.stderr.isatty():
                print(file=sys.stderr)
    _show_outcome(outcome, output)
    if outcome.stopped:
        say(f"stopped before the end of the input: {outcome.stopped}")
    if outcome.faults:
        raise typer.Exit(EXIT_FAILED)


def _show_outcome(outcome: "Outcome", output: Format) -> None:
    counts = {
        "submitted": outcome.submitted,
        "cancelled": outcome.cancelled,
        "refused": len(outcome.faults),
    }
    if output is Format.JSON:
        show_json({**counts, "faults": [fault._asdict() for fault in outcome.faults]})
    else:
        show_fields(counts, output)


def _say_fault(fault: "Fault") -> None:
    say(f"line {fault.line}: {printable(fault.error)}")


def _say_progress(lines_read: int) -> None:
    if sys.stderr.isatty():
        print(f"\rstreamsched: {lines_read:,} lines read", end="", file=sys.stderr, flush=True)


def _payload(text: str | None, path: Path | None) -> bytes:
    if path is not None:
        try:
            return path.read_bytes()
        except OSError as error:
            raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    # Bytes of the command line that are no UTF-8 come as lone surrogates.
    return (text or "").encode("utf-8", "surrogateescape")
