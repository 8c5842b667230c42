"""Configs checked field by field, before anything is built from them."""

import contextlib
import difflib
import functools
import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath

from sr_jax.types import Config

#: Fields that may change when a run goes on; all else changes what it computes.
_MAY_CHANGE = (
  "data.cache",
  "data.data_dir",
  "data.timeout",
  "data.max_bad",
  "eval",
  "eval_every",
  "health",
  "keep_best",
  "keep_last",
  "log_every",
  "max_skipped",
  "mesh",
  "name",
  "published",
  "resume_changed",
  "steps",
)


#: Characters of the config that a run was begun with; a recipe's has 4 kB.
_MAX_STORED = 1 << 18
_MAX_NAME = 200
#: Fields that a message has of those that differ.
_SHOWN = 50


def bind(
  make: Callable[..., Any],
  section: str,
  given: Mapping[str, Any],
  *,
  later: tuple[str, ...] = (),
) -> Callable[..., Any]:
  """`make` with the fields of a section, its mistakes told by field.

  Raises:
    ValueError: a field that `make` does not take, or one that it lacks.
  """
  parameters = inspect.signature(make).parameters.values()
  known = [
    p.name
    for p in parameters
    if p.kind is not p.VAR_KEYWORD and p.name not in later
  ]
  open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
  for key in given:
    if key not in known and not open_ended:
      close = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
      raise ValueError(
        f"config.{section} has no field '{key}'; did you mean {close}? It "
        f"takes {known}"
      )
  for p in parameters:
    required = p.default is p.empty and p.name in known
    if required and p.name not in given:
      raise ValueError(f"config.{section}.{p.name} is missing")
  return functools.partial(make, **given)


def named(
  table: Mapping[str, Callable[..., Any]],
  section: str,
  given: Mapping[str, Any],
  *,
  later: tuple[str, ...] = (),
) -> Callable[..., Any]:
  """The function that the section's `name` picks, bound as by `bind`."""
  arguments = dict(given)
  name = arguments.pop("name", "")
  if name not in table:
    raise ValueError(
      f"config.{section}.name '{name}' is not one of {sorted(table)}"
    )
  return bind(table[name], section, arguments, later=later)


def positive(config: Config, *names: str) -> None:
  """Refuses fields, "data.batch_size", that are less than 1."""
  for name in names:
    value: Any = config
    for part in name.split("."):
      value = value[part]
    if value < 1:
      raise ValueError(f"config.{name} is {value}; it must be at least 1")


def not_negative(config: Config, *names: str) -> None:
  """Refuses weights, "loss.weight", that are negative, infinite or NaN.

  One that is a section stands for all its fields; one that is not there is
  its section's default.
  """
  for name in names:
    value: Any = config
    for part in name.split("."):
      value = value.get(part, 0.0)
    if hasattr(value, "keys"):
      not_negative(config, *(f"{name}.{field}" for field in value))
    elif not 0 <= value < math.inf:
      raise ValueError(
        f"config.{name} {value} must be finite and not negative; 0 leaves the "
        "term out"
      )


@contextlib.contextmanager
def told_of(config: Config, section: str) -> Iterator[None]:
  """Puts the section before a message, as one of its field where it is."""
  try:
    yield
  except ValueError as error:
    word = re.match(r"\w*", str(error))
    joint = "." if word and word[0] in config[section] else ": "
    raise ValueError(f"config.{section}{joint}{error}") from error


def check_unchanged(config: Config, stored: epath.Path) -> None:
  """Refuses to go on with what another config began.

  Args:
    config: Of this process.
    stored: `config.json` of the run, if there is one.

  Raises:
    ValueError: the fields that differ, with both values.
  """
  if not stored.exists() or config.resume_changed:
    return
  new = fields(config)
  try:
    text = stored.read_text()
    if len(text) > _MAX_STORED:
      raise ValueError(f"it has {len(text)} characters, over {_MAX_STORED}")
    read = json.loads(text)
    if not isinstance(read, dict):
      raise ValueError(f"it is a {type(read).__name__}")
    old = _flat(read)
  except (RecursionError, ValueError) as error:
    raise ValueError(
      f"{stored} is damaged ({error}); delete it if this is the config that "
      "the run was begun with"
    ) from error
  changed = [
    f"config.{key} was {old.get(key)!r}, is {new.get(key)!r}"
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key)
    and not any(key == x or key.startswith(x + ".") for x in _MAY_CHANGE)
  ]
  if changed:
    rest = len(changed) - _SHOWN
    raise ValueError(
      f"{stored.parent} holds a run of another config: "
      f"{'; '.join(changed[:_SHOWN])}{f'; {rest} more' * (rest > 0)}. "
      "Give another --workdir, or --config.resume_changed=True to go on with "
      "the new one"
    )


def schedule_notes(config: Config) -> list[str]:
  """Of schedules that end at another step than the run, which may be meant."""
  notes = []
  for name in ("schedule", "d_schedule"):
    periods = (config.get(name) or {}).get("periods") or ()
    if periods and sum(periods) != config.steps:
      flags = f'"--config.{name}.periods=({config.steps},)"'
      if len(periods) > 1:
        flags += f' "--config.{name}.restart_weights=(1.0,)"'
      notes.append(
        f"config.{name} ends at step {sum(periods):,}, and the run at "
        f"{config.steps:,}; {flags} would end both there"
      )
  return notes


def fields(config: Config) -> dict[str, Any]:
  """Those of a recipe by their names with dots, as JSON has them."""
  return _flat(json.loads(json.dumps(config.to_dict(), default=list)))


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  """`{"a": {"b": 1}}` as `{"a.b": 1}`."""
  flat = {}
  for key, value in tree.items():
    if len(prefix + key) > _MAX_NAME:
      raise ValueError(f"a field's name has over {_MAX_NAME} characters")
    if isinstance(value, dict):
      flat |= _flat(value, f"{prefix}{key}.")
    else:
      flat[prefix + key] = value
  return flat
