"""EDVR: restoration of a clip's middle frame (Wang et al., CVPRW 2019)."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.alignment import PCDAlignment, TSAFusion, double, leaky
from sr_jax.models.layers import Conv, check_clip, he_init, repeat, torch_init
from sr_jax.models.srresnet import ResidualBlock
from sr_jax.ops.pixel_shuffle import pixel_shuffle
from sr_jax.ops.resize import interpolate

_HR_FEATURES = 64  # of the last two convolutions, whatever the trunk has


class _Predeblur(nn.Module):
  """Features of a blurred frame, by a pyramid of residual blocks: fig. 2.

  With `hr_in` a quarter of the size comes out.
  """

  num_features: int
  hr_in: bool
  remat: bool
  dtype: Any

  @nn.compact
  def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 d"]:
    conv = _convolutions(self.num_features, self.dtype)

    def blocks(name: str, x: Array, count: int = 1) -> Array:
      block = _residual_block(self.num_features, self.dtype, name)
      if count == 1:
        return block(x)
      return repeat(block, x, count, remat=self.remat)

    level1 = leaky(conv("conv_first")(x))
    if self.hr_in:
      level1 = leaky(conv("stride_conv_hr1", stride=2)(level1))
      level1 = leaky(conv("stride_conv_hr2", stride=2)(level1))
    level2 = leaky(conv("stride_conv_l2", stride=2)(level1))
    level3 = leaky(conv("stride_conv_l3", stride=2)(level2))
    level3 = double(blocks("resblock_l3", level3))
    level2 = blocks("resblock_l2_1", level2) + level3
    level2 = double(blocks("resblock_l2_2", level2))
    level1 = blocks("resblock_l1_1", level1, 2) + level2
    return blocks("resblock_l1_2", level1, 3)


class EDVRFeatures(nn.Module, kw_only=True):
  """A clip to the features of one of its frames: all of EDVR but the last part.

  Frames are looked at one by one, aligned to the one in the middle and fused.
  IconVSR has it for its key frames.

  Attributes:
    num_features: As of `EDVR`, like those that follow.
    deformable_groups: See there.
    num_extract_blocks: See there.
    center_frame: See there; a number.
    predeblur: See there.
    hr_in: See there.
    tsa: See there.
    max_offset: See there.
    remat: See there.
    dtype: See there.

  Source: Wang et al. 2019, fig. 2; BasicSR `EDVRFeatureExtractor`.
  """

  num_features: int = 64
  deformable_groups: int = 8
  num_extract_blocks: int = 5
  center_frame: int = 2
  predeblur: bool = False
  hr_in: bool = False
  tsa: bool = True
  max_offset: float | None = None
  remat: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, clip: Float[Array, "b t h w c"]
  ) -> Float[Array, "b _ _ d"]:
    width, dtype = self.num_features, self.dtype
    b, t = clip.shape[:2]
    step = 16 if self.hr_in else 4
    if clip.shape[2] % step or clip.shape[3] % step:
      raise ValueError(
        f"clip {clip.shape[2:4]} is not a multiple of {step}, which the levels "
        "of EDVRFeatures need; pad it first"
      )
    conv = _convolutions(width, dtype)
    # All frames of all clips are one batch: one program for all.
    x = clip.reshape(-1, *clip.shape[2:])
    if self.predeblur:
      x = _Predeblur(width, self.hr_in, self.remat, dtype, name="predeblur")(x)
      x = conv("conv_1x1", size=1)(x)
    else:
      x = leaky(conv("conv_first")(x))
    block = _residual_block(width, dtype, "feature_extraction")
    x = repeat(block, x, self.num_extract_blocks, remat=self.remat)
    levels = [x]
    for i in (2, 3):
      x = leaky(conv(f"conv_l{i}_1", stride=2)(x))
      x = leaky(conv(f"conv_l{i}_2")(x))
      levels.append(x)

    align = nn.remat(PCDAlignment) if self.remat else PCDAlignment
    x = align(
      num_features=width,
      deformable_groups=self.deformable_groups,
      max_offset=self.max_offset,
      dtype=dtype,
      name="pcd_align",
    )(
      levels,
      [
        level.reshape(b, t, *level.shape[1:])[:, self.center_frame]
        for level in levels
      ],
    )
    x = x.reshape(b, t, *x.shape[1:])
    if self.tsa:
      return TSAFusion(
        num_features=width,
        center_frame=self.center_frame,
        dtype=dtype,
        name="fusion",
      )(x)
    x = jnp.moveaxis(x, 1, 3)
    return conv("fusion", size=1)(x.reshape(*x.shape[:3], -1))


class EDVR(nn.Module, kw_only=True):
  """Video restoration by deformable alignment and attention.

  The paper's M has the defaults, its L `num_features=128` and
  `num_reconstruct_blocks=40`. Sides that are no multiple of 4 (16 with `hr_in`)
  are mirrored at the bottom and right inside, and the result is cropped.

  Attributes:
    in_channels: Of a frame.
    out_channels: The same number, since the enlarged frame is added.
    num_features: Channels of the trunk.
    num_frames: Of one input.
    deformable_groups: Of the alignment.
    num_extract_blocks: Residual blocks before the alignment.
    num_reconstruct_blocks: Residual blocks after the fusion.
    center_frame: The frame that is restored, from 0; None is the middle one.
    predeblur: Look at frames through a pyramid that takes off blur.
    hr_in: The input has the size of the output (deblurring); needs
      `predeblur`, whose strides make it small.
    tsa: Fuse by temporal and spatial attention, not by one convolution.
    max_offset: Offsets of the alignment are held within so many pixels; None
      holds nothing. See `ModulatedDeformConv`.
    remat: Compute blocks and the alignment anew in the backward pass.
    dtype: Of the computation; parameters and the output are float32.

  Source: Wang et al. 2019, fig. 2; BasicSR `EDVR`.
  """

  in_channels: int = 3
  out_channels: int = 3
  num_features: int = 64
  num_frames: int = 5
  deformable_groups: int = 8
  num_extract_blocks: int = 5
  num_reconstruct_blocks: int = 10
  center_frame: int | None = None
  predeblur: bool = False
  hr_in: bool = False
  tsa: bool = True
  max_offset: float | None = None
  remat: bool = False
  dtype: Any = jnp.float32

  @property
  def scale(self) -> int:
    """Enlargement: 4, or none with `hr_in`."""
    return 1 if self.hr_in else 4

  @nn.compact
  def __call__(self, lr: Float[Array, "b t h w c"]) -> Float[Array, "b _ _ d"]:
    check_clip(self, lr, channels=self.in_channels)
    center = self.num_frames // 2
    if self.center_frame is not None:
      center = self.center_frame
    self._check(center)
    h, w = lr.shape[2:4]
    step = 4 * (4 // self.scale)
    edges = (0, -h % step), (0, -w % step)
    clip = jnp.pad(lr, ((0, 0), (0, 0), *edges, (0, 0)), "reflect")

    width, dtype = self.num_features, self.dtype
    conv = _convolutions(width, dtype)
    x = EDVRFeatures(
      num_features=width,
      deformable_groups=self.deformable_groups,
      num_extract_blocks=self.num_extract_blocks,
      center_frame=center,
      predeblur=self.predeblur,
      hr_in=self.hr_in,
      tsa=self.tsa,
      max_offset=self.max_offset,
      remat=self.remat,
      dtype=dtype,
      name="features",
    )(clip)
    block = _residual_block(width, dtype, "reconstruction")
    x = repeat(block, x, self.num_reconstruct_blocks, remat=self.remat)
    x = conv("upconv1", features=4 * width)(x)
    x = leaky(jnp.asarray(pixel_shuffle(x, 2)))
    x = conv("upconv2", features=4 * _HR_FEATURES)(x)
    x = leaky(jnp.asarray(pixel_shuffle(x, 2)))
    x = leaky(conv("conv_hr", features=_HR_FEATURES)(x))
    x = conv("conv_last", features=self.out_channels)(x)
    base = clip[:, center].astype(jnp.float32)
    if self.scale > 1:
      base = jnp.asarray(interpolate(base, self.scale, method="bilinear"))
    sr = x.astype(jnp.float32) + base
    return sr[:, : h * self.scale, : w * self.scale]

  def _check(self, center: int) -> None:
    """Refuses arguments that do not fit one another."""
    if self.num_frames % 2 == 0 and self.center_frame is None:
      raise ValueError(
        f"EDVR.num_frames {self.num_frames} is even and has no middle; give an "
        "odd number, or center_frame"
      )
    if not 0 <= center < self.num_frames:
      raise ValueError(
        f"EDVR.center_frame {self.center_frame} is not one of its "
        f"{self.num_frames} frames, 0 to {self.num_frames - 1}"
      )
    if self.in_channels != self.out_channels:
      raise ValueError(
        f"EDVR adds a frame of its input to its output: in_channels "
        f"{self.in_channels} and out_channels {self.out_channels} must be equal"
      )
    if self.hr_in and not self.predeblur:
      raise ValueError(
        "EDVR.hr_in needs predeblur=True: its strides bring the frames down to "
        "the size that is aligned"
      )


def _convolutions(width: int, dtype: Any) -> Any:
  """Makes convolutions that begin as PyTorch's do."""

  def conv(
    name: str, *, features: int = width, size: int = 3, stride: int = 1
  ) -> Conv:
    return Conv(
      features, size, stride, kernel_init=torch_init(), dtype=dtype, name=name
    )

  return conv


def _residual_block(width: int, dtype: Any, name: str) -> ResidualBlock:
  return ResidualBlock(width, 1.0, he_init(0.1), dtype, name=name)
