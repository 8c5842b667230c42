"""Files that are damaged, and what a reader of one may do.

It loads, or raises an error that it documents: soon, and without taking far
more memory than the file has bytes.
"""

import contextlib
import resource
import signal
import struct
import tracemalloc
from typing import NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: Of the processor, told by SIGVTALRM (SIGPROF comes from jaxlib too, every 10
#: ms, in a process that compiled much); and of the clock, however busy it is.
SECONDS, BLOCKED = 5, 120
#: By how much tracing allocations slows a reader down: of an ncnn text of a
#: megabyte 1.0 and 1.5 seconds were 5.1 and 5.6.
_TRACED = 4
#: What a reader may allocate: a multiple of the file, and the cost of what it
#: makes of a file that is nearly empty (modules, caches, traced networks).
GROWTH, SLACK = 10, 8 << 20
# What the whole process may take beside what it has: what is not Python's.
_ROOM = 1 << 28

#: Values that lengths and counts are replaced by, and their sizes in bytes.
_LENGTHS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_LONG = (1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_FORMATS = ("<B", "<H", ">H", "<I", ">I", "<Q", ">Q")


class HungError(BaseException):
  """It took too long; a reader that catches all errors does not catch it."""


def seeded(examples):
  """The same inputs in every run, and no files of hypothesis'."""
  return settings(
    max_examples=examples,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
  )


def _place(size):
  return st.integers(0, max(size - 1, 0))


@st.composite
def damaged(draw, files):
  """One of the files, damaged up to three times over.

  Args:
    files: Whole files, which are also what is spliced in.
  """
  data = draw(st.sampled_from(files))
  for _ in range(draw(st.integers(1, 3))):
    data = draw(st.sampled_from(_DAMAGES))(draw, data, files)
  return data


def _cut(draw, data, files):
  return data[: draw(_place(len(data)))]


def _flip(draw, data, files):
  broken = bytearray(data)
  for _ in range(draw(st.integers(1, 4))):
    if broken:
      broken[draw(_place(len(broken)))] ^= 1 << draw(st.integers(0, 7))
  return bytes(broken)


def _splice(draw, data, files):
  """A part of it, or of another, put in between or over what is there."""
  other = draw(st.sampled_from([data, *files]))
  start, at = draw(_place(len(other))), draw(_place(len(data)))
  part = other[start : start + draw(st.integers(1, 200))]
  over = draw(st.booleans())
  return data[:at] + part + data[at + over * len(part) :]


def _drop(draw, data, files):
  at = draw(_place(len(data)))
  return data[:at] + data[at + draw(st.integers(1, 64)) :]


def _length(draw, data, files):
  """A number of 1 to 8 bytes is another: a length, if it hits one."""
  form = draw(st.sampled_from(_FORMATS))
  size = struct.calcsize(form)
  value = draw(st.sampled_from(_LENGTHS + _LONG * (size == 8)))
  at = draw(_place(len(data)))
  if draw(st.booleans()):
    at -= at % size
  number = struct.pack(form, value & ((1 << 8 * size) - 1))
  return data[:at] + number + data[at + size :]


def _digit(draw, data, files):
  """A number in a text is another."""
  places = [i for i, byte in enumerate(data[:20_000]) if chr(byte).isdigit()]
  if not places:
    return data
  at = draw(st.sampled_from(places))
  text = draw(
    st.sampled_from([b"-1", b"0", b"1e999", b"4294967296", b"9" * 99])
  )
  return data[:at] + text + data[at + 1 :]


_DAMAGES = (_cut, _flip, _flip, _splice, _drop, _length, _length, _digit)


class Outcome(NamedTuple):
  """What became of one file."""

  loaded: bool
  error: BaseException | None


def _hung(signum, frame):
  raise HungError(f"it takes more than {SECONDS} s")


@contextlib.contextmanager
def _bounded():
  """Ends what takes too long, and refuses what would fill the machine."""
  timers = {
    signal.SIGVTALRM: (signal.ITIMER_VIRTUAL, _TRACED * SECONDS),
    signal.SIGALRM: (signal.ITIMER_REAL, BLOCKED),
  }
  before = {number: signal.signal(number, _hung) for number in timers}
  limits = resource.getrlimit(resource.RLIMIT_AS)
  with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
  room = pages * resource.getpagesize() + _ROOM
  resource.setrlimit(resource.RLIMIT_AS, (room, limits[1]))
  for timer, seconds in timers.values():
    signal.setitimer(timer, seconds)
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_AS, limits)
    for timer, _ in timers.values():
      signal.setitimer(timer, 0)
    for number, handler in before.items():
      signal.signal(number, handler)


def read(reader, size, *, errors=(ValueError,), growth=GROWTH, slack=SLACK):
  """Runs `reader()` on a damaged file of this size; fails what it must not do.

  Returns:
    Whether it loaded, and else the error.
  """
  started = not tracemalloc.is_tracing()
  if started:
    tracemalloc.start()
  before, _ = tracemalloc.get_traced_memory()
  tracemalloc.reset_peak()
  outcome = Outcome(True, None)
  try:
    with _bounded():
      reader()
  except errors as error:
    outcome = Outcome(False, error)
  finally:
    _, peak = tracemalloc.get_traced_memory()
    if started:
      tracemalloc.stop()
  taken = peak - before
  assert taken <= growth * size + slack, f"{taken} bytes for {size}"
  told = outcome.error
  while told is not None:  # a reader that catches all errors hides it
    assert not isinstance(told, MemoryError), repr(told)
    told = told.__cause__
  return outcome
