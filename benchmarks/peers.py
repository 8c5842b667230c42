"""The networks that `networks.py` measures against, in PyTorch.

Their parameters have the names of the references that `sr_jax.weights` reads,
so that `from_torch` carries them over.
"""

import torch
from torch import nn
from torch.nn import functional


class FSRCNN(nn.Module):
  """FSRCNN(56, 12, 4), as Dong et al. 2016 have it."""

  def __init__(self, scale: int):
    super().__init__()
    self.first_part = nn.Sequential(
      nn.Conv2d(1, 56, 5, padding=2), nn.PReLU(56)
    )
    middle = [nn.Conv2d(56, 12, 1), nn.PReLU(12)]
    for _ in range(4):
      middle += [nn.Conv2d(12, 12, 3, padding=1), nn.PReLU(12)]
    middle += [nn.Conv2d(12, 56, 1), nn.PReLU(56)]
    self.mid_part = nn.Sequential(*middle)
    self.last_part = nn.ConvTranspose2d(
      56, 1, 9, scale, padding=4, output_padding=scale - 1
    )

  def forward(self, x):
    """Low resolution in, high resolution out."""
    return self.last_part(self.mid_part(self.first_part(x)))


class SRCNN(nn.Module):
  """SRCNN f1-f2-f3 behind bicubic enlargement."""

  def __init__(self, scale: int, kernel_sizes: tuple[int, int, int]):
    super().__init__()
    self.scale = scale
    a, b, c = kernel_sizes
    self.conv1 = nn.Conv2d(1, 64, a, padding=a // 2)
    self.conv2 = nn.Conv2d(64, 32, b, padding=b // 2)
    self.conv3 = nn.Conv2d(32, 1, c, padding=c // 2)

  def forward(self, x):
    """Low resolution in, high resolution out."""
    x = functional.interpolate(x, scale_factor=self.scale, mode="bicubic")
    return self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(x)))))


def _conv(cin: int, cout: int) -> nn.Conv2d:
  return nn.Conv2d(cin, cout, 3, padding=1)


def _leaky(x: torch.Tensor, slope: float) -> torch.Tensor:
  # In place, which keeps one copy fewer, as the references have it.
  return functional.leaky_relu(x, slope, inplace=True)


class _ResidualBlock(nn.Module):
  """x + conv(ReLU(conv(x)))."""

  def __init__(self, width: int):
    super().__init__()
    self.conv1, self.conv2 = _conv(width, width), _conv(width, width)

  def forward(self, x):
    return x + self.conv2(functional.relu(self.conv1(x), inplace=True))


class MSRResNet(nn.Module):
  """ESRGAN's baseline at x4, named as BasicSR names it."""

  def __init__(self, width: int = 64, blocks: int = 16):
    super().__init__()
    self.conv_first = _conv(3, width)
    self.body = nn.Sequential(*(_ResidualBlock(width) for _ in range(blocks)))
    self.upconv1 = _conv(width, 4 * width)
    self.upconv2 = _conv(width, 4 * width)
    self.conv_hr, self.conv_last = _conv(width, width), _conv(width, 3)

  def forward(self, x):
    """Low resolution in, high resolution out."""
    y = self.body(_leaky(self.conv_first(x), 0.1))
    for conv in (self.upconv1, self.upconv2):
      y = _leaky(functional.pixel_shuffle(conv(y), 2), 0.1)
    y = self.conv_last(_leaky(self.conv_hr(y), 0.1))
    return y + functional.interpolate(
      x, scale_factor=4, mode="bilinear", align_corners=False
    )


class _DenseBlock(nn.Module):
  """Five convolutions, each of all that came before it."""

  def __init__(self, width: int, growth: int):
    super().__init__()
    self.conv1 = _conv(width, growth)
    self.conv2 = _conv(width + growth, growth)
    self.conv3 = _conv(width + 2 * growth, growth)
    self.conv4 = _conv(width + 3 * growth, growth)
    self.conv5 = _conv(width + 4 * growth, width)

  def forward(self, x):
    features = [x]
    for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
      features.append(_leaky(conv(torch.cat(features, 1)), 0.2))
    return x + 0.2 * self.conv5(torch.cat(features, 1))


class _RRDB(nn.Module):
  """Three dense blocks with a skip around them."""

  def __init__(self, width: int, growth: int):
    super().__init__()
    self.rdb1 = _DenseBlock(width, growth)
    self.rdb2 = _DenseBlock(width, growth)
    self.rdb3 = _DenseBlock(width, growth)

  def forward(self, x):
    return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
  """ESRGAN's generator at x4, named as BasicSR names it."""

  def __init__(self, width: int = 64, blocks: int = 23, growth: int = 32):
    super().__init__()
    self.conv_first = _conv(3, width)
    self.body = nn.Sequential(*(_RRDB(width, growth) for _ in range(blocks)))
    self.conv_body = _conv(width, width)
    self.conv_up1, self.conv_up2 = _conv(width, width), _conv(width, width)
    self.conv_hr, self.conv_last = _conv(width, width), _conv(width, 3)

  def forward(self, x):
    """Low resolution in, high resolution out."""
    x = self.conv_first(x)
    x = x + self.conv_body(self.body(x))
    for conv in (self.conv_up1, self.conv_up2):
      x = functional.interpolate(x, scale_factor=2, mode="nearest")
      x = _leaky(conv(x), 0.2)
    return self.conv_last(_leaky(self.conv_hr(x), 0.2))
