"""The small networks that come with the package, by name.

`zoo/README.md` is their model card: how each was trained, and its figures.
"""

import pathlib

from etils import epath

_FOLDER = pathlib.Path(__file__).parent / "zoo"

#: "fsrcnn_x3" and so on: what `load` takes without a file.
SHIPPED = tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def locate(path: epath.PathLike) -> epath.Path:
  """Where the weights are that somebody names.

  Args:
    path: A file, or the name of one that comes with the package. A file or
      folder of that name, where there is one, comes first.

  Returns:
    The file's path; a name of neither kind comes back as it is.
  """
  file = epath.Path(path).expanduser()
  if str(path) in SHIPPED and not file.exists():
    return epath.Path(_FOLDER / f"{path}.safetensors")
  return file
