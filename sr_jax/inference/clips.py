"""Clips of any length through a network that passes features along them.

Such a network goes over all frames backwards before it can restore the first.
On the device are the network, and of the clip what one frame's step needs;
what a pass leaves at each frame waits on the host. The steps are the network's
own, so the result is that of the whole clip at once.
"""

import collections
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sr_jax.models.recurrent import FrameInputs
from sr_jax.types import Variables


@dataclasses.dataclass
class ClipMemory:
  """What a clip took; of several clips, the most.

  Attributes:
    device_bytes: On the device at the worst moment, by XLA's own account:
      variables, a step's inputs and results, what it computes in between, and
      transfers under way. The same for a clip of any length.
    host_bytes: Features and flows that waited on the host.
  """

  device_bytes: int = 0
  host_bytes: int = 0

  def include(self, other: "ClipMemory") -> None:
    """Takes in another clip."""
    self.device_bytes = max(self.device_bytes, other.device_bytes)
    self.host_bytes = max(self.host_bytes, other.host_bytes)


def super_resolve_clip(
  model: Any,
  variables: Variables,
  clip: Sequence[np.ndarray] | np.ndarray,
  *,
  on_memory: Callable[[ClipMemory], None] | None = None,
) -> Iterator[Float[np.ndarray, "h w c"]]:
  """Restores a clip, frame by frame.

  Args:
    model: A `RecurrentNetwork`, such as BasicVSR.
    variables: Its variables.
    clip: Frames `[h, w, 3]` of one size, RGB, uint8 or float in [0, 1]. They
      are asked for by number, once for each pass, so that it may read files.
    on_memory: Called after the last frame with what the clip took.

  Yields:
    The restored frames in order, float32, not clipped.

  Raises:
    ValueError: there are no frames, or they differ in size, or one is no RGB.
  """
  if len(clip) == 0:
    raise ValueError("clip has no frames; give at least one")
  run = _Run(model, variables, clip)
  yield from run.frames()
  if on_memory is not None:
    on_memory(run.memory)


