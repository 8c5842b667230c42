"""Files that are whole at any moment."""

import os

from etils import epath


def write_whole(path: epath.PathLike, content: bytes) -> None:
  """Writes beside, then renames; a write that fails leaves nothing behind.

  Args:
    path: The file, replaced where it is there; its folder must be.
    content: All of it.

  Raises:
    OSError: no such folder, no space, no permission.
  """
  path = epath.Path(path)
  beside = path.parent / f".{path.name}.{os.getpid()}.tmp"
  try:
    beside.write_bytes(content)
    beside.replace(path)
  except BaseException:
    beside.unlink(missing_ok=True)
    raise
