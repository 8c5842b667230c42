"""BasicVSR, which `networks.py` measures against, in PyTorch.

Named as BasicSR names it, like those of `peers.py`.
"""

import itertools

import torch
from peers import _conv, _leaky, _ResidualBlock
from torch import nn
from torch.nn import functional


def _warp(x: torch.Tensor, flow: torch.Tensor, padding: str) -> torch.Tensor:
  """The pixels of NCHW `x` that lie (dx, dy) away."""
  h, w = x.shape[2:]
  rows, columns = torch.meshgrid(
    *(torch.arange(n, device=x.device) for n in (h, w)), indexing="ij"
  )
  at = torch.stack((columns, rows)).to(flow) + flow
  span = at.new_tensor([max(w - 1, 1), max(h - 1, 1)]).view(2, 1, 1)
  return functional.grid_sample(
    x,
    (2 * at / span - 1).permute(0, 2, 3, 1),
    padding_mode=padding,
    align_corners=True,
  )


class _Level(nn.Module):
  """Five convolutions that correct the flow of one size."""

  def __init__(self):
    super().__init__()
    layers = []
    widths = (8, 32, 64, 32, 16, 2)
    for cin, cout in itertools.pairwise(widths):
      layers += [nn.Conv2d(cin, cout, 7, padding=3), nn.ReLU(inplace=True)]
    self.basic_module = nn.Sequential(*layers[:-1])

  def forward(self, x):
    return self.basic_module(x)


class SPyNet(nn.Module):
  """Optical flow of images whose sides are multiples of 32."""

  def __init__(self):
    super().__init__()
    self.basic_module = nn.ModuleList(_Level() for _ in range(6))
    for name, values in (
      ("mean", [0.485, 0.456, 0.406]),
      ("std", [0.229, 0.224, 0.225]),
    ):
      values = torch.tensor(values).view(1, 3, 1, 1)
      self.register_parameter(name, nn.Parameter(values, requires_grad=False))

  def forward(self, ref, supp):
    """The flow that warps `supp` onto `ref`, NCHW."""
    pyramid = [[(x - self.mean) / self.std for x in (ref, supp)]]
    for _ in range(5):
      pyramid.append([functional.avg_pool2d(x, 2) for x in pyramid[-1]])
    b, _, h, w = pyramid[-1][0].shape
    flow = ref.new_zeros(b, 2, h, w)
    for i, (here, there) in enumerate(reversed(pyramid)):
      if i > 0:
        flow = 2 * functional.interpolate(
          flow, scale_factor=2, mode="bilinear", align_corners=True
        )
      warped = _warp(there, flow, "border")
      flow = flow + self.basic_module[i](torch.cat([here, warped, flow], 1))
    return flow


class _Trunk(nn.Module):
  """A convolution and residual blocks."""

  def __init__(self, width: int, blocks: int):
    super().__init__()
    self.main = nn.Sequential(
      _conv(width + 3, width),
      nn.LeakyReLU(0.1, inplace=True),
      nn.Sequential(*(_ResidualBlock(width) for _ in range(blocks))),
    )

  def forward(self, x):
    return self.main(x)


class BasicVSR(nn.Module):
  """Chan et al. 2021 at x4, frame by frame as BasicSR has it."""

  def __init__(self, width: int = 64, blocks: int = 30):
    super().__init__()
    self.width = width
    self.spynet = SPyNet()
    self.backward_trunk = _Trunk(width, blocks)
    self.forward_trunk = _Trunk(width, blocks)
    self.fusion = nn.Conv2d(2 * width, width, 1)
    self.upconv1, self.upconv2 = _conv(width, 4 * width), _conv(width, 256)
    self.conv_hr, self.conv_last = _conv(64, 64), _conv(64, 3)

  def _pass(self, trunk, frames, flows):
    """Features of each frame; flows lead to the frame before in the pass."""
    b, _, h, w = frames[0].shape
    features, made = frames[0].new_zeros(b, self.width, h, w), []
    for i, frame in enumerate(frames):
      if i > 0:
        features = _warp(features, flows[i - 1], "zeros")
      features = trunk(torch.cat([frame, features], 1))
      made.append(features)
    return made

  def forward(self, clip):
    """[b, t, c, h, w] in, [b, t, c, 4h, 4w] out."""
    b = clip.shape[0]
    behind, ahead = clip[:, :-1].flatten(0, 1), clip[:, 1:].flatten(0, 1)
    flow = lambda *pair: self.spynet(*pair).unflatten(0, (b, -1)).unbind(1)
    frames = clip.unbind(1)
    back = self._pass(
      self.backward_trunk, frames[::-1], flow(behind, ahead)[::-1]
    )[::-1]
    forth = self._pass(self.forward_trunk, frames, flow(ahead, behind))
    restored = []
    for frame, *features in zip(frames, back, forth, strict=True):
      x = _leaky(self.fusion(torch.cat(features, 1)), 0.1)
      for conv in (self.upconv1, self.upconv2):
        x = _leaky(functional.pixel_shuffle(conv(x), 2), 0.1)
      x = self.conv_last(_leaky(self.conv_hr(x), 0.1))
      restored.append(
        x
        + functional.interpolate(
          frame, scale_factor=4, mode="bilinear", align_corners=False
        )
      )
    return torch.stack(restored, 1)