class _Run:
  """One clip on its way."""

  def __init__(self, model: Any, variables: Variables, clip: Any):
    self.model = model
    self.variables = jax.device_put(variables)
    self.clip = clip
    self.shape: tuple[int, ...] | None = None
    self.memory = ClipMemory()
    # What waits on the host, by what it is and the frame's number.
    self.host: dict[str, dict[int, Any]] = collections.defaultdict(dict)
    self.host_bytes = 0
    # What is on its way there.
    self.sent: collections.deque = collections.deque()

  def frames(self) -> Iterator[np.ndarray]:
    """All passes; frames are finished in the last one, which goes forwards."""
    directions = self.model.directions
    waiting = None
    for number, direction in enumerate(directions):
      order = range(len(self.clip))
      carry = before = None
      for place, index in enumerate(
        reversed(order) if direction == "backward" else order
      ):
        frame = self._frame(index)
        alive = (carry, before, waiting)
        seen = self._seen(index, frame, alive)
        flow = self._flow(direction, index, frame, before, (*alive, seen))
        if carry is None:
          carry = self._call("begin", seen)
        earlier = tuple(
          jax.device_put(self.host[f"pass {i}"][index]) for i in range(number)
        )
        carry, left = self._call(
          "step",
          carry,
          FrameInputs(seen, flow, jnp.int32(place), earlier),
          number=number,
          alive=(before, waiting),
        )
        before = frame
        if number < len(directions) - 1:
          self._send(f"pass {number}", index, left)
          continue
        sr = self._call(
          "reconstruct",
          frame,
          seen,
          (*earlier, left),
          alive=(carry, before, waiting),
        )
        for kept in self.host.values():
          self.host_bytes -= _bytes(kept.pop(index, ()))
        sr.copy_to_host_async()
        if waiting is not None:
          yield np.asarray(waiting)[0]
        waiting = sr
      self._settle(0)
    yield np.asarray(waiting)[0]

  def _frame(self, index: int) -> jax.Array:
    frame = self.clip[index]
    shape = self.shape = self.shape or frame.shape
    if frame.ndim != 3 or frame.shape != shape or frame.shape[-1] != 3:
      raise ValueError(
        f"clip[{index}] has shape {frame.shape}, and others have {shape}; the "
        "rule is [height, width, 3], the same for all frames"
      )
    if frame.dtype != np.uint8 and not np.issubdtype(frame.dtype, np.floating):
      raise ValueError(
        f"clip[{index}] is {frame.dtype}; frames are uint8, or floats in [0, 1]"
      )
    if frame.dtype == np.uint8:
      frame = frame.astype(np.float32) / 255
    return jax.device_put(np.asarray(frame, np.float32)[None])

  def _seen(self, index: int, frame: jax.Array, alive: Any) -> Any:
    """What the passes see of a frame, computed in the first of them."""
    if index in self.host["seen"]:
      return jax.device_put(self.host["seen"][index])
    sources = self.model.sources(index, len(self.clip))
    frames = [frame if i == index else self._frame(i) for i in sources]
    seen = self._call("look", jnp.stack(frames, 1), alive=alive)
    self._send("seen", index, seen)
    return seen

  def _flow(
    self,
    direction: str,
    index: int,
    frame: jax.Array,
    before: jax.Array | None,
    alive: Any,
  ) -> jax.Array:
    """From a frame to the one before it in the pass."""
    if index in self.host[direction]:
      return jax.device_put(self.host[direction][index])
    flow = self._call(
      "flow", frame, frame if before is None else before, alive=alive
    )
    if before is None:
      flow = jnp.zeros_like(flow)
    if self.model.directions.count(direction) > 1:
      self._send(direction, index, flow)
    return flow

  def _call(
    self,
    method: str,
    *args: Any,
    number: int | None = None,
    alive: Any = (),
  ) -> Any:
    """One of the network's methods, and what it and all else takes there."""
    given = (self.variables, *args)
    program = _compiled(self.model, method, number, given)
    result = program(*given)
    analysis = program.memory_analysis()
    arrays = {
      id(x): x.nbytes
      for x in jax.tree.leaves((given, alive, [x for _, _, x in self.sent]))
    }
    taken = sum(arrays.values())
    if analysis is not None:
      taken += analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    self.memory.device_bytes = max(self.memory.device_bytes, taken)
    return result

  def _send(self, what: str, index: int, arrays: Any) -> None:
    for array in jax.tree.leaves(arrays):
      array.copy_to_host_async()
    self.sent.append((what, index, arrays))
    self._settle(2)

  def _settle(self, under_way: int) -> None:
    """Waits until no more than so many transfers are under way."""
    while len(self.sent) > under_way:
      what, index, arrays = self.sent.popleft()
      self.host[what][index] = jax.device_get(arrays)
      self.host_bytes += _bytes(self.host[what][index])
    self.memory.host_bytes = max(self.memory.host_bytes, self.host_bytes)


def _bytes(arrays: Any) -> int:
  return sum(x.nbytes for x in jax.tree.leaves(arrays))


def _compiled(
  model: Any, method: str, number: int | None, arguments: Any
) -> Any:
  """A program for arguments of these shapes; the first are the variables."""
  shapes = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype), arguments
  )
  leaves, tree = jax.tree.flatten(shapes)
  return _program(model, method, number, tree, tuple(leaves))


@functools.lru_cache(maxsize=64)
def _program(
  model: Any, method: str, number: int | None, tree: Any, leaves: Any
) -> Any:
  """Compiled once for all frames and clips of a size."""
  given = () if number is None else (number,)
  call = lambda variables, *args: model.apply(
    variables, *given, *args, method=method
  )
  # A TPU would round float32 operands to bfloat16 by default.
  with jax.default_matmul_precision("highest"):
    return jax.jit(call).lower(*jax.tree.unflatten(tree, leaves)).compile()
