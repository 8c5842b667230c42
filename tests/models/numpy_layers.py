"""Layers by their definition, in float64 NumPy: NCHW and PyTorch's weights."""

import jax
import numpy as np

from sr_jax.weights import to_torch

#: Initialisation compiles in a tenth of the time with this generator.
KEY = jax.random.key(0, impl="rbg")


def state_dict(model, variables):
  """Weights by torch name, in float64."""
  arrays = to_torch(model, variables)
  return {key: value.astype(np.float64) for key, value in arrays.items()}


def conv(x, weights, key, *, stride=1, padding=1):
  kernel = weights[f"{key}.weight"]
  edge = (padding, padding)
  x = np.pad(x, ((0, 0), (0, 0), edge, edge))
  patches = np.lib.stride_tricks.sliding_window_view(
    x, kernel.shape[2:], axis=(2, 3)
  )[:, :, ::stride, ::stride]
  y = np.einsum("nchwij,ocij->nohw", patches, kernel, optimize=True)
  return y + weights.get(f"{key}.bias", np.zeros(1))[:, None, None]


def conv_transpose(x, weights, key, *, stride, padding):
  """Each pixel adds its kernel."""
  kernel = weights[f"{key}.weight"]  # [cin, cout, kh, kw]
  size = kernel.shape[2]
  n, _, h, w = x.shape
  full = ((h - 1) * stride + size, (w - 1) * stride + size)
  y = np.zeros((n, kernel.shape[1], *full))
  for i in range(h):
    for j in range(w):
      y[:, :, i * stride :, j * stride :][:, :, :size, :size] += np.einsum(
        "nc,coij->noij", x[:, :, i, j], kernel
      )
  return y[:, :, padding : full[0] - padding, padding : full[1] - padding]


def batch_norm(x, weights, key, *, train):
  """With `train` the running statistics in `weights` move too."""
  mean, var = weights[f"{key}.running_mean"], weights[f"{key}.running_var"]
  if train:
    n = x.shape[0] * x.shape[2] * x.shape[3]
    moved = {
      "running_mean": 0.9 * mean + 0.1 * x.mean((0, 2, 3)),
      "running_var": 0.9 * var + 0.1 * x.var((0, 2, 3)) * n / (n - 1),
      "num_batches_tracked": weights[f"{key}.num_batches_tracked"] + 1,
    }
    weights.update({f"{key}.{name}": value for name, value in moved.items()})
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3))
  x = (x - mean[:, None, None]) / np.sqrt(var[:, None, None] + 1e-5)
  gain, bias = weights[f"{key}.weight"], weights[f"{key}.bias"]
  return x * gain[:, None, None] + bias[:, None, None]


def linear(x, weights, key):
  """Of what PyTorch's flatten makes of a feature map."""
  return (
    x.reshape(len(x), -1) @ weights[f"{key}.weight"].T
    + (weights[f"{key}.bias"])
  )


def leaky(x):
  return np.where(x > 0, x, 0.2 * x)


def bilinear_x2(x):
  """align_corners=False: a quarter of the neighbour, the border repeated."""
  for axis in (2, 3):
    x = np.moveaxis(x, axis, -1)
    wide = np.concatenate([x[..., :1], x, x[..., -1:]], axis=-1)
    pairs = [
      0.75 * x + 0.25 * wide[..., :-2],
      0.75 * x + 0.25 * wide[..., 2:],
    ]
    x = np.stack(pairs, axis=-1).reshape(*x.shape[:-1], -1)
    x = np.moveaxis(x, -1, axis)
  return x
