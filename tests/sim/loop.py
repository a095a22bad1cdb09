"""An asyncio event loop with virtual time, on one thread, whose order of steps comes from a seed.

It never waits: when nothing can run it jumps to the next timer. Every step belongs to a simulated
process, which can be frozen (its steps wait) or killed (they never come). "Threads" are steps,
too: a blocking call is a function, or a generator that yields the seconds it blocks for.
"""

import asyncio
import contextvars
import heapq
import random
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from inspect import isgenerator
from typing import Any

PROCESS: contextvars.ContextVar[Any] = contextvars.ContextVar("process", default=None)
"""The simulated process that a step belongs to; `None` for the world around them."""

THREAD_SECONDS_MAX = 0.004
"""How long it takes at most until a thread runs a call."""


class Died(BaseException):
    """The process that did this is dead; not an `Exception`, so that nothing there catches it."""


STEPS_AT_ONE_MOMENT_MAX = 50_000


class SpinsError(AssertionError):
    """Steps follow each other without end while no time passes."""


class _Call:
    """A blocking call: a function, or a generator of the seconds that it blocks for."""

    def __init__(self, loop: "SimLoop", function: Callable[..., Any], arguments: Any) -> None:
        self._loop = loop
        self._function = function
        self._arguments = arguments
        self.future = loop.create_future()

    def begin(self) -> None:
        """What the thread does first; for a plain function that is all."""
        loop = self._loop
        loop.blocks_seconds = 0.0
        try:
            outcome = self._function(*self._arguments)
        except Died:
            return
        except Exception as error:  # noqa: BLE001 - it is for whoever waits for the call
            self._fail(error)
            return
        if isgenerator(outcome):
            self._advance(outcome)
        elif loop.blocks_seconds:
            loop.call_later(loop.blocks_seconds, self._finish, outcome)
        else:
            self._finish(outcome)

    def _advance(self, steps: Generator[float, None, Any]) -> None:
        try:
            seconds = next(steps)
        except StopIteration as end:
            self._finish(end.value)
        except Died:
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
        else:
            self._loop.call_later(seconds, self._advance, steps)

    def _finish(self, outcome: Any) -> None:
        if not self.future.done():
            self.future.set_result(outcome)

    def _fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class SimLoop(asyncio.AbstractEventLoop):
    """The part of an event loop that the engine uses."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._now = 0.0
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._count = 0
        self._frozen: dict[Any, list[asyncio.Handle]] = {}
        self.killed: set[Any] = set()
        self.blocks_seconds = 0.0
        """What a plain function says that it has blocked its thread for."""
        self.steps = 0
        self._steps_at_moment = 0
        self.shuffles = True
        self.unhandled: list[dict[str, Any]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        """All of them: those of the dead must not be collected before the end."""

    # --- what asyncio asks -----------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds since the simulation began."""
        return self._now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def call_later(
        self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + max(0.0, delay), callback, *args, context=context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are passed over when their time comes."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def bury(self) -> None:
        """End what never came to its end, once nothing of it can be seen any more."""
        asyncio._set_running_loop(self)
        try:
            for task in self._tasks:
                if not task.done():
                    # Left to the collector, they would run whenever it likes, and complain.
                    with suppress(BaseException):
                        task.get_coro().close()
        finally:
            asyncio._set_running_loop(None)
        self._tasks.clear()
        self._ready.clear()
        self._timers.clear()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), Died):
            return
        self.unhandled.append(context)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Run a blocking call as steps of the process that makes it."""
        del executor
        call = _Call(self, func, args)
        self.call_later(self._rng.random() * THREAD_SECONDS_MAX, call.begin)
        return call.future

    # --- what the simulation does ----------------------------------------------------------

    def spawn(self, process: Any, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start a task as a step of `process`."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        return context.run(self.create_task, coro, name=name)

    def post(self, process: Any, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        """Call back as a step of `process`."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        self.call_later(delay, callback, *args, context=context)

    def freeze(self, process: Any) -> None:
        """Hold back every step of `process` until `thaw`."""
        self._frozen.setdefault(process, [])

    def thaw(self, process: Any) -> None:
        """Let what was held back run, in its order."""
        self._ready.extend(self._frozen.pop(process, []))

    def is_frozen(self, process: Any) -> bool:
        return process in self._frozen

    def kill(self, process: Any) -> None:
        """Never run a step of `process` again."""
        self.killed.add(process)
        self._frozen.pop(process, None)

    def run_until(self, end: float, is_over: Callable[[], bool] = lambda: False) -> None:
        """Run every step up to the virtual moment `end`, or until `is_over`."""
        asyncio._set_running_loop(self)
        try:
            while not is_over():
                if not self._ready and not self._jump(end):
                    self._now = max(self._now, end)
                    return
                self._step()
        finally:
            asyncio._set_running_loop(None)

    def _jump(self, end: float) -> bool:
        """Move on to the next timer, unless it lies beyond `end`."""
        timers = self._timers
        while timers:
            when, _, handle = timers[0]
            if handle._cancelled:
                heapq.heappop(timers)
                continue
            if when > end:
                return False
            heapq.heappop(timers)
            if when > self._now:
                self._now = when
                self._steps_at_moment = 0
            self._ready.append(handle)
            return True
        return False

    def _step(self) -> None:
        ready = self._ready
        if len(ready) > 1 and self.shuffles and self._rng.random() < 0.3:
            ready.rotate(-self._rng.randrange(len(ready)))
        handle = ready.popleft()
        if handle._cancelled:
            return
        process = handle._context.get(PROCESS)
        if process is not None:
            if process in self.killed:
                return
            held = self._frozen.get(process)
            if held is not None:
                held.append(handle)
                return
        self.steps += 1
        self._steps_at_moment += 1
        if self._steps_at_moment > STEPS_AT_ONE_MOMENT_MAX:
            raise SpinsError(f"no end of steps at {self._now:.4f} s: {handle!r}")
        handle._run()
