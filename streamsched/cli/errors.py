"""Turning what a user can cause into one sentence on standard error and an exit status."""

import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2

DEBUG: Final = "debug"
"""Key of `--debug` in the context's `meta`, which all levels of a command share."""

# By name, so that the modules behind them are imported only by the commands that need them.
USER_ERRORS: Final = frozenset(
    {
        "streamsched.cli.errors.CommandError",
        "streamsched.client.delivery.DeliveryError",
        "streamsched.client.delivery.DeliveryErrors",
        "streamsched.client.tenants.ReadError",
        "streamsched.engine.reader.StartError",
        "streamsched.kafka.broker_node.EmbeddedKafkaError",
        "streamsched.kafka.connection.KafkaProblem",
        "streamsched.kafka.jars.JarError",
        "streamsched.settings.SettingsError",
        "streamsched.store.errors.StoreError",
    }
)
"""Exceptions whose text is a sentence for the user; their subclasses are meant too."""


class CommandError(Exception):
    """A command cannot do what it was asked for; the text is one sentence for the user."""

    exit_status = EXIT_FAILED


class UsageRefusedError(CommandError):
    """What was given cannot be meant: a rate, a tenant or a time that is none."""

    exit_status = EXIT_USAGE


def say(message: str) -> None:
    """A message for people: on standard error, so that standard output stays data."""
    print(f"streamsched: {message}", file=sys.stderr, flush=True)


def is_user_error(error: BaseException) -> bool:
    """Whether the text of `error` is meant for the user and a traceback would only hide it."""
    return any(f"{c.__module__}.{c.__qualname__}" in USER_ERRORS for c in type(error).__mro__)


class SentenceGroup(TyperGroup):
    """A group whose commands end with a sentence instead of a traceback.

    With `--debug` the traceback is shown; errors that nobody foresaw always show theirs.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if not is_user_error(error) or ctx.meta.get(DEBUG):
                raise
            say(str(error))
            raise typer.Exit(getattr(error, "exit_status", EXIT_FAILED)) from error
