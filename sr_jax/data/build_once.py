"""A build of TFDS: by one process, while others wait, and in silence."""

import contextlib
import errno
import fcntl
import io
import os
import sys
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

_FULL = (errno.ENOSPC, errno.EDQUOT)


def build(builder: tfds.core.GeneratorBasedBuilder, name: str) -> None:
  """Builds once, however many processes want it.

  Args:
    builder: That is not prepared.
    name: Of what it is made from.

  Raises:
    ValueError: the disk is full.
  """
  path = epath.Path(builder.data_path)
  path.parent.mkdir(parents=True, exist_ok=True)
  with _alone_in(path.parent) as alone:
    if path.exists():  # another process has built it meanwhile
      builder.info.read_from_directory(path)
      return
    if alone:  # what killed processes left, gigabytes maybe
      for left in path.parent.glob("incomplete.*"):
        left.rmtree(missing_ok=True)
    try:
      builder.download_and_prepare()
    except (OSError, RuntimeError) as error:
      # ArrayRecord has words for it, and no number.
      if any(os.strerror(number) in str(error) for number in _FULL):
        raise ValueError(
          f"disk full: the records of {name!r} could not be built in "
          f"{path.parent}. Free some space there, or name another folder by "
          "SR_JAX_CACHE"
        ) from None
      # Where there are no locks another process may have been first.
      if not path.exists():
        raise
      builder.info.read_from_directory(path)


@contextlib.contextmanager
def _alone_in(folder: epath.Path) -> Iterator[bool]:
  """Waits until no other process builds there; False where nothing can tell.

  The kernel frees the folder when a process ends, by kill -9 too.
  """
  lock = os.open(folder, os.O_RDONLY)
  try:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      print(f"waits for a process that builds {folder}", file=sys.stderr)
      fcntl.flock(lock, fcntl.LOCK_EX)
    alone = True
  except OSError:  # some network file systems lock files alone
    alone = False
  try:
    yield alone
  finally:
    os.close(lock)


@contextlib.contextmanager
def quiet():
  """Keeps TFDS from printing: of downloads there are none, and no TFDS bar."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  tfds.disable_progress_bar()
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.enable_progress_bar()
    logging.set_verbosity(verbosity)
