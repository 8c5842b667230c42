"""The files of metadata in orbax's checkpoints, which it does not check."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from sr_jax import hosts

#: What orbax writes of a checkpoint, and of what type.
_METADATA = {
  "item_handlers": (dict, str),
  "metrics": (dict,),
  "performance_metrics": (dict,),
  "init_timestamp_nsecs": (int,),
  "commit_timestamp_nsecs": (int,),
  "custom_metadata": (dict,),
}


def mend(directory: epath.Path) -> str | None:
  """Renames files of metadata that are damaged: orbax would open no other.

  Nothing is lost with them but a checkpoint's standing as best. All processes
  call it together.

  Returns:
    On all of them, what cannot be read or renamed.
  """
  problem = None
  if jax.process_index() == 0 and directory.is_dir():
    try:
      for pattern, whole in (
        ("*/metrics/metrics", _are_metrics),
        ("*/_CHECKPOINT_METADATA", _are_metadata),
      ):
        for path in directory.glob(pattern):
          with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if not _holds(path, whole):
              path.rename(path.parent / f"{path.name.lstrip('_')}.damaged")
    except OSError as error:
      problem = str(error)
  return hosts.from_first(problem)


def _holds(path: epath.Path, whole: Callable[[Any], bool]) -> bool:
  """Whether a file has JSON of a kind."""
  try:
    return whole(json.loads(path.read_text()))
  except (RecursionError, ValueError):
    return False


def _are_metrics(found: Any) -> bool:
  return isinstance(found, dict) and all(
    isinstance(x, (int, float)) for x in found.values()
  )


def _are_metadata(found: Any) -> bool:
  return isinstance(found, dict) and all(
    key in _METADATA
    and isinstance(x, (*_METADATA[key], type(None)))
    and not (isinstance(x, int) and not 0 <= x < 1 << 62)  # is no time
    for key, x in found.items()
  )
