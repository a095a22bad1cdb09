"""`streamsched broker`: the embedded Kafka in the foreground."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streamsched.cli.options import with_settings

if TYPE_CHECKING:
    from streamsched.settings import Settings

DEFAULT_PORT: Final = 9092
"""The port in the default of `bootstrap_servers`, so that the commands find each other."""

NODES_MAX: Final = 9
"""Each node is a Java of half a gigabyte."""

Port = Annotated[
    int, typer.Option(min=0, max=65_535, help="Where Kafka listens; 0 takes a free port.")
]
Nodes = Annotated[
    int,
    typer.Option(
        min=1, max=NODES_MAX, help="Brokers; further ones listen on the ports that follow."
    ),
]

Secure = Annotated[
    bool,
    typer.Option("--secure", help="Ask for TLS and a password, and allow only what ACLs do."),
]


def broker_folder(settings: "Settings") -> Path:
    """Where the embedded Kafka keeps its data; no application id can be this name."""
    return settings.data_dir / "embedded.kafka"


@with_settings
def broker(
    settings: "Settings",
    port: Port = DEFAULT_PORT,
    nodes: Nodes = 1,
    *,
    secure: Secure = False,
) -> None:
    """Run a real Kafka in the foreground; nothing has to be installed for it.

    Prints its addresses on standard output once it is ready. SIGTERM or Ctrl-C stops it; its data
    stays in the data folder. With 3 nodes or more, 3 have each record and 2 must. A secured one
    names the file with the settings for clients on standard error.
    """
    from streamsched.kafka.embedded import run_foreground  # noqa: PLC0415

    run_foreground(broker_folder(settings), port, nodes=nodes, secure=secure)
