"""The networks of clips that `networks.py` measures against, in PyTorch.

Named as BasicSR names them, like those of `peers.py`; torchvision has their
deformable convolution.
"""

import torch
from peers import _conv, _leaky, _ResidualBlock
from torch import nn
from torch.nn import functional
from torchvision.ops import deform_conv2d


def _double(x: torch.Tensor) -> torch.Tensor:
  return functional.interpolate(
    x, scale_factor=2, mode="bilinear", align_corners=False
  )


def _strided(width: int) -> nn.Conv2d:
  return nn.Conv2d(width, width, 3, 2, 1)


class _DCNv2Pack(nn.Module):
  """Modulated deformable convolution and the one that makes its offsets."""

  def __init__(self, width: int, groups: int):
    super().__init__()
    self.offsets = 18 * groups
    self.weight = nn.Parameter(torch.empty(width, width, 3, 3))
    self.bias = nn.Parameter(torch.zeros(width))
    self.conv_offset = _conv(width, 27 * groups)
    nn.init.kaiming_uniform_(self.weight, a=5**0.5)
    # Offsets of a pixel or two that differ from place to place, as trained
    # networks have them; at the usual beginning all samples are neighbours.
    nn.init.normal_(self.conv_offset.weight, std=4.0)
    nn.init.normal_(self.conv_offset.bias)

  def forward(self, x, features):
    y = self.conv_offset(features)
    return deform_conv2d(
      x,
      y[:, : self.offsets],
      self.weight,
      self.bias,
      padding=1,
      mask=torch.sigmoid(y[:, self.offsets :]),
    )


class _PCDAlignment(nn.Module):
  """Offsets from coarse to fine: EDVR, fig. 3."""

  def __init__(self, width: int, groups: int):
    super().__init__()
    both = lambda: _conv(2 * width, width)
    one = lambda: _conv(width, width)
    self.offset_conv1 = nn.ModuleDict({k: both() for k in ("l3", "l2", "l1")})
    self.offset_conv2 = nn.ModuleDict({"l3": one(), "l2": both(), "l1": both()})
    self.offset_conv3 = nn.ModuleDict({k: one() for k in ("l2", "l1")})
    self.dcn_pack = nn.ModuleDict(
      {k: _DCNv2Pack(width, groups) for k in ("l3", "l2", "l1")}
    )
    self.feat_conv = nn.ModuleDict({k: both() for k in ("l2", "l1")})
    self.cas_offset_conv1 = both()
    self.cas_offset_conv2 = one()
    self.cas_dcnpack = _DCNv2Pack(width, groups)

  def forward(self, neighbors, reference):
    offset = features = None
    for i in (3, 2, 1):
      level = f"l{i}"
      there = neighbors[i - 1]
      new = torch.cat([there, reference[i - 1]], 1)
      new = _leaky(self.offset_conv1[level](new), 0.1)
      if offset is not None:
        new = torch.cat([new, 2 * _double(offset)], 1)
      new = _leaky(self.offset_conv2[level](new), 0.1)
      if offset is not None:
        new = _leaky(self.offset_conv3[level](new), 0.1)
      offset = new
      found = self.dcn_pack[level](there, offset)
      if features is not None:
        found = torch.cat([found, _double(features)], 1)
        found = self.feat_conv[level](found)
      features = found if i == 1 else _leaky(found, 0.1)
    offset = torch.cat([features, reference[0]], 1)
    offset = _leaky(self.cas_offset_conv1(offset), 0.1)
    offset = _leaky(self.cas_offset_conv2(offset), 0.1)
    return _leaky(self.cas_dcnpack(features, offset), 0.1)


