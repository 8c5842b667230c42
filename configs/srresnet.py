r"""SRResNet with BatchNorm, the SRGAN paper's generator, trained for PSNR.

Ledig et al. 2017, table 2, x4, PSNR / SSIM on Y, crop 4: SRResNet-MSE on Set5
32.05 / 0.9019, Set14 28.49 / 0.8184, BSD100 27.58 / 0.7620.

Variants, after a colon and separated by commas:
  x2, x4       enlargement; x4 where none is given.
  smoke        a few steps on the quickstart's photographs.

Command:  python train.py --config=configs/srresnet.py
Cost:     16 crops of 96 pixels a step, 10^6 steps.
Source:   the paper, sec. 3.2: mean squared error, Adam with b1 = 0.9, 1e-4,
          10^6 updates. Its 350,000 images of ImageNet are not to be had; DIV2K
          stands in, as in every later work. There the images are in [-1, 1],
          here in [0, 1]: the loss is a quarter, which Adam does not see.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "") -> ConfigDict:
  words, _ = common.variant(argument, words=("x2", "x4", "smoke"))
  scale = common.scale_of(words, default=4)
  config = common.base()
  config.name = f"srresnet_x{scale}"
  config.published = "srresnet"
  config.model = ConfigDict(
    {
      "name": "srresnet",
      "scale": scale,
      "num_features": 64,
      "num_blocks": 16,
      "remat": False,
      "dtype": "float32",
    }
  )
  config.data.train = "div2k"
  config.data.patch_size = 96
  config.data.batch_size = 16
  config.data.num_workers = 4
  config.loss.name = "mse"
  config.steps = 1_000_000
  config.schedule = ConfigDict({"name": "constant", "learning_rate": 1e-4})
  config.eval.benchmarks = "set5,set14"
  config.log_every = 1000
  if "smoke" in words:
    config = common.smoke(config)
    config.model.update(num_features=8, num_blocks=1)
  return config
