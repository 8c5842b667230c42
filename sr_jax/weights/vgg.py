"""VGG19's ImageNet weights, from whatever file has them."""

import io
import json
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from etils import epath

from sr_jax.files import check_source, check_target, write_whole
from sr_jax.models.vgg import VGG19
from sr_jax.npz import check_entries, read_npz
from sr_jax.weights import tree
from sr_jax.weights.plain_safetensors import (
  read_arrays,
  read_metadata,
  read_text,
)
from sr_jax.weights.pth import read_pth

#: What makes a file that `load_vgg19` reads.
COMMAND = "python -m sr_jax.weights vgg19 vgg19-dcbb9e9d.pth vgg19.safetensors"
_ORIGIN = (
  "torchvision's ImageNet weights of vgg19 (IMAGENET1K_V1) are the file "
  "vgg19-dcbb9e9d.pth; PyTorch is not needed to read it"
)

_CONVS = tuple(
  f"conv{block}_{i}"
  for block, count in enumerate((2, 2, 4, 4, 4), start=1)
  for i in range(1, count + 1)
)
# Of each convolution in torchvision's nn.Sequential of convolutions, ReLUs and
# poolings.
_PLACES: dict[int, str] = dict(
  zip(
    (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34),
    _CONVS,
    strict=True,
  )
)
_METADATA_KEY = "sr_jax_vgg19"
# ImageNet's mean colour as the authors subtracted it, in [0, 255].
_CAFFE_BGR = (103.939, 116.779, 123.68)


class _NotVGG19Error(ValueError):
  """A whole file, of something else."""


class _Weights(NamedTuple):
  """A network that takes RGB in [0, 1], less the mean, over std."""

  arrays: dict[str, np.ndarray]  # conv1_1/kernel (HWIO), conv1_1/bias
  mean: Sequence[float] = VGG19.mean
  std: Sequence[float] = VGG19.std


def load_vgg19(
  path: epath.PathLike,
  *,
  layers: Sequence[str],
  input_norm: bool = True,
  range_norm: bool = False,
  dtype: Any = jnp.float32,
) -> tuple[VGG19, dict[str, Any]]:
  """VGG19 up to the last of some layers, ready to apply.

  The kind of file is told by the content: torchvision's `.pth` (or one with
  BasicSR's names), safetensors with those names or `conv1_1/kernel`, or an
  `.npz` of the authors' Caffe weights. Those take BGR in [0, 255] less the mean
  colour; they become a network for RGB in [0, 1] with another mean and std.

  Args:
    path: The file; local, or anything epath knows (gs://).
    layers: Names of the features wanted, as VGG19 has them.
    input_norm: As VGG19 has it.
    range_norm: As VGG19 has it.
    dtype: Of the computation.

  Returns:
    The network and its variables in float32.

  Raises:
    FileNotFoundError: there is no such file; the message has the command that
      makes one.
    ValueError: not weights of VGG19, a damaged file, one that lacks what the
      layers need, or a layer that VGG19 does not have.

  Source: `torchvision.models.vgg19`; Simonyan & Zisserman 2015.
  """
  path = epath.Path(path).expanduser()
  weights = _read(path)
  model = _model(
    weights,
    # A string is for VGG19 to refuse.
    layers=layers if isinstance(layers, str) else tuple(layers),
    input_norm=input_norm,
    range_norm=range_norm,
    dtype=dtype,
  )
  arrays = _check(path, weights, model)
  return model, tree.unflatten({f"params/{k}": v for k, v in arrays.items()})


def convert_vgg19(source: epath.PathLike, target: epath.PathLike) -> list[str]:
  """Writes VGG19's convolutions as safetensors, whole or not at all.

  Args:
    source: Any file that `load_vgg19` reads, whole or without its end.
    target: The file to write; its folder must be there.

  Returns:
    The names of the convolutions.

  Raises:
    FileNotFoundError: no source, or no folder of the target.
    ValueError: as `load_vgg19`, or the target is no .safetensors or no file.

  Source: as `load_vgg19`.
  """
  source = epath.Path(source).expanduser()
  target = epath.Path(target).expanduser()
  if target.suffix != ".safetensors":
    raise ValueError(f"'{target}' does not end in .safetensors; name it so")
  check_target(target)
  weights = _read(source)
  convs = _convs(weights)
  arrays = _check(source, weights, _model(weights, layers=convs[-1:]))
  record = {"mean": weights.mean, "std": weights.std}
  content = safetensors.numpy.save(arrays, {_METADATA_KEY: json.dumps(record)})
  write_whole(target, content)
  return convs


def _model(weights: _Weights, **arguments: Any) -> VGG19:
  widths = list(VGG19.widths)
  for i in range(len(widths)):
    bias = weights.arrays.get(f"conv{i + 1}_1/bias")
    if bias is not None and bias.ndim == 1 and bias.size:
      widths[i] = bias.size
  return VGG19(
    widths=tuple(widths), mean=weights.mean, std=weights.std, **arguments
  )


