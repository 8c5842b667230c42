"""What a network scored on a set."""

import dataclasses
import difflib
import math
from collections.abc import Sequence

import numpy as np

from sr_jax.inference.clips import ClipMemory
from sr_jax.metrics import Protocol

#: metric -> its figures: the network's, bicubic's, and of NIQE, which needs
#: no reference, the ground truth's too. They are fields of `ImageScore`.
FIGURES = {
  "psnr": ("psnr", "bicubic_psnr"),
  "ssim": ("ssim", "bicubic_ssim"),
  "niqe": ("niqe", "bicubic_niqe", "hr_niqe"),
}
_FORMATS = {"psnr": "{:.2f} dB", "ssim": "{:.4f}", "niqe": "NIQE {:.2f}"}


def known_metrics(names: Sequence[str]) -> tuple[str, ...]:
  """The metrics of these names, once each, in the order of `FIGURES`.

  Raises:
    ValueError: none, or an unknown one; the message names the nearest.
  """
  for name in names:
    if name not in FIGURES:
      close = difflib.get_close_matches(name, FIGURES, n=1, cutoff=0.0)
      raise ValueError(
        f"metric '{name}' is not one of {list(FIGURES)}; did you mean "
        f"'{close[0]}'?"
      )
  if not names:
    raise ValueError(f"no metric is given; choose of {list(FIGURES)}")
  return tuple(name for name in FIGURES if name in names)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageScore:
  """What one image scored: PSNR in dB, SSIM, NIQE, and others' beside them.

  What was not asked for is NaN.
  """

  name: str
  psnr: float = math.nan
  ssim: float = math.nan
  bicubic_psnr: float = math.nan
  bicubic_ssim: float = math.nan
  niqe: float = math.nan
  bicubic_niqe: float = math.nan
  hr_niqe: float = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipScore(ImageScore):
  """What a clip scored: the mean of its frames, and what each of them did."""

  frames: tuple[ImageScore, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
  """The figures of one network on one set, and how they were measured.

  Attributes:
    protocols: Of each metric on this colour, in the order of `FIGURES`.
    images: One score an image or clip, in the order of the set.
    seconds: Spent in the network, compilation included.
    frames: Of clips, how many the network restored in that time.
    memory: What a network of clips took for the one that took the most.
    outputs: The restored images, 8 bits, where they were asked for.
    on_luma: The same outputs of an RGB network, scored on Y. NIQE is there.
  """

  protocols: dict[str, Protocol]
  images: tuple[ImageScore, ...]
  seconds: float
  outputs: tuple[np.ndarray, ...] = dataclasses.field(default=(), repr=False)
  on_luma: "BenchmarkResult | None" = None
  frames: int = 0
  memory: ClipMemory | None = None

  @property
  def protocol(self) -> Protocol:
    """Of the first metric: PSNR, where it was asked for."""
    return next(iter(self.protocols.values()))

  @property
  def ssim_protocol(self) -> Protocol:
    """Of the SSIM."""
    return self._measured("ssim").protocols["ssim"]

  @property
  def niqe_protocol(self) -> Protocol:
    """Of the NIQE."""
    return self._measured("niqe").protocols["niqe"]

  @property
  def psnr(self) -> float:
    """Mean over the images of their PSNR, in dB."""
    return self.mean("psnr")

  @property
  def ssim(self) -> float:
    """Mean over the images of their SSIM."""
    return self.mean("ssim")

  @property
  def niqe(self) -> float:
    """Mean over the images of their NIQE, on Y; lower is better."""
    return self.mean("niqe")

  @property
  def bicubic_psnr(self) -> float:
    """The PSNR of bicubic interpolation, in dB."""
    return self.mean("bicubic_psnr")

  @property
  def bicubic_ssim(self) -> float:
    """The SSIM of bicubic interpolation."""
    return self.mean("bicubic_ssim")

  @property
  def bicubic_niqe(self) -> float:
    """The NIQE of bicubic interpolation."""
    return self.mean("bicubic_niqe")

  @property
  def hr_niqe(self) -> float:
    """The NIQE of the ground truth."""
    return self.mean("hr_niqe")

  def mean(self, figure: str) -> float:
    """Mean over the images of one of `FIGURES`.

    Raises:
      ValueError: its metric was not asked for.
    """
    scores = self._measured(figure.rpartition("_")[2]).images
    return math.fsum(getattr(x, figure) for x in scores) / len(scores)

  def _measured(self, metric: str) -> "BenchmarkResult":
    """Where the figures of a metric are: here, or for NIQE on luma."""
    for result in (self, self.on_luma):
      if result is not None and metric in result.protocols:
        return result
    raise ValueError(
      f"{metric} was not measured; call prepare(..., metrics=['{metric}'])"
    )

  def __str__(self) -> str:
    own, bicubic = (
      " / ".join(
        _FORMATS[metric].format(self.mean(FIGURES[metric][which]))
        for metric in self.protocols
      )
      for which in (0, 1)
    )
    return (
      f"{self.protocol.dataset} x{self.protocol.scale} {self.protocol.colour}: "
      f"{own} (bicubic {bicubic})"
    )
