"""`streamsched egress`: what was dispatched."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from streamsched.cli.errors import SentenceGroup, say
from streamsched.cli.options import with_settings
from streamsched.cli.output import Format, Output, printable, show_json_line, show_line, time_text
from streamsched.cli.sdk import connected
from streamsched.kafka.rights import Operation

if TYPE_CHECKING:
    from streamsched.client import Dispatched
    from streamsched.settings import Settings

app = typer.Typer(cls=SentenceGroup, no_args_is_help=True, help="What was dispatched.")


@app.callback()
def egress() -> None:
    """What was dispatched."""


@app.command("tail")
@with_settings
def tail(
    settings: "Settings",
    tenant: Annotated[str, typer.Argument(help="The tenant's name.", show_default=False)],
    *,
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="What lies in the topic already, too.")
    ] = False,
    max: Annotated[  # noqa: A002
        int | None, typer.Option(min=1, help="End after so many jobs.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="End after so many seconds without a job.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Print a tenant's dispatched jobs as they come, until Ctrl-C.

    A line a job: when it was dispatched, how late that was, its id and its payload; with -o json
    a JSON object a line. Only what was committed is read.
    """
    with connected(settings, Operation.READ, settings.names.tenant_settings) as client:
        count = 0
        try:
            with client.dispatched(tenant, from_beginning=from_beginning, timeout=timeout) as jobs:
                if jobs.missing_topic:
                    say(
                        f"waiting for topic {jobs.missing_topic}, which does not exist yet: it is "
                        f"made before the first job of tenant {tenant} is due"
                    )
                for job in jobs:
                    if output is Format.JSON:
                        show_json_line(_fields(job))
                    else:
                        show_line(_line(job))
                    count += 1
                    if count == max:
                        break
        except KeyboardInterrupt:
            pass
    say(f"{count} jobs of tenant {tenant}")


def _line(job: "Dispatched") -> str:
    late_ms = job.dispatched_at_ms - job.due_at_ms
    payload = printable(job.value.decode("utf-8", "backslashreplace"))
    return (
        f"{time_text(job.dispatched_at_ms)}  late {late_ms:>6} ms  {printable(job.id)}  {payload}"
    )


def _fields(job: "Dispatched") -> dict[str, Any]:
    from base64 import b64encode  # noqa: PLC0415 - for bytes that are no text

    def text(name: str, value: bytes | None) -> dict[str, str | None]:
        try:
            return {name: None if value is None else value.decode()}
        except UnicodeDecodeError:
            return {f"{name}_base64": b64encode(value or b"").decode()}

    return {
        "tenant": job.tenant,
        "id": job.id,
        "due_at": job.due_at_ms,
        "dispatched_at": job.dispatched_at_ms,
        "occurrence": job.occurrence,
        "source": job.source,
        **text("key", job.key),
        **text("payload", job.value),
        "headers": [{"name": name, **text("value", value)} for name, value in job.headers],
        "topic": job.topic,
        "partition": job.partition,
        "offset": job.offset,
    }
