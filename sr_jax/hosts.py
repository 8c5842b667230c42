"""The processes of a run: how they find each other, and what they agree on.

A process is what `jax.process_index()` numbers: a host of a TPU pod, or one of
several on a host with GPUs. Where there is one, nothing here needs a network.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

#: Where SLURM and Open MPI say how many processes they started.
_COUNTS = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
#: Seconds: to find each other, and to end together.
_WAIT, _LEAVE = 300, 10


#: Of `connect`.
FLAGS = ("coordinator", "num_processes", "process_id")


def define_flags() -> None:
  """Those of `FLAGS`, for a program's command line."""
  flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, if no cluster says it."
  )
  flags.DEFINE_integer("num_processes", None, "Of the run; 1 asks no cluster.")
  flags.DEFINE_integer("process_id", None, "Of this process, from 0.")


def connect(
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  *,
  timeout: int = _WAIT,
) -> None:
  """Joins the other processes of the run, where there are any.

  Before any other use of JAX. With no argument the cluster is asked, as JAX
  does it (TPU VMs and GKE, SLURM, Open MPI, Kubernetes); without one, as on a
  laptop, this process is alone.

  Args:
    coordinator: "host:port" of process 0, which must be free there.
    num_processes: Of the run; 1, without the others, asks no cluster.
    process_id: Of this process, from 0.
    timeout: Seconds to wait for the others, after which JAX ends the process.

  Raises:
    ValueError: the three do not make sense together, or what the cluster says
      of itself does not.
  """
  _check(coordinator, num_processes, process_id)
  if coordinator is not None:
    print(
      f"process {process_id} of {num_processes} waits for the others, "
      f"{timeout} s at most, at {coordinator}",
      file=sys.stderr,
      flush=True,
    )
    jax.distributed.initialize(
      coordinator,
      num_processes,
      process_id,
      cluster_detection_method="deactivate",
      initialization_timeout=timeout,
    )
  elif num_processes is None and not _alone():
    _ask_cluster(timeout)


def _check(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  given = {
    "--coordinator": coordinator,
    "--num_processes": num_processes,
    "--process_id": process_id,
  }
  missing = [name for name, value in given.items() if value is None]
  if num_processes is not None and num_processes < 1:
    raise ValueError(f"--num_processes {num_processes} must be at least 1")
  if len(missing) == 3 or (len(missing) == 2 and num_processes == 1):
    return
  if missing:
    raise ValueError(
      f"{', '.join(given)} go together; {' and '.join(missing)} not given "
      "(none of them: the cluster is asked; --num_processes=1: it is not)"
    )
  host, _, port = (coordinator or "").rpartition(":")
  if not host or not port.isdigit() or not 0 < int(port) < 65536:
    raise ValueError(
      f"--coordinator '{coordinator}' is not HOST:PORT, such as 10.0.0.1:8476"
    )
  if not 0 <= (process_id or 0) < (num_processes or 0):
    raise ValueError(
      f"--process_id {process_id} is not in [0, --num_processes "
      f"{num_processes})"
    )


def _alone() -> bool:
  """Whether the launcher started one process.

  JAX would join it with itself, and show it one of the host's GPUs.
  """
  return {os.environ[x] for x in _COUNTS if x in os.environ} == {"1"}


def _ask_cluster(timeout: int) -> None:
  try:
    jax.distributed.initialize(initialization_timeout=timeout)
  except Exception as error:
    # What JAX says where it finds no cluster.
    if "coordinator_address should be defined" in str(error):
      _check_mpi()
      return
    raise ValueError(
      "this machine seems to be part of a cluster, but "
      f"{' '.join(str(error).split())}; --num_processes=1 runs this process "
      "alone, and --coordinator, --num_processes and --process_id together "
      "join it to others"
    ) from error


def _check_mpi() -> None:
  """Open MPI 5 starts processes that JAX does not find; each would run alone.

  SLURM's count says nothing here: a script without srun has it too.
  """
  count = os.environ.get("OMPI_COMM_WORLD_SIZE", "1")
  if count != "1":
    raise ValueError(
      f"Open MPI started {count} processes, in a way that JAX cannot read; add "
      "--coordinator=HOST:PORT --num_processes=$OMPI_COMM_WORLD_SIZE "
      "--process_id=$OMPI_COMM_WORLD_RANK"
    )


@contextlib.contextmanager
def leaving_in_time() -> Iterator[None]:
  """A process that fails ends, though the others do not end with it.

  JAX would wait minutes for them, while they wait for this one's part of what
  they compute, and then end all with a page each. Once it is gone they are told
  at once, or by a heartbeat that is missing (a TPU, after 100 s).
  """
  try:
    yield
  except BaseException as error:
    if jax.distributed.is_initialized():
      code = getattr(error, "code", 1)
      end_in_time(code if isinstance(code, int) else 1)
    raise


def end_in_time(code: int) -> None:
  """An orderly end may take a while, and then ends all the same."""
  ends = threading.Timer(_LEAVE, os._exit, [code])
  ends.daemon = True
  ends.start()


def gather(value: Any) -> list[Any]:
  """What each process gives, in their order; all must call it together.

  Args:
    value: Anything JSON can hold; floats come back bit by bit, NaN too, and
      tuples as lists.
  """
  if jax.process_count() == 1:
    return [json.loads(json.dumps(value))]
  text = np.frombuffer(json.dumps(value).encode(), np.uint8)
  lengths = multihost_utils.process_allgather(np.array(text.size, np.int32))
  padded = np.zeros(int(lengths.max()), np.uint8)
  padded[: text.size] = text
  rows = multihost_utils.process_allgather(padded)
  return [
    json.loads(row[:size].tobytes())
    for row, size in zip(rows, lengths.tolist(), strict=True)
  ]


def together(make: Callable[[], Any]) -> Any:
  """What each process makes; if one cannot, none goes on.

  Args:
    make: Called on every process. An OSError or ValueError is what may be
      wrong on one host alone.

  Raises:
    OSError, ValueError: that of one process alone; of several a ValueError, on
      every one, with the first one's words.
  """
  if jax.process_count() == 1:
    return make()
  made, problem = None, None
  try:
    made = make()
  except (OSError, ValueError) as error:
    problem = str(error)
  problems = [x for x in gather(problem) if x is not None]
  if problems:
    raise ValueError(problems[0])
  return made


def on_all(flag: bool) -> bool:
  """Whether it is so on every process; all must call it together."""
  return all(gather(flag))


def from_first(value: Any) -> Any:
  """What process 0 gives, on all; see `gather`."""
  return gather(value if jax.process_index() == 0 else None)[0]


def check_alike(values: Mapping[str, Any]) -> None:
  """Refuses to go on where the processes do not have the same before them.

  Args:
    values: What must be alike, by what it is called.

  Raises:
    ValueError: on every process, naming what is not.
  """
  found = gather(dict(values))
  for name in sorted(set().union(*found)):
    each = [x.get(name) for x in found]
    if len({json.dumps(x) for x in each}) > 1:  # of NaN too the same
      told = f" ({each})" if len(str(each)) < 200 else ""
      raise ValueError(
        f"the {len(each)} processes do not have the same {name}{told}; give "
        "all of them the same command, data, and workdir on a file system that "
        "they share"
      )
