"""Optimizers: one rate for all, multiplied or held still by parameter path."""

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sr_jax.training.schedules import Schedule

#: (pattern, first frozen step, first free step or None for never)
Freeze = tuple[str, int, int | None]


class _FrozenState(NamedTuple):
  step: jax.Array
  inner: Any


def _freeze(
  inner: optax.GradientTransformation, start: int, stop: int | None
) -> optax.GradientTransformation:
  """`inner`, but neither it nor its state moves in `start <= step < stop`.

  The step is counted in the state, so a run resumed inside the window stays
  frozen (BasicSR's trains everything then, MMagic's freezes anew).
  """

  def init(params: Any) -> _FrozenState:
    return _FrozenState(jnp.zeros((), jnp.int32), inner.init(params))

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
    frozen = state.step >= start
    if stop is not None:
      frozen &= state.step < stop
    moved, inner_state = inner.update(updates, state.inner, params)
    moved = jax.tree.map(lambda u: jnp.where(frozen, 0, u), moved)
    inner_state = jax.tree.map(
      lambda old, new: jnp.where(frozen, old, new), state.inner, inner_state
    )
    return moved, _FrozenState(state.step + 1, inner_state)

  return optax.GradientTransformation(init, update)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
  "adam": optax.scale_by_adam,
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
) -> optax.GradientTransformation:
  """Gradients to updates.

  Args:
    schedule: Learning rate of the step.
    name: adam (`b1`, `b2`, `eps`) or sgd (`momentum`).
    multipliers: `(pattern, factor)` of the learning rate. A pattern is a
      regular expression searched in a parameter's path, "deconv/kernel"; the
      first that is found counts.
    freeze: `(pattern, start, stop)`: such parameters and their moments stay
      as they are in `start <= step < stop`; `stop=None` is for ever.
    clip_norm: Largest global gradient norm; 0 does not clip.
    weight_decay: L2 penalty added to the gradient, as PyTorch's.
    **hyper_parameters: Of the named optimizer.

  Returns:
    An optax transformation whose state is arrays alone.

  Raises:
    ValueError: unknown name or hyper-parameter, or a pattern that is no
      regular expression; on `init`, a pattern that no parameter matches.
  """
  if name not in OPTIMIZERS:
    raise ValueError(f"optimizer '{name}' is not one of {sorted(OPTIMIZERS)}")
  try:
    rule = OPTIMIZERS[name](**hyper_parameters)
  except TypeError as error:
    raise ValueError(
      f"optimizer '{name}' does not take {sorted(hyper_parameters)}: {error}"
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
    def label(path: Any, _: Any) -> str:
      text = jax.tree_util.keystr(path, simple=True, separator="/")
      return f"{first(multipliers, text)},{first(freeze, text)}"

    paths = [
      jax.tree_util.keystr(path, simple=True, separator="/")
      for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    # optax asks for the labels of masked and of update trees as well: only
    # a tree that has parameters can lack one.
    for pattern in patterns:
      if paths and not any(re.search(pattern, path) for path in paths):
        raise ValueError(
          f"pattern '{pattern}' matches no parameter; there are {paths}"
        )
    return jax.tree_util.tree_map_with_path(label, params)

  groups = {}
  for i, (_, factor) in enumerate([("", 1.0), *multipliers], start=-1):
    group = optax.chain(rule, optax.scale(factor))
    groups[f"{i},-1"] = group
    for j, (_, start, stop) in enumerate(freeze):
      groups[f"{i},{j}"] = _freeze(group, start, stop)
  chain = [
    optax.partition(groups, labels) if len(groups) > 1 else rule,
    optax.scale_by_learning_rate(schedule),
  ]
  if weight_decay:
    chain.insert(0, optax.add_decayed_weights(weight_decay))
  if clip_norm:
    chain.insert(0, optax.clip_by_global_norm(clip_norm))
  return optax.chain(*chain)
