"""DCGAN (Radford et al., ICLR 2016): images out of noise, and their judge."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.discriminators import Dense, check_image, leaky
from sr_jax.models.layers import BatchNorm, Conv, ConvTranspose

# Sec. 3 of the paper, and of BatchNorm's scale the authors' code.
_KERNEL_INIT = nn.initializers.normal(0.02)
_FIRST_SIZE = 4  # of the map that the noise is projected to


def _scale_init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> Array:
  return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


def _doublings(model: Any) -> int:
  """From 4x4 to image_size.

  Raises:
    ValueError: image_size is not a power of two, or under 8.
  """
  size = model.image_size
  if size < 2 * _FIRST_SIZE or size & (size - 1):
    raise ValueError(
      f"{type(model).__name__}.image_size {size} is not 8, 16, 32 ...: the "
      "network doubles 4x4"
    )
  return (size // _FIRST_SIZE).bit_length() - 1


class _Project(nn.Module):
  """A vector to a small feature map, which is linear: fig. 1, left."""

  features: int
  dtype: Any

  @nn.compact
  def __call__(self, z: Float[Array, "b c"]) -> Float[Array, "b h w d"]:
    shape = (_FIRST_SIZE, _FIRST_SIZE, z.shape[-1], self.features)
    kernel = self.param("kernel", _KERNEL_INIT, shape)
    return jnp.einsum(
      "bi,hwio->bhwo", z.astype(self.dtype), kernel.astype(self.dtype)
    )


class DCGANGenerator(nn.Module, kw_only=True):
  """Noise, projected to 4x4, then doubled by transposed convolutions.

  Images are in [0, 1], as everywhere in this library: the paper's tanh, moved
  from [-1, 1] by `(tanh + 1) / 2`.

  Attributes:
    latent_features: Length of the noise vector z.
    num_features: Channels before the last convolution; twice as many at every
      size below.
    image_size: Height and width of the image: a power of two from 8.
    out_channels: Of the image.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: another image_size, or z has another length.

  Source: Radford et al. 2016, fig. 1 and sec. 3; the DCGAN of pytorch/examples.
  """

  latent_features: int = 100
  num_features: int = 64
  image_size: int = 64
  out_channels: int = 3
  dtype: Any = jnp.float32

  @property
  def input_shape(self) -> tuple[int]:
    """Of one z."""
    return (self.latent_features,)

  @nn.compact
  def __call__(
    self, z: Float[Array, "b n"], *, train: bool = False
  ) -> Float[Array, "b h w c"]:
    doublings = _doublings(self)
    if z.ndim != 2 or z.shape[1] != self.latent_features:
      raise ValueError(
        f"DCGANGenerator takes z as [batch, {self.latent_features}] "
        f"(latent_features), got shape {z.shape}"
      )
    width = self.num_features * 2 ** (doublings - 1)
    x = _Project(width, self.dtype, name="project")(z)
    for i in range(doublings):
      norm = BatchNorm(scale_init=_scale_init, name=f"bn{i}")
      x = nn.relu(norm(x, train=train))
      last = i == doublings - 1
      width //= 2
      x = ConvTranspose(
        self.out_channels if last else width,
        4,
        stride=2,
        crop=1,
        use_bias=False,
        kernel_init=_KERNEL_INIT,
        dtype=self.dtype,
        name=f"deconv{i + 1}",
      )(x)
    return (jnp.tanh(x.astype(jnp.float32)) + 1.0) / 2.0


class DCGANDiscriminator(nn.Module, kw_only=True):
  """Convolutions of stride 2 down to 4x4, and one sum over it.

  Takes images in [0, 1] and moves them to the paper's [-1, 1] inside.

  Attributes:
    in_channels: Of the image.
    num_features: Channels of the first convolution; doubled by each further.
    image_size: Height and width of the image: a power of two from 8.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: another image_size, or the image has another size.

  Source: Radford et al. 2016, sec. 3; the DCGAN of pytorch/examples. Both end
  in a sigmoid; this ends in the logit.
  """

  in_channels: int = 3
  num_features: int = 64
  image_size: int = 64
  dtype: Any = jnp.float32

  @property
  def input_shape(self) -> tuple[int, int, int]:
    """Of one image."""
    return self.image_size, self.image_size, self.in_channels

  @nn.compact
  def __call__(
    self, image: Float[Array, "b h w c"], *, train: bool = False
  ) -> Float[Array, "b 1"]:
    halvings = _doublings(self)
    check_image(self, image, channels=self.in_channels, size=self.image_size)
    x = 2.0 * image.astype(jnp.float32) - 1.0
    for i in range(halvings):
      x = Conv(
        self.num_features * 2**i,
        4,
        stride=2,
        use_bias=False,
        kernel_init=_KERNEL_INIT,
        dtype=self.dtype,
        name=f"conv{i}",
      )(x)
      if i > 0:
        norm = BatchNorm(scale_init=_scale_init, name=f"bn{i}")
        x = norm(x, train=train)
      x = leaky(x)
    logit = Dense(
      1,
      use_bias=False,
      kernel_init=_KERNEL_INIT,
      dtype=self.dtype,
      name=f"conv{halvings}",
    )
    return logit(x).astype(jnp.float32)
