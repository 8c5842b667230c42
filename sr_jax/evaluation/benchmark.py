"""A network against a benchmark, by the protocol of the papers.

`prepare` does once what does not depend on the weights: ground truth, low
resolution, and what bicubic interpolation scores. `evaluate` does the rest,
and may be called again and again as a training run changes the weights.

Networks of one channel are measured as the classical papers did: on Y, which
is rounded to 8 bits before anything else, as MATLAB's rgb2ycbcr does with an
8-bit image; the low-resolution Y is not rounded. Networks of three channels
are measured as BasicSR and MMagic do: 8-bit RGB in and out, compared on RGB,
and on Y besides.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from sr_jax.data import NAMED_SETS, Images, load_images
from sr_jax.inference import super_resolve
from sr_jax.metrics import Protocol
from sr_jax.ops.color import rgb_to_y
from sr_jax.ops.resize import imresize
from sr_jax.types import AnyArray, Variables

#: What `load_images` returns: names with 8-bit pictures.
NamedImages = Sequence[tuple[str, np.ndarray]]

#: channels of the network -> (how its input is made, colours it is scored on)
_PROTOCOLS = {
  1: ("MATLAB bicubic of 8-bit Y, float LR", ("Y",)),
  3: ("MATLAB bicubic, 8-bit LR", ("RGB", "Y")),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageScore:
  """What one image scored: PSNR in dB, SSIM, and bicubic's beside them."""

  name: str
  psnr: float
  ssim: float
  bicubic_psnr: float
  bicubic_ssim: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
  """The figures of one network on one set, and how they were measured.

  Attributes:
    protocol: Of the PSNR.
    ssim_protocol: Of the SSIM.
    images: One score an image, in the order of the set.
    seconds: Spent in the network, compilation included.
    outputs: The restored images, 8 bits, where they were asked for.
    on_luma: The same outputs of an RGB network, scored on Y.
  """

  protocol: Protocol
  ssim_protocol: Protocol
  images: tuple[ImageScore, ...]
  seconds: float
  outputs: tuple[np.ndarray, ...] = dataclasses.field(default=(), repr=False)
  on_luma: "BenchmarkResult | None" = None

  def _mean(self, field: str) -> float:
    return math.fsum(getattr(x, field) for x in self.images) / len(self.images)

  @property
  def psnr(self) -> float:
    """Mean over the images of their PSNR, in dB."""
    return self._mean("psnr")

  @property
  def ssim(self) -> float:
    """Mean over the images of their SSIM."""
    return self._mean("ssim")

  @property
  def bicubic_psnr(self) -> float:
    """The PSNR of bicubic interpolation, in dB."""
    return self._mean("bicubic_psnr")

  @property
  def bicubic_ssim(self) -> float:
    """The SSIM of bicubic interpolation."""
    return self._mean("bicubic_ssim")

  def __str__(self) -> str:
    return (
      f"{self.protocol.dataset} x{self.protocol.scale} {self.protocol.colour}: "
      f"{self.psnr:.2f} dB / {self.ssim:.4f} "
      f"(bicubic {self.bicubic_psnr:.2f} / {self.bicubic_ssim:.4f})"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedBenchmark:
  """A set at one scale, ready for any network of that scale and channels.

  Attributes:
    dataset: As it is called in the table.
    names: Of the images.
    scale: Enlargement.
    channels: 1 (Y) or 3 (RGB): what the network takes and returns.
    protocols: For each colour scored, the protocols of PSNR and SSIM.
    images: Names and 8-bit ground truth, uncropped, for pictures.
    lr: The network's inputs, float32 in [0, 1].
    hr: What its outputs are compared with, 8 bits.
    bicubic: For each colour and image, bicubic's PSNR and SSIM.
  """

  dataset: str
  names: tuple[str, ...]
  scale: int
  channels: int
  protocols: dict[str, tuple[Protocol, Protocol]]
  images: NamedImages = dataclasses.field(repr=False)
  lr: list[np.ndarray] = dataclasses.field(repr=False)
  hr: list[np.ndarray] = dataclasses.field(repr=False)
  bicubic: dict[str, list[tuple[float, float]]] = dataclasses.field(repr=False)


def prepare(
  dataset: str,
  *,
  scale: int,
  channels: int,
  data_dir: str | None = None,
  images: NamedImages | None = None,
  ssim_flavour: str = "per_channel",
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
    on_image: Called with 1 after each image.

  Returns:
    The prepared set; `evaluate` takes it.

  Raises:
    ValueError: no protocol for that number of channels, a scale that is not
      a positive int, no images, or an image smaller than the scale.
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
  if images is None:
    images = load_images(dataset, data_dir=data_dir)
  if not len(images):
    raise ValueError(f"'{dataset}' has no images to evaluate on")
  degradation, colours = _PROTOCOLS[channels]
  title = _title(dataset)
  protocols = {}
  for colour in colours:
    psnr = Protocol(
      metric="psnr",
      colour=colour,
      crop_border=scale,
      dataset=title,
      scale=scale,
      degradation=degradation,
    )
    protocols[colour] = (
      psnr,
      dataclasses.replace(psnr, metric="ssim", ssim_flavour=ssim_flavour),
    )
  names, lr, hr = [], [], []
  bicubic: dict[str, list] = {colour: [] for colour in colours}
  for index in range(len(images)):
    name, image = ground_truth(images, index)
    try:
      small, target = _degrade(image, scale=scale, channels=channels)
      enlarged = to_8_bits(imresize(small, shape=target.shape[:2]))
      for colour, pair in protocols.items():
        bicubic[colour].append(_measure(pair, enlarged, target))
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
    bicubic=bicubic,
  )


def evaluate(
  model: Any,
  variables: Variables,
  benchmark: PreparedBenchmark,
  *,
  keep_outputs: bool = False,
  on_image: Callable[[int], None] | None = None,
) -> BenchmarkResult:
  """Restores a prepared set and scores it.

  Args:
    model: A linen network of the benchmark's scale and channels.
    variables: Its variables.
    benchmark: From `prepare`.
    keep_outputs: Keep the restored images in the result, for pictures.
    on_image: Called with the number of images just restored.

  Returns:
    The figures on Y for a network of one channel, on RGB for one of three,
    whose figures on Y are `result.on_luma`.

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
  restored = super_resolve(model, variables, benchmark.lr, on_image=on_image)
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
  scores = []
  for name, output, hr, (bicubic_psnr, bicubic_ssim) in zip(
    benchmark.names,
    outputs,
    benchmark.hr,
    benchmark.bicubic[colour],
    strict=True,
  ):
    psnr, ssim = _measure(protocols, output, hr)
    scores.append(
      ImageScore(
        name=name,
        psnr=psnr,
        ssim=ssim,
        bicubic_psnr=bicubic_psnr,
        bicubic_ssim=bicubic_ssim,
      )
    )
  return BenchmarkResult(
    protocol=protocols[0],
    ssim_protocol=protocols[1],
    images=tuple(scores),
    seconds=seconds,
  )


def _title(dataset: str) -> str:
  """Set5 for "set5"; of a folder its own name."""
  if dataset.lower() in NAMED_SETS:
    return NAMED_SETS[dataset.lower()].folders[0].partition("/")[0]
  return dataset.rstrip("/").rpartition("/")[2] or dataset


def to_8_bits(image: Float[AnyArray, "h w c"]) -> UInt8[np.ndarray, "h w c"]:
  """Clips to [0, 1] and rounds to the nearest of 256 levels."""
  return np.round(np.clip(np.asarray(image, np.float64), 0, 1) * 255).astype(
    np.uint8
  )


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
  protocols: tuple[Protocol, ...], sr: np.ndarray, hr: np.ndarray
) -> tuple[float, float]:
  """PSNR and SSIM of one image."""
  psnr, ssim = (float(protocol.measure(sr, hr)) for protocol in protocols)
  return psnr, ssim
