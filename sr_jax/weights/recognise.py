"""Which network a state dict is of, told by its names and shapes."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from sr_jax.models import MODELS, VGG19, build
from sr_jax.models.vgg import LAYERS as VGG_LAYERS
from sr_jax.weights import tree
from sr_jax.weights.torch import unwrap
from sr_jax.weights.torch_names import renamed


class _Shapes(dict[str, tuple[int, ...]]):
  """Shapes by BasicSR's names."""

  def out(self, key: str) -> int:
    """Channels that a layer gives."""
    return self[f"{key}.weight"][0]

  def into(self, key: str) -> int:
    """Channels that a layer takes."""
    return self[f"{key}.weight"][1]

  def count(self, pattern: str) -> int:
    """How many layers a list has: its highest number, and one."""
    numbers = [int(m[1]) for key in self if (m := re.match(pattern, key))]
    return max(numbers) + 1

  def has(self, pattern: str) -> bool:
    """Whether any name begins so."""
    return any(re.match(pattern, key) for key in self)


_Argument: TypeAlias = Callable[[_Shapes], Any]


class _Known(NamedTuple):
  """How a network is told, and what its shapes say of its arguments.

  Attributes:
    telling: Patterns of names that it has, and no other network here.
    arguments: What the shapes say; where they do not (an array is not there),
      the paper's, and `from_torch` says what is missing.
    alone: A pattern that all of its names have, where others have such names.
  """

  telling: tuple[str, ...]
  arguments: dict[str, _Argument]
  alone: str = ""


def _root(product: int, factor: int) -> int:
  """The n of product = factor * n * n."""
  return round((product / factor) ** 0.5)


def _shuffles(layer: str) -> _Argument:
  """Enlargement by pixel shuffles, of which each has a layer before it."""

  def scale(s: _Shapes) -> int:
    names = [key for key in s if re.fullmatch(layer, key)]
    factors = [_root(s[key][0], s[key][1]) for key in names]
    return int(np.prod(factors)) if names else 1

  return scale


def _image(first: str, last: str) -> dict[str, _Argument]:
  return {
    "in_channels": lambda s: s.into(first),
    "out_channels": lambda s: s.out(last),
  }


def _rrdbnet_scale(s: _Shapes) -> int:
  fold = _root(s.into("conv_first"), s.out("conv_last"))
  return {1: 4, 2: 2, 4: 1}[fold]


def _compact_scale(s: _Shapes) -> int:
  last = s.count(r"body\.(\d+)\.") - 1
  return _root(s.out(f"body.{last}"), s.into("body.0"))


def _vgg_widths(s: _Shapes) -> tuple[int, ...]:
  """Of the five groups of layers; the paper's of those that are not there."""
  firsts = [VGG_LAYERS.index(f"conv{i}_1") for i in (1, 2, 3, 4, 5)]
  return tuple(
    s.get(f"features.{first}.weight", (usual,))[0]
    for first, usual in zip(firsts, VGG19.widths, strict=True)
  )


def _edvr_window(key: str) -> _Argument:
  """Frames that are fused."""

  def frames(s: _Shapes) -> int:
    fusion = f"{key}fusion.feat_fusion"
    if not s.has(re.escape(fusion)):
      fusion = f"{key}fusion"
    return s.into(fusion) // s.out(fusion)

  return frames


def _spynet_widths(key: str) -> _Argument:
  """Of all layers but the last, which gives the flow."""

  def widths(s: _Shapes) -> tuple[int, ...]:
    name = f"{key}basic_module.0.basic_module"
    last = s.count(rf"{re.escape(name)}\.(\d+)\.") - 1
    return tuple(s.out(f"{name}.{i}") for i in range(0, last, 2))

  return widths


def _norms(s: _Shapes) -> int:
  """How many layers of BatchNorm there are."""
  return sum(key.endswith(".running_mean") for key in s)


_RECURRENT: dict[str, _Argument] = {
  "num_features": lambda s: s.out("forward_trunk.main.0"),
  "num_blocks": lambda s: s.count(r"forward_trunk\.main\.2\.(\d+)\."),
  "spynet_widths": _spynet_widths("spynet."),
}

