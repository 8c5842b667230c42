"""Optimizers: one rate for all, multiplied or held still by parameter path."""

import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sr_jax.training.schedules import Schedule

#: (pattern, first frozen step, first free step or None for never)
Freeze = tuple[str, int, int | None]


def _is_frozen(step: jax.Array, start: int, stop: int | None) -> jax.Array:
  frozen = step >= start
  return frozen if stop is None else frozen & (step < stop)


def _freeze(
  inner: optax.GradientTransformation, start: int, stop: int | None
) -> optax.GradientTransformationExtraArgs:
  """`inner`, but neither it nor its state moves in `start <= step < stop`.

  The step is the run's own, so a run resumed inside the window stays frozen
  (BasicSR's trains everything then, MMagic's freezes anew).
  """

  def update(
    updates: Any, state: Any, params: Any = None, **extra: Any
  ) -> tuple[Any, Any]:
    frozen = _is_frozen(extra["step"], start, stop)
    moved, new_state = inner.update(updates, state, params)
    moved = jax.tree.map(lambda u: jnp.where(frozen, 0, u), moved)
    held = jax.tree.map(
      lambda old, new: jnp.where(frozen, old, new), state, new_state
    )
    return moved, held

  return optax.GradientTransformationExtraArgs(inner.init, update)


def _stateless(
  function: Callable[[Any, jax.Array], Any],
) -> optax.GradientTransformationExtraArgs:
  """Updates that depend on the step and on nothing else."""

  def update(
    updates: Any, state: Any, params: Any = None, **extra: Any
  ) -> tuple[Any, Any]:
    del params
    return function(updates, extra["step"]), state

  return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)


def _path(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _matrices(params: Any) -> Any:
  """Kernels as matrices, what goes in by what comes out; the rest is None.

  Convolutions have four axes, dense layers two; blocks that `nn.scan` stacks
  have one more in front.
  """

  def leaf(path: Any, array: Any) -> Any:
    if not _path(path).endswith("kernel") or array.ndim < 2:
      return None
    last = array.ndim - 1
    return optax.contrib.MuonDimensionNumbers(
      reduction_axis=tuple(range(array.ndim % 2, last)), output_axis=last
    )

  return jax.tree_util.tree_map_with_path(leaf, params)


def _muon(
  beta: float = 0.95, b1: float = 0.9, b2: float = 0.999
) -> optax.GradientTransformation:
  """Kernels by Muon (Jordan et al. 2024), all else by Nesterov's Adam."""
  # Of the others here, too, the sign and the rate are the chain's.
  return optax.contrib.muon(
    -1.0,
    beta=beta,
    adam_b1=b1,
    adam_b2=b2,
    muon_weight_dimension_numbers=_matrices,
  )


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "adam": optax.scale_by_adam,
  "muon": _muon,
  "sgd": lambda momentum=0.0: optax.trace(momentum),
}


