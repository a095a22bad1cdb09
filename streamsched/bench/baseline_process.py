"""The baseline as a process of its own, so that its CPU is nobody else's.

    python -m streamsched.bench.baseline_process '{"bootstrap_servers": …}'

Prints one JSON object: `ingest`, and `dispatch` where it was asked for.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
import orjson
import uvloop

from streamsched.bench.bare_dispatch import dispatch
from streamsched.bench.bare_ingest import ingest
from streamsched.cli.errors import EXIT_FAILED, CommandError, say
from streamsched.core.names import TopicNames


@dataclass(frozen=True, slots=True)
class Order:
    """What to do. The ingress topic holds `jobs` jobs already; `folder` is for the stores."""

    bootstrap_servers: str
    app_id: str
    partitions: int
    jobs: int
    tenants: int
    folder: str
    with_dispatch: bool
    with_headers: bool


def main(argument: str) -> int:
    """Do it; the exit status."""
    order = msgspec.json.decode(argument, type=Order)
    names = TopicNames(order.app_id)
    folder = Path(order.folder)
    folder.mkdir(parents=True, exist_ok=True)
    work = (order.bootstrap_servers, names, order.partitions, order.jobs, folder)
    try:
        figures = {"ingest": uvloop.run(ingest(*work)).figures()}
        if order.with_dispatch:
            sent = uvloop.run(dispatch(*work, order.tenants, with_headers=order.with_headers))
            figures["dispatch"] = sent.figures()
    except CommandError as error:
        say(str(error))
        return EXIT_FAILED
    sys.stdout.buffer.write(orjson.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
