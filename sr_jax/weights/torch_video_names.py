"""What the arrays of networks of clips are called in PyTorch."""

from sr_jax.models import EDVR, BasicVSR, BasicVSRPlusPlus, IconVSR, SPyNet
from sr_jax.models.basicvsr_plusplus import PASSES
from sr_jax.models.spynet import LEVELS, MEAN, STD
from sr_jax.weights.torch_entries import (
  Entry,
  Renames,
  channel_constant,
  layer,
  residual_blocks,
)

#: MMagic's names of a SPyNet, alone or inside of a network: it has no place for
#: the activations between convolutions.
MMAGIC_SPYNET: Renames = (
  (
    r"basic_module\.(\d)\.basic_module\.(\d)\.conv\.",
    lambda m: f"basic_module.{m[1]}.basic_module.{2 * int(m[2])}.",
  ),
)

#: MMagic's names of EDVR's features, alone or inside of a network.
MMAGIC_EDVR: Renames = (
  (r"\.conv\.(weight|bias)$", lambda m: f".{m[1]}"),
  (r"(^|\.)pcd_alignment\.", lambda m: f"{m[1]}pcd_align."),
  (r"(^|\.)feat_l(\d)_conv(\d)\.", lambda m: f"{m[1]}conv_l{m[2]}_{m[3]}."),
)

#: MMagic's names of the passes of BasicVSR and IconVSR.
MMAGIC_BASICVSR: Renames = (
  (r"^(backward|forward)_resblocks\.", lambda m: f"{m[1]}_trunk."),
)


def _predeblur(path: str, key: str, hr_in: bool) -> list[Entry]:
  """Source: BasicSR `PredeblurModule`."""
  names = ["conv_first"]
  names += ["stride_conv_hr1", "stride_conv_hr2"] if hr_in else []
  names += ["stride_conv_l2", "stride_conv_l3"]
  table = [e for n in names for e in layer(f"{path}/{n}", f"{key}.{n}")]
  for block in ("resblock_l3", "resblock_l2_1", "resblock_l2_2"):
    for j in (1, 2):
      table += layer(f"{path}/{block}/conv{j}", f"{key}.{block}.conv{j}")
  block = f"{key}.resblock_l1"
  table += residual_blocks(2, f"{path}/resblock_l1_1", block)
  return table + residual_blocks(3, f"{path}/resblock_l1_2", block, first=2)


def dcn_pack(path: str, key: str) -> list[Entry]:
  """Source: BasicSR `DCNv2Pack`."""
  return layer(f"{path}/dcn", key) + layer(
    f"{path}/conv_offset", f"{key}.conv_offset"
  )


def _pcd_align(path: str, key: str) -> list[Entry]:
  """Source: BasicSR `PCDAlignment`."""
  table = []
  for name, levels in (
    ("offset_conv1", (3, 2, 1)),
    ("offset_conv2", (3, 2, 1)),
    ("offset_conv3", (2, 1)),
    ("dcn_pack", (3, 2, 1)),
    ("feat_conv", (2, 1)),
  ):
    entries_of = dcn_pack if name == "dcn_pack" else layer
    for i in levels:
      table += entries_of(f"{path}/{name}_l{i}", f"{key}.{name}.l{i}")
  for name in ("cas_offset_conv1", "cas_offset_conv2"):
    table += layer(f"{path}/{name}", f"{key}.{name}")
  return table + dcn_pack(f"{path}/cas_dcnpack", f"{key}.cas_dcnpack")


def _tsa_fusion(path: str, key: str) -> list[Entry]:
  """Source: BasicSR `TSAFusion`."""
  names = ["temporal_attn1", "temporal_attn2", "feat_fusion"]
  names += [f"spatial_attn{i}" for i in (1, 2, 3, 4, 5)]
  names += [f"spatial_attn_{i}" for i in ("l1", "l2", "l3", "add1", "add2")]
  return [e for n in names for e in layer(f"{path}/{n}", f"{key}.{n}")]


