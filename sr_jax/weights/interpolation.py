"""Between two sets of weights of one network."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from sr_jax.types import Variables
from sr_jax.weights import tree


def interpolate(
  a: Variables, b: Variables, alpha: float | int
) -> dict[str, Any]:
  """(1 - alpha) a + alpha b, of every parameter.

  Of a network trained for PSNR (a) and one fine-tuned from it as a GAN (b) it
  makes networks between the two, from smooth to sharp, without training. The
  two must be of one origin: between networks that were begun separately there
  is nothing useful.

  BatchNorm's running statistics are interpolated like the parameters (the
  paper's networks have none). They are then near those of the mixed network,
  and not its own: it would take data to measure them.

  Args:
    a: Variables of a network.
    b: Other variables of the same network.
    alpha: Weight of b, [0, 1]. At 0 the result is a, at 1 it is b, exactly.

  Returns:
    Variables, ready for `model.apply`: float32. Whole numbers (BatchNorm's
    `count` of batches) are a's, unless alpha is 1.

  Raises:
    ValueError: alpha is not a number in [0, 1], or a and b are not of one
      network; the message names the missing, the unexpected, and the wrong in
      shape.

  Source: Wang et al. 2018 (ESRGAN), sec. 3.4; its `net_interp.py`.
  """
  check_alpha(alpha)
  first, second = tree.flatten(a), tree.flatten(b)
  tree.check(
    {path: value.shape for path, value in second.items()},
    {path: value.shape for path, value in first.items()},
    what="b does not fit a",
    fix="Both must be variables of one network, with the same arguments",
  )
  return tree.unflatten(
    {path: _mix(first[path], second[path], alpha) for path in first}
  )


def check_alpha(alpha: float | int) -> None:
  """Refuses what is outside the paper's range.

  Raises:
    ValueError: alpha is not a number in [0, 1].
  """
  if not (math.isfinite(alpha) and 0 <= alpha <= 1):
    raise ValueError(
      f"alpha {alpha} is not in [0, 1]: 0 is all of the first network, 1 all "
      "of the second"
    )


def _mix(a: np.ndarray, b: np.ndarray, alpha: float | int) -> np.ndarray:
  """One array; rounded once, from float64."""
  if alpha in (0, 1):  # 0 times infinity would not be nothing
    one = b if alpha else a
    return one.astype(np.float32) if _is_float(one) else one
  if not _is_float(a):
    return a
  mixed = (1 - alpha) * a.astype(np.float64) + alpha * b.astype(np.float64)
  return mixed.astype(np.float32)


def _is_float(x: np.ndarray) -> bool:
  # NumPy does not count bfloat16 among its own.
  return bool(jnp.issubdtype(x.dtype, jnp.floating))
