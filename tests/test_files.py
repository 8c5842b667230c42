"""A file is whole or not there, and what cannot be written is named."""

import errno
import os

import pytest
from etils import epath

from sr_jax import weights
from sr_jax.data import load_images
from sr_jax.data.sources import image_files
from sr_jax.files import write_whole
from sr_jax.metrics import load_prior


def test_a_file_is_replaced_and_nothing_is_left_beside(tmp_path):
  for content in (b"one", b"two"):
    write_whole(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == content
  assert os.listdir(tmp_path) == ["file"]


def test_what_is_no_file_is_not_replaced(tmp_path):
  os.mkfifo(tmp_path / "pipe")
  (tmp_path / "folder").mkdir()
  for name, kind in (("pipe", "device"), ("folder", "folder")):
    with pytest.raises(ValueError, match=f"{name} is a {kind}"):
      write_whole(tmp_path / name, b"")
  assert (tmp_path / "pipe").is_fifo()
  assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


@pytest.mark.parametrize(
  "read",
  [
    weights.load,
    weights.read_pth,
    weights.load_ncnn,
    lambda path: weights.load_mat(path, scale=3),
    lambda path: weights.load_vgg19(path, layers=("conv1_1",)),
    load_prior,
  ],
)
def test_a_pipe_is_not_waited_for(tmp_path, read):
  for suffix in (".param", ".bin"):
    os.mkfifo(tmp_path / f"pipe{suffix}")
  with pytest.raises(ValueError, match=r"pipe\.\w+ is a device or a pipe"):
    read(tmp_path / "pipe.param")
  (tmp_path / "pipe.bin").unlink()
  (tmp_path / "pipe.bin").write_bytes(b"")
  with pytest.raises(ValueError, match=r"pipe|neither"):
    read(tmp_path / "pipe.bin")
  with pytest.raises(ValueError, match="is a device or a pipe"):
    read("/dev/zero")


def test_a_pipe_is_no_image(tmp_path):
  os.mkfifo(tmp_path / "a.png")
  assert not image_files(epath.Path(tmp_path))  # else it would be waited for
  with pytest.raises(ValueError, match="holds no images"):
    load_images(str(tmp_path))
  # But a link whose image is gone, which is an error, and not one image less.
  (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
  assert [x.name for x in image_files(epath.Path(tmp_path))] == ["b.png"]


def test_a_missing_folder_is_named(tmp_path):
  path = tmp_path / "no" / "such" / "file"
  told = f"{path}: there is no folder {path.parent}; make it"
  with pytest.raises(FileNotFoundError) as caught:
    write_whole(path, b"")
  assert str(caught.value) == told
  (tmp_path / "no").write_text("a file")
  with pytest.raises(FileNotFoundError, match="there is no folder"):
    write_whole(path, b"")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.ENOENT])
def test_what_cannot_be_written_is_named(tmp_path, monkeypatch, number):
  def refuse(self, content):
    raise OSError(number, os.strerror(number), str(self))

  monkeypatch.setattr(type(epath.Path(tmp_path)), "write_bytes", refuse)
  path = tmp_path / "file"
  with pytest.raises(OSError, match="file") as caught:
    write_whole(path, b"")
  assert caught.value.errno == number
  assert caught.value.filename == str(path)
  assert ".tmp" not in str(caught.value)
  assert not os.listdir(tmp_path)
