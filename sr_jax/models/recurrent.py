"""Networks that pass features along a clip, and the loops they run in.

A network of this kind goes over the frames several times, forwards or
backwards; each pass carries features from frame to frame by optical flow and
leaves some at every frame, of which the last part makes the restored one. It
says what happens at one frame. Here is the loop over frames, for a clip that is
whole on the device; `sr_jax.inference` runs the same parts on clips that are
not.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sr_jax.models.alignment import leaky
from sr_jax.models.layers import Conv, check_clip, he_init, repeat, torch_init
from sr_jax.models.spynet import SPyNet
from sr_jax.models.srresnet import ResidualBlock
from sr_jax.ops.pixel_shuffle import pixel_shuffle
from sr_jax.ops.resize import interpolate

_HR_FEATURES = 64  # of the last two convolutions, whatever the trunk has

# Pixels of a clip's frames whose flow, and whose enlargement by four, is
# computed at a time; more would be held at once.
_FLOW_PIXELS, _SR_PIXELS = 2**17, 2**14


class FrameInputs(NamedTuple):
  """What a pass sees of one frame.

  Attributes:
    seen: What `look` made of the frame.
    flow: (dx, dy) from it to the one that the pass comes from; zero at the
      first.
    order: Number of the frame in the pass, from 0: an int32 scalar.
    earlier: What the passes before this one left at the frame.
  """

  seen: Any
  flow: Array
  order: Array
  earlier: tuple[Array, ...]


class RecurrentNetwork(nn.Module, kw_only=True):
  """A clip to the same clip enlarged by four.

  A subclass says in `directions`, `begin`, `step` and `reconstruct` what it
  does, and in `look` and `look_all` what of a frame it sees. These are methods
  for `model.apply(variables, ..., method="step")` too.

  Attributes:
    num_features: Channels of the features.
    spynet_widths: Of the flow network.
    mirror_extended: Of the clips it is called with, where the call does not say
      otherwise.
    remat: Compute what is inside of a frame's step anew in the backward pass.
    dtype: Of the computation; parameters, flow and the output are float32.
  """

  num_features: int = 64
  spynet_widths: Sequence[int] = (32, 64, 32, 16)
  mirror_extended: bool = False
  remat: bool = False
  dtype: Any = jnp.float32

  def setup(self) -> None:
    """What all of them have."""
    self.spynet = SPyNet(widths=self.spynet_widths, dtype=self.dtype)
    self.enlargement = Enlargement(dtype=self.dtype)

  @nn.nowrap
  def trunk(self, num_blocks: int) -> "ResidualTrunk":
    """A trunk of the network's width, for its `setup`."""
    return ResidualTrunk(
      num_features=self.num_features, num_blocks=num_blocks, dtype=self.dtype
    )

  @property
  def scale(self) -> int:
    """Enlargement."""
    return 4

  @property
  def num_frames(self) -> None:
    """Any number of frames will do."""
    return None

  @property
  def directions(self) -> tuple[str, ...]:
    """Of the passes, in the order in which they are computed."""
    raise NotImplementedError

  @property
  def passes_sow(self) -> bool:
    """Whether `step` sows metrics."""
    return False

  def sources(self, index: int, count: int) -> tuple[int, ...]:
    """Frames that `look` takes for one of `count`; mostly itself alone."""
    del count
    return (index,)

  def flow(
    self, ref: Float[Array, "b h w c"], supp: Float[Array, "b h w c"]
  ) -> Float[Array, "b h2 w2 2"]:
    """From one frame to another, at the size of the features."""
    return self.spynet(ref, supp)

  def look(self, frames: Float[Array, "b n h w c"]) -> Any:
    """What the passes see of a frame, given the frames of `sources`."""
    return frames[:, 0]

  def begin(self, seen: Any) -> Any:
    """What a pass carries to its first frame."""
    raise NotImplementedError

  def step(self, number: int, carry: Any, frame: FrameInputs) -> Any:
    """One frame of pass `number`: what goes on, and what stays there."""
    raise NotImplementedError

  def reconstruct(
    self,
    frame: Float[Array, "b h w c"],
    seen: Any,
    features: tuple[Array, ...],
  ) -> Float[Array, "b h2 w2 c"]:
    """The restored frame, of what `look` saw and all passes left there."""
    raise NotImplementedError

  def look_all(self, clip: Float[Array, "t b h w c"]) -> Any:
    """`look` at every frame; the result has the frames in front."""
    return self.in_chunks(lambda self, frame: self.look(frame[:, None]), clip)

  def flows(
    self, clip: Float[Array, "t b h w c"], *, mirrored: bool = False
  ) -> dict[str, Float[Array, "t b h2 w2 2"]]:
    """The flow of each frame in both directions, by their names.

    Args:
      clip: The frames.
      mirrored: The second half is the first one backwards, so that the flow is
        too.
    """
    count = len(clip) - 1
    # One frame has none, but the network's variables are made all the same.
    behind, ahead = (clip[:-1], clip[1:]) if count else (clip, clip)
    ref, supp = behind, ahead
    if not mirrored:
      ref, supp = jnp.concatenate([ref, ahead]), jnp.concatenate([supp, behind])
    flows = self.in_chunks(
      lambda self, pair: self.flow(*pair), (ref, supp), _FLOW_PIXELS
    )
    nothing = jnp.zeros((1, *flows.shape[1:]), flows.dtype)
    backward = jnp.concatenate([flows[:count], nothing])
    if mirrored:
      return {"backward": backward, "forward": backward[::-1]}
    forward = jnp.concatenate([nothing, flows[len(behind) :][:count]])
    return {"backward": backward, "forward": forward}

  @nn.nowrap
  def propagate(
    self, number: int, seen: Any, flow: Array, earlier: tuple[Array, ...]
  ) -> Array:
    """Pass `number` over all frames, as a loop; frames are in front."""
    order = jnp.arange(len(flow))
    if reverse := self.directions[number] == "backward":
      order = order[::-1]
    first = jax.tree.map(lambda x: x[0], seen)

    def body(self: Any, carry: Any, frame: FrameInputs) -> Any:
      return self.step(number, carry, frame)

    if self.remat:
      body = nn.remat(body, prevent_cse=False)
    _, left = _scan(body, sows=self.passes_sow, reverse=reverse)(
      self, self.begin(first), FrameInputs(seen, flow, order, earlier)
    )
    return left

  def __call__(
    self,
    lr: Float[Array, "b t h w c"],
    *,
    mirror_extended: bool | None = None,
  ) -> Float[Array, "b t h2 w2 c"]:
    """Restores a clip.

    Args:
      lr: RGB, [0, 1]; any number of frames from one on.
      mirror_extended: The second half of the frames is the first backwards, as
        short clips are extended for training: half of the flow is computed.
        None is as the network's attribute says.

    Returns:
      The clip, float32, not clipped.

    Raises:
      ValueError: lr is not a clip of RGB, or has an odd number of frames with
        mirror_extended.
    """
    check_clip(self, lr, channels=3)
    if mirror_extended is None:
      mirror_extended = self.mirror_extended
    if lr.shape[1] == 0 or (mirror_extended and lr.shape[1] % 2):
      raise ValueError(
        f"lr has {lr.shape[1]} frames; {type(self).__name__} takes one or more,"
        " and an even number with mirror_extended"
      )
    clip = jnp.moveaxis(lr.astype(jnp.float32), 1, 0)
    seen = self.look_all(clip)
    flows = self.flows(clip, mirrored=mirror_extended)
    features: tuple[Array, ...] = ()
    for number, direction in enumerate(self.directions):
      left = self.propagate(number, seen, flows[direction], features)
      features = (*features, left)
    sr = self.in_chunks(
      lambda self, frame: self.reconstruct(*frame),
      (clip, seen, features),
    )
    return jnp.moveaxis(sr, 0, 1)

  @nn.nowrap
  def in_chunks(
    self,
    function: Callable[..., Any],
    frames: Any,
    pixels: int | None = None,
    *,
    sows: bool = False,
  ) -> Any:
    """`function(self, frames)` some frames at a time, each as one batch.

    Args:
      function: Takes and returns arrays with a batch in front.
      frames: Arrays with frames, then the batch in front.
      pixels: Of a clip in one chunk, at most, but no less than one frame.
      sows: Whether `function` sows metrics.
    """
    t, b, *_, h, w, _ = jax.tree.leaves(frames)[0].shape
    # A divisor: a last chunk filled up is wasted, and its padding is exchanged
    # between the devices that share out the batch.
    most = max(1, (pixels or _SR_PIXELS) // (h * w))
    size = next(n for n in range(min(most, t), 0, -1) if t % n == 0)
    count = t // size

    def body(self: Any, _: None, chunk: Any) -> tuple[None, Any]:
      # The batch before the frames, by which it is shared out over devices.
      chunk = jax.tree.map(
        lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), chunk
      )
      return None, jax.tree.map(
        lambda x: x.reshape(b, size, *x.shape[1:]).swapaxes(0, 1),
        function(self, chunk),
      )

    if self.remat:
      body = nn.remat(body, prevent_cse=count == 1)
    if count == 1:
      return body(self, None, frames)[1]
    chunks = jax.tree.map(
      lambda x: x.reshape(count, size, *x.shape[1:]), frames
    )
    _, made = _scan(body, sows=sows)(self, None, chunks)
    return jax.tree.map(lambda x: x.reshape(t, *x.shape[2:]), made)


