"""A first run: a small FSRCNN x2 on photographs that are already installed.

Command:  python train.py --config=configs/quickstart.py
Data:     public-domain and CC0 photographs of scikit-image (docs/data.md);
          three of them are kept for evaluation.
Expected: at least 1.0 dB above bicubic on the three (PSNR, Y, crop 2); 1.18
          when this was written.
Cost:     under 3 minutes on 2 CPU cores.
Source:   FSRCNN-s of Dong et al. 2016 (d=32, s=5, m=1), trained with Adam.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "") -> ConfigDict:
  words, _ = common.variant(argument, words=("smoke",))
  config = common.base()
  config.name = "quickstart"
  config.steps = 10_000
  config.model = ConfigDict(
    {
      "name": "fsrcnn",
      "scale": 2,
      "num_features": 32,
      "shrink_features": 5,
      "num_blocks": 1,
      "padding": "edge",
      "dtype": "float32",
    }
  )
  config.data.train = "photos"
  config.data.patch_size = 32
  config.data.batch_size = 16
  config.quantize_lr = False
  config.loss.name = "mse"
  config.schedule = common.cosine(2e-3, config.steps, eta_min=1e-6)
  config.ema_decay = 0.99
  config.log_every = 1000
  config.eval_every = 5000
  config.eval.benchmarks = "photos"
  return common.smoke(config) if "smoke" in words else config
