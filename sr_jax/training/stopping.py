"""Requests to stop: at the end of a step, and the same step on every host."""

import contextlib
import itertools
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

# Of the service of this process, which forgets none of the numbers that it was
# asked with.
_NUMBERS = itertools.count(1)


class Stopped(SystemExit):
  """The run was asked to stop, and its state is safe.

  Uncaught it ends the process with 128 and the number of the signal: 143 of
  SIGTERM, 130 of SIGINT.
  """

  def __init__(self, number: int):
    super().__init__(128 + number)
    self.signal = signal.Signals(number)


class StopRequests:
  """Notes SIGTERM and SIGINT (Ctrl-C) until a step is at its end.

  Over several processes jax's preemption service does, which
  `jax.distributed.initialize` starts: a SIGTERM to any of them, which is also
  how a cloud tells that it takes a machine away, is found at one step by all,
  and by the first `asked` if it came before. A Ctrl-C is not shared there, and
  ends its process as it always does.

  As a context it puts the former handlers back. Until `begin`, there is no
  step to wait for, and in a run of one process both signals end it at once; so
  does a second SIGINT always.
  """

  def __init__(self):
    self._number: int | None = None
    self._at_once = True
    self._begun = False
    self._former: dict[int, Any] = {}

  def __enter__(self) -> "StopRequests":
    main = threading.current_thread() is threading.main_thread()
    if main and jax.process_count() == 1:
      for number in (signal.SIGTERM, signal.SIGINT):
        self._former[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_: Any) -> None:
    for number, handler in self._former.items():
      signal.signal(number, handler)

  def begin(self) -> None:
    """From here on there are steps to wait for."""
    self._begun, self._at_once = True, False

  @contextlib.contextmanager
  def at_once(self) -> Iterator[None]:
    """Raises `Stopped` within, wherever it is: for what can be done again."""
    self._at_once = True
    try:
      if self._number is not None:  # since it was last asked
        raise Stopped(self._number)
      yield
    finally:
      self._at_once = False

  def asked(self) -> bool:
    """Whether to stop now. All processes call it together.

    Returns:
      The same on every process.
    """
    if jax.process_count() == 1:
      return self._number is not None
    # The service agrees on one more than the highest number it was asked with
    # so far, and on no later one: so not a run's own steps, which begin at any.
    try:
      return multihost_utils.reached_preemption_sync_point(next(_NUMBERS))
    except RuntimeError:  # switched off, by jax_enable_preemption_service
      return False

  @property
  def reason(self) -> signal.Signals:
    """Of the stop; the service tells none but SIGTERM."""
    return signal.Signals(self._number or signal.SIGTERM)

  def _note(self, number: int, frame: Any) -> None:
    again = self._number is not None
    if number == signal.SIGINT and (again or not self._begun):
      raise KeyboardInterrupt
    self._number = self._number or number
    if not again:
      text = b"stopping at the end of this step"
      hint = b"; Ctrl-C again stops at once" * (number == signal.SIGINT)
      if self._at_once:
        text, hint = b"stopping", b""
      with contextlib.suppress(OSError):
        os.write(2, b"\n" + text + hint + b"\n")  # print is not safe here
    if self._at_once:
      self._at_once = False
      raise Stopped(number)


def hidden_stop(
  error: BaseException, handled: BaseException | None
) -> BaseException | None:
  """The stop that a library took for an error of its own, if it was one.

  orbax catches what ends a process, too, and says that it could not read.

  Args:
    error: What the library raised.
    handled: What was being handled when it was called, and is no cause of it.

  Returns:
    What ends the process, or None: the error is the library's own.
  """
  cause: BaseException | None = error
  while cause is not None and cause is not handled:
    if isinstance(cause, (SystemExit, KeyboardInterrupt)):
      return cause
    cause = cause.__cause__ or cause.__context__
  return None


def close_at_end(stack: contextlib.ExitStack, part: Any) -> None:
  """Closes a part of the run; what stopped the run is what is told."""

  def close(kind: Any, *_: Any) -> None:
    hidden = () if kind is None else (Exception,)
    with contextlib.suppress(*hidden):
      part.close()

  stack.push(close)
