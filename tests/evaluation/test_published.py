"""Which published figures belong to which weights."""

import pytest

from sr_jax.evaluation import published
from sr_jax.models import FSRCNN, SRCNN, Interpolate, describe


def _match(model, **kwargs):
  entry = published.match(*describe(model), **kwargs)
  return None if entry is None else entry.key


@pytest.mark.parametrize(
  ("kernels", "path", "key"),
  [
    ((9, 1, 5), "srcnn/9-1-5_t91/x3.mat", "srcnn_9-1-5_t91"),
    ((9, 1, 5), "srcnn/9-1-5_imagenet/x3.mat", "srcnn_9-1-5_imagenet"),
    ((9, 5, 5), "srcnn/9-5-5_imagenet/x3.mat", "srcnn_9-5-5_imagenet"),
    # Kernels that are not those of the folder, or a folder that tells nothing.
    ((9, 3, 5), "srcnn/9-5-5_imagenet/x3.mat", None),
    ((9, 1, 5), "runs/srcnn/weights/best.safetensors", None),
  ],
)
def test_srcnn_by_kernels_and_folder(kernels, path, key):
  assert _match(SRCNN(kernel_sizes=kernels), path=path) == key


def test_by_kind():
  assert _match(FSRCNN()) == "fsrcnn"
  assert _match(FSRCNN(num_features=32, shrink_features=5, num_blocks=1)) == (
    "fsrcnn_s"
  )
  assert _match(FSRCNN(num_features=8)) is None
  assert _match(FSRCNN(in_channels=3, out_channels=3)) is None
  assert _match(Interpolate(method="bicubic")) == "bicubic"
  assert _match(Interpolate(method="nearest")) is None


def test_what_the_weights_say_decides():
  assert _match(FSRCNN(), key="fsrcnn_t91") == "fsrcnn_t91"
  with pytest.raises(ValueError, match="'fsrcn' is not one of"):
    _match(FSRCNN(), key="fsrcn")


def test_figures():
  entry = published.published()["fsrcnn"]
  assert entry.find("Set5", 3, "Y").psnr == 33.16
  assert entry.find("Set5", 3, "RGB") is None
  assert entry.find("Set5", 8, "Y") is None
  assert set(published.families()) == {"bicubic", "srcnn", "fsrcnn"}
  assert all(
    entry.weights
    for family in published.families().values()
    for entry in family
  )
