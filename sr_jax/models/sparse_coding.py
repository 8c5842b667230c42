"""Super-resolution by sparse coding (Yang et al., TIP 2010), before networks.

Every patch of the image is written as a sum of few atoms of one dictionary, and
enlarged as the same sum of another's: two dictionaries that belong together.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sr_jax.models.layers import check_lr
from sr_jax.ops.resize import imresize
from sr_jax.types import Variables

#: Side of a patch at low resolution, and of what it is cut into.
_PATCH = 3
#: The features are those of the image enlarged by so much.
_ZOOM = 2
#: Gradients of first and second order, along rows and along columns.
_FILTERS = ((-1, 0, 1), (1, 0, -2, 0, 1))
_NUM_FEATURES = _PATCH**2 * _ZOOM**2 * 2 * len(_FILTERS)
#: Times the patches that are learned from are chosen from at most.
_MOST_SEEN = 16
#: Of patches that are coded at a time.
_CHUNK = 4096
_EPSILON = 1e-8


class SparseCoding(nn.Module, kw_only=True):
  """Coupled dictionaries, on Y.

  A patch of 3x3 pixels is known by gradients of the image enlarged twice. It is
  coded by `low`, as far as a penalty on the sizes of the coefficients lets it;
  the same coefficients of `high` are what bicubic interpolation lacks there.
  Overlapping patches are averaged, and the image is corrected until it is the
  low-resolution one when it is made small again.

  Its variables come from `fit`, not from gradient descent.

  Attributes:
    scale: Enlargement.
    in_channels: 1, Y.
    num_atoms: Of each dictionary; the paper compares 256 to 2048.
    penalty: On the sum of absolute coefficients, of features of length 1.
    num_steps: Of FISTA, which finds the coefficients.
    num_projections: Corrections at the end.

  Source: Yang et al. 2010, alg. 1, eq. 8, 10 and 20; Zeyde et al. 2010, sec. 3,
  for what `high` restores; Beck & Teboulle 2009 (FISTA), eq. 4.1-4.3.
  """

  scale: int = 3
  in_channels: int = 1
  num_atoms: int = 1024
  penalty: float = 0.1
  num_steps: int = 50
  num_projections: int = 10

  @nn.compact
  def __call__(self, lr: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    check_lr(self, lr, channels=self.in_channels)
    if self.in_channels != 1:
      raise ValueError(
        f"SparseCoding works on Y; in_channels {self.in_channels} must be 1"
      )
    atoms = nn.initializers.normal()
    low = self.param("low", atoms, (_NUM_FEATURES, self.num_atoms))
    size = (_PATCH * self.scale) ** 2
    high = self.param("high", atoms, (self.num_atoms, size))
    restore = functools.partial(self._restore, low=low, high=high)
    return jax.lax.map(restore, lr.astype(jnp.float32))

  def _restore(
    self, lr: Float[Array, "h w 1"], *, low: Array, high: Array
  ) -> Float[Array, "h2 w2 1"]:
    features = _features(lr)
    height, width, _ = features.shape
    flat = features.reshape(-1, _NUM_FEATURES)
    step = _step_size(low)

    def detail(feature: Array) -> Array:
      length = jnp.linalg.norm(feature)
      unit = feature / jnp.maximum(length, _EPSILON)
      code = _codes(
        unit[None], low, step, penalty=self.penalty, steps=self.num_steps
      )
      return length * (code[0] @ high)

    details = jax.lax.map(detail, flat, batch_size=_CHUNK)
    details = details.reshape(height, width, -1)
    sr = _up(lr, self.scale) + _averaged(details, self.scale)[..., None]
    for _ in range(self.num_projections):
      sr = sr + _up(lr - jnp.asarray(imresize(sr, 1 / self.scale)), self.scale)
    return sr


def fit(
  model: SparseCoding,
  images: Sequence[np.ndarray],
  key: Array,
  *,
  num_patches: int = 100_000,
  num_batches: int = 200,
  on_batch: Callable[[int], None] | None = None,
) -> Variables:
  """Learns both dictionaries from images.

  Args:
    model: What they are for.
    images: `[h, w]` or `[h, w, 1]` each, Y in [0, 1], at high resolution.
    key: Of what is drawn.
    num_patches: That are learned from, at most; smooth ones are left out.
    num_batches: Of patches that the dictionaries are corrected by.
    on_batch: Called with the number of each as it is done.

  Returns:
    Variables for `model.apply`.

  Raises:
    ValueError: no images, one that is not Y or not in [0, 1] or smaller than
      the scale, numbers below 1, or fewer patches with an edge in them than
      atoms.

  Source: Yang et al. 2010, eq. 21-23 (both dictionaries learned as one); the
  update of atoms by Mairal et al. 2010, alg. 2; Zeyde et al. 2010, eq. 8, for
  `high` by least squares.
  """
  _check_training(model.scale, images, num_patches, num_batches)
  # As `apply` is run: a TPU or GPU would round what is multiplied.
  with jax.default_matmul_precision("highest"):
    return _fit(model, images, key, num_patches, num_batches, on_batch)


def _check_training(
  scale: int, images: Sequence[np.ndarray], num_patches: int, num_batches: int
) -> None:
  for name, value in (
    ("num_patches", num_patches),
    ("num_batches", num_batches),
    ("the number of images", len(images)),
  ):
    if value < 1:
      raise ValueError(f"{name} {value} must be at least 1")
  for i, image in enumerate(images):
    shape = np.shape(image)
    if len(shape) not in (2, 3) or shape[2:] not in ((), (1,)):
      raise ValueError(
        f"images[{i}] has shape {shape}; the rule is Y, [h, w] or [h, w, 1]"
      )
    if min(shape[:2]) < scale:
      raise ValueError(f"images[{i}] has {shape} pixels, fewer than x{scale}")
    if not 0 <= np.min(image) <= np.max(image) <= 1:
      raise ValueError(
        f"images[{i}] goes from {np.min(image)} to {np.max(image)}; the rule "
        "is Y in [0, 1]: divide 8 bits by 255"
      )


def _fit(
  model: SparseCoding,
  images: Sequence[np.ndarray],
  key: Array,
  num_patches: int,
  num_batches: int,
  on_batch: Callable[[int], None] | None,
) -> Variables:
  pick, begin, order = jax.random.split(key, 3)
  low, high = _pairs(model.scale, images, _MOST_SEEN * num_patches)
  length = np.linalg.norm(low, axis=1)
  rough = np.flatnonzero(length > np.median(length))
  chosen = jax.random.permutation(pick, len(rough))[:num_patches]
  rough = rough[np.asarray(chosen)]
  if len(rough) < model.num_atoms:
    raise ValueError(
      f"images have {len(rough)} patches with an edge in them, fewer than "
      f"num_atoms {model.num_atoms}; give more images, or learn fewer atoms"
    )
  low = low[rough] / length[rough, None]
  high = high[rough] / length[rough, None]
  # Both weigh as much in what is learned; eq. 22 divides by their dimensions.
  weight = np.linalg.norm(low) / np.linalg.norm(high)
  joint = jnp.asarray(np.concatenate([low, weight * high], axis=1))
  first = jax.random.choice(begin, len(joint), (model.num_atoms,), False)
  dictionary = _learn(
    model, joint, _unit(joint[first].T), order, num_batches, on_batch
  )
  atoms = _unit(dictionary[:_NUM_FEATURES])
  return {
    "params": {
      "low": atoms,
      "high": _least_squares(model, atoms, jnp.asarray(low), jnp.asarray(high)),
    }
  }


def _learn(
  model: SparseCoding,
  samples: Float[Array, "n d"],
  dictionary: Float[Array, "d k"],
  key: Array,
  num_batches: int,
  on_batch: Callable[[int], None] | None,
) -> Float[Array, "d k"]:
  """Online: codes of a batch, then each atom in its turn."""
  size = min(_CHUNK, len(samples))
  count = dictionary.shape[1]

  @jax.jit
  def update(dictionary, moments, batch, keep):
    codes = _codes(
      batch,
      dictionary,
      _step_size(dictionary),
      penalty=model.penalty,
      steps=model.num_steps,
    )
    a = keep * moments[0] + codes.T @ codes / size
    b = keep * moments[1] + batch.T @ codes / size

    def turn(j, atoms):
      used = a[j, j] > _EPSILON
      change = (b[:, j] - atoms @ a[:, j]) / jnp.where(used, a[j, j], 1.0)
      atom = jnp.where(used, atoms[:, j] + change, atoms[:, j])
      return atoms.at[:, j].set(_unit(atom[:, None])[:, 0])

    return jax.lax.fori_loop(0, count, turn, dictionary), (a, b)

  moments = (jnp.zeros((count, count)), jnp.zeros_like(dictionary))
  for i in range(num_batches):
    rows = jax.random.choice(
      jax.random.fold_in(key, i), len(samples), (size,), False
    )
    # What was coded by early dictionaries is forgotten.
    keep = jnp.float32(1 - 1 / min(i + 1, 32))
    dictionary, moments = update(dictionary, moments, samples[rows], keep)
    if on_batch is not None:
      on_batch(i + 1)
  return dictionary


def _least_squares(
  model: SparseCoding, atoms: Array, low: Array, high: Array
) -> Float[Array, "k p"]:
  """What the codes of the features alone, as they will be, restore best."""
  step = _step_size(atoms)

  @jax.jit
  def moments(low: Array, high: Array) -> tuple[Array, Array]:
    codes = _codes(
      low, atoms, step, penalty=model.penalty, steps=model.num_steps
    )
    return codes.T @ codes, codes.T @ high

  # Whole chunks, by one program: less than one of them is left out.
  count = len(low) // _CHUNK * _CHUNK or len(low)
  size = min(_CHUNK, count)
  gram, mixed = moments(low[:size], high[:size])
  for start in range(size, count, size):
    part = slice(start, start + size)
    one, other = moments(low[part], high[part])
    gram, mixed = gram + one, mixed + other
  ridge = 1e-3 * jnp.trace(gram) / len(gram) * jnp.eye(len(gram))
  return jax.scipy.linalg.solve(gram + ridge, mixed, assume_a="pos")


def _pairs(
  scale: int, images: Sequence[np.ndarray], most: int
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n p"]]:
  """Features of patches, and what bicubic interpolation lacks there.

  Of each so many-th patch where there are more than `most`.
  """
  lows, highs = [], []
  sides = [[side // scale for side in np.shape(x)[:2]] for x in images]
  every = -(-sum(h * w for h, w in sides) // most)
  for image in images:
    hr = np.asarray(image, np.float32).reshape(*np.shape(image)[:2], 1)
    height, width = (side // scale for side in hr.shape[:2])
    hr = hr[: height * scale, : width * scale]
    lr = imresize(hr, 1 / scale)
    low = np.asarray(_features(jnp.asarray(lr))).reshape(-1, _NUM_FEATURES)
    lows.append(low[::every])
    lack = jnp.asarray(hr - np.asarray(_up(jnp.asarray(lr), scale)))
    cells = lack.reshape(height, scale, width, scale).swapaxes(1, 2)
    cells = cells.reshape(height, width, scale * scale)
    highs.append(np.asarray(_windows(cells)).reshape(len(low), -1)[::every])
  return np.concatenate(lows), np.concatenate(highs)


def _up(image: Float[Array, "h w 1"], scale: int) -> Float[Array, "h2 w2 1"]:
  return jnp.asarray(imresize(image, scale))


def _features(lr: Float[Array, "h w 1"]) -> Float[Array, "h w d"]:
  """Gradients within the patch around every pixel."""
  height, width, _ = lr.shape
  zoomed = _up(lr, _ZOOM)[..., 0]
  maps = []
  for taps in _FILTERS:
    reach = len(taps) // 2
    padded = jnp.pad(zoomed, reach, "edge")
    inner = slice(reach, -reach)
    for along_rows in (True, False):
      rows = padded[:, inner] if along_rows else padded[inner].T
      parts = [
        t * rows[i : i + len(rows) - 2 * reach] for i, t in enumerate(taps)
      ]
      total = functools.reduce(jnp.add, parts)
      maps.append(total if along_rows else total.T)
  stacked = jnp.stack(maps, axis=-1)
  cells = stacked.reshape(height, _ZOOM, width, _ZOOM, len(maps)).swapaxes(1, 2)
  return _windows(cells.reshape(height, width, -1))


def _windows(cells: Float[Array, "h w c"]) -> Float[Array, "h w d"]:
  """The 3x3 cells around every one; past the border the nearest ones."""
  height, width, _ = cells.shape
  padded = jnp.pad(cells, ((1, 1), (1, 1), (0, 0)), "edge")
  return jnp.concatenate(
    [
      padded[i : i + height, j : j + width]
      for i in range(_PATCH)
      for j in range(_PATCH)
    ],
    axis=-1,
  )


def _averaged(
  patches: Float[Array, "h w p"], scale: int
) -> Float[Array, "h2 w2"]:
  """The mean of what overlapping patches say of a pixel."""
  height, width, _ = patches.shape
  cells = patches.reshape(height, width, _PATCH**2, scale * scale)
  total = jnp.zeros((height + 2, width + 2, scale * scale))
  count = jnp.zeros((height + 2, width + 2, 1))
  for k in range(_PATCH**2):
    i, j = divmod(k, _PATCH)
    total = total.at[i : i + height, j : j + width].add(cells[:, :, k])
    count = count.at[i : i + height, j : j + width].add(1.0)
  mean = (total / count)[1:-1, 1:-1]
  mean = mean.reshape(height, width, scale, scale).swapaxes(1, 2)
  return mean.reshape(height * scale, width * scale)


def _codes(
  samples: Float[Array, "n d"],
  atoms: Float[Array, "d k"],
  step: Any,
  *,
  penalty: float,
  steps: int,
) -> Float[Array, "n k"]:
  """The argmin over a of |samples - a atoms|^2 / 2 + penalty |a|, by FISTA."""

  def advance(state: tuple, _: None) -> tuple[tuple, None]:
    codes, ahead, t = state
    slope = (ahead @ atoms.T - samples) @ atoms
    moved = ahead - step * slope
    new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - step * penalty, 0.0)
    later = (1 + jnp.sqrt(1 + 4 * t * t)) / 2
    return (new, new + (t - 1) / later * (new - codes), later), None

  zeros = jnp.zeros((len(samples), atoms.shape[1]))
  start = (zeros, zeros, jnp.float32(1))
  return jax.lax.scan(advance, start, length=steps)[0][0]


def _step_size(atoms: Float[Array, "d k"]) -> Float[Array, ""]:
  """1 over the largest eigenvalue of their products."""
  return 1.0 / jnp.linalg.norm(atoms @ atoms.T, 2)


def _unit(columns: Float[Array, "d k"]) -> Float[Array, "d k"]:
  length = jnp.linalg.norm(columns, axis=0, keepdims=True)
  return columns / jnp.maximum(length, _EPSILON)
