"""The authors' MATLAB files: made here as they lie, and the real ones."""

import io

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import scipy.ndimage

from sr_jax.metrics import psnr
from sr_jax.models import FSRCNN, SRCNN
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.resize import imresize
from sr_jax.weights import load, load_mat
from sr_jax.weights.plain_mat import read_mat

RNG = np.random.default_rng(11)


def _filter(image, taps):
  """MATLAB's imfilter(image, reshape(taps, k, k), 'replicate')."""
  size = round(taps.size**0.5)
  kernel = taps.reshape(size, size, order="F")
  return scipy.ndimage.correlate(image, kernel, mode="nearest")


def _cells(arrays):
  cells = np.empty((len(arrays), 1), object)
  for i, array in enumerate(arrays):
    cells[i, 0] = array
  return cells


def _srcnn_content():
  return {
    "weights_conv1": 0.3 * RNG.standard_normal((25, 4)),
    "biases_conv1": 0.1 * RNG.standard_normal((4, 1)),
    "weights_conv2": 0.3 * RNG.standard_normal((4, 9, 3)),
    "biases_conv2": 0.1 * RNG.standard_normal((3, 1)),
    "weights_conv3": 0.3 * RNG.standard_normal((3, 9)),
    "biases_conv3": 0.1 * RNG.standard_normal((1, 1)),
  }


def _fsrcnn_content(d=4, s=3, m=2):
  shapes = [(1, 25, d), (d, 1, s), *[(s, 9, s)] * m, (s, 1, d), (1, 81, d)]
  biases = [d, s, *[s] * m, d, 1]
  slopes = [np.full((1, 1), 0.1 * i) for i in range(-1, m + 2)]
  return {
    "weights_conv": _cells([0.3 * RNG.standard_normal(n) for n in shapes]),
    "biases_conv": _cells([0.1 * RNG.standard_normal((n, 1)) for n in biases]),
    "prelu_conv": _cells([*slopes, np.zeros((1, 0))]),
  }


def _run_srcnn(content, image):
  """SRCNN.m, line by line, on the enlarged image."""
  maps = [
    np.maximum(_filter(image, content["weights_conv1"][:, i]) + bias, 0)
    for i, bias in enumerate(content["biases_conv1"].ravel())
  ]
  maps = [
    np.maximum(
      sum(
        _filter(x, content["weights_conv2"][j, :, i])
        for j, x in enumerate(maps)
      )
      + bias,
      0,
    )
    for i, bias in enumerate(content["biases_conv2"].ravel())
  ]
  last = sum(
    _filter(x, content["weights_conv3"][i]) for i, x in enumerate(maps)
  )
  return last + content["biases_conv3"].item()


def _run_fsrcnn(content, image, scale):
  """FSRCNN.m: convolutions, then each pixel adds its 9x9 kernel."""
  weights, biases, slopes = (content[k].ravel() for k in content)
  maps = [image]
  for weight, bias, slope in zip(
    weights[:-1], biases[:-1], slopes[:-1], strict=True
  ):
    outs = [
      sum(_filter(x, weight[j, :, i]) for j, x in enumerate(maps)) + b
      for i, b in enumerate(bias.ravel())
    ]
    maps = [np.maximum(x, 0) + slope.item() * np.minimum(x, 0) for x in outs]
  h, w = image.shape
  full = np.zeros(((h + 1) * scale + 9, (w + 1) * scale + 9))
  for i, x in enumerate(maps):
    kernel = weights[-1][0, :, i].reshape(9, 9, order="F")
    for (row, column), value in np.ndenumerate(np.pad(x, 1, mode="edge")):
      top, left = row * scale, column * scale
      full[top : top + 9, left : left + 9] += value * kernel
  first = scale + (3 if scale == 3 else 4)
  window = full[first : first + h * scale, first : first + w * scale]
  return window + biases[-1].item()


def test_srcnn_runs_as_the_authors_code(tmp_path):
  content = _srcnn_content()
  scipy.io.savemat(tmp_path / "x3.mat", content)
  model, variables = load(tmp_path / "x3.mat")
  assert model == SRCNN(
    scale=3,
    features=(4, 3),
    kernel_sizes=(5, 3, 3),
    upsampler="matlab",
    padding="edge",
  )
  lr = RNG.random((7, 8))
  expected = _run_srcnn(content, imresize(lr[..., None], 3)[..., 0])
  sr = model.apply(variables, jnp.asarray(lr[None, ..., None]))
  np.testing.assert_allclose(sr[0, ..., 0], expected, 0, 1e-5)


@pytest.mark.parametrize("scale", [2, 3])
def test_fsrcnn_runs_as_the_authors_code(tmp_path, scale):
  content = _fsrcnn_content()
  scipy.io.savemat(tmp_path / "model.mat", content)
  model, variables = load_mat(tmp_path / "model.mat", scale=scale)
  assert model == FSRCNN(
    scale=scale,
    num_features=4,
    shrink_features=3,
    num_blocks=2,
    padding="edge",
    deconv_padding={2: 4, 3: 3}[scale],
  )
  lr = RNG.random((5, 6))
  sr = model.apply(variables, jnp.asarray(lr[None, ..., None]))
  expected = _run_fsrcnn(content, lr, scale)
  np.testing.assert_allclose(sr[0, ..., 0], expected, 0, 1e-5)