_KNOWN: dict[str, _Known] = {
  "rrdbnet": _Known(
    (r"body\.\d+\.rdb\d\.conv\d\.",),
    {
      "scale": _rrdbnet_scale,
      "in_channels": lambda s: s.out("conv_last"),
      "out_channels": lambda s: s.out("conv_last"),
      "num_features": lambda s: s.out("conv_body"),
      "num_blocks": lambda s: s.count(r"body\.(\d+)\."),
      "growth_features": lambda s: s.out("body.0.rdb1.conv1"),
    },
  ),
  "edsr": _Known(
    (r"conv_after_body\.", r"body\.\d+\.conv1\."),
    {
      **_image("conv_first", "conv_last"),
      "scale": _shuffles(r"upsample\.\d+\.weight"),
      "num_features": lambda s: s.out("conv_after_body"),
      "num_blocks": lambda s: s.count(r"body\.(\d+)\."),
      # No array says it; of the published networks it is the large ones'.
      "residual_scale": lambda s: 0.1 if s.out("conv_first") >= 256 else 1.0,
    },
  ),
  "msrresnet": _Known(
    (r"body\.\d+\.conv1\.", r"(conv_hr|upconv\d)\."),
    {
      **_image("conv_first", "conv_last"),
      "scale": _shuffles(r"upconv\d\.weight"),
      "num_features": lambda s: s.out("conv_hr"),
      "num_blocks": lambda s: s.count(r"body\.(\d+)\."),
    },
  ),
  "srresnet": _Known(
    (r"trunk\.\d+\.rcb\.",),
    {
      **_image("conv1.0", "conv3"),
      "scale": _shuffles(r"upsampling\.\d+\.upsample_block\.0\.weight"),
      "num_features": lambda s: s.out("conv2.0"),
      "num_blocks": lambda s: s.count(r"trunk\.(\d+)\."),
    },
  ),
  "srvggnet": _Known(
    (r"body\.0\.weight", r"body\.\d*[13579]\.weight"),
    {
      "scale": _compact_scale,
      "in_channels": lambda s: s.into("body.0"),
      "out_channels": lambda s: s.into("body.0"),
      "num_features": lambda s: s.out("body.0"),
      "num_blocks": lambda s: (s.count(r"body\.(\d+)\.") - 3) // 2,
    },
  ),
  "srcnn": _Known(
    (r"conv1\.weight$", r"conv2\.weight$", r"conv3\.weight$"),
    {
      **_image("conv1", "conv3"),
      "features": lambda s: (s.out("conv1"), s.out("conv2")),
      "kernel_sizes": lambda s: tuple(
        s[f"conv{i}.weight"][2] for i in (1, 2, 3)
      ),
    },
    r"conv[123]\.(weight|bias)$",
  ),
  "fsrcnn": _Known(
    (r"(first|mid|last)_part\.", r"mid_part\.\d+\."),
    {
      "in_channels": lambda s: s.into("first_part.0"),
      "out_channels": lambda s: s.into("last_part"),
      "num_features": lambda s: s.out("first_part.0"),
      "shrink_features": lambda s: s.out("mid_part.0"),
      "num_blocks": lambda s: (s.count(r"mid_part\.(\d+)\.") - 4) // 2,
    },
  ),
  "iconvsr": _Known(
    (r"edvr\.", r"(forward|backward)_trunk\."),
    {
      **_RECURRENT,
      "temporal_padding": lambda s: _edvr_window("edvr.")(s) // 2,
    },
  ),
  "basicvsr": _Known((r"(forward|backward)_trunk\.",), _RECURRENT),
  "basicvsr_plusplus": _Known(
    (r"deform_align\.(forward|backward)_\d\.",),
    {
      "num_features": lambda s: s.out("reconstruction.main.0"),
      "num_blocks": lambda s: s.count(
        r"backbone\.backward_1\.main\.2\.(\d+)\."
      ),
      "spynet_widths": _spynet_widths("spynet."),
      "is_low_res_input": lambda s: s.has(r"feat_extract\.main\."),
    },
  ),
  "edvr": _Known(
    (r"pcd_align\.", r"reconstruction\.\d+\."),
    {
      "in_channels": lambda s: s.into(
        "predeblur.conv_first" if s.has(r"predeblur\.") else "conv_first"
      ),
      "out_channels": lambda s: s.out("conv_last"),
      "num_features": lambda s: s.out("pcd_align.dcn_pack.l1"),
      "num_frames": _edvr_window(""),
      "deformable_groups": lambda s: (
        s.out("pcd_align.dcn_pack.l1.conv_offset") // 27
      ),
      "num_extract_blocks": lambda s: s.count(r"feature_extraction\.(\d+)\."),
      "num_reconstruct_blocks": lambda s: s.count(r"reconstruction\.(\d+)\."),
      "predeblur": lambda s: s.has(r"predeblur\."),
      "hr_in": lambda s: s.has(r"predeblur\.stride_conv_hr"),
      "tsa": lambda s: s.has(r"fusion\.feat_fusion\."),
    },
  ),
  "spynet": _Known(
    (r"basic_module\.\d\.basic_module\.",), {"widths": _spynet_widths("")}
  ),
  "unet_discriminator": _Known(
    (r"conv\d\.weight_orig",),
    {
      "in_channels": lambda s: s.into("conv0"),
      "num_features": lambda s: s.out("conv0"),
    },
  ),
  "vgg_discriminator": _Known(
    (r"conv0_0\.", r"linear1\."),
    {
      "in_channels": lambda s: s.into("conv0_0"),
      "num_features": lambda s: s.out("conv0_0"),
      # Down to 4x4, by two each.
      "input_size": lambda s: 4 << s.count(r"conv(\d)_1\."),
    },
  ),
  "srgan_discriminator": _Known(
    (r"features\.\d+\.running_mean", r"classifier\.\d\."),
    {
      "in_channels": lambda s: s.into("features.0"),
      "num_features": lambda s: s.out("features.0"),
      "input_size": lambda s: (
        16 * _root(s.into("classifier.0"), s.out("features.20"))
      ),
    },
  ),
  "dcgan_generator": _Known(
    (r"main\.0\.weight", r"main\.1\.running_mean"),
    {
      "latent_features": lambda s: s["main.0.weight"][0],
      "num_features": lambda s: s["main.0.weight"][1] >> (_norms(s) - 1),
      "image_size": lambda s: 4 << _norms(s),
      "out_channels": lambda s: s[f"main.{3 * _norms(s)}.weight"][1],
    },
  ),
  "dcgan_discriminator": _Known(
    (r"main\.0\.weight", r"main\.3\.running_mean"),
    {
      "in_channels": lambda s: s.into("main.0"),
      "num_features": lambda s: s.out("main.0"),
      "image_size": lambda s: 8 << _norms(s),
    },
  ),
  "vgg19": _Known(
    (r"features\.\d+\.weight",),
    {
      "layers": lambda s: (VGG_LAYERS[s.count(r"features\.(\d+)\.") - 1],),
      "in_channels": lambda s: s.into("features.0"),
      "widths": _vgg_widths,
    },
  ),
}