def _check(
  path: epath.Path, weights: _Weights, model: VGG19
) -> dict[str, np.ndarray]:
  """The arrays that the network needs, all there and of its shapes."""
  # 32 pixels a side: five halvings.
  image = jax.ShapeDtypeStruct((1, 32, 32, model.in_channels), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  want = {
    f"{name}/{key}": tuple(value.shape)
    for name, layer in variables["params"].items()
    for key, value in layer.items()
  }
  have = {k: v for k, v in weights.arrays.items() if k in want}
  missing = sorted({key.split("/")[0] for key in want if key not in have})
  if missing:
    raise ValueError(
      f"{path} lacks {', '.join(missing)}, which layers {list(model.layers)} "
      f"need; it has {', '.join(_convs(weights))}. Ask for layers before "
      f"those, or make a whole file with: {COMMAND} ({_ORIGIN})"
    )
  tree.check(
    {key: value.shape for key, value in have.items()},
    want,
    what=f"{path} does not hold VGG19",
    fix="The file may be damaged, or of another network",
  )
  for key, value in have.items():
    if not np.isfinite(value).all():
      raise ValueError(f"{path}: {key} is not finite; fetch the file again")
  return {key: have[key] for key in want}


def _convs(weights: _Weights) -> list[str]:
  return [name for name in _CONVS if f"{name}/kernel" in weights.arrays]


def _read(path: epath.Path) -> _Weights:
  if not path.exists():
    raise FileNotFoundError(
      f"there is no VGG19 weight file {path}. Make one with: {COMMAND} "
      f"({_ORIGIN})"
    )
  if path.is_dir():
    raise ValueError(f"{path} is a folder; give a file with VGG19's weights")
  check_source(path)
  data = path.read_bytes()
  try:
    weights = _read_any(data)
  except _NotVGG19Error as error:
    raise ValueError(
      f"{path} can be read, but is not VGG19: {error}. Make one with: "
      f"{COMMAND} ({_ORIGIN})"
    ) from error
  except Exception as error:  # a damaged file fails in many ways
    raise ValueError(
      f"{path} is not a readable file of VGG19's weights: {str(error)[:500]}. "
      f"It may be damaged or cut short. Make one with: {COMMAND} ({_ORIGIN})"
    ) from error
  return weights


def _read_any(data: bytes) -> _Weights:
  if data.startswith(b"PK\x03\x04") and not _has_pickle(data):
    return _from_caffe(read_npz(data))
  if data.startswith((b"PK\x03\x04", b"\x80")):
    return _Weights(_named(_state_dict(read_pth(data))))
  if data[8:9] == b"{":
    metadata = read_metadata(data)
    weights = _Weights(_named(read_arrays(data)))
    if _METADATA_KEY not in metadata:
      return weights
    record = read_text(metadata, _METADATA_KEY)
    mean, std = (tuple(map(float, record[key])) for key in ("mean", "std"))
    if not (len(mean) == len(std) == 3 and min(std) > 0):
      raise ValueError(f"mean {mean} and std {std} are not of three colours")
    if not np.isfinite((mean, std)).all():
      raise ValueError(f"mean {mean} or std {std} is not finite")
    return weights._replace(mean=mean, std=std)
  raise ValueError("it is neither a PyTorch checkpoint, nor safetensors or npz")


def _has_pickle(data: bytes) -> bool:
  check_entries(data)
  with zipfile.ZipFile(io.BytesIO(data)) as archive:
    return any(name.endswith("/data.pkl") for name in archive.namelist())


def _state_dict(content: Any) -> Mapping[str, Any]:
  """Out of a checkpoint, where there is one around it."""
  if isinstance(content, Mapping):
    inside = content.get("state_dict")
    return inside if isinstance(inside, Mapping) else content
  raise ValueError("it holds no state dict")


def _named(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Any of the known namings to ours; what is no convolution is left."""
  found = {}
  for key, value in arrays.items():
    name = re.sub(r"^(module\.)?(vgg_net\.)?", "", str(key))
    if "running_mean" in name:
      raise _NotVGG19Error("it is vgg19_bn, which has BatchNorm; take vgg19")
    if match := re.match(r"features\.(\d+)\.(weight|bias)$", name):
      if int(match[1]) not in _PLACES:
        raise _NotVGG19Error(f"{key} is no convolution of VGG19: another VGG")
      name = f"{_PLACES[int(match[1])]}.{match[2]}"
    conv, _, kind = name.replace("/", ".").rpartition(".")
    if conv not in _CONVS or kind not in ("kernel", "weight", "bias"):
      continue
    if not hasattr(value, "shape"):  # a list may name an array for ever
      raise ValueError(f"{key} is a {type(value).__name__}, and no array")
    with np.errstate(all="ignore"):  # what overflows is found not finite
      array = np.asarray(value).astype(np.float32)
    if kind == "weight":
      if array.ndim != 4:
        raise ValueError(f"{key} has shape {array.shape}, not four axes")
      array = np.ascontiguousarray(array.transpose(2, 3, 1, 0))  # from OIHW
    found[f"{conv}/{'bias' if kind == 'bias' else 'kernel'}"] = array
  if "conv1_1/kernel" not in found:
    some = ", ".join(map(str, list(arrays)[:4]))
    raise _NotVGG19Error(
      f"it has no conv1_1 (features.0.weight, conv1_1.weight or "
      f"conv1_1/kernel), but {some or 'nothing'}"
    )
  return found


def _from_caffe(arrays: dict[str, np.ndarray]) -> _Weights:
  """A network for BGR in [0, 255] less the mean, as one for RGB in [0, 1]."""
  arrays = _named(arrays)
  kernel = arrays["conv1_1/kernel"]
  if kernel.ndim != 4:
    raise ValueError(f"conv1_1/kernel has shape {kernel.shape}")
  arrays["conv1_1/kernel"] = np.ascontiguousarray(kernel[:, :, ::-1])
  mean = tuple(value / 255.0 for value in reversed(_CAFFE_BGR))
  return _Weights(arrays, mean, (1.0 / 255.0,) * 3)
