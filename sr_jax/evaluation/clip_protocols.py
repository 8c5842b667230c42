"""How the papers measure on each set of clips."""

import dataclasses

from sr_jax.data.clips import is_clips


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipProtocol:
  """How the papers measure on one set.

  Attributes:
    title: What tables call the set.
    dataset: Its name in `data.NAMED_CLIPS`.
    colours: That are compared, the published one first.
    crop_border: Pixels dropped from each edge.
    skip: Frames left out at each end of a clip.
    middle: Only the frame in the middle of each clip is compared.
    mirror: A network of clips is given the clip and then the clip backwards,
      and the mean of what it makes of the two is taken.
    degradation: The published one, where there is but one.
  """

  title: str
  dataset: str
  colours: tuple[str, ...] = ("Y",)
  crop_border: int = 0
  skip: int = 0
  middle: bool = False
  mirror: bool = False
  degradation: str = "BI"

  def chosen(self, length: int) -> range:
    """The frames of a clip that are compared."""
    if self.middle:
      return range(length // 2, length // 2 + 1)
    return range(self.skip, length - self.skip)

  @property
  def frames(self) -> str:
    """Which frames those are, in words."""
    if self.middle:
      mirrored = ", mirrored for networks of clips" if self.mirror else ""
      return f"the middle frame{mirrored}"
    if self.skip:
      return f"all frames but the first and last {self.skip}"
    return "all frames"


CLIP_PROTOCOLS: dict[str, ClipProtocol] = {
  "vid4": ClipProtocol(title="Vid4", dataset="vid4"),
  # Of DUF, FRVSR and TDAN.
  "vid4_crop8": ClipProtocol(
    title="Vid4 (crop 8)",
    dataset="vid4",
    crop_border=8,
    skip=2,
    degradation="DUF",
  ),
  "reds4": ClipProtocol(title="REDS4", dataset="reds4", colours=("RGB",)),
  "vimeo90k-t": ClipProtocol(
    title="Vimeo-90K-T", dataset="vimeo90k-t", middle=True, mirror=True
  ),
  "udm10": ClipProtocol(title="UDM10", dataset="udm10", degradation="BD"),
}
#: Names of sets that mean the set above under the split "test".
_ALSO = {"reds": "reds4", "vimeo90k": "vimeo90k-t"}


def clip_protocol(dataset: str) -> ClipProtocol | None:
  """The protocol of a benchmark of clips, or None where it is of images.

  Args:
    dataset: A key of `CLIP_PROTOCOLS` in upper or lower case, or a folder that
      holds a folder of frames for each clip: all of its frames are measured on
      RGB and on Y.
  """
  name = _ALSO.get(dataset.lower(), dataset.lower())
  if name in CLIP_PROTOCOLS:
    return CLIP_PROTOCOLS[name]
  if not is_clips(dataset):
    return None
  title = dataset.rstrip("/").rpartition("/")[2]
  return ClipProtocol(title=title, dataset=dataset, colours=("RGB", "Y"))