# Of any enlargement, which no array tells.
_ANY_SCALE = ("srcnn", "fsrcnn")


def recognise(
  state_dict: Mapping[Any, Any], *, scale: int | None = None
) -> Any:
  """The network that a state dict of the incumbents is of.

  Args:
    state_dict: As for `from_torch`: wrapped or not, by BasicSR's names, by
      MMagic's, or by ESRGAN's older ones.
    scale: Enlargement; needed where no array tells it: SRCNN's and FSRCNN's do
      not.

  Returns:
    The network, for `from_torch`. What no array says is the paper's, or the
    default: EDSR's residual scale (0.1 of the large one) and range, EDVR's
    centre frame, IconVSR's key frames, BasicVSR++'s largest residue, the
    U-Net's skip connections, borders. Where it is another, build the network
    yourself.

  Raises:
    ValueError: the names are no network's here, a size is none that a network
      has, or the scale is needed and not given, or is another.
  """
  arrays = unwrap(state_dict)
  shapes = {
    key: tuple(value.shape)
    for key, value in arrays.items()
    if hasattr(value, "shape")
  }
  for name, known in _KNOWN.items():
    own = _Shapes((renamed(_class(name), k), v) for k, v in shapes.items())
    others = known.alone and not all(re.match(known.alone, key) for key in own)
    if all(own.has(pattern) for pattern in known.telling) and not others:
      return _build(name, own, scale)
  inside = [key for key, value in arrays.items() if isinstance(value, Mapping)]
  if inside:
    raise ValueError(
      f"it holds {', '.join(map(repr, inside[:6]))}, each with names of its "
      "own; read it with sr_jax.weights.read_pth, and give the one that is the "
      "network's to recognise and from_torch"
    )
  some = "; ".join(f"{key} {shape}" for key, shape in list(shapes.items())[:6])
  raise ValueError(
    f"the names are no network's that is known here: {len(shapes)} arrays, "
    f"{some or 'none at all'}. Known are {sorted(_KNOWN)}, by the names of "
    "BasicSR and MMagic; of another library, rename the arrays and give them "
    "with the network to sr_jax.weights.from_torch"
  )


def _class(name: str) -> type:
  kind: Any = MODELS[name]
  return kind


def _build(name: str, shapes: _Shapes, scale: int | None) -> Any:
  arguments: dict[str, Any] = {}
  for key, infer in _KNOWN[name].arguments.items():
    try:
      arguments[key] = infer(shapes)
    except (IndexError, KeyError, ValueError, ZeroDivisionError):
      continue  # what it is told by is not there: from_torch says so
  if name in _ANY_SCALE:
    if scale is None:
      raise ValueError(
        f"the arrays are those of {name}, which do not tell the enlargement; "
        "give scale=3, or --scale=3 (of eval.py --scales=3), or what it is"
      )
    arguments["scale"] = scale
  tree.check_arguments(arguments)
  return build(name, **arguments)
