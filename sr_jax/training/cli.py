"""What `train.py` does with its flags: one line for a mistake."""

import os
import re
import sys
from typing import NoReturn

from absl import flags
from etils import epath

from sr_jax import hosts
from sr_jax.training.aot import MOST, compile_for, largest_batch
from sr_jax.training.checkpoints import CheckpointError
from sr_jax.training.claim import BusyError
from sr_jax.training.feed import StalledError
from sr_jax.training.health import UnhealthyError
from sr_jax.training.loop import train
from sr_jax.types import Config

#: What ml_collections raises for a wrong recipe or field, and what a user can
#: mend in a run.
_MISTAKES = (
  flags.Error,
  AttributeError,
  KeyError,
  OSError,
  TypeError,
  ValueError,
)
_USER_ERRORS = (
  ValueError,
  OSError,
  BusyError,
  CheckpointError,
  UnhealthyError,
)


#: Parts of a recipe that have a name.
_NAMED = (
  "model",
  "discriminator",
  "loss",
  "optimizer",
  "d_optimizer",
  "schedule",
  "d_schedule",
)


def _fail(message: object, code: int = 2) -> NoReturn:
  print(f"train.py: {message}", file=sys.stderr)
  raise SystemExit(code)


def _reason(text: str) -> str:
  """Of what ml_collections says of a recipe, the part that helps."""
  missing = re.search(r"No such file or directory:\s*(\S+)", text)
  if missing:
    return f"there is no recipe {missing[1]}; see the folder configs/"
  if "has no attribute 'get_config'" in text:
    return "that file is no recipe: it has no get_config()"
  refused = re.findall(r"^ValueError: (.*)", text, re.MULTILINE)
  if refused:  # by the recipe itself
    return refused[-1]
  number = re.search(r"--(config\S*)=(.*): invalid literal for int", text)
  if number:
    return f"{number[1]} '{number[2]}' is no whole number"
  whole = re.search(r"--(config\S*)=.*Failed to parse '(.*)' as a Conf", text)
  if whole:
    field, value = whole.groups()
    named = field.rpartition(".")[2] in _NAMED and value.isidentifier()
    such = f", such as --{field}.name={value}" if named else ""
    return (
      f"{field} has several fields; set one of them{such} (configs/common.py "
      "lists them)"
    )
  unknown = re.search(r"'(\w+)\\?'.*Did you mean \"(\w+)\"", text, re.DOTALL)
  if unknown:
    return (
      f"a recipe has no field '{unknown[1]}'; did you mean '{unknown[2]}'? "
      "configs/common.py lists them"
    )
  field = re.fullmatch(r"[\"']+(\w+)[\"']+", text)
  if field:
    return (
      f"a recipe has no field '{field[1]}'; configs/common.py lists them all"
    )
  return text


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags and loads the recipe.

  Args:
    argv: The command.

  Returns:
    What is no flag: the program's name alone.

  Raises:
    SystemExit: after one line that says what is wrong.
  """
  try:
    rest = flags.FLAGS(argv)
    config = flags.FLAGS.config
    if config is not None:
      _ = config.name  # a recipe that could not be loaded fails here
  except _MISTAKES as error:
    _fail(_reason(str(error)))
  if len(rest) > 1:
    _fail(f"'{rest[1]}' belongs to no flag")
  if config is None:
    _fail("give a recipe: --config=configs/quickstart.py")
  return rest


def _compile(config: Config, topology: str, *, search: bool) -> None:
  tell = lambda found: print(f"{config.name} for {found}", flush=True)
  if not search:
    tell(compile_for(config, topology))
    return
  space = config.mesh.space
  unit = "a chip" if space == 1 else f"for every {space} chips"
  begin = lambda size: print(f"compiling {size} {unit}", file=sys.stderr)
  largest = largest_batch(config, topology, on_compiled=tell, on_begin=begin)
  about = " or more" if largest >= MOST else ""
  if largest // config.accumulate >= 32:  # looked for to a sixteenth
    about += ", to within a sixteenth"
  print(
    f"{config.name}: the largest batch {unit} that fits is {largest}{about}"
  )


def main(
  config: Config,
  *,
  workdir: str | None,
  data_dir: str | None,
  aot: str | None = None,
  aot_search: bool = False,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> None:
  """Trains what the flags say, or only compiles it.

  Args:
    config: The recipe.
    workdir: Of the run; `runs/<config.name>` where None.
    data_dir: Folder of the named sets, over the recipe's.
    aot: Topology to compile the step for, instead of training.
    aot_search: Look for the largest batch there, too.
    coordinator: Where process 0 of several is; see `hosts.connect`.
    num_processes: Of the run.
    process_id: Of this process.

  Raises:
    SystemExit: 2, after one line, for what a user can mend; 143 and 130 of a
      run that was stopped (`stopping`).
  """
  if data_dir:
    config.data.data_dir = data_dir
  with hosts.leaving_in_time():
    try:
      if aot_search and aot is None:
        raise ValueError("--aot_search needs a topology: --aot=v5e:2x2")
      processes = (coordinator, num_processes, process_id)
      if aot is not None:
        _refuse_processes(processes)
        _compile(config, aot, search=aot_search)
        return
      hosts.connect(*processes)
      train(config, epath.Path(workdir or f"runs/{config.name}"))
    except _USER_ERRORS as error:
      _fail(error)
    except StalledError as error:
      print(f"train.py: {error}", file=sys.stderr, flush=True)
      hosts.end_in_time(1)  # it may wait for threads that hang
      raise SystemExit(1) from None
    except KeyboardInterrupt:
      how = "the same command goes on from the newest checkpoint, if it has any"
      told = "stopped" if aot else f"stopped; {how}"
      print(f"train.py: {told}", file=sys.stderr, flush=True)
      # XLA may still compile in a thread, and would crash an orderly end.
      os._exit(130)


def _refuse_processes(given: tuple[str | int | None, ...]) -> None:
  if any(x is not None for x in given):
    raise ValueError(
      "--aot compiles on this machine alone; leave --coordinator, "
      "--num_processes and --process_id out"
    )
