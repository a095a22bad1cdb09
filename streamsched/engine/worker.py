"""The process around the app: event loop, signals, logs, and an end within bounded time."""

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn

import faust
import structlog
import uvloop
from mode import ServiceT

from streamsched.engine.librdkafka_log import LIBRDKAFKA_LOG
from streamsched.engine.partitions import OwnerFactory
from streamsched.engine.reader import StartError
from streamsched.settings import Settings, SettingsError

if TYPE_CHECKING:
    from streamsched.engine.app import SchedulerApp

STOP_SECONDS_MAX: Final = 7.0
"""From the signal to the end of an orderly stop, leaving the group included."""

ABANDON_SECONDS: Final = 9.0
"""From the signal to the end of the process, whatever hangs."""

REPEAT_SECONDS: Final = 5.0
"""How often one and the same trouble of a Kafka client is logged."""

GC_THRESHOLDS: Final = (100_000, 50, 100)

EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1

_FRAMEWORK_LOGGERS: Final = ("faust", "mode", "aiokafka", "asyncio")

_SERVICE_MESSAGE: Final = "[^"

log = structlog.get_logger()


class SchedulerWorker(faust.Worker):
    """Faust's worker, but SIGTERM is heard at any moment and nothing can delay the end.

    `faust worker` and `run_worker` both end up in `run`.
    """

    app: "SchedulerApp"

    def __init__(self, app: "SchedulerApp", *services: ServiceT, **options: Any) -> None:
        options.update(override_logging=False, redirect_stdouts=False)
        super().__init__(app, *services, **options)
        self.spinner = None

    def install_signal_handlers(self) -> None:
        """Nothing: `run` has installed its own before anything was started."""

    async def on_startup_finished(self) -> None:
        """Say so in the log, unless it has failed meanwhile."""
        if not self.app.should_stop:
            log.info("scheduler started", app_id=self.app.conf.id, pid=os.getpid())

    def execute_from_commandline(self) -> NoReturn:
        """Called by Faust's command line."""
        configure_logging(self.app.settings)
        raise SystemExit(self.run())

    def run(self) -> int:
        """Run until SIGTERM, SIGINT or a failure; return the exit status of the process."""
        # A cycle makes thousands of short-lived tuples and no reference cycles, so most runs of
        # the collector would look through all of them for nothing.
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            return self.loop.run_until_complete(self._run())
        finally:
            self.loop.close()

    async def _run(self) -> int:
        asked = asyncio.Event()
        for signum in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(signum, asked.set)
        running = asyncio.create_task(self.start(), name="worker")
        stop_asked = asyncio.create_task(asked.wait(), name="signals")
        await asyncio.wait({running, stop_asked}, return_when=asyncio.FIRST_COMPLETED)
        failure = None if asked.is_set() else self._failure(running)
        status = EXIT_DONE if failure is None else EXIT_FAILED
        watchdog = threading.Timer(ABANDON_SECONDS, _abandon, (status,))
        watchdog.daemon = True
        watchdog.start()
        if failure is not None:
            _tell(failure)
        await self._stop_orderly()
        await self._cancel_rest()
        watchdog.cancel()
        log.info("scheduler stopped", status=status)
        return status

    def _failure(self, running: "asyncio.Task[None]") -> BaseException | None:
        if running.done() and not running.cancelled() and running.exception() is not None:
            return running.exception()
        return self.crash_reason or self.app.crash_reason

    async def _stop_orderly(self) -> None:
        try:
            async with asyncio.timeout(STOP_SECONDS_MAX):
                await self.stop()
        except TimeoutError:
            log.warning("services did not stop in time", seconds=STOP_SECONDS_MAX)
        except Exception:
            log.exception("services failed while stopping")

    async def _cancel_rest(self) -> None:
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=1.0)
        with contextlib.suppress(Exception):
            await self.loop.shutdown_asyncgens()


def run_worker(settings: Settings, owner_factory: OwnerFactory) -> int:
    """Run a scheduler in this process until it is told to stop; return the exit status.

    SIGTERM and SIGINT leave the group at once; the process ends within `ABANDON_SECONDS`.
    """
    from streamsched.engine.app import create_app  # noqa: PLC0415 - the app names our worker

    configure_logging(settings)
    use_uvloop()
    asyncio.set_event_loop(asyncio.new_event_loop())
    try:
        app = create_app(settings, owner_factory)
    except (SettingsError, StartError) as error:
        _tell(error)
        return EXIT_FAILED
    worker = app.Worker(loop=asyncio.get_event_loop())
    assert isinstance(worker, SchedulerWorker)
    return worker.run()


def use_uvloop() -> None:
    """Make every event loop of the process, the reader's too, one of uvloop."""
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


def configure_logging(settings: Settings) -> None:
    """Send our logs and the libraries' to standard error, as text or as JSON lines.

    `auto` is text on a terminal and JSON elsewhere. The libraries say only what is wrong,
    unless the level is debug. Does nothing if the process has configured structlog already.
    """
    if structlog.is_configured():
        return
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    as_text = settings.log_format == "text" or (
        settings.log_format == "auto" and sys.stderr.isatty()
    )
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.PositionalArgumentsFormatter()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in _FRAMEWORK_LOGGERS:
        quiet = logging.getLogger(name)
        quiet.setLevel(level if level <= logging.DEBUG else logging.WARNING)
    # At debug it writes down each request, and the login by SASL PLAIN is one with the password.
    logging.getLogger("aiokafka.conn").setLevel(logging.WARNING)
    if level > logging.DEBUG:
        handler.addFilter(_worth_telling)
        handler.addFilter(_NotAgainYet())
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _worth_telling(record: logging.LogRecord) -> bool:
    """Drop what mode's services say in passing, and their crashes, which the worker tells once.

    Mode logs for a service of ours under the name of our module, so its level does not help;
    such messages begin with the service's place in the tree of services.
    """
    if record.exc_info and isinstance(record.exc_info[1], StartError):
        return False  # Told by the worker; asyncio tells it again where nobody waited for it.
    if (
        record.name == "concurrent.futures"
        and record.exc_info
        and isinstance(record.exc_info[1], RuntimeError)
    ):
        return False  # At the end: a call to the reader's loop is cancelled when that has closed.
    message = str(record.msg)
    if not message.startswith(_SERVICE_MESSAGE):
        return True
    return record.levelno >= logging.WARNING and "Crashed reason=" not in message


class _NotAgainYet:
    """Lets each kind of message of the Kafka clients through every few seconds.

    While a broker is away they say the same thirty times a second, each client for itself.
    """

    def __init__(self) -> None:
        self._told_at: dict[tuple[str, str], float] = {}

    def __call__(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(("aiokafka", LIBRDKAFKA_LOG.name)):
            return True
        # librdkafka's messages have one template; what kind they are stands in the first place.
        first = record.args[0] if isinstance(record.args, tuple) and record.args else ""
        kind = (record.msg, str(first) if record.name == LIBRDKAFKA_LOG.name else "")
        now = time.monotonic()
        if now - self._told_at.get(kind, -math.inf) < REPEAT_SECONDS:
            return False
        self._told_at[kind] = now
        return True


def _tell(failure: BaseException) -> None:
    if isinstance(failure, SettingsError | StartError):
        log.error(str(failure))
    else:
        log.critical("scheduler failed", exc_info=failure)


def _abandon(status: int) -> None:
    sys.stderr.write("streamsched: did not stop in time, abandoned\n")
    sys.stderr.flush()
    os._exit(status)
