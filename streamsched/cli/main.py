"""The program `streamsched`: all commands, and what is common to them."""

from typing import Annotated, Final

import typer

from streamsched import __version__
from streamsched.bench.cli import app as bench_app
from streamsched.cli import egress, jobs, tenants, topics
from streamsched.cli.broker import broker
from streamsched.cli.demo import demo
from streamsched.cli.doctor import doctor
from streamsched.cli.errors import DEBUG, SentenceGroup
from streamsched.cli.options import with_settings_options
from streamsched.cli.output import Format, Output, show_json, show_line
from streamsched.cli.run import dev, run

app = typer.Typer(
    cls=SentenceGroup,
    no_args_is_help=True,
    add_completion=False,
    # Sentences for what a user can cause, plain tracebacks for the rest.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
@with_settings_options
def streamsched(
    ctx: typer.Context,
    *,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error, too.")
    ] = False,
) -> None:
    """Hold jobs until they are due and dispatch them at each tenant's own rate, on Kafka.

    Start with `streamsched dev`.
    """
    ctx.meta[DEBUG] = debug


def version(output: Output = Format.TABLE) -> None:
    """Print the version."""
    if output is Format.JSON:
        show_json({"version": __version__})
    else:
        show_line(f"streamsched {__version__}")


RUNNING: Final = "Run"
USING: Final = "Use"
MEASURING: Final = "Look closer"

# What each line names is light to import; the commands load the rest when they run.
app.command("dev", rich_help_panel=RUNNING)(dev)
app.command("demo", rich_help_panel=RUNNING)(demo)
app.command("broker", rich_help_panel=RUNNING)(broker)
app.command("run", rich_help_panel=RUNNING)(run)
app.add_typer(topics.app, name="topics", rich_help_panel=RUNNING)
app.command("doctor", rich_help_panel=RUNNING)(doctor)
app.add_typer(jobs.app, name="jobs", rich_help_panel=USING)
app.add_typer(tenants.app, name="tenants", rich_help_panel=USING)
app.add_typer(egress.app, name="egress", rich_help_panel=USING)
app.add_typer(bench_app, name="bench", rich_help_panel=MEASURING)
app.command("version", rich_help_panel=USING)(version)


def main() -> None:
    """Entry point of the program."""
    app(prog_name="streamsched")


if __name__ == "__main__":
    main()