def _scan(
  body: Callable[..., Any], *, sows: bool, reverse: bool = False
) -> Any:
  """A loop whose every turn has the same variables.

  What one loop has sown as "metrics" has its turns in front, and would not fit
  another: only a loop that sows takes them in.
  """
  return nn.scan(
    body,
    variable_broadcast="params",
    variable_axes={"metrics": 0} if sows else {},
    split_rngs={"params": False},
    reverse=reverse,
  )


class ResidualTrunk(nn.Module, kw_only=True):
  """A convolution and residual blocks.

  Attributes:
    num_features: Channels.
    num_blocks: Residual blocks.
    dtype: Of the computation.

  Source: BasicSR `ConvResidualBlocks`.
  """

  num_features: int
  num_blocks: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
    width, dtype = self.num_features, self.dtype
    x = Conv(
      width, 3, kernel_init=torch_init(), dtype=dtype, name="conv_first"
    )(x)
    block = ResidualBlock(width, 1.0, he_init(0.1), dtype, name="body")
    return repeat(block, leaky(x), self.num_blocks)


class Enlargement(nn.Module, kw_only=True):
  """Features to an image four times as large, by two pixel shuffles.

  Attributes:
    out_channels: Of the image.
    dtype: Of the computation.

  Source: BasicSR `BasicVSR`, from `upconv1` on.
  """

  out_channels: int = 3
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
    def conv(features: int, name: str) -> Conv:
      return Conv(
        features, 3, kernel_init=torch_init(), dtype=self.dtype, name=name
      )

    x = conv(4 * x.shape[-1], "upconv1")(x)
    x = leaky(jnp.asarray(pixel_shuffle(x, 2)))
    x = conv(4 * _HR_FEATURES, "upconv2")(x)
    x = leaky(jnp.asarray(pixel_shuffle(x, 2)))
    x = leaky(conv(_HR_FEATURES, "conv_hr")(x))
    return conv(self.out_channels, "conv_last")(x).astype(jnp.float32)


def padded(frames: Float[Array, "*b h w c"]) -> Float[Array, "*b h2 w2 c"]:
  """Sides to multiples of 4, mirrored at the bottom and right."""
  h, w = frames.shape[-3:-1]
  edges = [(0, 0)] * (frames.ndim - 3)
  return jnp.pad(frames, (*edges, (0, -h % 4), (0, -w % 4), (0, 0)), "reflect")


def enlarged(frame: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
  """What the restored frame is added to: bilinear, four times as large."""
  return jnp.asarray(interpolate(frame, 4, method="bilinear"))


def beside(*parts: Float[Array, "b h w _"]) -> Float[Array, "b h w c"]:
  """Channels, in the type of the last."""
  dtype = parts[-1].dtype
  return jnp.concatenate([part.astype(dtype) for part in parts], axis=-1)
