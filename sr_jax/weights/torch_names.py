"""What each network's arrays are called in PyTorch.

One function a network lists its entries: path in linen, name in PyTorch, and
the kind of array, which decides how it is laid out. To add a network, write one
and put it into `_NETWORKS`. Those of networks of clips are in
`torch_video_names.py`.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from sr_jax.models import (
  EDSR,
  EDVR,
  FSRCNN,
  SRCNN,
  VGG19,
  BasicVSR,
  BasicVSRPlusPlus,
  DCGANDiscriminator,
  DCGANGenerator,
  IconVSR,
  MSRResNet,
  RRDBNet,
  SPyNet,
  SRGANDiscriminator,
  SRResNet,
  SRVGGNetCompact,
  UNetDiscriminator,
  VGGDiscriminator,
)
from sr_jax.models.layers import stages
from sr_jax.models.vgg import LAYERS as VGG_LAYERS
from sr_jax.weights.torch_entries import (
  UPSAMPLES,
  Entry,
  Renames,
  batch_norm,
  layer,
  prelu,
  residual_blocks,
)
from sr_jax.weights.torch_video_names import (
  MMAGIC_BASICVSR,
  MMAGIC_EDVR,
  MMAGIC_SPYNET,
  basicvsr,
  basicvsr_plusplus,
  edvr,
  iconvsr,
  spynet,
)


def _srcnn(model: SRCNN) -> list[Entry]:
  """Source: MMagic `SRCNNNet`."""
  return [e for i in (1, 2, 3) for e in layer(f"conv{i}", f"conv{i}")]


def _fsrcnn(model: FSRCNN) -> list[Entry]:
  """Source: yjn870/FSRCNN-pytorch, `models.py`."""
  # Two nn.Sequential in which convolution and PReLU alternate.
  middle = ["shrink", *(f"map_{i}" for i in range(model.num_blocks)), "expand"]
  places = [("feature", "first_part", 0)]
  places += [(name, "mid_part", 2 * i) for i, name in enumerate(middle)]
  table = []
  for name, part, i in places:
    table += layer(name, f"{part}.{i}")
    table += prelu(f"{name}_act", f"{part}.{i + 1}")
  return table + layer("deconv", "last_part", "conv_transpose")


def _srresnet(model: SRResNet) -> list[Entry]:
  """Source: Lornatang/SRGAN-PyTorch, `model.py`."""
  table = layer("conv_first", "conv1.0") + prelu("act_first", "conv1.1")
  for i in range(model.num_blocks):
    block = f"trunk.{i}.rcb"
    table += layer("body/conv1", f"{block}.0", bias=False, index=i)
    table += batch_norm("body/bn1", f"{block}.1", i)
    table += prelu("body/act", f"{block}.2", i)
    table += layer("body/conv2", f"{block}.3", bias=False, index=i)
    table += batch_norm("body/bn2", f"{block}.4", i)
  table += layer("conv_body", "conv2.0", bias=False)
  table += batch_norm("bn_body", "conv2.1")
  for i in range(len(stages(model.scale))):
    block = f"upsampling.{i}.upsample_block"
    table += layer(f"upconv{i + 1}", f"{block}.0")
    table += prelu(f"act_up{i + 1}", f"{block}.2")
  return table + layer("conv_last", "conv3")


def _msrresnet(model: MSRResNet) -> list[Entry]:
  """Source: BasicSR `MSRResNet`."""
  table = layer("conv_first", "conv_first")
  table += residual_blocks(model.num_blocks)
  for i in range(1, len(stages(model.scale)) + 1):
    table += layer(f"upconv{i}", f"upconv{i}")
  return table + [
    e for name in ("conv_hr", "conv_last") for e in layer(name, name)
  ]


def _edsr(model: EDSR) -> list[Entry]:
  """Source: BasicSR `EDSR`; its mean is a constant, not an entry."""
  table = layer("conv_first", "conv_first")
  table += residual_blocks(model.num_blocks)
  table += layer("conv_after_body", "conv_after_body")
  for i in range(len(stages(model.scale))):
    # nn.Sequential in which convolution and pixel shuffle alternate.
    table += layer(f"upconv{i + 1}", f"upsample.{2 * i}")
  return table + layer("conv_last", "conv_last")


def _rrdbnet(model: RRDBNet) -> list[Entry]:
  """Source: BasicSR `RRDBNet`."""
  table = layer("conv_first", "conv_first")
  for i in range(model.num_blocks):
    for j in (1, 2, 3):
      for k in range(1, 6):
        inside = f"rdb{j}/conv{k}"
        key = f"body.{i}.rdb{j}.conv{k}"
        table += layer(f"body/{inside}", key, index=i)
  after = ("conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last")
  return table + [e for name in after for e in layer(name, name)]


def _srvggnet(model: SRVGGNetCompact) -> list[Entry]:
  """Source: BasicSR `SRVGGNetCompact`."""
  # One nn.ModuleList in which convolutions and slopes alternate.
  table = layer("first/conv", "body.0") + prelu("first/act", "body.1")
  for i in range(model.num_blocks):
    table += layer("body/conv", f"body.{2 * i + 2}", index=i)
    table += prelu("body/act", f"body.{2 * i + 3}", i)
  return table + layer("conv_last", f"body.{2 * model.num_blocks + 2}")


def _vgg_discriminator(model: VGGDiscriminator) -> list[Entry]:
  """Source: BasicSR `VGGStyleDiscriminator`."""
  table = []
  for i in range(model.input_size.bit_length() - 3):
    for j in (0, 1):
      first = (i, j) == (0, 0)
      table += layer(f"conv{i}_{j}", f"conv{i}_{j}", bias=first)
      if not first:
        table += batch_norm(f"bn{i}_{j}", f"bn{i}_{j}")
  table += layer("linear1", "linear1", "flat")
  return table + layer("linear2", "linear2", "linear")


def _srgan_discriminator(model: SRGANDiscriminator) -> list[Entry]:
  """Source: Lornatang/SRGAN-PyTorch, `DiscriminatorForVGG` in `model.py`."""
  table = layer("conv0", "features.0")
  for i in range(1, 8):
    table += layer(f"conv{i}", f"features.{3 * i - 1}", bias=False)
    table += batch_norm(f"bn{i}", f"features.{3 * i}")
  table += layer("linear1", "classifier.0", "flat")
  return table + layer("linear2", "classifier.2", "linear")


def _unet_discriminator(model: UNetDiscriminator) -> list[Entry]:
  """Source: BasicSR `UNetDiscriminatorSN`."""
  table = layer("conv0", "conv0")
  for i in range(1, 9):
    table += [
      Entry(f"params/conv{i}/kernel", f"conv{i}.weight_orig", "conv"),
      Entry(f"batch_stats/conv{i}/u", f"conv{i}.weight_u", "vector"),
      Entry(f"batch_stats/conv{i}/v", f"conv{i}.weight_v", "vector"),
    ]
  return table + layer("conv9", "conv9")


def _dcgan_generator(model: DCGANGenerator) -> list[Entry]:
  """Source: pytorch/examples, `dcgan/main.py`."""
  # One nn.Sequential: deconvolution, BatchNorm, ReLU; the last without.
  last = model.image_size.bit_length() - 3
  table = layer("project", "main.0", "conv_transpose", bias=False)
  for i in range(last):
    table += batch_norm(f"bn{i}", f"main.{3 * i + 1}")
    table += layer(
      f"deconv{i + 1}", f"main.{3 * i + 3}", "conv_transpose", bias=False
    )
  return table


def _dcgan_discriminator(model: DCGANDiscriminator) -> list[Entry]:
  """Source: pytorch/examples, `dcgan/main.py`."""
  last = model.image_size.bit_length() - 3
  table = layer("conv0", "main.0", bias=False)
  for i in range(1, last):
    table += layer(f"conv{i}", f"main.{3 * i - 1}", bias=False)
    table += batch_norm(f"bn{i}", f"main.{3 * i}")
  return table + layer(f"conv{last}", f"main.{3 * last - 1}", bias=False)


def _vgg19(model: VGG19) -> list[Entry]:
  """Source: torchvision `vgg19`, whose `features` are our layers one by one."""
  last = max(VGG_LAYERS.index(name) for name in model.layers)
  return [
    e
    for i, name in enumerate(VGG_LAYERS[: last + 1])
    if name.startswith("conv")
    for e in layer(name, f"features.{i}")
  ]


_NETWORKS: dict[type, Callable[..., list[Entry]]] = {
  BasicVSR: basicvsr,
  BasicVSRPlusPlus: basicvsr_plusplus,
  DCGANDiscriminator: _dcgan_discriminator,
  DCGANGenerator: _dcgan_generator,
  EDSR: _edsr,
  EDVR: edvr,
  FSRCNN: _fsrcnn,
  IconVSR: iconvsr,
  MSRResNet: _msrresnet,
  RRDBNet: _rrdbnet,
  SPyNet: spynet,
  SRCNN: _srcnn,
  SRGANDiscriminator: _srgan_discriminator,
  SRResNet: _srresnet,
  SRVGGNetCompact: _srvggnet,
  UNetDiscriminator: _unet_discriminator,
  VGG19: _vgg19,
  VGGDiscriminator: _vgg_discriminator,
}

# ESRGAN's own layers before BasicSR, which are numbered.
_OLD_RRDBNET = {
  "0": "conv_first",
  "3": "conv_up1",
  "6": "conv_up2",
  "8": "conv_hr",
  "10": "conv_last",
}
_OLDER_RRDBNET = {
  "trunk_conv": "conv_body",
  "upconv1": "conv_up1",
  "upconv2": "conv_up2",
  "HRconv": "conv_hr",
}

# Where another library calls an array otherwise: MMagic than BasicSR, or
# BasicSR than torchvision, or a library than it did in former years.
_RENAMES: dict[type, Renames] = {
  BasicVSR: (*MMAGIC_SPYNET, *MMAGIC_BASICVSR, *UPSAMPLES),
  BasicVSRPlusPlus: (*MMAGIC_SPYNET, *UPSAMPLES),
  EDSR: (
    (
      r"^upsample\.(\d+)\.upsample_conv\.",
      lambda m: f"upsample.{2 * int(m[1])}.",
    ),
  ),
  EDVR: (*MMAGIC_EDVR, *UPSAMPLES),
  # The flow network's first: its numbers stand before the same `.conv.`.
  IconVSR: (*MMAGIC_SPYNET, *MMAGIC_BASICVSR, *MMAGIC_EDVR, *UPSAMPLES),
  RRDBNet: (
    (
      r"^(?:RRDB_trunk|model\.1\.sub)\.(\d+)\.RDB(\d)\.conv(\d)\.(?:0\.)?",
      lambda m: f"body.{m[1]}.rdb{m[2]}.conv{m[3]}.",
    ),
    (r"^model\.1\.sub\.\d+\.(?=weight|bias)", lambda m: "conv_body."),
    (
      rf"^model\.({'|'.join(_OLD_RRDBNET)})\.",
      lambda m: f"{_OLD_RRDBNET[m[1]]}.",
    ),
    (
      rf"^({'|'.join(_OLDER_RRDBNET)})\.",
      lambda m: f"{_OLDER_RRDBNET[m[1]]}.",
    ),
  ),
  SPyNet: MMAGIC_SPYNET,
  MSRResNet: (
    (r"^(trunk_net|recon_trunk)\.", lambda m: "body."),
    (r"^HRconv\.", lambda m: "conv_hr."),
    *UPSAMPLES,
  ),
  VGG19: (
    (
      rf"^vgg_net\.({'|'.join(VGG_LAYERS)})\.",
      lambda m: f"features.{VGG_LAYERS.index(m[1])}.",
    ),
  ),
}

# What files hold beside the network: of a VGG19, layers past the last one
# needed, and BasicSR's constants, which are arguments of the model here.
_BESIDE: dict[type, str] = {
  VGG19: r"(features|classifier)\.\d+\.(weight|bias)|mean|std",
}


def entries(model: Any) -> list[Entry]:
  """Every array of a network, in PyTorch's order.

  Raises:
    ValueError: the network's names in PyTorch are not known.
  """
  if type(model) not in _NETWORKS:
    known = sorted(kind.__name__ for kind in _NETWORKS)
    raise ValueError(
      f"the PyTorch names of {type(model).__name__} are not known, only those "
      f"of {known}; add them to sr_jax/weights/torch_names.py"
    )
  return _NETWORKS[type(model)](model)


def renamed(kind: type, key: str) -> str:
  """What `entries` calls an array of this class, whoever named it."""
  for pattern, new in _RENAMES.get(kind, ()):
    key = re.sub(pattern, new, key)
  return key


def rename(model: Any, arrays: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays under the names that `entries` has.

  Without those that such files are known to hold beside the network's own.
  """
  own = {e.key for e in entries(model)}
  beside = _BESIDE.get(type(model), r"(?!)")
  return {
    new: value
    for key, value in arrays.items()
    if (new := renamed(type(model), key)) in own
    or not re.fullmatch(beside, new)
  }
