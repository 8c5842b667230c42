"""The degradations by the names that papers call them."""

import dataclasses
from collections.abc import Callable

from sr_jax.degradations.bicubic import MARGIN, bicubic
from sr_jax.degradations.blur_downsample import BD_MARGIN, DUF_MARGIN, bd, duf
from sr_jax.types import AnyArray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Degradation:
  """A way to make low-resolution images, and what a crop needs for it.

  Attributes:
    downsample: From ground truth to network input, with the arguments of
      `bicubic`.
    margin: Low-resolution pixels of context that a crop needs on each side.
    border: How the host continues an image past its border: a mode of
      `np.pad`.
    title: What protocols call it.
  """

  downsample: Callable[..., AnyArray]
  margin: int
  border: str
  title: str


DEGRADATIONS: dict[str, Degradation] = {
  "BI": Degradation(
    downsample=bicubic,
    margin=MARGIN,
    border="symmetric",
    title="MATLAB bicubic",
  ),
  "BD": Degradation(
    downsample=bd,
    margin=BD_MARGIN,
    border="edge",
    title="gaussian of sigma 1.6 on the LR pixel's centre",
  ),
  "DUF": Degradation(
    downsample=duf,
    margin=DUF_MARGIN,
    border="reflect",
    title="gaussian of sigma 0.4 x scale on the LR pixel's first pixel",
  ),
}


def find(name: str) -> Degradation:
  """The degradation of that name, in upper or lower case.

  Raises:
    ValueError: there is none; the message names those there are.
  """
  if name.upper() not in DEGRADATIONS:
    raise ValueError(f"degradation '{name}' is not one of {list(DEGRADATIONS)}")
  return DEGRADATIONS[name.upper()]
