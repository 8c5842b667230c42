r"""SRGAN: MSRResNet against a discriminator, as BasicSR and MMagic train it.

BasicSR's model zoo, x4, RGB, crop 4, PSNR / SSIM: Set5 28.0158 / 0.8087, Set14
24.7474 / 0.6623, DIV2K100 26.6504 / 0.7462 (MMagic 27.9499, 24.7383, 26.5697).
The paper's network, on Y: 29.40 / 0.8472, 26.02 / 0.7397, BSD100 25.16 /
0.6688; mean opinion score 3.58, 3.72, 3.56.

Variants, after a colon and separated by commas:
  from=RUN     begin from RUN, the workdir or weight file of MSRResNet x4 (of
               SRResNet with `paper`). The published figures do.
  paper        the SRGAN paper's own: SRResNet with BatchNorm, its
               discriminator, mean squared error of relu5_4 / 12.75 and 1e-3 of
               the adversarial term, no pixel term; crops of 96, 10^5 steps at
               1e-4 and 10^5 at 1e-5.
  smoke        a few steps on the quickstart's photographs; VGG19 is random.

VGG19's ImageNet weights are needed: --config.perceptual.vgg=FILE; a run without
them says how the file is made.

Command:  python train.py --config=configs/srgan.py:from=runs/msrresnet_x4 \\
            --config.perceptual.vgg=vgg19.safetensors
Cost:     16 crops of 128 pixels a step, 4 * 10^5 steps.
Source:   BasicSR `train_MSRGAN_x4.yml` (RECIPES.md card 4). MMagic 1.x has the
          same losses but lost the warm start, with which its table was made;
          it is BasicSR's that reproduces. Ledig et al. 2017, sec. 3.2, for
          `paper`; images in [0, 1] here, in [-1, 1] there.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "") -> ConfigDict:
  words, pairs = common.variant(
    argument, words=("paper", "smoke"), keys=("from",)
  )
  paper = "paper" in words
  config = common.base()
  config.name = f"srgan{'_paper' if paper else ''}_x4"
  config.published = "srgan_paper" if paper else "srgan"
  config.model = ConfigDict(
    {
      "name": "srresnet" if paper else "msrresnet",
      "scale": 4,
      "num_features": 64,
      "num_blocks": 16,
      "remat": False,
      "dtype": "float32",
    }
  )
  config.data.train = "div2k"
  config.data.patch_size = 96 if paper else 128
  config.data.batch_size = 16
  config.data.num_workers = 4
  config.eval.benchmarks = "set5,set14"
  config.log_every = 1000
  config.perceptual.weight = 1.0
  if paper:
    config.steps = 200_000
    config.optimizer = common.adam()
    config.d_optimizer = common.adam()
    config.schedule = common.multi_step(1e-4, 100_000, gamma=0.1)
    config.d_schedule = common.multi_step(1e-4, 100_000, gamma=0.1)
    config.loss.weight = 0.0
    config.perceptual.criterion = "l2"
    # 1 / 12.75**2, as the paper rounds it.
    config.perceptual.layer_weights = ConfigDict({"relu5_4": 0.006})
    config.adversarial.weight = 1e-3
    config.discriminator = ConfigDict(
      {"name": "srgan_discriminator", "num_features": 64, "input_size": 96}
    )
  else:
    config.steps = 400_000
    milestones = (50_000, 100_000, 200_000, 300_000)
    config.optimizer = common.adam(b2=0.99)
    config.d_optimizer = common.adam(b2=0.99)
    config.schedule = common.multi_step(1e-4, *milestones)
    config.d_schedule = common.multi_step(1e-4, *milestones)
    config.ema_decay = 0.999
    config.loss.weight = 1e-2
    config.adversarial.weight = 5e-3
    config.discriminator = ConfigDict(
      {"name": "vgg_discriminator", "num_features": 64, "input_size": 128}
    )
  if "from" in pairs:
    config.init_from = pairs["from"]
    config.name += "_from"
  if "smoke" in words:
    config = common.smoke(config)
    config.model.update(num_features=8, num_blocks=1)
    config.discriminator.num_features = 4
  return config
