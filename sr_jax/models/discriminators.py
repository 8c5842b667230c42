"""Discriminators: what tells a restored image from a real one."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.layers import (
  BatchNorm,
  Conv,
  Initializer,
  sharded_conv2d,
  torch_init,
)
from sr_jax.ops.resize import interpolate


def check_image(
  model: nn.Module, image: jax.Array, *, channels: int, size: int | None = None
) -> None:
  """Refuses a wrong input before anything is traced.

  Raises:
    ValueError: the rank, the type, the channels or the size are not usable.
  """
  kind = type(model).__name__
  if image.ndim != 4:
    raise ValueError(
      f"{kind} takes image as [batch, height, width, channels], got shape "
      f"{image.shape}; a single image is image[None]"
    )
  if not jnp.issubdtype(image.dtype, jnp.floating):
    raise ValueError(
      f"image is {image.dtype}; {kind} takes floats in [0, 1]: divide by 255"
    )
  if image.shape[-1] != channels:
    raise ValueError(
      f"image has {image.shape[-1]} channels, but {kind} was built with "
      f"in_channels={channels}; convert the image, or build the model anew"
    )
  if size is not None and image.shape[1:3] != (size, size):
    raise ValueError(
      f"image {image.shape[1:3]} is not {size}x{size}, which the dense layer "
      f"of this {kind} was built for; crop the image, or build it for another "
      "size"
    )


def leaky(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
  """LeakyReLU with the slope that all discriminators here have."""
  return nn.leaky_relu(x, 0.2)


class Dense(nn.Module):
  """Each feature is a weighted sum of all of an example.

  The kernel has the shape of the example and one more axis, so that a feature
  map keeps its axes: `[h, w, c, features]`.
  """

  features: int
  use_bias: bool = True
  kernel_init: Initializer = torch_init()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b *size"]) -> Float[Array, "b d"]:
    kernel = self.param(
      "kernel", self.kernel_init, (*x.shape[1:], self.features)
    )
    x = jnp.tensordot(
      x.astype(self.dtype), kernel.astype(self.dtype), x.ndim - 1
    )
    if not self.use_bias:
      return x
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return x + bias.astype(self.dtype)


class SpectralConv(nn.Module):
  """Convolution without bias, its kernel divided by its largest singular value.

  The value is `u . W v` of the kernel as a matrix W, one row an output channel.
  The vectors u and v are in the collection `batch_stats`. With `train` one
  power iteration moves them before they are used, so that they follow W; no
  gradient goes through them. v is in PyTorch's order: (channel, row, column).

  Source: Miyato et al. 2018, alg. 1; `torch.nn.utils.spectral_norm`.
  """

  features: int
  kernel_size: int
  stride: int = 1
  kernel_init: Initializer = torch_init()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], *, train: bool
  ) -> Float[Array, "b h2 w2 d"]:
    size = self.kernel_size
    kernel = self.param(
      "kernel", self.kernel_init, (size, size, x.shape[-1], self.features)
    )
    matrix = kernel.transpose(3, 2, 0, 1).reshape(self.features, -1)
    # Two products of a matrix and a vector: their digits cost nothing.
    product = lambda a, b: jnp.matmul(a, b, precision="highest")

    def direction(length: int) -> Array:
      return _unit(jax.random.normal(self.make_rng("params"), (length,)))

    u = self.variable("batch_stats", "u", direction, matrix.shape[0])
    v = self.variable("batch_stats", "v", direction, matrix.shape[1])
    if train and not self.is_initializing():
      fixed = jax.lax.stop_gradient(matrix)
      v.value = _unit(product(fixed.T, u.value))
      u.value = _unit(product(fixed, v.value))
    along_u, along_v = jax.lax.stop_gradient((u.value, v.value))
    sigma = product(along_u, product(matrix, along_v))
    return sharded_conv2d(
      x.astype(self.dtype),
      (kernel / sigma).astype(self.dtype),
      stride=self.stride,
      padding=(size - 1) // 2,
    )


def _unit(x: Float[Array, " n"]) -> Float[Array, " n"]:
  return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def _conv_block(
  x: Float[Array, "b h w c"],
  features: int,
  size: int,
  stride: int,
  at: str,
  *,
  norm: bool,
  train: bool,
  dtype: Any,
) -> Float[Array, "b h2 w2 d"]:
  """Convolution -> BatchNorm instead of the bias -> LeakyReLU."""
  x = Conv(
    features,
    size,
    stride=stride,
    use_bias=not norm,
    kernel_init=torch_init(),
    dtype=dtype,
    name=f"conv{at}",
  )(x)
  if norm:
    x = BatchNorm(name=f"bn{at}")(x, train=train)
  return leaky(x)


class VGGDiscriminator(nn.Module, kw_only=True):
  """Pairs of convolutions, the second of stride 2, down to 4x4; two dense.

  The discriminator of ESRGAN, and of SRGAN as BasicSR and MMagic train it.

  Attributes:
    in_channels: Of the image.
    num_features: Channels of the first pair; twice as many a pair, up to
      eight times.
    input_size: Height and width of the image: 128 or 256.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: another input_size, or the image has another size.

  Source: BasicSR `VGGStyleDiscriminator`.
  """

  in_channels: int = 3
  num_features: int = 64
  input_size: int = 128
  dtype: Any = jnp.float32

  @property
  def input_shape(self) -> tuple[int, int, int]:
    """Of one image."""
    return self.input_size, self.input_size, self.in_channels

  @nn.compact
  def __call__(
    self, image: Float[Array, "b h w c"], *, train: bool = False
  ) -> Float[Array, "b 1"]:
    if self.input_size not in (128, 256):
      raise ValueError(
        f"VGGDiscriminator.input_size {self.input_size} is not 128 or 256"
      )
    check_image(self, image, channels=self.in_channels, size=self.input_size)
    x = image
    for i in range(self.input_size.bit_length() - 3):
      width = self.num_features * min(2**i, 8)
      for j, (size, stride) in enumerate([(3, 1), (4, 2)]):
        x = _conv_block(
          x,
          width,
          size,
          stride,
          f"{i}_{j}",
          norm=(i, j) != (0, 0),
          train=train,
          dtype=self.dtype,
        )
    x = leaky(Dense(100, dtype=self.dtype, name="linear1")(x))
    return Dense(1, dtype=self.dtype, name="linear2")(x).astype(jnp.float32)


class SRGANDiscriminator(nn.Module, kw_only=True):
  """The SRGAN paper's: eight 3x3 convolutions, four of stride 2; two dense.

  Attributes:
    in_channels: Of the image.
    num_features: Channels of the first two convolutions; doubled three times.
    input_size: Height and width of the image: a multiple of 16 from 96, the
      paper's, to 256.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: another input_size, or the image has another size.

  Source: Ledig et al. 2017, fig. 4; Lornatang/SRGAN-PyTorch
  `DiscriminatorForVGG`. Both end in a sigmoid; this ends in the logit.
  """

  in_channels: int = 3
  num_features: int = 64
  input_size: int = 96
  dtype: Any = jnp.float32

  @property
  def input_shape(self) -> tuple[int, int, int]:
    """Of one image."""
    return self.input_size, self.input_size, self.in_channels

  @nn.compact
  def __call__(
    self, image: Float[Array, "b h w c"], *, train: bool = False
  ) -> Float[Array, "b 1"]:
    if self.input_size not in range(96, 257, 16):
      raise ValueError(
        f"SRGANDiscriminator.input_size {self.input_size} is not a multiple of "
        "16 from 96 to 256"
      )
    check_image(self, image, channels=self.in_channels, size=self.input_size)
    x = image
    for i in range(8):
      x = _conv_block(
        x,
        self.num_features * 2 ** (i // 2),
        3,
        1 + i % 2,
        str(i),
        norm=i > 0,
        train=train,
        dtype=self.dtype,
      )
    x = leaky(Dense(1024, dtype=self.dtype, name="linear1")(x))
    return Dense(1, dtype=self.dtype, name="linear2")(x).astype(jnp.float32)


class UNetDiscriminator(nn.Module, kw_only=True):
  """Down three times, up three times: a logit for every pixel.

  Attributes:
    in_channels: Of the image.
    num_features: Channels at full size; doubled with each halving.
    skip_connection: Add what came in at each size to what goes out there.
    dtype: Of the computation; parameters and the output are float32.

  Raises:
    ValueError: height or width is no multiple of 8.

  Source: Wang et al. 2021 (Real-ESRGAN), sec. 3.3; BasicSR
  `UNetDiscriminatorSN`.
  """

  in_channels: int = 3
  num_features: int = 64
  skip_connection: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, image: Float[Array, "b h w c"], *, train: bool = False
  ) -> Float[Array, "b h w 1"]:
    check_image(self, image, channels=self.in_channels)
    if image.shape[1] % 8 or image.shape[2] % 8:
      raise ValueError(
        f"image {image.shape[1:3]} is not a multiple of 8, which "
        "UNetDiscriminator halves three times; crop or pad it first"
      )
    width, dtype = self.num_features, self.dtype

    def conv(x: Array, features: int, i: int) -> Array:
      return Conv(
        features, 3, kernel_init=torch_init(), dtype=dtype, name=f"conv{i}"
      )(x)

    def spectral(x: Array, features: int, i: int, stride: int = 1) -> Array:
      size = 4 if stride == 2 else 3
      layer = SpectralConv(features, size, stride, dtype=dtype, name=f"conv{i}")
      return leaky(layer(x, train=train))

    x = leaky(conv(image, width, 0))
    at_size = [x]
    for i in (1, 2, 3):
      x = spectral(x, width * 2**i, i, stride=2)
      at_size.append(x)
    for i in (4, 5, 6):
      x = jnp.asarray(interpolate(x, 2, method="bilinear"))
      x = spectral(x, width * 2 ** (6 - i), i)
      if self.skip_connection:
        x = x + at_size[6 - i]
    for i in (7, 8):
      x = spectral(x, width, i)
    return conv(x, 1, 9).astype(jnp.float32)
