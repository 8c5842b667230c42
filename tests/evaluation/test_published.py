"""Which published figures belong to which weights."""

import importlib
import math

import pytest

from sr_jax.evaluation import published
from sr_jax.models import (
  EDSR,
  EDVR,
  FSRCNN,
  SRCNN,
  BasicVSR,
  BasicVSRPlusPlus,
  IconVSR,
  Interpolate,
  RRDBNet,
  SparseCoding,
  describe,
)
from sr_jax.weights import tree


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
  assert _match(SparseCoding()) == "sparse_coding"


def test_what_the_weights_say_decides():
  assert _match(FSRCNN(), key="fsrcnn_t91") == "fsrcnn_t91"
  with pytest.raises(ValueError, match="'fsrcn' is not one of"):
    _match(FSRCNN(), key="fsrcn")


def test_figures():
  entry = published.published()["fsrcnn"]
  assert entry.find("Set5", 3, "Y").psnr == 33.16
  assert entry.find("Set5", 3, "RGB") is None
  assert entry.find("Set5", 8, "Y") is None
  assert published.published()["basicvsr_vimeo90k_bd"].find(
    "Vimeo-90K-T", 4, "Y"
  ) == published.Figure(psnr=37.53, ssim=0.9498, degradation="BD")


def test_every_system_has_its_table():
  assert list(published.families()) == [
    *("bicubic", "srcnn", "fsrcnn", "srresnet", "srgan", "edsr", "esrgan"),
    *("edvr", "basicvsr", "iconvsr", "basicvsr_plusplus"),
  ]
  for key, entry in published.published().items():
    scales = {scale for _, scale in entry.figures}
    for by_scale in (entry.weights, entry.parameters):
      assert set(by_scale) in (set(), scales), key
    if entry.weights:
      assert entry.origin or "bicubic" in key, key
    else:
      assert bool(entry.origin) == (key == "fsrcnn_t91"), key
    assert entry.ssim in ("per_channel", "window_3d"), key
    if entry.recipe.startswith("configs/"):
      file, _, variant = entry.recipe.partition(":")
      name = file.removesuffix(".py").replace("/", ".")
      assert importlib.import_module(name).get_config(variant)


def test_files_are_told_by_their_names():
  model = BasicVSR()
  for stem, key in (
    ("BasicVSR_REDS4", "basicvsr_reds"),
    ("BasicVSR_REDS4-543c8261", "basicvsr_reds"),
    ("BasicVSR_REDS4-new", None),
    ("basicvsr_vimeo90k_bd_20210409-0154dd64", "basicvsr_vimeo90k_bd_mmagic"),
    ("x3", None),
  ):
    assert _match(model, path=f"some/where/{stem}.pth") == key


@pytest.mark.parametrize(
  ("key", "model"),
  [
    ("srcnn_9-5-5_imagenet", SRCNN(kernel_sizes=(9, 5, 5))),
    ("edsr_official", EDSR(scale=2)),
    ("esrgan", RRDBNet()),
    ("edvr_m_reds_wotsa", EDVR(tsa=False)),
    ("edvr_l_reds", EDVR(num_features=128, num_reconstruct_blocks=40)),
    (
      "edvr_l_vimeo90k_bi",
      EDVR(num_features=128, num_reconstruct_blocks=40, num_frames=7),
    ),
    ("iconvsr_vimeo90k_bd", IconVSR(temporal_padding=3)),
    ("basicvsr_reds", BasicVSR()),
    ("basicvsr_plusplus_reds", BasicVSRPlusPlus()),
  ],
)
def test_parameters_are_those_of_our_networks(key, model):
  shapes = tree.shapes(model).values()
  have = published.published()[key].parameters[model.scale]
  assert have == sum(math.prod(shape) for shape in shapes)
