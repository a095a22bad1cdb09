"""`streamsched demo`: Kafka, a scheduler and traffic of 20 tenants, judged from outside."""

from typing import Annotated, Final

import typer

from streamsched.cli.errors import CommandError, say
from streamsched.cli.output import Format, Output, show_json
from streamsched.kafka.signals import interrupted_by_signals

TRAFFIC_SECONDS: Final = 50
TRAFFIC_SECONDS_MIN: Final = 30
EXIT_INTERRUPTED: Final = 130


def demo(
    seconds: Annotated[
        int,
        typer.Option(
            min=TRAFFIC_SECONDS_MIN, help="How long traffic lasts; the steps are spread over it."
        ),
    ] = TRAFFIC_SECONDS,
    output: Output = Format.TABLE,
) -> None:
    """Show it all: Kafka, a scheduler that gets killed, and 20 tenants' traffic.

    Needs nothing but this program and takes a temporary folder. A checker that reads the topics
    alone judges every promise in the end; the exit status is 1 if one was seen broken.
    """
    from streamsched.demo.play import DemoError, play  # noqa: PLC0415 - loads librdkafka
    from streamsched.demo.reader import ReaderError  # noqa: PLC0415
    from streamsched.demo.screen import Screen  # noqa: PLC0415
    from streamsched.demo.traffic import TrafficError  # noqa: PLC0415

    with interrupted_by_signals():
        try:
            outcome = play(seconds, Screen(on_stderr=output is Format.JSON))
        except KeyboardInterrupt:
            say("interrupted; everything was stopped, and nothing is left behind")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except (DemoError, ReaderError, TrafficError) as error:
            raise CommandError(str(error)) from error
    if output is Format.JSON:
        promises = [
            {
                "promise": verdict.promise,
                "kept": verdict.kept,
                "checked": verdict.checked,
                "broken": list(verdict.broken),
            }
            for verdict in outcome.verdicts
        ]
        show_json({"dispatched": outcome.dispatched, "promises": promises})
    if not outcome.kept:
        broken = [verdict.promise for verdict in outcome.verdicts if not verdict.kept]
        raise CommandError(f"promises seen broken: {', '.join(broken)}")
    say(f"all promises kept over {outcome.dispatched:,} dispatched jobs")
