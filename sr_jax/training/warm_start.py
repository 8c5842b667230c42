"""A run that begins from the parameters of another."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from sr_jax import weights
from sr_jax.data.sources import data_root
from sr_jax.evaluation.networks import load_network
from sr_jax.models import describe
from sr_jax.training.optimizers import Freeze
from sr_jax.training.state import TrainState
from sr_jax.types import Config, Variables
from sr_jax.weights import tree

_PARAMS = "params/"
#: Paths that a message names.
_SHOWN = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """Another network's variables, and what they lack.

  Attributes:
    variables: Of the other network.
    missing: Paths of the parameters that begin anew.
  """

  variables: Variables
  missing: list[str]


def read_starts(config: Config, model: Any) -> list[Start]:
  """What a run begins from, where it is not noise.

  Raises:
    FileNotFoundError, ValueError: as `read_parts` and `read_start`.
  """
  starts = []
  files = {part: file for part, file in config.init_parts.items() if file}
  if files:
    data_dir = config.data.data_dir or None
    starts.append(read_parts(files, model, data_dir=data_dir))
  if config.init_from:
    freeze = config.optimizer.freeze
    starts.append(read_start(config.init_from, model, freeze=freeze))
  return starts


def read_start(
  source: str, model: Any, *, freeze: Sequence[Freeze] = ()
) -> Start:
  """Reads the network that a run begins from, before there is a run.

  Args:
    source: A weight file, or the workdir of a run. Of PyTorch's files, which
      do not say their network, what fits the new one is taken.
    model: The network of the new run.
    freeze: Of the new run's optimizer.

  Returns:
    What `warm_start` takes.

  Raises:
    FileNotFoundError: no such file, or no weights in the workdir.
    ValueError: another class of network, less than half of the parameters are
      there, or what is not would stay frozen.
  """
  try:
    other, variables = _read(source, model)
  except (FileNotFoundError, ValueError) as error:
    raise type(error)(f"config.init_from: {error}") from error
  given = tree.flatten({"params": variables.get("params", {})})
  wanted = {
    k: v for k, v in tree.shapes(model).items() if k.startswith(_PARAMS)
  }
  missing = [
    path.removeprefix(_PARAMS)
    for path, shape in wanted.items()
    if path not in given or given[path].shape != shape
  ]
  frozen = any(
    start == 0 and re.search(pattern, path)
    for path in missing
    for pattern, start, _ in freeze
  )
  foreign = type(other) is not type(model)
  if foreign or frozen or 2 * len(missing) > len(wanted):
    (there, fields), (here, ours) = map(describe, (other, model))
    differ = [
      f"{key} {fields[key]} there and {ours[key]} here"
      for key in ours
      if there == here and fields[key] != ours[key]
    ]
    told = [
      f"config.init_from '{source}' is of another network: {there} there and "
      f"{here} here{''.join(f', {x}' for x in differ)}"
    ]
    if missing:
      rest = len(missing) - _SHOWN
      told.append(
        f"{', '.join(missing[:_SHOWN])}{f' and {rest} more' * (rest > 0)} are "
        "not in it, or of another shape"
        f"{', and would be frozen as they begin' * frozen}"
      )
    raise ValueError("; ".join(told))
  return Start(variables=variables, missing=missing)


def _read(source: str, model: Any, *, part: str = "") -> tuple[Any, Variables]:
  """The network and variables of a file; PyTorch's are as `model` has them."""
  if weights.is_pth(source):
    state_dict = weights.read_pth(source)
    return model, weights.matching_from_torch(model, state_dict, part=part)
  network = load_network(source)
  return network.model, network.variables


def read_parts(
  files: Mapping[str, str], model: Any, *, data_dir: str | None = None
) -> Start:
  """Reads parts of a network from weight files of those parts alone.

  Args:
    files: Name of a part, the first of its parameters' paths -> weight file,
      there or under the folder of the sets.
    model: The network of the new run.
    data_dir: That folder; SR_JAX_DATA where it is None.

  Returns:
    Those parts, for `warm_start`.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no such part, or the file is of another network.
  """
  shapes = {
    key.removeprefix(_PARAMS): shape
    for key, shape in tree.shapes(model).items()
    if key.startswith(_PARAMS)
  }
  parts = {}
  for name, file in files.items():
    wanted = {
      key.removeprefix(f"{name}/"): shape
      for key, shape in shapes.items()
      if key.startswith(f"{name}/")
    }
    if not wanted:
      known = sorted({key.partition("/")[0] for key in shapes})
      raise ValueError(
        f"config.init_parts.{name}: the model has no such part; it has {known}"
      )
    path = epath.Path(file).expanduser()
    path = path if path.exists() else data_root(data_dir) / file
    if not path.exists():
      raise FileNotFoundError(
        f"config.init_parts.{name} '{file}' is not there, nor in "
        f"{data_root(data_dir)}; give the file, "
        f"--config.init_parts.{name}=FILE, or a whole network to begin from, "
        "--config.init_from=RUN"
      )
    try:
      _, variables = _read(str(path), model, part=name)
    except ValueError as error:
      raise ValueError(f"config.init_parts.{name}: {error}") from error
    params = variables.get("params", {})
    # Of PyTorch's file it is a part already, of ours the extractor of IconVSR's
    # key frames is a part of EDVR, and a whole network has it too.
    for inside in (name, "features"):
      params = params.get(inside, params)
    given = {key: leaf.shape for key, leaf in _by_path(params)}
    missing = [key for key in wanted if given.get(key) != wanted[key]]
    if missing:
      raise ValueError(
        f"config.init_parts.{name} '{file}' is of another network: "
        f"{', '.join(missing[:_SHOWN])} and others, {len(missing)} in all, are "
        "not in it, or of another shape"
      )
    parts[name] = params
  return Start(variables={"params": parts}, missing=[])


def warm_start(state: TrainState, start: Start) -> TrainState:
  """Takes over what has the same path and shape in another network.

  Parameters, and the running statistics of BatchNorm.

  Args:
    state: Of the new run, at step 0.
    start: From `read_start`.

  Returns:
    The state, its moving average begun anew.
  """
  given = dict(_by_path(start.variables.get("params", {})))
  given_stats = dict(_by_path(start.variables.get("batch_stats", {})))

  def taken(given: dict[str, Any], old: Any) -> Any:
    def leaf(path: Any, x: jax.Array) -> jax.Array:
      found = given.get(_text(path))
      if found is None or found.shape != x.shape:
        return x
      value = np.asarray(found)
      return jax.make_array_from_callback(
        x.shape, x.sharding, lambda index: value[index]
      )

    return jax.tree_util.tree_map_with_path(leaf, old)

  params = taken(given, state.generator.params)
  net = state.generator.replace(
    params=params, batch_stats=taken(given_stats, state.generator.batch_stats)
  )
  if net.ema_params is not None:
    net = net.replace(ema_params=jax.tree.map(jnp.copy, params))
  return state.replace(generator=net)


def _text(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(variables: Any) -> list[tuple[str, Any]]:
  leaves = jax.tree_util.tree_leaves_with_path(variables)
  return [(_text(path), leaf) for path, leaf in leaves]
