"""Convolutions against their definitions as float64 loops."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops import conv as conv_room
from sr_jax.ops.conv import conv2d, conv_transpose2d

# As users have them: without the tests' shape checker, which speaks first.
_conv2d = inspect.unwrap(conv2d)
_conv_transpose2d = inspect.unwrap(conv_transpose2d)


def _naive_conv2d(x, kernel, stride, pads):
  x = np.pad(x, ((0, 0), *pads, (0, 0)))
  kh, kw = kernel.shape[:2]
  rows = (x.shape[1] - kh) // stride + 1
  cols = (x.shape[2] - kw) // stride + 1
  y = np.zeros((x.shape[0], rows, cols, kernel.shape[3]))
  for i in range(rows):
    for j in range(cols):
      window = x[:, i * stride : i * stride + kh, j * stride : j * stride + kw]
      y[:, i, j] = np.tensordot(window, kernel, 3)
  return y


def _naive_conv_transpose2d(x, kernel, stride, padding, output_padding):
  b, h, w, _ = x.shape
  kh, kw, _, cout = kernel.shape
  rows = (h - 1) * stride + kh + output_padding
  cols = (w - 1) * stride + kw + output_padding
  y = np.zeros((b, rows, cols, cout))
  for i in range(h):
    for j in range(w):
      y[:, i * stride : i * stride + kh, j * stride : j * stride + kw] += (
        np.einsum("bi,yxio->byxo", x[:, i, j], kernel)
      )
  return y[:, padding : rows - padding, padding : cols - padding]


def _arrays(rng, x_shape, kernel_shape):
  x = rng.standard_normal(x_shape)
  kernel = rng.standard_normal(kernel_shape) / np.sqrt(
    np.prod(kernel_shape[:3])
  )
  return x, kernel


@pytest.mark.parametrize(
  ("kernel_shape", "stride", "padding"),
  [
    ((3, 3, 5, 4), 1, 1),
    ((5, 3, 2, 3), 1, ((2, 1), (0, 3))),
    ((4, 4, 3, 2), 2, 1),
    ((1, 1, 4, 6), 1, 0),
  ],
)
def test_conv2d_equals_definition(kernel_shape, stride, padding):
  rng = np.random.default_rng(0)
  x, kernel = _arrays(rng, (2, 7, 9, kernel_shape[2]), kernel_shape)
  pads = ((padding,) * 2,) * 2 if isinstance(padding, int) else padding
  want = _naive_conv2d(x, kernel, stride, pads)
  got = conv2d(
    jnp.float32(x), jnp.float32(kernel), stride=stride, padding=padding
  )
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=2e-6)


# FSRCNN's three scales, then shapes that leave every kind of remainder: a
# kernel below the stride, padding past a stride, rows that nothing reaches.
@pytest.mark.parametrize(
  ("taps", "stride", "padding", "output_padding"),
  [
    ((9, 9), 2, 4, 1),
    ((9, 9), 3, 4, 2),
    ((9, 9), 4, 4, 3),
    ((9, 9), 3, 3, 0),
    ((4, 4), 2, 1, 0),
    ((3, 5), 1, 1, 0),
    ((2, 2), 3, 0, 0),
    ((1, 2), 4, 0, 3),
    ((7, 6), 3, 5, 2),
  ],
)
def test_conv_transpose2d_equals_scatter(taps, stride, padding, output_padding):
  rng = np.random.default_rng(1)
  x, kernel = _arrays(rng, (2, 5, 6, 3), (*taps, 3, 2))
  want = _naive_conv_transpose2d(x, kernel, stride, padding, output_padding)
  got = conv_transpose2d(
    jnp.float32(x),
    jnp.float32(kernel),
    stride=stride,
    padding=padding,
    output_padding=output_padding,
  )
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, atol=2e-6)


# Every arrangement of the CPU: folded pairs of columns (even and odd widths),
# plain, matrix product; patches of the thinner side, one way and the other.
@pytest.mark.parametrize(
  ("kernel_shape", "pads"),
  [
    ((3, 3, 4, 4), ((1, 1), (1, 1))),
    ((5, 5, 1, 8), ((2, 2), (1, 2))),
    ((3, 3, 18, 4), ((1, 1), (2, 0))),
    ((4, 2, 20, 3), ((0, 0), (0, 1))),
    ((3, 1, 2, 6), ((2, 1), (0, 0))),
    ((1, 1, 6, 2), ((0, 0), (0, 0))),
    ((1, 1, 2, 5), ((1, 0), (0, 2))),
    ((3, 3, 2, 64), ((1, 1), (1, 1))),
    ((3, 5, 6, 1), ((1, 1), (2, 2))),
  ],
)
def test_conv2d_gradients_equal_definition(kernel_shape, pads):
  rng = np.random.default_rng(3)
  x, kernel = _arrays(rng, (2, 6, 7, kernel_shape[2]), kernel_shape)
  want = _naive_conv2d(x, kernel, 1, pads)
  g = rng.standard_normal(want.shape)
  (top, bottom), (left, right) = pads
  full = _naive_conv_transpose2d(g, kernel.transpose(0, 1, 3, 2), 1, 0, 0)
  rows, cols = full.shape[1:3]
  want_x = full[:, top : rows - bottom, left : cols - right]
  want_kernel = np.zeros_like(kernel)
  padded = np.pad(x, ((0, 0), *pads, (0, 0)))
  for i, j in np.ndindex(*kernel_shape[:2]):
    window = padded[:, i : i + g.shape[1], j : j + g.shape[2]]
    want_kernel[i, j] = np.einsum("bhwi,bhwo->io", window, g)

  x, kernel, g = map(jnp.float32, (x, kernel, g))
  y, pull = jax.vjp(lambda x, k: conv2d(x, k, padding=pads), x, kernel)
  got_x, got_kernel = pull(g)
  np.testing.assert_allclose(y, want, atol=2e-6)
  np.testing.assert_allclose(got_x, want_x, atol=1e-5)
  np.testing.assert_allclose(got_kernel, want_kernel, atol=2e-5)


# As many rows out as in, and enough of them: one more is made on a CPU.
@pytest.mark.parametrize(
  ("kernel_shape", "pads"),
  [
    ((3, 3, 20, 18), ((1, 1), (1, 1))),
    ((4, 2, 17, 16), ((0, 3), (0, 0))),
    ((1, 3, 4, 64), ((0, 0), (2, 1))),
  ],
)
def test_an_added_row_is_not_seen(kernel_shape, pads, monkeypatch):
  monkeypatch.setattr(conv_room, "_MIN_PRODUCTS", 1)
  rng = np.random.default_rng(5)
  x, kernel = _arrays(rng, (2, 9, 8, kernel_shape[2]), kernel_shape)
  want = _naive_conv2d(x, kernel, 1, pads)
  conv = jax.jit(lambda x, kernel: conv2d(x, kernel, padding=pads))
  x, kernel = jnp.float32(x), jnp.float32(kernel)
  np.testing.assert_allclose(conv(x, kernel), want, atol=2e-6)
  lowered = {
    platform: conv.trace(x, kernel).lower(lowering_platforms=(platform,))
    for platform in ("cpu", "tpu")
  }
  assert "slice" in lowered["cpu"].as_text()
  assert "slice" not in lowered["tpu"].as_text()


def test_of_three_channels_no_row_is_added():
  """The last convolution of an image is slower so, by up to five times."""
  x, kernel = jnp.zeros((1, 128, 128, 64)), jnp.zeros((3, 3, 64, 3))
  conv = jax.jit(lambda x, kernel: conv2d(x, kernel, padding=1))
  assert "slice" not in conv.trace(x, kernel).lower().as_text()
  wide = jnp.zeros((3, 3, 64, 16))
  assert "slice" in conv.trace(x, wide).lower().as_text()


def _lax_conv2d(x, kernel, padding):
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    ((padding, padding),) * 2,
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )


def _two_layers(kernels, x, conv):
  for kernel in kernels:
    x = jnp.tanh(conv(x, kernel, padding=kernel.shape[0] // 2))
  return jnp.sum(x**2)


@pytest.fixture
def two_layers():
  rng = np.random.default_rng(4)
  x, first = _arrays(rng, (2, 5, 6, 2), (3, 3, 2, 8))
  _, second = _arrays(rng, (), (1, 1, 8, 3))
  return (jnp.float32(first), jnp.float32(second)), jnp.float32(x)


def test_gradient_penalty_differentiates_twice(two_layers):
  def penalty(kernels, x, conv):
    gradient = jax.grad(_two_layers, argnums=1)(kernels, x, conv)
    return jnp.sum((jnp.sqrt(jnp.sum(gradient**2, (1, 2, 3))) - 1) ** 2)

  gradient = jax.jit(jax.grad(penalty), static_argnums=2)
  for got, want in zip(
    gradient(*two_layers, conv2d),
    gradient(*two_layers, _lax_conv2d),
    strict=True,
  ):
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_vmap_and_sharded_batches_give_the_same(two_layers):
  kernels, x = two_layers
  value_and_grad = jax.value_and_grad(_two_layers)
  want, want_gradient = jax.jit(value_and_grad, static_argnums=2)(
    kernels, x, _lax_conv2d
  )

  def single(kernels, image):
    return value_and_grad(kernels, image[None], conv2d)

  losses, gradients = jax.jit(jax.vmap(single, (None, 0)))(kernels, x)
  np.testing.assert_allclose(losses.sum(), want, rtol=1e-5)
  for got, expected in zip(gradients, want_gradient, strict=True):
    np.testing.assert_allclose(got.sum(0), expected, rtol=1e-4, atol=1e-5)

  mesh = jax.make_mesh(
    (1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec("data")
  sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, spec))
  got, _ = jax.jit(value_and_grad, static_argnums=2)(kernels, sharded, conv2d)
  np.testing.assert_allclose(got, want, rtol=1e-5)

  # By hand: kernels are the same on every device and x is not, so that their
  # gradient has to be summed over the devices.
  def loss(kernels, x):
    return jax.lax.psum(_two_layers(kernels, x, conv2d), "data")

  per_device = jax.shard_map(
    jax.value_and_grad(loss),
    mesh=mesh,
    in_specs=(jax.sharding.PartitionSpec(), spec),
    out_specs=jax.sharding.PartitionSpec(),
  )
  loss, gradients = jax.jit(per_device)(kernels, x)
  np.testing.assert_allclose(loss, want, rtol=1e-5)
  for got, expected in zip(gradients, want_gradient, strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_bfloat16_stays_bfloat16(two_layers):
  (kernel, _), x = two_layers

  def total(kernel, x):
    return conv2d(x, kernel, padding=1).astype(jnp.float32).sum()

  want = jax.grad(total)(kernel, x)
  low = kernel.astype(jnp.bfloat16), x.astype(jnp.bfloat16)
  got = jax.grad(total)(*low)
  assert got.dtype == conv2d(low[1], low[0]).dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(got), want, rtol=0.02, atol=0.05)


def test_lowering_for_a_tpu_holds_plain_convolutions(two_layers):
  step = jax.jit(jax.grad(_two_layers), static_argnums=2)
  texts = [
    step.trace(*two_layers, conv).lower(lowering_platforms=("tpu",)).as_text()
    for conv in (conv2d, _lax_conv2d)
  ]
  got, want = (text.count("stablehlo.convolution") for text in texts)
  # Two forwards, the inner layer's input, two kernels.
  assert got == want == 5
  for foreign in ("dot_general", "concatenate", "barrier"):
    assert foreign not in texts[0]


def test_conv_transpose2d_is_adjoint_of_conv2d():
  rng = np.random.default_rng(2)
  x, kernel = _arrays(rng, (1, 10, 8, 2), (4, 4, 2, 3))
  x, kernel = jnp.float32(x), jnp.float32(kernel)
  y, pull = jax.vjp(lambda x: conv2d(x, kernel, stride=2, padding=1), x)
  cotangent = jnp.float32(rng.standard_normal(y.shape))
  (want,) = pull(cotangent)
  got = conv_transpose2d(
    cotangent, kernel.transpose(0, 1, 3, 2), stride=2, padding=1
  )
  np.testing.assert_allclose(got, want, atol=2e-6)


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (lambda x, k: _conv2d(x[0], k), r"x \(6, 5, 3\) must have 4 dimensions"),
    (lambda x, k: _conv2d(x, k[0]), r"kernel \(3, 3, 2\) must have 4"),
    (lambda x, k: _conv2d(x[..., :2], k), "2 channels .* takes 3"),
    (lambda x, k: _conv2d(x, k, stride=0), "stride=0 must be at least 1"),
    (lambda x, k: _conv2d(x, k, padding=-1), "must not be negative"),
    (lambda x, k: _conv2d(x, k, padding=((1, 1),)), "must be one int or"),
    (lambda x, k: _conv2d(x[:, :2], k), "2 rows and padding .* kernel.s 3;"),
    (
      lambda x, k: _conv_transpose2d(x, k, stride=2, padding=-1),
      "padding=-1 must not be negative",
    ),
    (
      lambda x, k: _conv_transpose2d(x, k, stride=2, output_padding=2),
      r"output_padding=2 must be in \[0, stride=2\)",
    ),
    (
      lambda x, k: _conv_transpose2d(x, k, stride=1, padding=4),
      "cuts the whole result away",
    ),
  ],
)
def test_bad_arguments_are_named(call, message):
  x = jnp.zeros((1, 6, 5, 3))
  kernel = jnp.zeros((3, 3, 3, 2))
  with pytest.raises(ValueError, match=message):
    call(x, kernel)
