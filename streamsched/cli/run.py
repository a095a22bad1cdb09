"""`streamsched run` and `streamsched dev`: schedulers, and one with all that it needs."""

import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Final

import typer

from streamsched.cli.broker import DEFAULT_PORT, Port, broker_folder
from streamsched.cli.errors import EXIT_FAILED, CommandError, say
from streamsched.cli.options import with_settings
from streamsched.cli.output import show_line
from streamsched.cli.pages import is_ready, page_url
from streamsched.cli.processes import Children, Ended, settings_environment
from streamsched.kafka.signals import interrupted_by_signals

if TYPE_CHECKING:
    from streamsched.kafka.embedded import EmbeddedKafka
    from streamsched.settings import Settings

PROCESSES_MAX: Final = 64
READY_ASK_SECONDS: Final = 0.3

SCHEDULER: Final = "the scheduler"
KAFKA: Final = "the embedded Kafka"


@with_settings
def run(
    settings: "Settings",
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            max=PROCESSES_MAX,
            help="Schedulers to run; each one has a data folder and a web port of its own.",
        ),
    ] = 1,
) -> None:
    """Run a scheduler on the configured cluster until SIGTERM or Ctrl-C.

    Of several processes, one that ends takes the others down, so that whoever started them sees
    it; web ports count up from the configured one.
    """
    if processes == 1:
        check_data_folder(settings.data_dir / settings.app_id)
        raise typer.Exit(_run_here(settings))
    last_port = settings.web_port + processes - 1
    if settings.web_port and last_port > 65_535:
        raise typer.BadParameter(f"{processes} web ports from {settings.web_port} on do not exist")
    children = Children()
    with interrupted_by_signals():
        try:
            for number in range(processes):
                own = settings.model_copy(
                    update={
                        "data_dir": process_folder(settings, number),
                        "web_port": settings.web_port and settings.web_port + number,
                        "group_instance_id": settings.group_instance_id
                        and f"{settings.group_instance_id}.{number}",
                    }
                )
                name = f"scheduler {number + 1} of {processes}"
                children.start(name, ["run"], settings_environment(own))
            ended = children.wait()
            assert ended is not None
            raise CommandError(f"{ended}, so the others were stopped; its own messages say why")
        except KeyboardInterrupt:
            pass
        finally:
            well = children.stop()
    if not well:
        raise CommandError("a scheduler did not stop in order; its own messages say why")


def check_data_folder(folder: Path) -> None:
    """Look whether the stores under `folder` can be used, before the group is disturbed.

    Raises `CommandError` where it cannot be written, `StoreError` for a store that this version
    cannot read.
    """
    from streamsched.store.errors import StoreCorrupt  # noqa: PLC0415 - loads RocksDB
    from streamsched.store.folder import FORMAT_FILE, prepare  # noqa: PLC0415

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise CommandError(
            f"data folder {folder} cannot be written ({error.strerror}): check rights and space, "
            "or choose another one with --data-dir"
        ) from error
    for format_file in sorted(folder.glob(f"*/{FORMAT_FILE}")):
        # A damaged store is no reason not to start: it is rebuilt from the changelog.
        with suppress(StoreCorrupt):
            prepare(format_file.parent)


def process_folder(settings: "Settings", number: int) -> Path:
    """The data folder of one of several processes; no application id can be this name."""
    return settings.data_dir / f"process.{number}"


@with_settings
def dev(settings: "Settings", port: Port = DEFAULT_PORT) -> None:
    """Run Kafka, its topics and a scheduler together until Ctrl-C.

    Prints Kafka's address on standard output once it is ready. Data stays in the data folder.
    """
    from streamsched.kafka.embedded import EmbeddedKafka  # noqa: PLC0415 - loads librdkafka

    kafka = EmbeddedKafka(broker_folder(settings), port, long_lived=True)
    children = Children()
    with interrupted_by_signals():
        try:
            kafka.start()
            own = settings.model_copy(update={"bootstrap_servers": kafka.bootstrap_servers})
            _make_topics(own)
            show_line(kafka.bootstrap_servers)
            children.start(SCHEDULER, ["run"], settings_environment(own))
            _watch(kafka, children)
            ended = _wait_saying(
                children,
                lambda: is_ready(page_url(own)),
                lambda: _say_ready(own),
            )
            log = f"; the end of its log:\n{kafka.log_tail()}" if ended.name == KAFKA else ""
            raise CommandError(f"{ended}{log}")
        except KeyboardInterrupt:
            say("stopping")
        finally:
            well = children.stop()
            kafka.stop()
    if not well:
        raise typer.Exit(EXIT_FAILED)


def _run_here(settings: "Settings") -> int:
    from streamsched.engine.runners import runners_factory  # noqa: PLC0415 - loads Faust
    from streamsched.engine.worker import run_worker  # noqa: PLC0415

    return run_worker(settings, runners_factory(settings))


def _make_topics(settings: "Settings") -> None:
    from streamsched.kafka import admin  # noqa: PLC0415 - loads librdkafka

    admin.apply(settings, settings.names)
    faults = admin.check(settings, settings.names)
    if faults:
        raise CommandError("; ".join(faults))


def _watch(kafka: "EmbeddedKafka", children: Children) -> None:
    """Report the end of Kafka as that of a child; after an orderly stop nobody listens."""

    def watch() -> None:
        while not kafka.wait(3_600):
            pass
        children.report(Ended(KAFKA, EXIT_FAILED))

    threading.Thread(target=watch, daemon=True).start()


def _wait_saying(
    children: Children, is_so: Callable[[], bool], say_it: Callable[[], None]
) -> Ended:
    """Wait until something ends, and call `say_it` once when `is_so()` holds for the first time."""
    said = False
    while True:
        ended = children.wait(None if said else READY_ASK_SECONDS)
        if ended is not None:
            return ended
        if is_so():
            said = True
            say_it()


def _say_ready(settings: "Settings") -> None:
    where = f"--bootstrap-servers {settings.bootstrap_servers}"
    if settings.app_id != "streamsched":
        where += f" --app-id {settings.app_id}"
    pages = page_url(settings) if settings.web_port else "a free port"
    say(f"ready; Kafka at {settings.bootstrap_servers}, pages at {pages}. In another terminal:")
    for example in (
        f"jobs submit {where} --tenant acme --delay 5s --payload hello",
        f"egress tail acme {where} --from-beginning",
    ):
        print(f"  streamsched {example}", file=sys.stderr, flush=True)
