"""Learning rates as functions of the step, defined for every step.

A schedule takes the number of updates already made (0 for the first) and
returns the rate of the next one: a float64 for a Python int, a float32 array
under jit.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

Schedule: TypeAlias = Callable[[Any], Any]


def _module(step: Any) -> ModuleType:
  return jnp if isinstance(step, jax.Array) else np


def constant(learning_rate: float) -> Schedule:
  """The same rate for ever."""
  return lambda step: _module(step).full_like(step, learning_rate, dtype=float)


def multi_step(
  learning_rate: float,
  *,
  milestones: Sequence[int],
  gamma: float = 0.5,
  restarts: Sequence[int] = (),
  restart_weights: Sequence[float | int] = (),
) -> Schedule:
  """Multiplied by `gamma` at each milestone.

  Args:
    learning_rate: Rate before the first milestone.
    milestones: Steps; one that stands twice counts twice.
    gamma: Factor.
    restarts: Steps at which the rate is set to `learning_rate` times its
      weight, and milestones count anew.
    restart_weights: One for each restart; 1 where left out.

  Returns:
    The schedule.

  Raises:
    ValueError: restarts and their weights differ in number.

  Source: BasicSR `MultiStepRestartLR`.
  """
  weights = restart_weights or [1.0] * len(restarts)
  if len(weights) != len(restarts):
    raise ValueError(
      f"restart_weights {tuple(restart_weights)} has not one weight for each "
      f"of restarts {tuple(restarts)}"
    )
  starts = np.asarray([-1, *restarts])
  levels = np.asarray([1.0, *weights])
  steps = np.asarray(sorted(milestones))

  def schedule(step: Any) -> Any:
    xp = _module(step)
    last = xp.searchsorted(xp.asarray(starts), step, side="right") - 1
    start, level = xp.asarray(starts)[last], xp.asarray(levels)[last]
    passed = ((steps > start) & (steps <= step)).sum()
    return learning_rate * level * gamma**passed

  return schedule


def cosine_restarts(
  learning_rate: float,
  *,
  periods: Sequence[int],
  restart_weights: Sequence[float | int] = (),
  eta_min: float = 0.0,
) -> Schedule:
  """Cosine decay from `learning_rate` to `eta_min`, begun anew each period.

  Args:
    learning_rate: Rate at the beginning of a period of weight 1.
    periods: Steps of each. The step that ends one has its last rate; past
      the last period the rate holds (the reference raises there).
    restart_weights: One for each period; 1 where left out.
    eta_min: Rate at the end of every period.

  Returns:
    The schedule.

  Raises:
    ValueError: periods not positive, not one weight each, or eta_min negative
      or over the learning rate.

  Source: Loshchilov & Hutter 2017, eq. 5; BasicSR `CosineAnnealingRestartLR`.
  """
  weights = restart_weights or [1.0] * len(periods)
  if not periods or min(periods) < 1 or len(weights) != len(periods):
    raise ValueError(
      f"periods {tuple(periods)} and restart_weights {tuple(restart_weights)}:"
      " periods are positive, with one weight each"
    )
  if not 0 <= eta_min <= learning_rate:
    raise ValueError(
      f"eta_min {eta_min} is not between 0 and the learning rate "
      f"{learning_rate}"
    )
  ends = np.cumsum(periods)
  begins = ends - np.asarray(periods)

  def schedule(step: Any) -> Any:
    xp = _module(step)
    step = xp.minimum(step, ends[-1])
    index = xp.searchsorted(xp.asarray(ends), step, side="left")
    done = (step - xp.asarray(begins)[index]) / xp.asarray(periods)[index]
    swing = 0.5 * (learning_rate - eta_min) * (1 + xp.cos(np.pi * done))
    return eta_min + xp.asarray(weights)[index] * swing

  return schedule


def warm_up(schedule: Schedule, steps: int) -> Schedule:
  """Linear rise from `1 / steps` of the first rate, then `schedule` itself.

  BasicSR's warm-up leaves a multi-step schedule at `(steps - 1) / steps` of
  its rate for good, since it continues from the last warm-up rate; here the
  schedule takes over at its own value.

  Args:
    schedule: What follows; its own steps count from the run's beginning.
    steps: 0 for none.

  Returns:
    The schedule.
  """
  if not steps:
    return schedule

  def warmed(step: Any) -> Any:
    xp = _module(step)
    rising = schedule(0) * (step + 1) / steps
    return xp.where(step + 1 < steps, rising, schedule(step))

  return warmed


SCHEDULES: dict[str, Callable[..., Schedule]] = {
  "constant": constant,
  "cosine_restarts": cosine_restarts,
  "multi_step": multi_step,
}
