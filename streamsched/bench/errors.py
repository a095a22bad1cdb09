"""What a benchmark ends with when it cannot be measured."""

from streamsched.cli.errors import CommandError


class BenchError(CommandError):
    """A benchmark was not measured, or what it measured is wrong; one sentence for the user."""
