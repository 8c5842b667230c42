"""The named sets: how many images, how their folder is called, where from.

None is bundled: most have no licence that allows it. `photos`, which needs no
download, is in `sources`.
"""

import dataclasses


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
