"""The frames of a clip, one after another, by networks of every kind."""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from sr_jax.data.temporal import frame_indices
from sr_jax.inference.clips import ClipMemory, super_resolve_clip
from sr_jax.inference.images import apply, super_resolve
from sr_jax.models.recurrent import RecurrentNetwork
from sr_jax.types import Variables


def kind(model: Any) -> str:
  """What a network restores at once.

  Args:
    model: A linen network.

  Returns:
    "image", one frame; "window", the middle one of `model.num_frames`; or
    "clip", all frames, along which it passes.
  """
  # A network of clips says which way it passes along them.
  if hasattr(model, "directions"):
    return "clip"
  return "window" if getattr(model, "num_frames", None) else "image"


def restore_clip(
  model: Any,
  variables: Variables,
  frames: Sequence[np.ndarray],
  *,
  padding: str = "reflection_circle",
  batch_pixels: int = 2**20,
  only: Collection[int] | None = None,
  on_memory: Callable[[ClipMemory], None] | None = None,
) -> Iterator[Float[np.ndarray, "h w c"]]:
  """Restores a clip, a frame at a time.

  Args:
    model: A linen network of images, of windows or of clips; see `kind`.
    variables: Its variables.
    frames: `[h, w, c]` each, all of one size, float in [0, 1].
    padding: Of windows that reach beyond the clip; see `frame_indices`.
    batch_pixels: Output pixels computed together by a network of images.
    only: Numbers of the frames that are wanted; None is all. A network of clips
      passes along the others as well.
    on_memory: Called after the last frame with what the clip took, by a
      `RecurrentNetwork`, which alone keeps count.

  Yields:
    The restored frames in order, float32, not clipped. No more of them than
    one batch is held, but for networks of clips that are no
    `RecurrentNetwork`, which take all of a clip at once.

  Raises:
    ValueError: the frames differ in size, or are not `[h, w, c]` floats.
  """
  sizes = {frame.shape for frame in frames}
  if len(sizes) > 1:
    raise ValueError(
      f"the frames of a clip have one size, and these have {sorted(sizes)}"
    )
  for i, frame in enumerate(frames):
    if frame.ndim != 3 or not np.issubdtype(frame.dtype, np.floating):
      raise ValueError(
        f"frames[{i}] is {frame.dtype} of shape {frame.shape}; the rule is "
        "[height, width, channels], float in [0, 1]: divide 8 bits by 255"
      )
  wanted = [i for i in range(len(frames)) if only is None or i in only]
  if kind(model) == "clip":
    restored = (
      super_resolve_clip(model, variables, frames, on_memory=on_memory)
      if isinstance(model, RecurrentNetwork)
      else _run(model, variables, frames)
    )
    chosen = set(wanted)
    yield from (frame for i, frame in enumerate(restored) if i in chosen)
  elif kind(model) == "window":
    for i in wanted:
      chosen = _window(model, i, len(frames), padding)
      yield _run(model, variables, [frames[j] for j in chosen])
  else:
    frames = [frames[i] for i in wanted]
    scale = getattr(model, "scale", 1)
    (shape,) = sizes or {(1, 1, 1)}
    size = max(1, batch_pixels // (shape[0] * shape[1] * scale**2))
    for start in range(0, len(frames), size):
      chosen = list(frames[start : start + size])
      # Batches of one size, so that there is one program.
      filled = chosen + chosen[-1:] * (min(size, len(frames)) - len(chosen))
      restored = super_resolve(
        model, variables, filled, batch_pixels=batch_pixels
      )
      yield from restored[: len(chosen)]


def _window(model: Any, index: int, count: int, padding: str) -> list[int]:
  """Of a clip's frames those that a network of windows sees for one."""
  center = getattr(model, "center_frame", None)
  center = model.num_frames // 2 if center is None else center
  # As many on both sides as on the longer one, of which the window is a part.
  side = max(center, model.num_frames - 1 - center)
  around = frame_indices(index, count, 2 * side + 1, padding=padding)
  chosen = around[side - center :][: model.num_frames]
  return [int(i) for i in chosen]


def _run(
  model: Any, variables: Variables, frames: Sequence[np.ndarray]
) -> np.ndarray:
  """What the network makes of these frames."""
  clip = np.stack([np.asarray(frame, np.float32) for frame in frames])
  with jax.default_matmul_precision("highest"):
    restored = apply(model, variables, jax.device_put(clip[None]))
  return np.asarray(jax.device_get(restored[0]))
