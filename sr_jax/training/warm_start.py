"""A run that begins from the parameters of another."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from sr_jax.data.sources import data_root
from sr_jax.evaluation.networks import load_network
from sr_jax.training.optimizers import Freeze
from sr_jax.training.state import NetState, TrainState


def warm_start(
  state: TrainState, source: str, *, freeze: Sequence[Freeze] = ()
) -> tuple[TrainState, list[str]]:
  """Takes over what has the same path and shape in another network.

  Parameters, and the running statistics of BatchNorm.

  Args:
    state: Of the new run, at step 0.
    source: A weight file, or the workdir of a run.
    freeze: Of the new run's optimizer.

  Returns:
    The state, its moving average begun anew, and the paths of the parameters
    that were not found.

  Raises:
    FileNotFoundError: no such file, or no weights in the workdir.
    ValueError: less than half is there, or what is not would stay frozen.
  """
  variables = load_network(source).variables
  given = dict(_by_path(variables.get("params", {})))
  given_stats = dict(_by_path(variables.get("batch_stats", {})))
  params = state.generator.params
  missing = [
    path
    for path, leaf in _by_path(params)
    if path not in given or given[path].shape != leaf.shape
  ]
  frozen = any(
    start == 0 and re.search(pattern, path)
    for path in missing
    for pattern, start, _ in freeze
  )
  if frozen or 2 * len(missing) > len(jax.tree.leaves(params)):
    raise ValueError(
      f"config.init_from '{source}' is of another network: {missing} are not "
      "in it, or of another shape"
      f"{', and would be frozen as they begin' if frozen else ''}"
    )

  params = _taken(given, params)
  net = state.generator.replace(
    params=params, batch_stats=_taken(given_stats, state.generator.batch_stats)
  )
  return state.replace(generator=_average_anew(net)), missing


def begin_parts(
  state: TrainState, files: Mapping[str, str], *, data_dir: str | None = None
) -> TrainState:
  """Parts of the generator taken from weight files of those parts alone.

  Args:
    state: Of the new run, at step 0.
    files: Name of a part, the first of its parameters' paths -> weight file,
      there or under the folder of the sets.
    data_dir: That folder; SR_JAX_DATA where it is None.

  Returns:
    The state, its moving average begun anew.

  Raises:
    FileNotFoundError: no such file.
    ValueError: no such part, or the file is of another network.
  """
  net = state.generator
  for name, file in files.items():
    wanted = {
      path: leaf.shape
      for path, leaf in _by_path(net.params)
      if path.startswith(f"{name}/")
    }
    if not wanted:
      raise ValueError(
        f"config.init_parts.{name}: the model has no such part; it has "
        f"{sorted(net.params)}"
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
    # The extractor of IconVSR's key frames is a part of EDVR there too.
    given = {
      f"{name}/{key.removeprefix('features/')}": value
      for key, value in _by_path(load_network(str(path)).variables["params"])
    }
    missing = [
      key
      for key, shape in wanted.items()
      if key not in given or given[key].shape != shape
    ]
    if missing:
      raise ValueError(
        f"config.init_parts.{name} '{file}' is of another network: {missing} "
        "are not in it, or of another shape"
      )
    net = _average_anew(net.replace(params=_taken(given, net.params)))
  return state.replace(generator=net)


def _taken(given: Mapping[str, Any], tree: Any) -> Any:
  """The tree with what is given, by path, where shapes agree."""

  def leaf(path: Any, x: jax.Array) -> jax.Array:
    found = given.get(_text(path))
    if found is None or found.shape != x.shape:
      return x
    value = np.asarray(found)
    return jax.make_array_from_callback(
      x.shape, x.sharding, lambda index: value[index]
    )

  return jax.tree_util.tree_map_with_path(leaf, tree)


def _average_anew(net: NetState) -> NetState:
  if net.ema_params is None:
    return net
  return net.replace(ema_params=jax.tree.map(jnp.copy, net.params))


def _text(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _by_path(tree: Any) -> list[tuple[str, Any]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return [(_text(path), leaf) for path, leaf in leaves]
