"""A network against a benchmark, by the protocol of the papers.

`prepare` does once what does not depend on the weights: ground truth, low
resolution, and what bicubic interpolation scores. `evaluate` does the rest,
and may be called again and again as a training run changes the weights.

Networks of one channel are measured as the classical papers did: on Y, which
is rounded to 8 bits before anything else, as MATLAB's rgb2ycbcr does with an
8-bit image; the low-resolution Y is not rounded. Networks of three channels
are measured as BasicSR and MMagic do: 8-bit RGB in and out, compared on RGB,
and on Y besides. NIQE is computed on Y in both cases, of the 8-bit output, with
the same crop.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from sr_jax.data import NAMED_SETS, Images, load_images
from sr_jax.data.sources import data_root
from sr_jax.evaluation.results import (
  BenchmarkResult,
  ImageScore,
  known_metrics,
)
from sr_jax.inference import super_resolve
from sr_jax.metrics import NiqePrior, Protocol, load_prior
from sr_jax.ops.color import rgb_to_y, to_8_bits
from sr_jax.ops.resize import imresize
from sr_jax.types import Variables

#: What `load_images` returns: names with 8-bit pictures.
NamedImages = Sequence[tuple[str, np.ndarray]]

#: channels of the network -> (how its input is made, colours it is scored on)
_PROTOCOLS = {
  1: ("MATLAB bicubic of 8-bit Y, float LR", ("Y",)),
  3: ("MATLAB bicubic, 8-bit LR", ("RGB", "Y")),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedBenchmark:
  """A set at one scale, ready for any network of that scale and channels.

  Attributes:
    dataset: As it is called in the table.
    names: Of the images.
    scale: Enlargement.
    channels: 1 (Y) or 3 (RGB): what the network takes and returns.
    protocols: For each colour scored, the protocol of each metric.
    images: Names and 8-bit ground truth, uncropped, for pictures.
    lr: The network's inputs, float32 in [0, 1].
    hr: What its outputs are compared with, 8 bits.
    beside: For each colour and image, the fields of `ImageScore` that do not
      depend on the network.
    niqe_prior: What NIQE compares with, where it was asked for.
  """

  dataset: str
  names: tuple[str, ...]
  scale: int
  channels: int
  protocols: dict[str, dict[str, Protocol]]
  images: NamedImages = dataclasses.field(repr=False)
  lr: list[np.ndarray] = dataclasses.field(repr=False)
  hr: list[np.ndarray] = dataclasses.field(repr=False)
  beside: dict[str, list[dict[str, float]]] = dataclasses.field(repr=False)
  niqe_prior: NiqePrior | None = dataclasses.field(default=None, repr=False)


def find_niqe_prior(
  path: str | os.PathLike | None = None, *, data_dir: str | None = None
) -> NiqePrior:
  """The prior that NIQE needs, from a file.

  Args:
    path: The file; else `weights/niqe_pris_params.npz` among the data.
    data_dir: Where the data lie; else `SR_JAX_DATA`.

  Returns:
    The prior; `prepare` takes it.

  Raises:
    FileNotFoundError: there is no such file; the message says what to bring.
    ValueError: the file is no prior.
  """
  usual = data_root(data_dir) / "weights" / "niqe_pris_params.npz"
  try:
    return load_prior(path or usual)
  except FileNotFoundError as error:
    raise FileNotFoundError(
      f"{error}; or say with --niqe_prior=FILE where it is"
    ) from error


def prepare(
  dataset: str,
  *,
  scale: int,
  channels: int,
  data_dir: str | None = None,
  images: NamedImages | None = None,
  ssim_flavour: str = "per_channel",
  metrics: Sequence[str] = ("psnr", "ssim"),
  niqe_prior: NiqePrior | None = None,
  on_image: Callable[[int], None] | None = None,
) -> PreparedBenchmark:
  """Loads a set and makes of it what does not depend on the network.

  Args:
    dataset: Name of a set ("set5"), or a folder of images.
    scale: Enlargement.
    channels: 1 for a network on Y, 3 for one on RGB.
    data_dir: Where the named sets lie; else `SR_JAX_DATA`.
    images: Names and 8-bit images (RGB, or `[h, w, 1]` grey) to use instead
      of loading `dataset`, which is then only what they are called.
    ssim_flavour: Of `metrics.ssim`.
    metrics: Of "psnr", "ssim" and "niqe".
    niqe_prior: From `find_niqe_prior`, for "niqe".
    on_image: Called with 1 after each image.

  Returns:
    The prepared set; `evaluate` takes it.

  Raises:
    ValueError: no protocol for that number of channels, a scale that is not
      a positive int, an unknown metric, NIQE without its prior, no images, or
      an image too small for the scale or a metric.
    FileNotFoundError: the set is not there; the message says where to get it.

  Source: data and metric code of Dong et al. 2014; BasicSR docs/ModelZoo.md.
  """
  if channels not in _PROTOCOLS:
    raise ValueError(
      f"channels {channels}: networks of {sorted(_PROTOCOLS)} channels can be "
      "evaluated, on Y or on RGB"
    )
  if not isinstance(scale, int) or scale < 1:
    raise ValueError(f"scale {scale!r} is not a positive int")
  metrics = known_metrics(metrics)
  if "niqe" in metrics and niqe_prior is None:
    raise ValueError("niqe needs niqe_prior; find_niqe_prior() loads it")
  if images is None:
    images = load_images(dataset, data_dir=data_dir)
  if not len(images):
    raise ValueError(f"'{dataset}' has no images to evaluate on")
  title = _title(dataset)
  degradation, colours = _PROTOCOLS[channels]
  protocols: dict[str, dict[str, Protocol]] = {}
  for colour in colours:
    for metric in metrics:
      if metric == "niqe" and colour != "Y":
        continue
      protocols.setdefault(colour, {})[metric] = Protocol(
        metric=metric,
        colour=colour,
        crop_border=scale,
        dataset=title,
        scale=scale,
        degradation=degradation,
        ssim_flavour=ssim_flavour if metric == "ssim" else None,
        prior=niqe_prior.name if niqe_prior and metric == "niqe" else None,
      )
  names, lr, hr = [], [], []
  beside: dict[str, list] = {colour: [] for colour in protocols}
  for index in range(len(images)):
    name, image = ground_truth(images, index)
    try:
      small, target = _degrade(image, scale=scale, channels=channels)
      enlarged = to_8_bits(imresize(small, shape=target.shape[:2]))
      for colour, chosen in protocols.items():
        figures = _measure(chosen, enlarged, target, niqe_prior)
        figures = {f"bicubic_{key}": value for key, value in figures.items()}
        if "niqe" in chosen:
          truth = chosen["niqe"].measure(target, prior=niqe_prior)
          figures["hr_niqe"] = float(truth)
        beside[colour].append(figures)
    except ValueError as error:
      raise ValueError(f"image '{name}' of '{dataset}': {error}") from error
    names.append(name)
    lr.append(small.astype(np.float32))
    hr.append(target)
    if on_image is not None:
      on_image(1)
  return PreparedBenchmark(
    dataset=title,
    names=tuple(names),
    scale=scale,
    channels=channels,
    protocols=protocols,
    images=images,
    lr=lr,
    hr=hr,
    beside=beside,
    niqe_prior=niqe_prior,
  )


def evaluate(
  model: Any,
  variables: Variables,
  benchmark: PreparedBenchmark,
  *,
  keep_outputs: bool = False,
  mesh: Mesh | None = None,
  on_image: Callable[[int], None] | None = None,
) -> BenchmarkResult:
  """Restores a prepared set and scores it.

  Args:
    model: A linen network of the benchmark's scale and channels.
    variables: Its variables.
    benchmark: From `prepare`.
    keep_outputs: Keep the restored images in the result, for pictures.
    mesh: Devices that share out the rows of each image.
    on_image: Called with the number of images just restored.

  Returns:
    The figures on Y for a network of one channel, on RGB for one of three,
    whose figures on Y are `result.on_luma`; of NIQE alone, those on Y.

  Raises:
    ValueError: the model has another scale or other channels.
  """
  scale = getattr(model, "scale", benchmark.scale)
  channels = getattr(model, "in_channels", benchmark.channels)
  if (scale, channels) != (benchmark.scale, benchmark.channels):
    raise ValueError(
      f"{type(model).__name__} of scale {scale} and {channels} channels cannot "
      f"be evaluated on '{benchmark.dataset}' prepared for scale "
      f"{benchmark.scale} and {benchmark.channels} channels; call "
      f"prepare(..., scale={scale}, channels={channels})"
    )
  start = time.perf_counter()
  restored = super_resolve(
    model, variables, benchmark.lr, mesh=mesh, on_image=on_image
  )
  seconds = time.perf_counter() - start
  outputs = tuple(to_8_bits(image) for image in restored)
  native, *others = benchmark.protocols
  return dataclasses.replace(
    _score(benchmark, native, outputs, seconds),
    outputs=outputs if keep_outputs else (),
    on_luma=(
      _score(benchmark, others[0], outputs, seconds) if others else None
    ),
  )


def _score(
  benchmark: PreparedBenchmark,
  colour: str,
  outputs: Sequence[np.ndarray],
  seconds: float,
) -> BenchmarkResult:
  """The figures of 8-bit outputs on one colour."""
  protocols = benchmark.protocols[colour]
  scores = [
    ImageScore(
      name=name,
      **_measure(protocols, output, hr, benchmark.niqe_prior),
      **beside,
    )
    for name, output, hr, beside in zip(
      benchmark.names,
      outputs,
      benchmark.hr,
      benchmark.beside[colour],
      strict=True,
    )
  ]
  return BenchmarkResult(
    protocols=protocols, images=tuple(scores), seconds=seconds
  )


def _title(dataset: str) -> str:
  """Set5 for "set5"; of a folder its own name."""
  if dataset.lower() in NAMED_SETS:
    return NAMED_SETS[dataset.lower()].folders[0].partition("/")[0]
  return dataset.rstrip("/").rpartition("/")[2] or dataset


def crop_to_multiple(
  image: UInt8[np.ndarray, "h w c"], scale: int
) -> UInt8[np.ndarray, "h2 w2 c"]:
  """Drops rows and columns at the end so that `scale` divides the size.

  Raises:
    ValueError: nothing would be left.
  """
  height, width = (size - size % scale for size in image.shape[:2])
  if not height * width:
    raise ValueError(f"{image.shape[:2]} pixels are fewer than scale {scale}")
  return image[:height, :width]


def ground_truth(images: NamedImages, index: int) -> tuple[str, np.ndarray]:
  """Name and picture, `[h, w, 1]` where the file is grey.

  The papers take a grey file (Set14's bridge) for Y as it is, in full swing;
  squeezed into Y's studio swing it would score 1.3 dB higher. An RGB file
  without colour (Set14's man) is converted like any other.
  """
  name, image = images[index]
  # Files are the slow part: only what looks grey is opened again.
  if isinstance(images, Images) and (image == image[..., :1]).all():
    image = image[..., :1] if images.is_grey(index) else image
  return name, image


def _degrade(
  image: np.ndarray, *, scale: int, channels: int
) -> tuple[np.ndarray, np.ndarray]:
  """Low resolution (float64) and ground truth (8 bits) of one image."""
  hr = crop_to_multiple(image, scale)
  shape = (hr.shape[0] // scale, hr.shape[1] // scale)
  if channels == 1:
    luma = hr if hr.shape[-1] == 1 else rgb_to_y(hr)
    return np.asarray(imresize(luma / 255.0, shape=shape)), np.asarray(luma)
  rgb = hr if hr.shape[-1] == 3 else hr.repeat(3, axis=-1)
  # In levels and half a level up, as the degradation of the training does.
  levels = np.asarray(imresize(rgb.astype(np.float64), shape=shape))
  return np.floor(np.clip(levels, 0, 255) + 0.5) / 255.0, rgb


def _measure(
  protocols: dict[str, Protocol],
  sr: np.ndarray,
  hr: np.ndarray,
  prior: NiqePrior | None,
) -> dict[str, float]:
  """Every figure of one image."""
  return {
    metric: float(protocol.measure(sr, hr, prior=prior))
    for metric, protocol in protocols.items()
  }
