"""A build of TFDS: by one process, while others wait, and in silence."""

import contextlib
import errno
import fcntl
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from sr_jax.files import is_disk_full

#: Seconds after which an unfinished build is taken to be nobody's, even where
#: no lock says so.
_IDLE = 3600
#: What a build of ours is made of. TFDS imports whatever classes are named.
_CLASSES = tuple(
  f"tensorflow_datasets.core.features.{name}"
  for name in (
    "features_dict.FeaturesDict",
    "tensor_feature.Tensor",
    "text_feature.Text",
  )
)


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
  with _alone_in(path.parent):
    if path.exists():  # another process has built it meanwhile
      builder.info.read_from_directory(path)
      return
    # Of processes that were killed.
    for left in path.parent.glob("incomplete.*"):
      if time.time() - _touched(left) > _IDLE:
        left.rmtree(missing_ok=True)
    try:
      builder.download_and_prepare()
    except (OSError, RuntimeError) as error:
      if is_disk_full(error):
        raise ValueError(
          f"disk full: the records of {name!r} could not be built in "
          f"{path.parent}. Free some space there, or name another folder by "
          "SR_JAX_CACHE"
        ) from None
      # Where there are no locks another process may have been first.
      if isinstance(error, RuntimeError) or not path.exists():
        raise
      builder.info.read_from_directory(path)


def _touched(folder: epath.Path) -> float:
  """When something in it was last written."""
  paths = [folder, *folder.glob("*")]
  times = [os.stat(x).st_mtime for x in paths if os.path.exists(x)]
  return max(times, default=time.time())


@contextlib.contextmanager
def _alone_in(folder: epath.Path) -> Iterator[None]:
  """Waits until no other process builds there, where the file system can tell.

  By a lock on a file, which NFS makes one of its server. The kernel frees it
  when a process ends, by kill -9 too.
  """
  file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
  try:
    if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
      with contextlib.suppress(OSError):  # nobody reads it
        print(f"waits for a process that builds {folder}", file=sys.stderr)
      _lock(file, fcntl.LOCK_EX)
    yield
  finally:
    os.close(file)


def _lock(file: int, how: int) -> bool:
  """False where another has it; some file systems have no locks."""
  try:
    fcntl.flock(file, how)
  except OSError as error:
    return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
  return True


def open_build(path: str) -> tfds.core.DatasetBuilder:
  """One that `build` made, in whatever process.

  Raises:
    ValueError: it names classes that no build of ours has. TFDS would import
      them, and what is imported runs.
  """
  text = (epath.Path(path) / "features.json").read_text()
  for name in _texts(json.loads(text)):
    if "." in name and name not in _CLASSES:
      raise ValueError(f"its features.json names {name[:200]}")
  return tfds.builder_from_directory(path)


def _texts(tree: Any) -> Iterator[str]:
  if isinstance(tree, dict | list):
    for value in tree.values() if isinstance(tree, dict) else tree:
      yield from _texts(value)
  elif isinstance(tree, str):
    yield tree


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
