"""What Ctrl-C and the signals of a scheduler do to a run."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any, Self

import jax

from flaxfit.devices.distributed import ALONE, Team

SAME_SECONDS = 0.5  # signals within this time are one


class Signals:
    """Notes SIGINT, SIGTERM and SIGHUP while it is entered in the main thread, so that a run ends after its chunk and everything is saved.

    A second signal within half a second is ignored, because launchers forward the signals that their processes receive as well. A later
    one does at once what it would have done without this class. In another thread nothing is noted but a Ctrl-C that ended the main thread.

    Args:
      says: whether to say on standard error that a signal was noted.
    """

    def __init__(self, says: bool = True) -> None:
        self.heard: signal.Signals | None = None  # the first one
        self._says = says
        self._when, self._over = 0.0, threading.Event()
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # nohup ignores SIGHUP
                    self._old[number] = signal.signal(number, self._hear)
        elif not threading.current_thread().daemon:
            _hold_exit()
            _elsewhere.add(self)
        return self

    def __exit__(self, *error: object) -> None:
        if self.heard is not None and self._old:
            time.sleep(max(0.0, self._when + SAME_SECONDS - time.monotonic()))  # its forwarded copy may still come
        for number, old in reversed(self._old.items()):  # SIGINT last: what it raises must not keep the others from their handlers
            signal.signal(number, old)
        _elsewhere.discard(self)
        self._over.set()

    def end(self, message: str, result: Any, returns: bool, team: Team = ALONE) -> None:
        """Ends what was interrupted, after everything is saved and the former handlers are in place again.

        Args:
          message: what to say.
          result: what there is so far.
          returns: whether the caller returns `result` after SIGINT in a notebook or an interactive interpreter.
          team: the processes of the run; the first one says the message.

        Raises:
          KeyboardInterrupt: after SIGINT, with `result` as its attribute.
        """
        assert self.heard is not None
        if self.heard != signal.SIGINT:
            if team.leads:
                _say(f"{self.heard.name}: {message}")
            if team.size > 1:
                jax.distributed.shutdown()  # waits for the other processes, which would otherwise take this one for lost
            os.kill(os.getpid(), self.heard)
        elif returns and hasattr(sys, "ps1"):
            _say(f"Interrupted: {message}")
        else:
            error = KeyboardInterrupt(message)
            error.result = result  # pyright: ignore[reportAttributeAccessIssue]
            raise error

    def _hear(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.heard is None:
            self.heard, self._when = signal.Signals(number), now
            if self._says:
                _say(f"\n{self.heard.name}: the run ends after this chunk and is saved. A second signal ends it at once.")
        elif now - self._when >= SAME_SECONDS:
            signal.signal(number, self._old[number])
            os.kill(os.getpid(), number)


_elsewhere: set[Signals] = set()  # of runs in other threads than the main one


@functools.cache
def _hold_exit() -> None:
    """Has the interpreter wait for runs in other threads before it shuts down the thread pools with which they save."""
    with suppress(AttributeError, RuntimeError):  # no public function does this; the interpreter may be shutting down already
        threading._register_atexit(_wait_for_runs)  # pyright: ignore[reportAttributeAccessIssue]


def _wait_for_runs() -> None:
    for signals in list(_elsewhere):
        if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
            signals.heard = signal.SIGINT
        signals._over.wait()


def _say(line: str) -> None:
    with suppress(Exception):  # standard error may be closed, as under `| tee`, or be written to when the signal arrives
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
