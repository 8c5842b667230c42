"""A network against a benchmark of clips, frame by frame.

As `benchmark` does for images: `prepare_clips` does once what does not depend
on the weights, `evaluate_clips` the rest. A frame is decoded when its turn
comes, and again when it is compared, so that of a clip only the low-resolution
frames are held together.

Frames are degraded in RGB, to 8 bits, and restored; what comes out is clipped
and rounded to 8 bits, and compared on the colours of the set's protocol.
"""

import dataclasses
import difflib
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from sr_jax import degradations
from sr_jax.data import load_clips
from sr_jax.data.temporal import mirror_extend
from sr_jax.evaluation.benchmark import NamedImages, crop_to_multiple
from sr_jax.evaluation.clip_protocols import (
  CLIP_PROTOCOLS,
  ClipProtocol,
  clip_protocol,
)
from sr_jax.evaluation.results import (
  BenchmarkResult,
  ClipScore,
  ImageScore,
  known_metrics,
)
from sr_jax.inference import kind, restore_clip
from sr_jax.inference.clips import ClipMemory
from sr_jax.metrics import Protocol
from sr_jax.ops.color import to_8_bits
from sr_jax.ops.resize import imresize
from sr_jax.types import Variables

#: What `load_clips` returns: names with frames, decoded as they are taken.
Frames = Sequence[tuple[str, NamedImages]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedClips:
  """A set of clips at one scale, ready for any network of that scale.

  Attributes:
    dataset: As it is called in the table.
    names: Of the clips.
    scale: Enlargement.
    how: Which frames are compared.
    degradation: Name of how the low-resolution frames are made.
    protocols: For each colour scored, the protocol of each metric.
    clips: The frames.
    beside: For each colour, clip and frame compared, what bicubic scores.
  """

  dataset: str
  names: tuple[str, ...]
  scale: int
  how: ClipProtocol
  degradation: str
  protocols: dict[str, dict[str, Protocol]]
  clips: Frames = dataclasses.field(repr=False)
  beside: dict[str, list[list[dict[str, float]]]] = dataclasses.field(
    repr=False
  )

  @property
  def num_frames(self) -> int:
    """Of all clips together, compared or not."""
    return sum(len(frames) for _, frames in self.clips)


def prepare_clips(
  dataset: str,
  *,
  scale: int = 4,
  degradation: str | None = None,
  data_dir: str | None = None,
  clips: Frames | None = None,
  ssim_flavour: str = "per_channel",
  metrics: Sequence[str] = ("psnr", "ssim"),
  on_frame: Callable[[int], None] | None = None,
) -> PreparedClips:
  """Finds a set of clips and measures what does not depend on the network.

  Args:
    dataset: See `clip_protocol`.
    scale: Enlargement.
    degradation: A key of `DEGRADATIONS`; by default the set's own.
    data_dir: Where the named sets lie; else `SR_JAX_DATA`.
    clips: Clips to use instead of loading `dataset`.
    ssim_flavour: Of `metrics.ssim`.
    metrics: Of "psnr" and "ssim".
    on_frame: Called with 1 after each frame that is compared.

  Returns:
    The prepared set; `evaluate_clips` takes it.

  Raises:
    ValueError: not a set of clips, a scale that is not a positive int, an
      unknown degradation or metric, a clip too short or a frame too small.
    FileNotFoundError: the set is not there; the message says where to get it.

  Source: Chan et al. 2021 (BasicSR), table 1 and sec. 4; metrics of MMagic's
    configs and BasicSR's VideoBaseModel: the mean of each clip, then of clips.
  """
  how = clip_protocol(dataset)
  if how is None and clips is not None:
    how = ClipProtocol(title=dataset, dataset=dataset, colours=("RGB", "Y"))
  if how is None:
    near = difflib.get_close_matches(dataset.lower(), CLIP_PROTOCOLS, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise ValueError(
      f"'{dataset}' is not a benchmark of clips: neither one of "
      f"{list(CLIP_PROTOCOLS)}, nor a folder of folders of frames{hint}"
    )
  if not isinstance(scale, int) or scale < 1:
    raise ValueError(f"scale {scale!r} is not a positive int")
  if ":lr=" in dataset:
    raise ValueError(
      f"'{dataset}': pairs are for training; give the folder of the ground "
      "truth, and how its LR is made by --degradation"
    )
  name = (degradation or how.degradation).upper()
  made = degradations.find(name)
  # A scale that it is not defined for is told now, and not of a frame.
  made.downsample(np.zeros((16 * scale, 16 * scale, 3)), scale=scale)
  metrics = known_metrics(metrics)
  if "niqe" in metrics:
    raise ValueError("niqe is not measured on clips; give psnr or ssim")
  if clips is None:
    clips = load_clips(how.dataset, data_dir=data_dir)
  protocols = {
    colour: {
      metric: Protocol(
        metric=metric,
        colour=colour,
        crop_border=how.crop_border,
        dataset=how.title,
        scale=scale,
        degradation=f"{name}: {made.title}, 8-bit LR",
        ssim_flavour=ssim_flavour if metric == "ssim" else None,
        frames=how.frames,
      )
      for metric in metrics
    }
    for colour in how.colours
  }
  beside: dict[str, list] = {colour: [] for colour in protocols}
  for clip, frames in clips:
    chosen = how.chosen(len(frames))
    if not chosen:
      raise ValueError(
        f"clip '{clip}' has {len(frames)} frames, of which {how.frames} leave "
        "none to compare"
      )
    for scores in beside.values():
      scores.append([])
    shape = None
    for i in chosen:
      try:
        image = frames[i][1]
        shape = shape or image.shape
        if image.shape != shape:
          raise ValueError(
            f"it is {image.shape[0]}x{image.shape[1]}, and the frames before "
            f"it {shape[0]}x{shape[1]}; those of a clip have one size"
          )
        lr, hr = _degrade(image, made, scale)
        enlarged = to_8_bits(imresize(lr, shape=hr.shape[:2]))
        for colour, figures in _measure(protocols, enlarged, hr).items():
          beside[colour][-1].append(
            {f"bicubic_{key}": value for key, value in figures.items()}
          )
      except ValueError as error:
        raise ValueError(
          f"frame '{frames[i][0]}' of clip '{clip}' of '{dataset}': {error}"
        ) from error
      if on_frame is not None:
        on_frame(1)
  return PreparedClips(
    dataset=how.title,
    names=tuple(clip for clip, _ in clips),
    scale=scale,
    how=how,
    degradation=name,
    protocols=protocols,
    clips=clips,
    beside=beside,
  )


def evaluate_clips(
  model: Any,
  variables: Variables,
  prepared: PreparedClips,
  *,
  on_frame: Callable[[int], None] | None = None,
) -> BenchmarkResult:
  """Restores the clips of a set and scores them.

  Args:
    model: A linen network of the set's scale and three channels: of clips
      (BasicVSR), of windows (EDVR) or of images, which sees each frame alone.
    variables: Its variables.
    prepared: From `prepare_clips`.
    on_frame: Called with 1 after each frame that was restored, and after a clip
      with how many of it were not.

  Returns:
    The figures on the first colour of the set's protocol; those on a second
    are `result.on_luma`. A score is of a clip, its `frames` of the frames that
    were compared.

  Raises:
    ValueError: the model has another scale, or one channel.
  """
  scale = getattr(model, "scale", prepared.scale)
  channels = getattr(model, "in_channels", 3)
  if (scale, channels) != (prepared.scale, 3):
    raise ValueError(
      f"{type(model).__name__} of scale {scale} and {channels} channels cannot "
      f"be evaluated on '{prepared.dataset}', clips in RGB prepared for scale "
      f"{prepared.scale}"
    )
  made = degradations.find(prepared.degradation)
  scores: dict[str, list[ClipScore]] = {c: [] for c in prepared.protocols}
  seconds, count = 0.0, 0
  memory = ClipMemory()
  for index, (clip, frames) in enumerate(prepared.clips):
    chosen = prepared.how.chosen(len(frames))
    lr = [
      _degrade(frames[i][1], made, scale)[0].astype(np.float32)
      for i in range(len(frames))
    ]
    found: dict[str, dict[int, ImageScore]] = {c: {} for c in scores}
    left = len(frames)
    start = time.perf_counter()
    for i, restored in _restore(
      model, variables, lr, prepared.how, on_memory=memory.include
    ):
      seconds += time.perf_counter() - start
      count, left = count + 1, left - 1
      if i in chosen:
        name, image = frames[i]
        hr = crop_to_multiple(image, scale)
        measured = _measure(prepared.protocols, to_8_bits(restored), hr)
        for colour, figures in measured.items():
          beside = prepared.beside[colour][index][chosen.index(i)]
          found[colour][i] = ImageScore(name=name, **figures, **beside)
      if on_frame is not None:
        on_frame(1)
      start = time.perf_counter()
    if on_frame is not None and left:
      on_frame(left)
    for colour, of_frames in found.items():
      scores[colour].append(_mean(clip, [of_frames[i] for i in chosen]))
  native, *others = (
    BenchmarkResult(
      protocols=prepared.protocols[colour],
      images=tuple(of_clips),
      seconds=seconds,
      frames=count,
      memory=memory if memory.device_bytes else None,
    )
    for colour, of_clips in scores.items()
  )
  return dataclasses.replace(native, on_luma=others[0] if others else None)


def _restore(
  model: Any,
  variables: Variables,
  lr: Sequence[np.ndarray],
  how: ClipProtocol,
  *,
  on_memory: Callable[[ClipMemory], None],
) -> Iterator[tuple[int, np.ndarray]]:
  """The frames of a clip with their numbers, as the protocol has them made."""
  restore = functools.partial(
    restore_clip, model, variables, on_memory=on_memory
  )
  if not (how.mirror and kind(model) == "clip"):
    chosen = how.chosen(len(lr))
    yield from zip(chosen, restore(lr, only=chosen), strict=True)
    return
  length = len(lr)
  twice = list(mirror_extend(np.stack(lr)))
  first: list[np.ndarray] = []
  for i, frame in enumerate(restore(twice)):
    if i < length:
      first.append(frame)
    else:
      yield 2 * length - 1 - i, (first.pop() + frame) / 2


def _degrade(
  image: np.ndarray, made: degradations.Degradation, scale: int
) -> tuple[np.ndarray, np.ndarray]:
  """Low resolution (float64) and ground truth (8 bits) of one frame."""
  hr = crop_to_multiple(image, scale)
  return np.asarray(made.downsample(hr / 255.0, scale=scale)), hr


def _measure(
  protocols: dict[str, dict[str, Protocol]], sr: np.ndarray, hr: np.ndarray
) -> dict[str, dict[str, float]]:
  """Every figure of one frame, by colour and metric."""
  return {
    colour: {
      metric: float(protocol.measure(sr, hr))
      for metric, protocol in chosen.items()
    }
    for colour, chosen in protocols.items()
  }


def _mean(name: str, frames: Sequence[ImageScore]) -> ClipScore:
  """Of a clip, the mean of each figure over its frames."""
  figures: dict[str, Any] = {
    field.name: math.fsum(getattr(x, field.name) for x in frames) / len(frames)
    for field in dataclasses.fields(ImageScore)
    if field.type is float
  }
  return ClipScore(name=name, frames=tuple(frames), **figures)
