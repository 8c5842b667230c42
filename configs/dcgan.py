r"""DCGAN (Radford et al. 2015): the plain adversarial game, on crops of images.

No figure is published for crops of photographs; what there is to see is the
grid of samples in `runs/dcgan_64/samples`, of the same noise each time.

Variants, after a colon and separated by commas:
  cpu          images of 32 pixels, half of the features, batches of 32: a
               quarter of an hour of two CPU cores (docs/reproducing.md).
  smoke        a few steps on the quickstart's photographs.

Command:  python train.py --config=configs/dcgan.py \\
            --config.data.train=/my/images
Data:     any set or folder; each image gives a random crop, flipped and turned.
          For faces and the like, which must stay upright and whole, a folder
          of 64-pixel images and --config.data.augment=False.
Cost:     128 images of 64 pixels a step.
Source:   sec. 4 of the paper: Adam with b1 = 0.5, 2e-4, batches of 128, weights
          of N(0, 0.02), one step of each network in turn. Images are in [0, 1]
          here, and the networks take and give [-1, 1] inside.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "") -> ConfigDict:
  words, _ = common.variant(argument, words=("cpu", "smoke"))
  cpu = "cpu" in words
  side, features = (32, 32) if cpu else (64, 64)
  config = common.base()
  config.name = f"dcgan_{side}"
  config.model = ConfigDict(
    {
      "name": "dcgan_generator",
      "latent_features": 100,
      "num_features": features,
      "image_size": side,
      "dtype": "float32",
    }
  )
  config.discriminator = ConfigDict(
    {
      "name": "dcgan_discriminator",
      "num_features": features,
      "image_size": side,
    }
  )
  config.data.train = "div2k"
  config.data.patch_size = side
  config.data.batch_size = 128
  config.loss.weight = 0.0
  config.adversarial.weight = 1.0
  config.optimizer = common.adam(b1=0.5)
  config.d_optimizer = common.adam(b1=0.5)
  config.schedule = ConfigDict({"name": "constant", "learning_rate": 2e-4})
  config.d_schedule = ConfigDict({"name": "constant", "learning_rate": 2e-4})
  config.steps = 100_000
  config.eval.benchmarks = ""
  config.eval_every = 1000
  if cpu:
    config.name += "_cpu"
    config.data.train = "t91+bsd200"
    config.data.batch_size = 32
    config.data.crops_per_image = 4
    config.steps = 4000
    config.eval_every = 500
  if "smoke" in words:
    config = common.smoke(config)
    config.model.num_features = config.discriminator.num_features = 8
    config.eval.benchmarks = ""
  return config
