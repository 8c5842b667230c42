"""Convolutions against their definitions as float64 loops."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
