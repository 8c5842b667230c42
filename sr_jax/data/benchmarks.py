"""The named sets: how many images or clips, in which folders, where from.

None is bundled: most have no licence that allows it. `photos`, which needs no
download, is in `sources`.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedSet:
  """One set of the literature.

  Attributes:
    count: How many images it has; another number is refused, since a figure
      on part of a set is not a figure on the set.
    folders: Where it may lie under the data directory, tried in order, upper
      and lower case alike.
    where: Where to get it.
    parts: Sets whose union it is, used where none of `folders` is there.
  """

  count: int
  folders: tuple[str, ...]
  where: str
  parts: tuple[str, ...] = ()


_SELFEXSR = "https://github.com/jbhuang0604/SelfExSR (data/<set>, the HR files)"
_FSRCNN = "http://mmlab.ie.cuhk.edu.hk/projects/FSRCNN.html"
_BSDS = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/bsds/"
_DIV2K = "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_train_HR.zip"
_DIV2K_VALID = "https://data.vision.ee.ethz.ch/cvl/DIV2K/DIV2K_valid_HR.zip"
_FLICKR2K = "https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar"

NAMED_SETS: dict[str, NamedSet] = {
  "set5": NamedSet(count=5, folders=("Set5", "Set5/HR"), where=_SELFEXSR),
  "set14": NamedSet(count=14, folders=("Set14", "Set14/HR"), where=_SELFEXSR),
  "bsd100": NamedSet(
    count=100,
    folders=("BSD100", "BSDS100", "B100", "BSD100/HR"),
    where=f"{_SELFEXSR}, or the test images of BSDS300, {_BSDS}",
  ),
  "bsd200": NamedSet(
    count=200,
    folders=("BSD200", "BSDS200"),
    where=f"the training images of BSDS300, {_BSDS}",
  ),
  "t91": NamedSet(count=91, folders=("T91", "Train91"), where=_FSRCNN),
  "urban100": NamedSet(
    count=100, folders=("Urban100", "Urban100/HR"), where=_SELFEXSR
  ),
  "general100": NamedSet(
    count=100, folders=("General100", "General-100"), where=_FSRCNN
  ),
  "div2k": NamedSet(
    count=800,
    folders=("DIV2K/DIV2K_train_HR", "DIV2K_train_HR", "DIV2K"),
    where=_DIV2K,
  ),
  "div2k100": NamedSet(
    count=100,
    folders=("DIV2K/DIV2K_valid_HR", "DIV2K_valid_HR", "DIV2K100"),
    where=_DIV2K_VALID,
  ),
  "flickr2k": NamedSet(
    count=2650,
    folders=("Flickr2K/Flickr2K_HR", "Flickr2K"),
    where=_FLICKR2K,
  ),
  "df2k": NamedSet(
    count=3450,
    folders=("DF2K/DF2K_HR", "DF2K"),
    where=f"DIV2K ({_DIV2K}) and Flickr2K ({_FLICKR2K}) together",
    parts=("div2k", "flickr2k"),
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedClips:
  """One video set of the literature: a folder of frames for each clip.

  Attributes:
    count: How many clips it has; another number is refused.
    frames: How many frames a clip has, or how many each has by its name.
    folders: Where the folder of the clips may lie under the data directory,
      tried in order, upper and lower case alike.
    where: Where to get it.
    names: The clips that are meant, where the folder has others too.
    held_out: Clips in the folder that are not of the set.
    beside: Where the rest of its clips may lie, seen from that folder.
    index: A file beside that folder that names the clips, one a line.
    test: The set that the split "test" means.
  """

  count: int
  frames: int | Mapping[str, int]
  folders: tuple[str, ...]
  where: str
  names: tuple[str, ...] = ()
  held_out: tuple[str, ...] = ()
  beside: tuple[str, ...] = ()
  index: str = ""
  test: str = ""


_REDS4 = ("000", "011", "015", "020")
_REDS = (
  "https://seungjunnah.github.io/Datasets/reds.html (train_sharp.zip and "
  "val_sharp.zip)"
)
_VIMEO = "http://toflow.csail.mit.edu (the septuplets, vimeo_septuplet.zip)"
_VIMEO_FOLDERS = tuple(
  f"{root}/{folder}"
  for root in (
    "vimeo_septuplet",
    "vimeo90k/vimeo_septuplet",
    "vimeo90k",
    "vimeo-90k",
  )
  for folder in ("sequences", "GT")
)

NAMED_CLIPS: dict[str, NamedClips] = {
  # 240 clips of train_sharp less four, and the 30 of val_sharp.
  "reds": NamedClips(
    count=266,
    frames=100,
    folders=("REDS/train_sharp", "REDS/train/train_sharp", "REDS"),
    where=_REDS,
    held_out=_REDS4,
    beside=("../val_sharp", "../../val/val_sharp"),
    test="reds4",
  ),
  "reds4": NamedClips(
    count=4,
    frames=100,
    folders=(
      "REDS4/GT",
      "REDS4",
      "REDS/train_sharp",
      "REDS/train/train_sharp",
      "REDS",
    ),
    where=f"{_REDS}: clips {', '.join(_REDS4)} of train_sharp",
    names=_REDS4,
  ),
  "vimeo90k": NamedClips(
    count=64612,
    frames=7,
    folders=_VIMEO_FOLDERS,
    where=_VIMEO,
    index="sep_trainlist.txt",
    test="vimeo90k-t",
  ),
  "vimeo90k-t": NamedClips(
    count=7824,
    frames=7,
    folders=_VIMEO_FOLDERS,
    where=_VIMEO,
    index="sep_testlist.txt",
  ),
  "vid4": NamedClips(
    count=4,
    frames={"calendar": 41, "city": 34, "foliage": 49, "walk": 47},
    folders=("Vid4/GT", "Vid4/HR", "Vid4"),
    where="https://github.com/ckkelvinchan/BasicVSR-IconVSR (Vid4)",
  ),
  "udm10": NamedClips(
    count=10,
    frames=32,
    folders=("UDM10/GT", "UDM10"),
    where="https://github.com/psychopa4/PFNL (the test videos udm10)",
  ),
}
