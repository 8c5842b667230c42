"""Still images: equal shapes in one batch, every shape exact."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float

from sr_jax import sharding
from sr_jax.types import Variables


@functools.partial(jax.jit, static_argnums=(0, 3))
def apply(
  model: Any, variables: Variables, lr: jax.Array, mesh: Mesh | None = None
) -> jax.Array:
  """One program per model and shape; the weights are an argument.

  So an evaluation inside a training run compiles the first time only.
  """
  if mesh is None:
    return model.apply(variables, lr)

  def shared(variables: Variables, lr: jax.Array) -> jax.Array:
    return sharding.in_rows(model.apply(variables, sharding.in_rows(lr)))

  sr = sharding.on_mesh(mesh, shared)(variables, lr)
  return jax.lax.with_sharding_constraint(sr, sharding.replicated(mesh))


def super_resolve(
  model: Any,
  variables: Variables,
  images: Sequence[np.ndarray],
  *,
  batch_pixels: int = 2**20,
  mesh: Mesh | None = None,
  on_image: Callable[[int], None] | None = None,
) -> list[Float[np.ndarray, "h w c"]]:
  """Restores a list of images.

  Each is computed at its exact shape: padding to a common one would change
  the border, which every zero-padded layer sees. Images of one shape share
  batches and a compiled program.

  Args:
    model: A linen network: `model.apply(variables, lr) -> sr`.
    variables: Its variables; `{}` for one without parameters.
    images: `[h, w, c]` each, float in [0, 1]; the sizes may differ.
    batch_pixels: Output pixels in one batch, which bounds the memory; an
      image larger than that is a batch by itself. SRCNN holds half a kilobyte
      a pixel.
    mesh: Devices that share out the rows of each image (`space`), for images
      whose features do not fit one.
    on_image: Called with the number of images that have just been finished.

  Returns:
    The restored images in the order of `images`, float32, not clipped.

  Raises:
    ValueError: an image is not `[h, w, c]` floats, or batch_pixels < 1.
  """
  if batch_pixels < 1:
    raise ValueError(f"batch_pixels {batch_pixels} is not a positive number")
  groups: dict[tuple[int, ...], list[int]] = {}
  for i, image in enumerate(images):
    if image.ndim != 3 or not np.issubdtype(image.dtype, np.floating):
      raise ValueError(
        f"images[{i}] is {image.dtype} {image.shape}; the rule is floats in "
        "[0, 1] as [height, width, channels]"
      )
    groups.setdefault(image.shape, []).append(i)

  where = mesh and sharding.replicated(mesh)
  if mesh is not None:
    variables = jax.device_put(variables, where)
  results: dict[int, np.ndarray] = {}
  scale = getattr(model, "scale", 1)
  for (height, width, _), members in groups.items():
    limit = max(1, batch_pixels // max(1, height * width * scale**2))
    # Batches of one size for the whole group, so that it compiles once.
    count = -(-len(members) // limit)
    size = -(-len(members) // count)
    for start in range(0, len(members), size):
      chosen = members[start : start + size]
      filled = chosen + chosen[-1:] * (size - len(chosen))
      batch = np.stack([np.asarray(images[i], np.float32) for i in filled])
      # A TPU would round float32 operands to bfloat16 by default.
      with jax.default_matmul_precision("highest"):
        restored = jax.device_get(
          apply(model, variables, jax.device_put(batch, where), mesh)
        )
      results.update(zip(chosen, restored, strict=False))
      if on_image is not None:
        on_image(len(chosen))
  return [results[i] for i in range(len(images))]