class _TSAFusion(nn.Module):
  """Frames weighted by likeness, places by a pyramid: EDVR, fig. 4."""

  def __init__(self, width: int, frames: int):
    super().__init__()
    point = lambda times: nn.Conv2d(times * width, width, 1)
    self.temporal_attn1 = _conv(width, width)
    self.temporal_attn2 = _conv(width, width)
    self.feat_fusion = point(frames)
    self.spatial_attn1 = point(frames)
    self.spatial_attn2 = point(2)
    self.spatial_attn3 = _conv(width, width)
    self.spatial_attn4 = point(1)
    self.spatial_attn5 = _conv(width, width)
    self.spatial_attn_l1 = point(1)
    self.spatial_attn_l2 = _conv(2 * width, width)
    self.spatial_attn_l3 = _conv(width, width)
    self.spatial_attn_add1 = point(1)
    self.spatial_attn_add2 = point(1)

  def _pooled(self, x):
    return torch.cat(
      [functional.max_pool2d(x, 3, 2, 1), functional.avg_pool2d(x, 3, 2, 1)], 1
    )

  def forward(self, aligned):
    b, t, _, h, w = aligned.shape
    reference = self.temporal_attn1(aligned[:, t // 2])
    embedded = self.temporal_attn2(aligned.flatten(0, 1)).view(b, t, -1, h, w)
    likeness = (embedded * reference[:, None]).sum(2, keepdim=True)
    frames = (aligned * torch.sigmoid(likeness)).flatten(1, 2)
    features = _leaky(self.feat_fusion(frames), 0.1)
    half = _leaky(self.spatial_attn1(frames), 0.1)
    half = _leaky(self.spatial_attn2(self._pooled(half)), 0.1)
    quarter = _leaky(self.spatial_attn_l1(half), 0.1)
    quarter = _leaky(self.spatial_attn_l2(self._pooled(quarter)), 0.1)
    quarter = _leaky(self.spatial_attn_l3(quarter), 0.1)
    half = _leaky(self.spatial_attn3(half), 0.1) + _double(quarter)
    half = _leaky(self.spatial_attn4(half), 0.1)
    attention = self.spatial_attn5(_double(half))
    added = _leaky(self.spatial_attn_add1(attention), 0.1)
    added = self.spatial_attn_add2(added)
    return features * torch.sigmoid(attention) * 2 + added


class EDVR(nn.Module):
  """EDVR-M at x4; its frames are aligned one after the other, as BasicSR's."""

  def __init__(self, width: int = 64, frames: int = 5, groups: int = 8):
    super().__init__()
    blocks = lambda n: nn.Sequential(*(_ResidualBlock(width) for _ in range(n)))
    self.conv_first = _conv(3, width)
    self.feature_extraction = blocks(5)
    self.conv_l2_1, self.conv_l2_2 = _strided(width), _conv(width, width)
    self.conv_l3_1, self.conv_l3_2 = _strided(width), _conv(width, width)
    self.pcd_align = _PCDAlignment(width, groups)
    self.fusion = _TSAFusion(width, frames)
    self.reconstruction = blocks(10)
    self.upconv1, self.upconv2 = _conv(width, 4 * width), _conv(width, 256)
    self.conv_hr, self.conv_last = _conv(64, 64), _conv(64, 3)

  def forward(self, clip):
    """Low resolution [b, t, c, h, w] in, high resolution [b, c, h, w] out."""
    b, t = clip.shape[:2]
    x = _leaky(self.conv_first(clip.flatten(0, 1)), 0.1)
    levels = [self.feature_extraction(x)]
    for first, second in (
      (self.conv_l2_1, self.conv_l2_2),
      (self.conv_l3_1, self.conv_l3_2),
    ):
      x = _leaky(first(levels[-1]), 0.1)
      levels.append(_leaky(second(x), 0.1))
    levels = [level.unflatten(0, (b, t)) for level in levels]
    reference = [level[:, t // 2] for level in levels]
    aligned = [
      self.pcd_align([level[:, i] for level in levels], reference)
      for i in range(t)
    ]
    x = self.reconstruction(self.fusion(torch.stack(aligned, 1)))
    for conv in (self.upconv1, self.upconv2):
      x = _leaky(functional.pixel_shuffle(conv(x), 2), 0.1)
    x = self.conv_last(_leaky(self.conv_hr(x), 0.1))
    return x + functional.interpolate(
      clip[:, t // 2], scale_factor=4, mode="bilinear", align_corners=False
    )
