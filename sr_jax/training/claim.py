"""The folder of a run, and a lock that ends with the process that holds it."""

import contextlib
import datetime
import errno
import fcntl
import os
import secrets
import socket
import sys
from typing import Any

import jax
from etils import epath

from sr_jax import hosts

_TAKEN = (errno.EWOULDBLOCK, errno.EACCES)


def find_workdir(workdir: epath.PathLike) -> epath.Path:
  """The folder as orbax wants it, absolute; a bucket's address as it is.

  Raises:
    ValueError: it is a file.
  """
  text = str(workdir)
  if "://" not in text:
    text = os.path.abspath(os.path.expanduser(text))
  path = epath.Path(text)
  if path.exists() and not path.is_dir():
    raise ValueError(f"workdir {path} is a file; give another folder")
  return path


def make_folder(folder: epath.Path) -> None:
  """Makes a folder of the workdir, and the workdir.

  Raises:
    ValueError: it cannot be made.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ValueError(
      f"workdir {folder.parent} cannot be made ({error.strerror}); give "
      "another --workdir"
    ) from error


class BusyError(RuntimeError):
  """Another run is in the workdir."""


class Claim:
  """Keeps other runs out of a workdir, by a lock on its file `.lock`.

  The kernel frees it when the process ends, by kill -9 too; over NFS the
  server does. Buckets have no locks, nor have some file systems: there
  `warning` says so, and nothing is kept out.

  Args:
    workdir: Of the run. The first process alone holds it, for all.

  Attributes:
    warning: Why the workdir could not be locked, if so.
  """

  def __init__(self, workdir: epath.PathLike):
    self.warning = ""
    self._workdir = epath.Path(workdir)
    self._path = self._workdir / ".lock"
    self._file: int | None = None

  def take(self) -> None:
    """Takes the workdir, which is there, unless it has it already.

    All processes call it together.

    Raises:
      BusyError: another run has it. On all processes.
      OSError, ValueError: its lock cannot be opened, as `hosts.together`.
    """
    first = jax.process_index() == 0
    wanted = first and self._file is None and not self.warning
    holder = hosts.together(lambda: self._lock() if wanted else None)
    if not hosts.on_all(holder is None):
      raise BusyError(
        f"workdir {self._workdir} is in use by {holder or 'another run'}. Stop "
        "that one, or give another --workdir"
      )

  def meet(self) -> None:
    """Refuses a workdir that is not one folder for all processes.

    All processes call it together; the folder is there.

    Raises:
      ValueError: some do not see what the first writes, or it cannot write.
        On all processes.
    """
    if jax.process_count() == 1:
      return
    token = self._workdir / f".{hosts.from_first(secrets.token_hex(8))}.tmp"
    problem = None
    if jax.process_index() == 0:
      try:
        token.write_bytes(b"here")
      except Exception as error:  # of a bucket, of any kind
        problem = str(error)
    problem = hosts.from_first(problem)  # and now it is there
    if problem:
      raise ValueError(f"workdir {self._workdir} cannot be written: {problem}")
    seen = hosts.gather(token.exists())
    if jax.process_index() == 0:
      token.unlink(missing_ok=True)
    if not all(seen):
      blind = [i for i, found in enumerate(seen) if not found]
      raise ValueError(
        f"workdir {self._workdir} is another folder for processes {blind} than "
        "for the first; give a --workdir that all hosts share: a bucket, or a "
        "file system that all mount"
      )

  def _lock(self) -> str | None:
    """Who has it, if that is another."""
    if "://" in str(self._workdir):
      self.warning = (
        f"{self._workdir} is a bucket, which cannot be locked: see to it that "
        "no other run writes there"
      )
      return None
    while True:
      file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except OSError as error:
        holder = os.pread(file, 1000, 0).decode(errors="replace").strip()
        os.close(file)
        if error.errno in _TAKEN:
          return holder or "another process"
        self.warning = (
          f"{self._workdir} cannot be locked ({error.strerror}): see to it "
          "that no other run writes there"
        )
        return None
      # The run before may have removed the file between the two lines.
      with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(self._path), os.fstat(file)):
          break
      os.close(file)
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    command = " ".join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
    text = f"process {os.getpid()} on {socket.gethostname()}, since {now}"
    if command:
      text += f" ({command[:300]})"
    with contextlib.suppress(OSError):  # a full disk is told elsewhere
      os.ftruncate(file, 0)
      os.pwrite(file, text.encode(), 0)
    self._file = file
    return None

  def close(self, *_: Any) -> None:
    """Frees the workdir."""
    if self._file is not None:
      with contextlib.suppress(OSError):
        self._path.unlink(missing_ok=True)
      os.close(self._file)
      self._file = None
