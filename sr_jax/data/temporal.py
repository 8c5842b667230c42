"""Which frames of a clip are taken: NumPy, and random only by what is given.

A training sample is a window of `num_frames` frames, every `interval`-th of
the clip, forwards or backwards. All windows of a clip are equally likely; the
words that choose one come from the caller, so that a sample is a function of
its position in the stream.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64, Shaped, UInt64

from sr_jax.types import AnyArray

PADDINGS = ("replicate", "reflection", "reflection_circle", "circle")


def frame_indices(
  center: int, length: int, num_frames: int, *, padding: str
) -> Int64[np.ndarray, "n"]:
  """The frames around one, for networks that restore the middle of a window.

  Near the ends of a clip frames are missing. For 5 frames around frame 0 they
  are replaced so:

  - "replicate": 0 0 **0** 1 2, the end repeated;
  - "reflection": 2 1 **0** 1 2, mirrored at the end;
  - "reflection_circle": 4 3 **0** 1 2, what lies beyond the other end of the
    window, mirrored at that end;
  - "circle": 3 4 **0** 1 2, what lies beyond the other end of the window. It
    is no circle over the clip.

  Args:
    center: The frame that is restored, from 0.
    length: Frames in the clip.
    num_frames: Odd length of the window.
    padding: One of `PADDINGS`.

  Returns:
    The indices in the clip, in order of time.

  Raises:
    ValueError: an argument is out of range, or the clip is so short that the
      padding would take frames that are not there.

  Source: BasicSR `generate_frame_indices`; EDVR's code, where
    "reflection_circle" is "new_info".
  """
  if padding not in PADDINGS:
    raise ValueError(f"padding '{padding}' is not one of {list(PADDINGS)}")
  if num_frames < 1 or num_frames % 2 == 0:
    raise ValueError(
      f"num_frames {num_frames} must be odd, so that one is in the middle"
    )
  if not 0 <= center < length:
    raise ValueError(f"center {center} is not in [0, length {length})")
  half, last = num_frames // 2, length - 1
  wanted = np.arange(center - half, center + half + 1)
  before, after = {
    "replicate": (0 * wanted, 0 * wanted + last),
    "reflection": (-wanted, 2 * last - wanted),
    "reflection_circle": (
      center + half - wanted,
      center - half - (wanted - last),
    ),
    "circle": (num_frames + wanted, wanted - num_frames),
  }[padding]
  indices = np.where(
    wanted < 0, before, np.where(wanted > last, after, wanted)
  ).astype(np.int64)
  if indices.min() < 0 or indices.max() > last:
    raise ValueError(
      f"a clip of {length} frames is too short for windows of {num_frames} "
      f"with padding '{padding}': around frame {center} they are "
      f"{indices.tolist()}; take 'replicate'"
    )
  return indices


def centered(
  center: int, num_frames: int, interval: int = 1
) -> Int64[np.ndarray, "n"]:
  """A window around a frame, which may reach beyond the clip.

  Source: `neighbor_list` of BasicSR's REDSDataset and Vimeo90KDataset.
  """
  return window(center - num_frames // 2 * interval, num_frames, interval)


def window(
  start: int, num_frames: int, interval: int = 1
) -> Int64[np.ndarray, "n"]:
  """A window that begins with a frame.

  Source: `neighbor_list` of BasicSR's REDSRecurrentDataset.
  """
  return start + interval * np.arange(num_frames, dtype=np.int64)


def num_windows(length: int, num_frames: int, interval: int = 1) -> int:
  """How many windows a clip of `length` frames has; 0 or less if none."""
  return length - (num_frames - 1) * interval


def draw_windows(
  words: UInt64[np.ndarray, "n 2"],
  *,
  lengths: Int64[np.ndarray, "n"],
  parts: Int64[np.ndarray, "n"],
  part_counts: Int64[np.ndarray, "n"],
  num_frames: int,
  intervals: Sequence[int],
  random_reverse: bool,
) -> Int64[np.ndarray, "n t"]:
  """A window of each of n clips.

  One of the intervals is taken with equal chance, then one of the windows
  that are there with it. For that the windows are divided into `part_counts`
  equal parts, and the one that is taken lies in the given part: where an
  epoch goes through all parts of a clip, it goes through all its windows
  evenly, and where there are as many parts as windows, through each once.

  Args:
    words: Two random words a clip.
    lengths: Frames in the clips.
    parts: Which part the window is taken from, `0 <= parts < part_counts`.
    part_counts: Into how many the windows of the clip are divided.
    num_frames: Frames in a window.
    intervals: Distances between its frames.
    random_reverse: Turn half of the windows round in time.

  Returns:
    The frames of each.

  Raises:
    ValueError: a clip has no window of the largest interval.

  Source: BasicSR's REDSRecurrentDataset; its windows of an interval above 1
    leave out the last that fits.
  """
  choices = np.asarray(intervals, np.int64)
  most = (num_frames - 1) * choices.max()
  if lengths.min() <= most:
    raise ValueError(
      f"a clip of {lengths.min()} frames has no window of {num_frames} frames "
      f"with interval {choices.max()}; it takes at least {most + 1}"
    )
  # Bits that the flip and the place of a crop (`crops`) leave over: 53 of the
  # first word for the start and the next for the direction, and the lower half
  # of the second for the interval.
  unit = (words[:, 0] >> 11) * 2.0**-53
  which = (words[:, 1] & 0xFFFFFFFF) * 2.0**-32 * len(choices)
  steps = choices[which.astype(np.int64)]
  counts = lengths - (num_frames - 1) * steps
  starts = ((parts + unit) * counts / part_counts).astype(np.int64)
  # Where rounding has made the last part end a window too late.
  starts = np.minimum(starts, counts - 1)
  frames = starts[:, None] + steps[:, None] * np.arange(num_frames)
  if random_reverse:
    backwards = (words[:, 0] >> 10 & 1).astype(bool)
    frames[backwards] = frames[backwards, ::-1]
  return frames


def mirror_extend(
  clip: Shaped[AnyArray, "*b t h w c"],
) -> Shaped[AnyArray, "*b t2 h w c"]:
  """The clip, then the clip backwards: 7 frames become 14.

  Recurrent networks are trained on Vimeo-90K's septuplets this way, and
  tested so too.

  Source: MMagic `MirrorSequence`; BasicSR `flip_sequence`.
  """
  xp = clip.__array_namespace__()
  return xp.concat([clip, xp.flip(clip, axis=-4)], axis=-4)
