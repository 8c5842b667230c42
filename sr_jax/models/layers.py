"""Layers that several networks share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.ops.conv import conv2d, conv_transpose2d
from sr_jax.sharding import whole_rows

Initializer = Callable[..., Any]


def he_init(scale: float = 1.0) -> Initializer:
  """He's normal initialisation, its standard deviation times `scale`.

  Source: BasicSR `default_init_weights`, whose 0.1 keeps residual branches
  small at the beginning (ESRGAN, sec. 3.1).
  """
  return nn.initializers.variance_scaling(2.0 * scale**2, "fan_in", "normal")


def torch_init() -> Initializer:
  """Uniform in +-1 / sqrt(fan in): what kernels begin with in `torch.nn`.

  Biases begin at 0 here, and not uniform in the same interval as they do there.
  """
  return nn.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")


def check_lr(model: nn.Module, lr: jax.Array, *, channels: int | None) -> None:
  """Refuses a wrong input before anything is traced.

  Raises:
    ValueError: the rank, the channels or the model's scale are not usable.
  """
  _check_input(
    model,
    lr,
    channels=channels,
    axes="[batch, height, width, channels]",
    single="a single image",
  )


def check_clip(model: nn.Module, lr: jax.Array, *, channels: int) -> None:
  """As `check_lr`, of a network of clips.

  Raises:
    ValueError: as there, or the frames are not as many as the model's
      `num_frames`; None there takes any number.
  """
  _check_input(
    model,
    lr,
    channels=channels,
    axes="[batch, frames, height, width, channels]",
    single="a single clip",
  )
  wanted = getattr(model, "num_frames", None)
  if wanted is not None and lr.shape[1] != wanted:
    kind = type(model).__name__
    raise ValueError(
      f"lr has {lr.shape[1]} frames, but {kind} was built with num_frames="
      f"{wanted}; give it windows of that many frames, or build the model anew"
    )


def _check_input(
  model: nn.Module,
  lr: jax.Array,
  *,
  channels: int | None,
  axes: str,
  single: str,
) -> None:
  kind = type(model).__name__
  scale = getattr(model, "scale", 1)
  if not isinstance(scale, int) or scale < 1:
    raise ValueError(f"{kind}.scale {scale!r} is not a positive int")
  if lr.ndim != axes.count(",") + 1:
    raise ValueError(
      f"{kind} takes lr as {axes}, got shape {lr.shape}; {single} is lr[None]"
    )
  if not jnp.issubdtype(lr.dtype, jnp.floating):
    raise ValueError(
      f"lr is {lr.dtype}; {kind} takes floats in [0, 1]: divide by 255"
    )
  if channels is not None and lr.shape[-1] != channels:
    raise ValueError(
      f"lr has {lr.shape[-1]} channels, but {kind} was built with "
      f"in_channels={channels}; convert the image, or build the model anew"
    )


def sharded_conv2d(
  x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], **options: Any
) -> Float[Array, "b h2 w2 d"]:
  """`conv2d`, where several devices may have an image's rows between them."""
  reach = kernel.shape[0] // 2
  y = conv2d(whole_rows(x, reach=reach), kernel, **options)
  return whole_rows(y, reach=reach)


class Conv(nn.Module):
  """Convolution; with stride 1 and an odd kernel it keeps the size.

  `(kernel_size - 1) // 2` pixels are added on every side, as PyTorch's
  networks write it out: `SAME` would sample other pixels at stride 2.
  `padding` says what lies outside the image: "zero", or "edge" (the border
  pixel repeated, MATLAB's `replicate`). Without `pad_rows` it is added to the
  columns alone, and the result has `kernel_size - 1` rows less.
  """

  features: int
  kernel_size: int
  stride: int = 1
  padding: str = "zero"
  pad_rows: bool = True
  use_bias: bool = True
  kernel_init: Initializer = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    if self.padding not in ("zero", "edge"):
      raise ValueError(f"padding '{self.padding}' is not 'zero' or 'edge'")
    size = self.kernel_size
    kernel = self.param(
      "kernel", self.kernel_init, (size, size, x.shape[-1], self.features)
    )
    columns = ((size - 1) // 2,) * 2
    rows = columns if self.pad_rows else (0, 0)
    if self.padding == "edge" and size > 1:
      x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)), "edge")
      rows = columns = (0, 0)
    x = sharded_conv2d(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      stride=self.stride,
      padding=(rows, columns),
    )
    if not self.use_bias:
      return x
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return x + bias.astype(self.dtype)