@pytest.mark.parametrize(
  ("name", "scale"),
  [
    ("x4.mat", 4),
    ("x2/model.mat", 2),
    ("9-1-5_x3.mat", 3),
    ("SRCNN_X3.mat", 3),
  ],
)
def test_the_name_says_the_scale(tmp_path, name, scale):
  path = tmp_path / name
  path.parent.mkdir(exist_ok=True)
  scipy.io.savemat(path, _srcnn_content())
  assert load(path)[0].scale == load(path, scale=scale)[0].scale == scale
  with pytest.raises(ValueError, match=f"for x{scale}, and scale 8 was asked"):
    load(path, scale=8)


def test_errors(tmp_path):
  path = tmp_path / "9-1-5.mat"
  scipy.io.savemat(path, _srcnn_content())
  with pytest.raises(ValueError, match=r"9-1-5.mat does not hold its scale"):
    load(path)
  assert load(path, scale=4)[0].scale == 4

  path.write_bytes(path.read_bytes()[:400])
  with pytest.raises(
    ValueError, match=r"not a readable MATLAB file.*cut short"
  ):
    load(path, scale=3)

  scipy.io.savemat(path, {"a": 1, "b": 2})
  with pytest.raises(ValueError, match=r"holds \['a', 'b'\], which is neither"):
    load(path, scale=3)

  content = _srcnn_content()
  content["biases_conv2"] = content["biases_conv2"][:2]
  scipy.io.savemat(path, content)
  with pytest.raises(ValueError, match=r"whole SRCNN.*conv2/bias is \(2,\)"):
    load(path, scale=3)

  content = _fsrcnn_content()
  content["biases_conv"] = content["biases_conv"][:-1]
  scipy.io.savemat(path, content)
  with pytest.raises(ValueError, match=r"nor FSRCNN"):
    load(path, scale=3)

  with pytest.raises(FileNotFoundError):
    load_mat(tmp_path / "x3.mat")


# Published: Dong et al. 2016 (SRCNN, TPAMI, tables 2, 5 and 6; FSRCNN, table
# 2 and the authors' code). Y of Set5 in dB.
SET5 = {
  "srcnn/9-1-5_t91": {2: 36.34, 3: 32.39, 4: 30.08},
  "srcnn/9-1-5_imagenet": {3: 32.52},
  "srcnn/9-3-5_imagenet": {3: 32.65},
  "srcnn/9-5-5_imagenet": {2: 36.66, 3: 32.75, 4: 30.48},
  "fsrcnn/fsrcnn": {2: 37.00, 3: 33.16, 4: 30.70},
  "fsrcnn/fsrcnn_s": {2: 36.57, 3: 32.60, 4: 30.11},
}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
  ("folder", "scale"), [(name, s) for name, row in SET5.items() for s in row]
)
def test_the_authors_weights_give_their_figures(data_dir, folder, scale):
  """MATLAB's rgb2ycbcr of an 8-bit image rounds Y: the input comes from that.

  From a Y not rounded the x2 figures are 0.012 to 0.017 dB lower.
  """
  model, variables = load(data_dir / "weights" / folder / f"x{scale}.mat")
  run = jax.jit(model.apply)
  figures = []
  for path in sorted((data_dir / "Set5").iterdir()):
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    height, width = (n // scale * scale for n in image.shape[:2])
    hr = rgb_to_y(image)[:height, :width]
    lr = imresize(hr / 255.0, 1 / scale)[None]
    sr = np.asarray(run(variables, lr.astype(np.float32)))[0]
    sr = np.uint8(np.clip(sr, 0, 1) * 255 + 0.5)
    figures.append(psnr(sr, hr, crop_border=scale, y_channel=True))
  assert len(figures) == 5
  assert abs(np.mean(figures) - SET5[folder][scale]) < 0.01


@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_those_that_scipy_reads(compressed):
  values = {
    "double": RNG.standard_normal((2, 3, 4)),
    "single": np.float32([[1.5, -2.5]]),
    "small": np.uint8([[1], [255]]),
    "long": np.int64([[1 << 40, -1]]),
    "logical": np.array([[True, False]]),
    "empty": np.zeros((1, 0)),
    "cell": _cells([np.eye(2), np.zeros((3, 0)), np.int16([[7]])]),
    "a_name_that_is_longer": 2.0,
  }
  others = {"text": "abc", "struct": {"a": 1.0}, "complex": np.array([[1j]])}
  stream = io.BytesIO()
  scipy.io.savemat(stream, values | others, do_compression=compressed)
  have = read_mat(stream.getvalue())
  assert list(have) == [*values, *others]
  assert not any(have[key] is not None for key in others)
  want = scipy.io.loadmat(io.BytesIO(stream.getvalue()))
  for key in values:
    if key == "cell":
      for a, b in zip(have[key], want[key].ravel(order="F"), strict=True):
        np.testing.assert_array_equal(a, b)
    else:
      np.testing.assert_array_equal(have[key], want[key])


def test_what_is_not_version_5():
  for data, message in (
    (b"MATLAB 7.3".ljust(124) + b"\0\2IM", "version 0x0200"),
    (b"MATLAB 5.0".ljust(128), "order of bytes"),
    (b"MATLAB 5.0", "10 bytes"),
  ):
    with pytest.raises(ValueError, match=message):
      read_mat(data)
