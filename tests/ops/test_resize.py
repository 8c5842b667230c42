"""imresize against MATLAB's (recorded), interpolate against PyTorch's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax.ops.resize import imresize, interpolate
from tests.golden import golden_io

_MATLAB = golden_io.load("imresize_41x57")
_TORCH = golden_io.load("torch_interpolate")


def _matlab_cases():
  for key in _MATLAB[0]:
    if key.startswith("scale_") and "is_every" not in key:
      *parts, antialias = key.removeprefix("scale_").split("_")
      scale = float(parts[0]) / (float(parts[1]) if parts[1:] else 1)
      # "scale_3" is three times, "scale_1_3" a third.
      yield pytest.param(key, scale, antialias == "aa", id=key)


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
@pytest.mark.parametrize(("key", "scale", "antialias"), list(_matlab_cases()))
def test_imresize_is_matlabs(key, scale, antialias, kind):
  arrays, _, record = _MATLAB
  ours = imresize(kind(arrays["input"]), scale, antialias=antialias)
  if f"{key}_is_every3rd" in arrays:
    ours = ours[::3, ::3]
  np.testing.assert_allclose(
    ours, arrays[key], rtol=0, atol=record["atol"]["all"]
  )


def test_imresize_works_where_the_reference_raises():
  # Quirk: BasicSR's raises on 36 px at 1/4 without antialiasing, where no
  # padding is needed at the far side. There the centre falls on x.5, so that
  # Keys' weights (a = -0.5) are -1/16, 9/16, 9/16, -1/16.
  x = np.random.default_rng(0).random((36, 1, 1))
  ours = imresize(x, shape=(9, 1), antialias=False)[:, 0, 0]
  x = x[:, 0, 0]
  expected = (-x[0:36:4] + 9 * x[1:36:4] + 9 * x[2:36:4] - x[3:36:4]) / 16
  np.testing.assert_allclose(ours, expected, atol=1e-14)


def _naive(x, out, method):
  """A resize of one axis, written from the kernel's definition."""
  kernels = {
    "bilinear": (lambda t: max(0.0, 1 - abs(t)), 1.0),
    "box": (lambda t: float(-0.5 <= t < 0.5), 0.5),
    "lanczos3": (
      lambda t: float(np.sinc(t) * np.sinc(t / 3)) if abs(t) < 3 else 0.0,
      3.0,
    ),
    "nearest": (lambda t: float(-0.5 <= t < 0.5), 0.5),
  }
  kernel, radius = kernels[method]
  n = len(x)
  scale = out / n
  shrink = min(scale, 1.0) if method != "nearest" else 1.0
  result = []
  for i in range(out):
    center = (i + 0.5) / scale - 0.5
    total = weight = 0.0
    for j in range(
      int(center - radius / shrink) - 2, int(center + radius / shrink) + 3
    ):
      w = kernel((center - j) * shrink)
      mirrored = j % (2 * n)
      mirrored = mirrored if mirrored < n else 2 * n - 1 - mirrored
      total += w * x[mirrored]
      weight += w
    result.append(total / weight)
  return np.asarray(result)


@pytest.mark.parametrize("method", ["bilinear", "box", "lanczos3", "nearest"])
@pytest.mark.parametrize("out", [5, 13, 26, 31])
def test_other_kernels_follow_their_definition(method, out):
  x = np.random.default_rng(1).random(13)
  ours = imresize(x[:, None, None], shape=(out, 1), method=method)
  np.testing.assert_allclose(ours[:, 0, 0], _naive(x, out, method), atol=1e-12)


def _torch_cases():
  for key in _TORCH[0]:
    if key == "input":
      continue
    method, *flags, kind, size = key.split("_")
    arguments = {"method": method, "align_corners": flags == ["ac"]}
    if kind == "scale":
      arguments["scale"] = float(size)
    else:
      arguments["shape"] = tuple(int(n) for n in size.split("x"))
    yield pytest.param(key, arguments, id=key)


@pytest.mark.parametrize(("key", "arguments"), list(_torch_cases()))
@pytest.mark.usefixtures("optimized")
def test_interpolate_is_torchs(key, arguments):
  arrays, _, record = _TORCH
  image = golden_io.nhwc(arrays["input"])
  for kind in (np.asarray, jnp.asarray):
    ours = golden_io.nchw(interpolate(kind(image), **arguments))
    np.testing.assert_allclose(
      ours, arrays[key], rtol=0, atol=record["atol"]["all"]
    )


def test_transforms_work():
  x = jnp.asarray(np.random.default_rng(2).random((3, 8, 8, 2)), jnp.float32)
  half = functools.partial(imresize, scale=0.5)
  plain = half(x)
  np.testing.assert_allclose(jax.jit(half)(x), plain, atol=1e-6)
  np.testing.assert_allclose(jax.vmap(half)(x), plain, atol=1e-6)
  # Linear: <grad, d> is the change along d, exactly.
  grad = jax.grad(lambda y: half(y).sum())(x)
  direction = jnp.ones_like(x).at[0, 0].set(3.0)
  change = half(x + direction).sum() - half(x).sum()
  np.testing.assert_allclose((grad * direction).sum(), change, rtol=1e-4)


def test_dtype_is_kept():
  x = np.random.default_rng(3).random((6, 6, 1))
  assert imresize(x.astype(np.float32), 2).dtype == np.float32
  assert imresize(x, 2).dtype == np.float64
  low = imresize(jnp.asarray(x, jnp.bfloat16), 2)
  assert low.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    np.asarray(low, np.float32), imresize(x, 2), atol=1e-2
  )


@pytest.mark.parametrize(
  ("image", "arguments", "message"),
  [
    (np.zeros((4, 4, 3)), {}, "one of them"),
    (np.zeros((4, 4, 3)), {"scale": 2, "shape": (8, 8)}, "one of them"),
    (np.zeros((4, 4, 3)), {"scale": 0.0}, "not a positive number"),
    (np.zeros((4, 4, 3)), {"scale": float("nan")}, "not a positive number"),
    (np.zeros((4, 4, 3)), {"shape": (8,)}, "not .height, width."),
    (np.zeros((4, 4, 3)), {"shape": (0, 8)}, "has none left"),
    (np.zeros((0, 4, 3)), {"scale": 2}, "has none left"),
    (np.zeros((4, 4, 3)), {"scale": 2, "method": "cubic"}, "bicubic"),
  ],
)
def test_bad_input_is_refused(image, arguments, message):
  with pytest.raises(ValueError, match=message):
    imresize(image, **arguments)


def test_what_annotations_cannot_say_is_refused():
  with pytest.raises(ValueError, match="divide by 255"):
    imresize.__wrapped__(np.zeros((4, 4, 3), np.uint8), 2)
  with pytest.raises(ValueError, match="channel axis"):
    imresize.__wrapped__(np.zeros((4, 4)), 2)
  with pytest.raises(ValueError, match="no meaning"):
    interpolate(np.zeros((4, 4, 1)), 2, method="area", align_corners=True)
  with pytest.raises(ValueError, match="nearest"):
    interpolate(np.zeros((4, 4, 1)), 2, method="box")
