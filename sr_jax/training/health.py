"""Whether a run is well: what is watched, and what is told or done.

A GAN goes wrong in two ways that its losses hardly show. The discriminator can
tell the two kinds of image apart for certain, and its gradient says nothing any
more (saturation: the gap between its mean logits of real and of restored
images grows without end); or something is not finite.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

_ACTIONS = ("warn", "stop", "rollback")

#: Of the steps in which the generator moved alone.
_GENERATOR = ("loss", "grad_norm")


class UnhealthyError(RuntimeError):
  """The run cannot go on: it saturated, or was not finite for too long."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """Of one log period: what to tell, and why to stop or roll back, if so."""

  warning: str = ""
  failure: str = ""


class Health:
  """Watches the metrics of a run, a log period at a time.

  Args:
    max_skipped: Steps on end that are not finite, after which the run fails.
    max_gap: Mean logit of real images less that of restored ones, over a
      period, from which on the discriminator counts as saturated: at 10 a
      relativistic one is wrong once in 20,000 pairs. 0 never does (logits of
      wgan have no scale).
    patience: Saturated periods on end after which the run fails.
    action: "warn" does not fail by saturation, "stop" does, and "rollback"
      goes back to the last good checkpoint on either failure.
    max_rollbacks: As often, then the run stops.
    max_offset: Mean magnitude of a deformable convolution's offsets, in pixels,
      over a period, that is warned of: such alignments seldom come back. 0
      warns of none.

  Raises:
    ValueError: an argument is out of range.
  """

  def __init__(
    self,
    *,
    max_skipped: int,
    max_gap: float = 10.0,
    patience: int = 3,
    action: str = "warn",
    max_rollbacks: int = 3,
    max_offset: float = 50.0,
  ):
    if action not in _ACTIONS:
      raise ValueError(
        f"config.health.action '{action}' is not one of {list(_ACTIONS)}"
      )
    for name, value, least in (
      ("max_gap", max_gap, 0),
      ("patience", patience, 1),
      ("max_rollbacks", max_rollbacks, 0),
      ("max_offset", max_offset, 0),
    ):
      if not value >= least:
        raise ValueError(
          f"config.health.{name} {value} must be at least {least}"
        )
    self._max_skipped = max_skipped
    self._max_gap, self._patience = max_gap, patience
    self._max_offset = max_offset
    self._action, self._max_rollbacks = action, max_rollbacks
    self._skipped, self._saturated, self._rollbacks = 0, 0, 0

  def get_state(self) -> dict[str, int]:
    """What it has counted, for a checkpoint."""
    return {
      "skipped": self._skipped,
      "saturated": self._saturated,
      "rollbacks": self._rollbacks,
    }

  def set_state(self, state: Mapping[str, int]) -> None:
    """Goes on from what `get_state` gave."""
    self._skipped = state["skipped"]
    self._saturated = state["saturated"]
    self._rollbacks = state["rollbacks"]

  @property
  def keeps_checkpoint(self) -> bool:
    """Whether the state of now may become the last good checkpoint."""
    return self._action != "rollback" or not self._saturated

  def may_roll_back(self) -> bool:
    """Asked on a failure; counts the rollback where it may."""
    left = self._max_rollbacks - self._rollbacks
    allowed = self._action == "rollback" and left > 0
    self._rollbacks += allowed
    self._skipped = self._saturated = 0
    return allowed

  def observe(
    self, step: int, values: Sequence[Mapping[str, float]]
  ) -> Verdict:
    """Takes one period's metrics.

    Args:
      step: The last of the period.
      values: Metrics of each of its steps.

    Returns:
      The verdict.
    """
    for at, value in enumerate(values, start=step + 1 - len(values)):
      self._skipped = self._skipped + 1 if value["skipped"] else 0
      if self._skipped >= self._max_skipped:
        return Verdict(
          failure=f"loss or gradient not finite for {self._skipped} steps on "
          f"end, steps {at + 1 - self._skipped} to {at}"
        )
    gap, offset = (_mean(values, name) for name in ("d_gap", "offset"))
    if not self._max_gap or gap <= self._max_gap:
      self._saturated = 0
      if not self._max_offset or offset <= self._max_offset:
        return Verdict()
      return Verdict(
        warning="the deformable alignment runs away: the mean offset of a "
        f"layer is {offset:.0f} pixels, more than config.health.max_offset "
        f"{self._max_offset:g}; go on from an earlier checkpoint, or hold the "
        "offsets: config.model.max_offset of EDVR and IconVSR, "
        "max_residue_magnitude of BasicVSR++"
      )
    self._saturated += 1
    told = (
      f"the discriminator is saturated: D(real) - D(fake) is {gap:.1f}, more "
      f"than config.health.max_gap {self._max_gap:g}, for {self._saturated} "
      "log period(s) on end"
    )
    if self._action != "warn" and self._saturated >= self._patience:
      return Verdict(failure=told)
    return Verdict(warning=told)


def to_numbers(pending: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
  """Metrics of steps, from the device where they are there."""
  return [
    {name: float(value) for name, value in metrics.items()}
    for metrics in jax.device_get(list(pending))
  ]


def _mean(values: Sequence[Mapping[str, float]], name: str) -> float:
  """Of one metric over the steps that moved; 0 where there is none."""
  found = [v[name] for v in values if not v["skipped"] and name in v]
  return float(np.mean(found)) if found else 0.0


def summary(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
  """Means over the steps of a period, and each term's share of the loss.

  Steps that were skipped count only where all were; a step in which the
  generator was held does not count for the generator's metrics.

  Args:
    values: Metrics of each step.

  Returns:
    Metric -> mean; `share/<term>` for each `loss/<term>`, and `skipped`, the
    number of steps.
  """
  good = [v for v in values if not v["skipped"]]
  means = {}
  for key in values[0]:
    used = good or list(values)
    if key in _GENERATOR or key.startswith("loss/"):
      used = [v for v in used if v.get("moved", 1.0)]
    if used and key != "moved":
      means[key] = float(np.mean([v[key] for v in used]))
  terms = {k: abs(v) for k, v in means.items() if k.startswith("loss/")}
  whole = math.fsum(terms.values())
  if whole > 0:
    means |= {
      k.replace("loss/", "share/", 1): v / whole for k, v in terms.items()
    }
  means["skipped"] = float(len(values) - len(good))
  return means
