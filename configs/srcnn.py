"""SRCNN on the 91 images, as Dong et al. 2016 trained it.

Their tables, Set5, PSNR on Y, crop of the scale, low resolution not quantised:
9-1-5 on the 91 images has 36.34 / 32.39 / 30.09 dB at x2 / x3 / x4; on
ImageNet 9-1-5 has 32.52 at x3, 9-3-5 32.66 and 9-5-5 36.66 / 32.75 / 30.49.

Variants, after a colon and separated by commas:
  x2, x3, x4   enlargement; x3 where none is given.
  935, 955     kernel sizes; 9-1-5 where none is given.
  muon         Muon with cosine decay, L1, larger crops, T91 + BSD200: minutes
               instead of weeks. The networks that come with sr_jax were
               trained so.
  from=RUN     begins from RUN (a workdir or weight file), of any scale; with
               `muon` for a third of the steps.
  mmagic       MMagic's recipe: RGB, x4, DIV2K, L1, Adam 2e-4 with four cosine
               periods; RGB PSNR / SSIM, crop 4: Set5 28.4316 / 0.8099,
               Set14 25.6486 / 0.7014.
  smoke        a few steps on the quickstart's photographs.

Command:  python train.py --config=configs/srcnn.py:x3,muon
Cost:     8 * 10^8 back-propagated crops in the paper; see
          docs/reproducing.md for what was run here.
Source:   sec. 4.1 of the paper (33x33 crops, MSE as Caffe has it, momentum
          SGD at 1e-4, last layer at a tenth); MMagic
          `srcnn_x4k915_1xb16-1000k_div2k`.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common

_KERNELS = {"915": (9, 1, 5), "935": (9, 3, 5), "955": (9, 5, 5)}


def get_config(argument: str = "") -> ConfigDict:
  words, pairs = common.variant(
    argument,
    words=("x2", "x3", "x4", *_KERNELS, "muon", "mmagic", "smoke"),
    keys=("from",),
  )
  config = common.base()
  kernels = [k for k in _KERNELS if k in words] or ["915"]
  if len(kernels) > 1:
    raise ValueError(f"one set of kernel sizes at a time, not {kernels}")
  rgb = "mmagic" in words
  if rgb and "muon" in words:
    raise ValueError("mmagic is a recipe of its own; leave muon out")
  scale = common.scale_of(words, default=4 if rgb else 3)
  config.name = f"srcnn_{kernels[0]}_x{scale}{'_mmagic' if rgb else ''}"
  if kernels == ["915"]:
    config.published = f"srcnn_9-1-5_{'rgb_div2k' if rgb else 't91'}"
  config.model = ConfigDict(
    {
      "name": "srcnn",
      "scale": scale,
      "in_channels": 3 if rgb else 1,
      "out_channels": 3 if rgb else 1,
      "features": (64, 32),
      "kernel_sizes": _KERNELS[kernels[0]],
      "upsampler": "torch" if rgb else "matlab",
      "padding": "zero" if rgb else "edge",
      "dtype": "float32",
    }
  )
  config.log_every = 1000
  config.eval_every = 10_000
  if rgb:
    config.data.train = "div2k"
    config.data.patch_size = 128
    config.data.batch_size = 16
    config.data.num_workers = 4
    config.steps = 1_000_000
    config.schedule = common.cosine(2e-4, *(250_000,) * 4, eta_min=1e-7)
  else:
    config.quantize_lr = False
    _on_classical_images(config, scale, fast="muon" in words)
  if "from" in pairs:
    config.init_from = pairs["from"]
    config.name += "_from"
    if "muon" in words:
      config.steps = config.steps // 3
      config.schedule.periods = (config.steps,)
  return common.smoke(config) if "smoke" in words else config


def _on_classical_images(config: Any, scale: int, *, fast: bool) -> None:
  """The paper's training on luma, or `muon`'s."""
  if fast:
    config.name += "_muon"
    config.data.train = "t91+bsd200"
    config.data.patch_size = {2: 40, 3: 60, 4: 64}[scale]
    config.data.batch_size = 4
    config.loss.name = "l1"
    config.optimizer = common.muon()
    config.steps = 60_000
    config.schedule = common.cosine(7e-3, config.steps, eta_min=7e-6)
    config.ema_decay = 0.999
    return
  config.data.train = "t91"
  config.loss.name = "mse"
  # 33 pixels in the paper, or the next multiple of the scale.
  config.data.patch_size = -(-33 // scale) * scale
  config.data.batch_size = 128
  config.steps = 6_250_000  # 8 * 10^8 crops
  # Half the sum over a crop, averaged over the batch.
  config.loss.weight = config.data.patch_size**2 / 2
  config.optimizer = common.sgd(momentum=0.9)
  config.optimizer.multipliers = (("conv3", 0.1),)
  config.schedule = ConfigDict({"name": "constant", "learning_rate": 1e-4})
