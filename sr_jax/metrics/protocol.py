"""How a figure was measured: without it a figure is not one."""

import dataclasses

from jaxtyping import Float, Shaped

from sr_jax.metrics.image import psnr, ssim
from sr_jax.metrics.niqe import NiqePrior, niqe
from sr_jax.types import AnyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
  """Everything that decides a figure besides the network.

  `str()` is one line for the caption of a table:
  `PSNR (dB) on Y, Set5 x4, MATLAB bicubic, float LR, crop 4 px, SR clipped ...`

  Attributes:
    metric: "psnr", "ssim" or "niqe".
    colour: "Y" (BT.601 studio swing, not rounded but for NIQE) or "RGB".
    crop_border: Pixels dropped from each edge before comparing.
    dataset: Name of the set.
    scale: Enlargement.
    degradation: How the low-resolution images were made.
    ssim_flavour: Of `metrics.ssim`; None for other metrics.
    rounding: What is done to the output before comparing.
    prior: Name of NIQE's prior; None for other metrics.
    frames: Of clips, which frames are compared; their mean is that of the
      clip, and the mean of the clips the figure. Empty for images.

  Raises:
    ValueError: an unknown metric or colour, NIQE on RGB, a negative
      crop_border, or a flavour or prior that is missing or out of place.
  """

  metric: str
  colour: str
  crop_border: int
  dataset: str
  scale: int
  degradation: str = "MATLAB bicubic, float LR"
  ssim_flavour: str | None = None
  rounding: str = "SR clipped and rounded to 8 bits"
  prior: str | None = None
  frames: str = ""

  def __post_init__(self):
    if self.metric not in ("psnr", "ssim", "niqe"):
      raise ValueError(
        f"metric '{self.metric}' is not 'psnr', 'ssim' or 'niqe'"
      )
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
    if self.metric == "niqe" and self.colour != "Y":
      raise ValueError(f"colour '{self.colour}' of metric 'niqe' is not 'Y'")
    if (self.prior is not None) != (self.metric == "niqe"):
      raise ValueError(
        f"prior {self.prior!r} of metric '{self.metric}': NIQE's must be "
        "named, and no other metric has one"
      )

  def __str__(self) -> str:
    what = {
      "psnr": f"PSNR (dB) on {self.colour}",
      "ssim": f"SSIM {self.ssim_flavour} on {self.colour}",
      "niqe": f"NIQE (lower is better) on {self.colour} rounded to 8 bits",
    }
    parts = (
      what[self.metric],
      f"{self.dataset} x{self.scale}",
      self.degradation,
      f"crop {self.crop_border} px",
      self.frames,
      self.rounding,
      f"no reference, prior {self.prior}" if self.prior else "",
    )
    return ", ".join(filter(None, parts))

  def measure(
    self,
    sr: Shaped[AnyArray, "*b h w c"],
    hr: Shaped[AnyArray, "*b h w c"] | None = None,
    *,
    prior: NiqePrior | None = None,
  ) -> Float[AnyArray, "*b"]:
    """The figure of each image, by this metric, colour and crop.

    Args:
      sr: Restored image, already rounded as `rounding` says.
      hr: Ground truth, same shape and range; NIQE needs none.
      prior: The one that NIQE's protocol names; other metrics need none.

    Returns:
      One value per image.

    Raises:
      ValueError: as `psnr`, `ssim` and `niqe`; hr or prior is missing, or the
        prior is another than the one named.
    """
    if self.metric == "niqe":
      if prior is None or prior.name != self.prior:
        got = None if prior is None else f"'{prior.name}'"
        raise ValueError(f"prior is {got}; the protocol names '{self.prior}'")
      return niqe(sr, prior=prior, crop_border=self.crop_border)
    if hr is None:
      raise ValueError(f"metric '{self.metric}' compares with hr; give it")
    options = {
      "crop_border": self.crop_border,
      "y_channel": self.colour == "Y",
    }
    if self.ssim_flavour is None:
      return psnr(sr, hr, **options)
    return ssim(sr, hr, **options, flavour=self.ssim_flavour)
