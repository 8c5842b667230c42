"""The Euclidean norm, with a gradient at zero that training survives."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def l2_norm(
  x: Float[Array, "..."], *, axis: int | tuple[int, ...] | None = None
) -> Float[Array, "..."]:
  """Root of the sum of squares over `axis`, or over all of x.

  Its gradient where x is all zero is 0, as in PyTorch; that of
  `jnp.linalg.norm` is NaN there.

  Args:
    x: Any array.
    axis: Summed over; all axes if None.

  Returns:
    x without those axes.

  Source: `torch.norm`.
  """
  square = jnp.square(x).sum(axis)
  positive = square > 0
  # Both are needed: an infinite slope times the 0 of the outer one is NaN.
  root = jnp.sqrt(jnp.where(positive, square, 1.0))
  return jnp.where(positive, root, 0.0)
