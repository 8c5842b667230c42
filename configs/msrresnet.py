r"""MSRResNet: SRResNet without BatchNorm, the PSNR baseline of the ESRGAN work.

BasicSR's model zoo, RGB, crop of the scale, PSNR / SSIM: x4 Set5 30.2468,
Set14 26.7817, DIV2K100 28.9967; x2 35.7483 / 31.5403 / 34.6699; x3 32.4038 /
28.4418 / 30.9726. MMagic's x4: 30.2252 / 26.7762 / 28.9748.

Variants, after a colon and separated by commas:
  x2, x3, x4   enlargement; x4 where none is given.
  from=RUN     begin from RUN (workdir or weight file of x4), as published for
               x2 and x3; the layers that enlarge begin anew where their shape
               differs.
  cpu          24 features, 8 blocks, on Y, on T91 + BSD200, x3 where no scale
               is given: 11,000 of its 16,000 steps took 30 minutes of two
               CPU cores, measured as FSRCNN is (docs/reproducing.md).
  smoke        a few steps on the quickstart's photographs.

Command:  python train.py --config=configs/msrresnet.py
          python train.py \\
            --config=configs/msrresnet.py:x2,from=runs/msrresnet_x4
Cost:     16 crops of 128 pixels a step, 10^6 steps.
Source:   BasicSR `train_MSRResNet_x{2,3,4}.yml` (RECIPES.md card 3). MMagic has
          b2 = 0.999 and no moving average; BasicSR's is taken, whose figures
          are the higher.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "") -> ConfigDict:
  words, pairs = common.variant(
    argument, words=("x2", "x3", "x4", "cpu", "smoke"), keys=("from",)
  )
  cpu = "cpu" in words
  scale = common.scale_of(words, default=3 if cpu else 4)
  config = common.base()
  config.name = f"msrresnet_x{scale}"
  config.published = "" if cpu else "msrresnet"
  config.model = ConfigDict(
    {
      "name": "msrresnet",
      "scale": scale,
      "in_channels": 1 if cpu else 3,
      "out_channels": 1 if cpu else 3,
      "num_features": 24 if cpu else 64,
      "num_blocks": 8 if cpu else 16,
      "remat": False,
      "dtype": "float32",
    }
  )
  config.ema_decay = 0.999
  config.eval.benchmarks = "set5,set14"
  if cpu:
    config.name += "_cpu"
    config.data.train = "t91+bsd200"
    # The smallest of the 91 images has 69 pixels.
    config.data.patch_size = {2: 64, 3: 60, 4: 64}[scale]
    config.data.batch_size = 8
    config.quantize_lr = False
    config.steps = 16_000
    config.schedule = common.cosine(1e-3, config.steps, eta_min=1e-6)
    config.optimizer = common.adam(b2=0.99)
    config.eval_every = 1000
    config.eval.benchmarks = "set5"
  else:
    config.data.train = "div2k"
    config.data.patch_size = {2: 64, 3: 96, 4: 128}[scale]
    config.data.batch_size = 16
    config.data.num_workers = 4
    config.steps = 1_000_000
    config.schedule = common.cosine(2e-4, *(250_000,) * 4, eta_min=1e-7)
    config.optimizer = common.adam(b2=0.99)
    config.log_every = 1000
  if "from" in pairs:
    config.init_from = pairs["from"]
    config.name += "_from"
  if "smoke" in words:
    config = common.smoke(config)
    config.model.update(num_features=8, num_blocks=1)
  return config
