"""How a figure was measured: without it a figure is not one."""

import dataclasses

from jaxtyping import Float, Shaped

from sr_jax.metrics.image import psnr, ssim
from sr_jax.types import AnyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """Everything that decides a figure besides the network.

  `str()` is one line for the caption of a table:
  `PSNR (dB) on Y, Set5 x4, MATLAB bicubic, float LR, crop 4 px, SR clipped ...`

  Attributes:
    metric: "psnr" or "ssim".
    colour: "Y" (BT.601 studio swing, not rounded) or "RGB".
    crop_border: Pixels dropped from each edge before comparing.
    dataset: Name of the set.
    scale: Enlargement.
    degradation: How the low-resolution images were made.
    ssim_flavour: Of `metrics.ssim`; None for other metrics.
    rounding: What is done to the output before comparing.

  Raises:
    ValueError: an unknown metric or colour, a negative crop_border, or a
      flavour that is missing or out of place.
  """

  metric: str
  colour: str
  crop_border: int
  dataset: str
  scale: int
  degradation: str = "MATLAB bicubic, float LR"
  ssim_flavour: str | None = None
  rounding: str = "SR clipped and rounded to 8 bits"

  def __post_init__(self):
    if self.metric not in ("psnr", "ssim"):
      raise ValueError(f"metric '{self.metric}' is not 'psnr' or 'ssim'")
    if self.colour not in ("Y", "RGB"):
      raise ValueError(f"colour '{self.colour}' is not 'Y' or 'RGB'")
    if self.crop_border < 0:
      raise ValueError(f"crop_border {self.crop_border} is negative")
    flavours = (
      ("per_channel", "window_3d") if self.metric == "ssim" else (None,)
    )
    if self.ssim_flavour not in flavours:
      raise ValueError(
        f"ssim_flavour {self.ssim_flavour!r} of metric '{self.metric}' is not "
        f"one of {list(flavours)}"
      )

  def __str__(self) -> str:
    what = "PSNR (dB)" if self.metric == "psnr" else f"SSIM {self.ssim_flavour}"
    return ", ".join(
      (
        f"{what} on {self.colour}",
        f"{self.dataset} x{self.scale}",
        self.degradation,
        f"crop {self.crop_border} px",
        self.rounding,
      )
    )

  def measure(
    self,
    sr: Shaped[AnyArray, "*b h w c"],
    hr: Shaped[AnyArray, "*b h w c"],
  ) -> Float[AnyArray, "*b"]:
    """The figure of each image, by this metric, colour and crop.

    Args:
      sr: Restored image, already rounded as `rounding` says.
      hr: Ground truth, same shape and range.

    Returns:
      One value per image.

    Raises:
      ValueError: as `psnr` and `ssim`.
    """
    options = {
      "crop_border": self.crop_border,
      "y_channel": self.colour == "Y",
    }
    if self.ssim_flavour is None:
      return psnr(sr, hr, **options)
    return ssim(sr, hr, **options, flavour=self.ssim_flavour)
