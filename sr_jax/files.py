"""Files that are whole at any moment, and what is none."""

import contextlib
import errno
import os

from etils import epath

_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_source(path: epath.PathLike) -> None:
  """Refuses to read what may have no end: a device, a pipe, a socket.

  Raises:
    ValueError: it is one. Not of a folder, nor where there is nothing.
  """
  if _is_special(path):
    raise ValueError(f"{path} is a device or a pipe, and no file; give a file")


def is_file(path: epath.Path) -> bool:
  """Whether it is one to read to its end; a link whose file is gone is, too.

  That is an error for whoever reads it, and nothing to be left out.
  """
  return not path.is_dir() and not _is_special(path)


def _is_special(path: epath.PathLike) -> bool:
  # epath's is_file() is true of a device; a bucket has none.
  return os.path.exists(path) and not (
    os.path.isfile(path) or os.path.isdir(path)
  )


def check_target(path: epath.PathLike) -> None:
  """Refuses to replace what is not a file: a device, a folder, a socket.

  Raises:
    ValueError: there is such a thing.
  """
  path = epath.Path(path)
  if path.is_dir() or _is_special(path):
    kind = "folder" if path.is_dir() else "device, and no file"
    raise ValueError(f"{path} is a {kind}; give the name of a file to write")


def write_whole(path: epath.PathLike, content: bytes) -> None:
  """Writes beside, then renames; a write that fails leaves nothing behind.

  Args:
    path: The file, replaced where it is there; its folder must be.
    content: All of it.

  Raises:
    ValueError: the path is a folder or a device.
    FileNotFoundError: no such folder.
    OSError: no space, no permission; it names the file that was wanted.
  """
  path = epath.Path(path)
  check_target(path)
  beside = path.parent / f".{path.name}.{os.getpid()}.tmp"
  try:
    beside.write_bytes(content)
    beside.replace(path)
  except BaseException as error:
    with contextlib.suppress(OSError):
      beside.unlink(missing_ok=True)
    if not isinstance(error, OSError):
      raise
    if not path.parent.is_dir():
      raise FileNotFoundError(
        f"{path}: there is no folder {path.parent}; make it"
      ) from error
    if error.errno is None:  # of a bucket, in words of its own
      raise
    reason = error.strerror or "not written"
    if isinstance(error, FileNotFoundError):
      reason = "no file can be made in that folder"
    raise OSError(error.errno, reason, str(path)) from error


def sweep(folder: epath.PathLike) -> None:
  """Removes what a killed process left half written in a folder.

  Nothing else may write there meanwhile.
  """
  for path in epath.Path(folder).glob(".*.tmp"):
    path.unlink(missing_ok=True)


def is_disk_full(error: BaseException | None) -> bool:
  """Whether an error, or one that it came from, is a disk without space."""
  while error is not None:
    if isinstance(error, OSError) and error.errno in _FULL:
      return True
    # Of libraries that have words for it, and no number.
    if any(os.strerror(number) in str(error) for number in _FULL):
      return True
    error = error.__cause__ or error.__context__
  return False
