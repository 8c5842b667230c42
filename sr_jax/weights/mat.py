"""The authors' MATLAB weights of SRCNN and FSRCNN."""

import re
from typing import Any

import numpy as np
from etils import epath

from sr_jax.files import check_source
from sr_jax.models import FSRCNN, SRCNN
from sr_jax.weights import tree
from sr_jax.weights.plain_mat import Value, read_mat

_SRCNN = tuple(
  f"{kind}_conv{i}" for kind in ("weights", "biases") for i in (1, 2, 3)
)
_FSRCNN = ("weights_conv", "biases_conv", "prelu_conv")
# The authors have four; building a network takes time for each.
_MAX_BLOCKS = 256


def load_mat(
  path: epath.PathLike, *, scale: int | None = None
) -> tuple[Any, dict[str, Any]]:
  """The network in a `.mat` of Dong et al., as their MATLAB code runs it.

  That code correlates (nothing is flipped), repeats the border pixels, and has
  one PReLU slope a layer. The kind of network, its kernel sizes and widths are
  read off the arrays; both networks are for Y alone.

  Args:
    path: `x3.mat` of SRCNN (any kernel sizes) or FSRCNN (any d, s, m).
    scale: Enlargement. The file does not hold it; without this the name of the
      file or of its folder must (`x3.mat`, `x3/model.mat`).

  Returns:
    The model and its variables in float32.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: not a readable MATLAB file, not one of these networks, or a
      scale that nothing says or that the name contradicts.

  Source: SRCNN.m and FSRCNN.m, mmlab.ie.cuhk.edu.hk/projects/SRCNN.html.
  """
  path = epath.Path(path).expanduser()
  check_source(path)
  try:
    content = read_mat(path.read_bytes())
  except ValueError as error:
    raise ValueError(
      f"{path} is not a readable MATLAB file ({error}); it may be cut short: "
      "fetch it again. One saved with -v7.3 must be saved anew with -v7"
    ) from error
  scale = _scale(path, scale)
  try:
    with np.errstate(all="ignore"):  # what overflows float32 is infinite
      if "prelu_conv" in content:
        model, flat = _fsrcnn(content, scale)
      else:
        model, flat = _srcnn(content, scale)
    shapes = tree.shapes(model)
  except (KeyError, IndexError, TypeError, ValueError) as error:
    raise ValueError(
      f"{path} holds {sorted(content)[:20]}, which is neither the authors' "
      "SRCNN (weights_conv1, biases_conv1, ... 3) nor FSRCNN (cell arrays "
      f"weights_conv, biases_conv, prelu_conv): {error}"
    ) from error
  tree.check(
    {key: value.shape for key, value in flat.items()},
    shapes,
    what=f"{path} does not hold a whole {type(model).__name__}",
    fix="The file may be damaged: fetch it again",
  )
  return model, tree.unflatten(flat)


def _srcnn(content: dict[str, Value], scale: int) -> tuple[SRCNN, tree.Flat]:
  """weights_conv1 [k*k, n1], weights_conv2 [n1, k*k, n2], conv3 [n2, k*k]."""
  arrays = {name: _array(content, name) for name in _SRCNN}
  kernels = [
    _kernel(arrays["weights_conv1"][None]),
    _kernel(arrays["weights_conv2"]),
    _kernel(arrays["weights_conv3"][..., None]),
  ]
  flat = {}
  for i, kernel in enumerate(kernels, start=1):
    flat[f"params/conv{i}/kernel"] = kernel
    flat[f"params/conv{i}/bias"] = _vector(arrays[f"biases_conv{i}"])
  model = SRCNN(
    scale=scale,
    features=tuple(kernel.shape[-1] for kernel in kernels[:2]),
    kernel_sizes=tuple(kernel.shape[0] for kernel in kernels),
    upsampler="matlab",
    padding="edge",
  )
  return model, flat


def _fsrcnn(content: dict[str, Value], scale: int) -> tuple[FSRCNN, tree.Flat]:
  """Cell arrays of [cin, k*k, cout]; the deconvolution's is [1, k*k, d]."""
  weights, biases, slopes = (_arrays(content, name) for name in _FSRCNN)
  num_blocks = len(weights) - 4
  if not 0 < num_blocks <= _MAX_BLOCKS:
    raise ValueError(f"weights_conv has {len(weights)} parts")
  kernels = [_kernel(weight) for weight in weights]
  names = ["feature", "shrink", *(f"map_{i}" for i in range(num_blocks))]
  flat = {}
  for name, kernel, bias, slope in zip(
    [*names, "expand"], kernels[:-1], biases[:-1], slopes[:-1], strict=True
  ):
    flat[f"params/{name}/kernel"] = kernel
    flat[f"params/{name}/bias"] = _vector(bias)
    flat[f"params/{name}_act/slope"] = np.full(
      kernel.shape[-1], slope.item(), np.float32
    )
  flat["params/deconv/kernel"] = kernels[-1].transpose(0, 1, 3, 2)
  flat["params/deconv/bias"] = _vector(biases[-1])
  model = FSRCNN(
    scale=scale,
    num_features=kernels[0].shape[-1],
    shrink_features=kernels[1].shape[-1],
    num_blocks=num_blocks,
    padding="edge",
    deconv_padding=3 if scale == 3 else 4,
  )
  return model, flat


def _array(content: dict[str, Value], name: str) -> np.ndarray:
  value = content[name]
  if not isinstance(value, np.ndarray):
    raise ValueError(f"{name} is no array")
  return value


def _arrays(content: dict[str, Value], name: str) -> list[np.ndarray]:
  value = content[name]
  if not isinstance(value, list):
    raise ValueError(f"{name} is no cell array")
  return value


def _kernel(weight: np.ndarray) -> np.ndarray:
  """[cin, k*k, cout], the taps column by column, to HWIO."""
  if weight.ndim != 3 or not weight.size:
    raise ValueError(f"weights have shape {weight.shape}")
  cin, taps, cout = weight.shape
  size = round(taps**0.5)
  kernel = weight.reshape(cin, size, size, cout).transpose(2, 1, 0, 3)
  return np.ascontiguousarray(kernel, np.float32)


def _vector(bias: np.ndarray) -> np.ndarray:
  return np.asarray(bias, np.float32).ravel()


def _scale(path: epath.Path, given: int | None) -> int:
  """The 3 of x3.mat or x3/model.mat, or what was given."""
  for name in (path.stem, path.parent.name):
    found = re.search(r"(?:^|[^a-z0-9])x([2-9])(?![0-9])", name.lower())
    if found:
      named = int(found[1])
      if given not in (None, named):
        raise ValueError(
          f"{path} is by its name for x{named}, and scale {given} was asked "
          "for; give the file of that scale, or rename it"
        )
      return named
  if given is None:
    raise ValueError(
      f"{path} does not hold its scale, and its name does not say it (x3.mat); "
      "give scale="
    )
  return given
