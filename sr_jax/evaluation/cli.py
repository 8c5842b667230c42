"""What `eval.py` does with its flags: one line for a mistake."""

import signal
import sys
from typing import Any

import jax
from absl import flags

from sr_jax import hosts
from sr_jax.evaluation.run import run


def main(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  **options: Any,
) -> int:
  """Joins the other processes, if there are any, and evaluates.

  Args:
    coordinator: Where process 0 is; see `hosts.connect`.
    num_processes: That evaluate together.
    process_id: Of this process.
    **options: Of `run`.

  Returns:
    The exit code of `run`.
  """
  with hosts.leaving_in_time():
    try:
      hosts.connect(coordinator, num_processes, process_id)
    except ValueError as error:
      print(f"eval.py: {error}", file=sys.stderr)
      return 2
    if jax.distributed.is_initialized():
      # jax notes it, for runs that stop at the end of a step.
      signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
      return run(**options)
    except KeyboardInterrupt:
      print("eval.py: stopped", file=sys.stderr)
      raise SystemExit(130) from None


def parse_flags(argv: list[str]) -> list[str]:
  """Parses as absl does, with one line and exit code 2 on a wrong flag."""
  try:
    rest = flags.FLAGS(argv)
    if len(rest) > 1:
      raise flags.Error(
        f"'{rest[1]}' belongs to no flag; lists are written with commas"
      )
  except flags.Error as error:
    print(f"eval.py: {error}; see eval.py --help", file=sys.stderr)
    raise SystemExit(2) from None
  return rest