def make_optimizer(
  schedule: Schedule,
  *,
  name: str = "adam",
  multipliers: Sequence[tuple[str, float]] = (),
  freeze: Sequence[Freeze] = (),
  clip_norm: float = 0.0,
  weight_decay: float = 0.0,
  **hyper_parameters: float,
) -> optax.GradientTransformationExtraArgs:
  """Gradients to updates.

  `update(gradients, state, params, step=step)` takes the run's step: schedule
  and freezing are functions of it, whatever updates were skipped before.

  Args:
    schedule: Learning rate of the step.
    name: adam (`b1`, `b2`, `eps`), sgd (`momentum`), or muon (`beta`). With
      muon a kernel of i times o entries moves by about the learning rate times
      `sqrt(max(1, o / i))` in its largest singular value, and what is no kernel
      by Adam with Nesterov's momentum (`b1`, `b2`) at the same rate.
    multipliers: `(pattern, factor)` of the learning rate. A pattern is a
      regular expression searched in a parameter's path, "deconv/kernel"; the
      first that is found counts.
    freeze: `(pattern, start, stop)`: such parameters and their moments stay
      as they are in `start <= step < stop`; `stop=None` is for ever.
    clip_norm: Largest norm of all gradients that are not frozen; 0 does not
      clip.
    weight_decay: L2 penalty added to the gradient, as PyTorch's.
    **hyper_parameters: Of the named optimizer.

  Returns:
    An optax transformation whose state is arrays alone.

  Raises:
    ValueError: unknown name or hyper-parameter, a negative norm or decay, or a
      pattern that is no regular expression; on `init`, a pattern that no
      parameter matches.
  """
  if name not in OPTIMIZERS:
    raise ValueError(f"optimizer '{name}' is not one of {sorted(OPTIMIZERS)}")
  for argument, value in [
    ("clip_norm", clip_norm),
    ("weight_decay", weight_decay),
  ]:
    if not 0 <= value < float("inf"):
      raise ValueError(
        f"optimizer {argument} {value} is not a number from 0; 0 is none"
      )
  for pair in multipliers:
    if isinstance(pair, str) or len(pair) != 2:
      raise ValueError(
        f"optimizer multipliers {multipliers!r} are not pairs of a pattern and "
        "a factor, such as (('deconv', 0.3),)"
      )
    number = isinstance(pair[1], (int, float))
    if not number or not 0 <= pair[1] < float("inf"):
      raise ValueError(
        f"optimizer multiplier {pair[1]} of '{pair[0]}' is not a number from 0"
      )
  for argument in ("b1", "b2", "beta", "momentum"):
    value = hyper_parameters.get(argument, 0.0)
    if not 0 <= value < 1:
      raise ValueError(f"optimizer {argument} {value} is not in [0, 1)")
  try:
    rule = OPTIMIZERS[name](**hyper_parameters)
  except TypeError as error:
    raise ValueError(
      f"optimizer '{name}' does not take all of {sorted(hyper_parameters)}; it "
      f"takes {list(inspect.signature(OPTIMIZERS[name]).parameters)}. Those of "
      f"the recipe's own come with it: set config.optimizer = common.{name}() "
      "in the recipe"
    ) from error
  patterns = [p for p, *_ in multipliers] + [p for p, *_ in freeze]
  for pattern in patterns:
    try:
      re.compile(pattern)
    except re.error as error:
      raise ValueError(
        f"pattern '{pattern}' is no regular expression: {error}"
      ) from error

  def first(rules: Sequence[tuple], path: str) -> int:
    found = (i for i, (p, *_) in enumerate(rules) if re.search(p, path))
    return next(found, -1)

  def labels(params: Any) -> Any:
    paths = [
      _path(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    # optax asks for the labels of masked and of update trees as well: only
    # a tree that has parameters can lack one.
    for pattern in patterns:
      if paths and not any(re.search(pattern, path) for path in paths):
        raise ValueError(
          f"pattern '{pattern}' matches no parameter; there are {paths}"
        )
    return jax.tree_util.tree_map_with_path(
      lambda path, _: (
        f"{first(multipliers, _path(path))},{first(freeze, _path(path))}"
      ),
      params,
    )

  def without_frozen(gradients: Any, step: jax.Array) -> Any:
    def leaf(path: Any, gradient: jax.Array) -> jax.Array:
      rule = first(freeze, _path(path))
      if rule < 0:
        return gradient
      _, start, stop = freeze[rule]
      return jnp.where(_is_frozen(step, start, stop), 0, gradient)

    return jax.tree_util.tree_map_with_path(leaf, gradients)

  def scaled(updates: Any, step: jax.Array) -> Any:
    rate = schedule(step)
    return jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates)

  groups = {}
  for i, (_, factor) in enumerate([("", 1.0), *multipliers], start=-1):
    group = optax.chain(rule, optax.scale(factor))
    groups[f"{i},-1"] = group
    for j, (_, start, stop) in enumerate(freeze):
      groups[f"{i},{j}"] = _freeze(group, start, stop)
  chain: list[Any] = [optax.partition(groups, labels), _stateless(scaled)]
  if weight_decay:
    chain.insert(0, optax.add_decayed_weights(weight_decay))
  if clip_norm:
    chain.insert(0, optax.clip_by_global_norm(clip_norm))
    # What does not move does not count.
    chain.insert(0, _stateless(without_frozen))
  return optax.chain(*chain)