def edvr_features(path: str, key: str, model: EDVR) -> list[Entry]:
  """Those of an `EDVRFeatures` with the arguments of an `EDVR`.

  Args:
    path: Of the module here.
    key: What its names begin with there: "" or a word and a dot.
    model: An `EDVR` of the same arguments.

  Returns:
    The entries, in PyTorch's order.

  Source: BasicSR `EDVRFeatureExtractor`, the first part of `EDVR`.
  """
  if model.predeblur:
    table = _predeblur(f"{path}/predeblur", f"{key}predeblur", model.hr_in)
    table += layer(f"{path}/conv_1x1", f"{key}conv_1x1")
  else:
    table = layer(f"{path}/conv_first", f"{key}conv_first")
  table += residual_blocks(
    model.num_extract_blocks,
    f"{path}/feature_extraction",
    f"{key}feature_extraction",
  )
  for name in ("conv_l2_1", "conv_l2_2", "conv_l3_1", "conv_l3_2"):
    table += layer(f"{path}/{name}", f"{key}{name}")
  table += _pcd_align(f"{path}/pcd_align", f"{key}pcd_align")
  fusion = _tsa_fusion if model.tsa else layer
  return table + fusion(f"{path}/fusion", f"{key}fusion")


def edvr(model: EDVR) -> list[Entry]:
  """Source: BasicSR `EDVR`."""
  table = edvr_features("features", "", model)
  table += residual_blocks(
    model.num_reconstruct_blocks, "reconstruction", "reconstruction"
  )
  after = ("upconv1", "upconv2", "conv_hr", "conv_last")
  return table + [e for name in after for e in layer(name, name)]


def spynet(model: SPyNet, path: str = "", key: str = "") -> list[Entry]:
  """Source: BasicSR `SpyNet`; its mean and deviation are constants here."""
  table = [
    channel_constant(f"{key}mean", MEAN),
    channel_constant(f"{key}std", STD),
  ]
  for i in range(LEVELS):
    for j in range(len(model.widths) + 1):
      table += layer(
        f"{path}level{i}/conv{j}", f"{key}basic_module.{i}.basic_module.{2 * j}"
      )
  return table


def _trunk(path: str, key: str, num_blocks: int) -> list[Entry]:
  """Source: BasicSR `ConvResidualBlocks`."""
  table = layer(f"{path}/conv_first", f"{key}.main.0")
  return table + residual_blocks(num_blocks, f"{path}/body", f"{key}.main.2")


def _enlargement() -> list[Entry]:
  names = ("upconv1", "upconv2", "conv_hr", "conv_last")
  return [e for name in names for e in layer(f"enlargement/{name}", name)]


def _flow_network(model: BasicVSR | BasicVSRPlusPlus | IconVSR) -> list[Entry]:
  return spynet(SPyNet(widths=model.spynet_widths), "spynet/", "spynet.")


def basicvsr(model: BasicVSR) -> list[Entry]:
  """Source: BasicSR `BasicVSR`."""
  table = _flow_network(model)
  for name in ("backward_trunk", "forward_trunk"):
    table += _trunk(name, name, model.num_blocks)
  return table + layer("fusion", "fusion") + _enlargement()


def iconvsr(model: IconVSR) -> list[Entry]:
  """Source: BasicSR `IconVSR`."""
  table = edvr_features("edvr", "edvr.", EDVR(num_features=model.num_features))
  table = _flow_network(model) + table
  for name in ("backward", "forward"):
    table += layer(f"{name}_fusion", f"{name}_fusion")
    table += _trunk(f"{name}_trunk", f"{name}_trunk", model.num_blocks)
  return table + _enlargement()


def basicvsr_plusplus(model: BasicVSRPlusPlus) -> list[Entry]:
  """Source: BasicSR `BasicVSRPlusPlus`."""
  table, key = _flow_network(model), "feat_extract"
  if not model.is_low_res_input:
    # One nn.Sequential, with activations between.
    for i in (0, 1):
      table += layer(f"feat_extract/conv{i}", f"{key}.{2 * i}")
    key += ".4"
  table += _trunk("feat_extract/trunk", key, 5)
  for name in PASSES:
    path, key = f"deform_align_{name}", f"deform_align.{name}"
    table += layer(f"{path}/dcn", key)
    for i in range(4):
      table += layer(f"{path}/conv_offset{i}", f"{key}.conv_offset.{2 * i}")
  for name in PASSES:
    table += _trunk(f"backbone_{name}", f"backbone.{name}", model.num_blocks)
  table += _trunk("reconstruction", "reconstruction", 5)
  return table + _enlargement()