class ConvTranspose(nn.Module):
  """Transposed convolution that enlarges by exactly `stride`.

  `crop` rows and columns are dropped from the beginning of the full result
  (PyTorch's `padding`), and from its end what is past `stride * size`.
  `padding="edge"` repeats the border pixel of the input once first.
  """

  features: int
  kernel_size: int
  stride: int
  crop: int
  padding: str = "zero"
  use_bias: bool = True
  kernel_init: Initializer = nn.initializers.lecun_normal()
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    size, stride, crop = self.kernel_size, self.stride, self.crop
    output_padding = stride + 2 * crop - size
    if not 0 <= output_padding < stride:
      raise ValueError(
        f"a {size}x{size} deconvolution of stride {stride} cannot drop {crop} "
        "pixels at the beginning (FSRCNN's deconv_padding); between "
        f"{-(-(size - stride) // 2)} and {(size - 1) // 2} can go"
      )
    kernel = self.param(
      "kernel", self.kernel_init, (size, size, x.shape[-1], self.features)
    )
    if self.padding == "edge":
      x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
      crop += stride
    x = conv_transpose2d(
      whole_rows(x.astype(self.dtype), reach=-(-size // stride)),
      kernel.astype(self.dtype),
      stride=stride,
      padding=crop,
      output_padding=output_padding,
    )
    if not self.use_bias:
      return x
    bias = self.param("bias", nn.initializers.zeros, (self.features,))
    return x + bias.astype(self.dtype)


class PReLU(nn.Module):
  """`max(x, 0) + slope * min(x, 0)`, one learned slope a channel.

  With `shared` all channels have one slope.

  Source: He et al. 2015, eq. 1.
  """

  init: float = 0.25
  shared: bool = False

  @nn.compact
  def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    slope = self.param(
      "slope",
      nn.initializers.constant(self.init),
      (1 if self.shared else x.shape[-1],),
    )
    return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


class BatchNorm(nn.Module):
  """Batch normalisation, its statistics moved as PyTorch moves them.

  With `train` the batch's own statistics normalise, and the running ones in
  the collection `batch_stats` move by a tenth of the way; `var` towards the
  unbiased variance. Under jit the batch is that of all devices. `count` is
  how often they moved, `num_batches_tracked` there.

  Source: Ioffe & Szegedy 2015, alg. 1; `torch.nn.BatchNorm2d`.
  """

  momentum: float = 0.9
  epsilon: float = 1e-5
  scale_init: Initializer = nn.initializers.ones

  @nn.compact
  def __call__(
    self, x: Float[Array, "b h w c"], *, train: bool
  ) -> Float[Array, "b h w c"]:
    width = x.shape[-1:]
    scale = self.param("scale", self.scale_init, width)
    bias = self.param("bias", nn.initializers.zeros, width)
    mean = self.variable("batch_stats", "mean", jnp.zeros, width)
    var = self.variable("batch_stats", "var", jnp.ones, width)
    count = self.variable("batch_stats", "count", jnp.zeros, (), jnp.int32)
    inputs, dtype = x.astype(jnp.float32), x.dtype
    if train:
      axes = (0, 1, 2)
      batch_mean = inputs.mean(axes)
      # Not E[x^2] - E[x]^2, which loses digits where the mean is large.
      batch_var = jnp.square(inputs - batch_mean).mean(axes)
      if not self.is_initializing():
        # Constants to whoever reads them later in the same step, as a penalty
        # on the discriminator does.
        seen_mean, seen_var = jax.lax.stop_gradient((batch_mean, batch_var))
        n = inputs.size // inputs.shape[-1]
        keep, move = self.momentum, 1.0 - self.momentum
        mean.value = keep * mean.value + move * seen_mean
        unbiased = seen_var * (n / max(n - 1, 1))
        var.value = keep * var.value + move * unbiased
        count.value = count.value + 1
    else:
      batch_mean, batch_var = mean.value, var.value
    factor = scale * jax.lax.rsqrt(batch_var + self.epsilon)
    return ((inputs - batch_mean) * factor + bias).astype(dtype)


def repeat(
  block: nn.Module,
  x: Float[Array, "b h w c"],
  count: int,
  *,
  remat: bool = False,
  **kwargs: Any,
) -> Float[Array, "b h w c"]:
  """`count` blocks of one kind, one after the other, as a scan.

  The program holds one block, and the variables of all are stacked on a
  leading axis: RRDBNet's 23 blocks compile in a fifth of the time.

  Args:
    block: A module that keeps the shape; it gives the name.
    x: What the first one takes.
    count: How many.
    remat: Compute a block anew in the backward pass instead of keeping what
      is inside it.
    **kwargs: Of each call.

  Returns:
    What the last one returns.
  """

  def call(block: Any, x: jax.Array) -> jax.Array:
    return block(x, **kwargs)

  if remat:
    call = nn.remat(call, prevent_cse=False)
  x, _ = nn.scan(
    lambda block, x, _: (call(block, x), None),
    variable_axes={"params": 0, "batch_stats": 0},
    split_rngs={"params": True},
    length=count,
  )(block, x, None)
  return x


def stages(scale: int) -> list[int]:
  """The pixel shuffles that enlarge by `scale`: twos, or one three.

  Raises:
    ValueError: neither a power of two nor three.
  """
  if scale == 3:
    return [3]
  if scale < 1 or scale & (scale - 1):
    raise ValueError(
      f"scale {scale} is not 1, 2, 3, 4, 8 ...: pixel shuffles enlarge by twos "
      "or once by three"
    )
  return [2] * (scale.bit_length() - 1)
