r"""EDSR, baseline (16 blocks of 64 features) and large (32 of 256).

BasicSR's model zoo, RGB, crop of the scale, PSNR, Set5 / Set14 / DIV2K100:
baseline x2 35.7395 / 31.4348 / 34.5798, x3 32.315 / 28.3866 / 30.9095, x4
30.1726 / 26.721 / 28.9506; large x2 35.9792 / 31.7284 / 34.9544, x3 32.6467 /
28.6859 / 31.2664, x4 30.4718 / 26.9616 / 29.2621. The paper's large x4, on Y:
32.46 / 28.80.

Variants, after a colon and separated by commas:
  x2, x3, x4   enlargement; x2 where none is given.
  large        the large network.
  from=RUN     begin from RUN (workdir or weight file of x2), as published for
               x3 and x4; the layers that enlarge begin anew where their shape
               differs.
  smoke        a few steps on the quickstart's photographs.

Command:  python train.py --config=configs/edsr.py:x2
          python train.py --config=configs/edsr.py:x4,from=runs/edsr_x2
Cost:     16 crops of 48 low-resolution pixels a step, 3 * 10^5 steps.
Source:   BasicSR `train_EDSR_{M,L}x{2,3,4}.yml` (RECIPES.md card 12), b2 = 0.99
          and a moving average as there. MMagic's x4 has crops of 196 pixels, a
          misprint of 192.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "") -> ConfigDict:
  words, pairs = common.variant(
    argument, words=("x2", "x3", "x4", "large", "smoke"), keys=("from",)
  )
  scale, large = common.scale_of(words, default=2), "large" in words
  config = common.base()
  config.name = f"edsr{'_large' if large else ''}_x{scale}"
  config.published = "edsr_large" if large else "edsr"
  config.model = ConfigDict(
    {
      "name": "edsr",
      "scale": scale,
      "num_features": 256 if large else 64,
      "num_blocks": 32 if large else 16,
      "residual_scale": 0.1 if large else 1.0,
      "remat": False,
      "dtype": "float32",
    }
  )
  config.data.train = "div2k"
  config.data.patch_size = 48 * scale
  config.data.batch_size = 16
  config.data.num_workers = 4
  config.steps = 300_000
  config.optimizer = common.adam(b2=0.99)
  config.schedule = common.multi_step(1e-4, 200_000)
  config.ema_decay = 0.999
  config.eval.benchmarks = "set5,set14"
  config.log_every = 1000
  if "from" in pairs:
    config.init_from = pairs["from"]
    config.name += "_from"
  if "smoke" in words:
    config = common.smoke(config)
    config.model.update(num_features=8, num_blocks=1)
  return config
