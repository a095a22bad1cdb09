"""Runs one command and ends it when whoever started it is gone. Imports nothing of ours.

    python -I -S guardian.py COMMAND ARGUMENT…

Standard input is the life line: when its other end closes, because the parent closed it or
because the parent died, the command gets SIGTERM, and SIGKILL if it does not end in time. The
kernel ends the command, too, should the guardian itself be killed. The parent cannot ask that
of the kernel directly: the request is tied to the parent's *thread*, and it needs a hook that
is unsafe to run in a process with threads.

SIGUSR1 suspends the command (SIGSTOP), SIGUSR2 lets it go on (SIGCONT). The guardian itself is
never suspended, so a suspended command does not outlive its parent either.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading

STOP_SECONDS = 15.0
SUSPEND = signal.SIGUSR1
RESUME = signal.SIGUSR2
_HANDLED = {signal.SIGTERM, SUSPEND, RESUME}
_PR_SET_PDEATHSIG = 1


def _prepare_child() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(command: list[str]) -> int:
    """Run `command` to its end; its exit status, negative for a signal."""
    # Ctrl-C is for the parent, which then closes the life line in its own order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A signal that comes before its handler waits for it: whoever sends one may have seen that the
    # child is up already.
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    ended_read, ended_write = os.pipe()
    # The hook is safe here: this process has one thread.
    child = subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.DEVNULL,
        preexec_fn=_prepare_child,  # noqa: PLW1509
    )

    def terminate() -> None:
        child.terminate()
        # One that is suspended would not hear of it.
        child.send_signal(signal.SIGCONT)

    signal.signal(signal.SIGTERM, lambda *_: terminate())
    signal.signal(SUSPEND, lambda *_: child.send_signal(signal.SIGSTOP))
    signal.signal(RESUME, lambda *_: child.send_signal(signal.SIGCONT))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    def announce_end() -> None:
        child.wait()
        os.close(ended_write)

    threading.Thread(target=announce_end, daemon=True).start()
    while True:
        readable, _, _ = select.select([0, ended_read], [], [])
        if ended_read in readable:
            return child.returncode
        if not os.read(0, 1024):
            break
    terminate()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
    return child.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]) & 0xFF)
