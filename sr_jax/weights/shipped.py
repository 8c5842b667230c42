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
    path: A file, or the name of one that comes with the package. A file of that
      name, or the folder of a run, comes first where there is one.

  Returns:
    The file's path; a name of neither kind comes back as it is.
  """
  file = epath.Path(path).expanduser()
  own = file.is_file() or (file / "weights").is_dir()
  if str(path) in SHIPPED and not own:
    return epath.Path(_FOLDER / f"{path}.safetensors")
  return file
