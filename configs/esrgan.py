r"""ESRGAN: RRDBNet for PSNR (stage 1), then against a discriminator (stage 2).

Wang et al. 2018. Stage 1, MMagic's x4, RGB, crop 4, PSNR / SSIM: Set5 30.6428
/ 0.8559, Set14 27.0543 / 0.7447, DIV2K100 29.3354 / 0.8263; the paper's, on Y:
32.60, 28.88, BSD100 27.76. Stage 2, MMagic's, RGB: 28.2700 / 0.7778, 24.6328 /
0.6491, 26.6531 / 0.7340; it is made for the eye: NIQE falls while PSNR does.

Variants, after a colon and separated by commas:
  psnr         stage 1. Without it, stage 2.
  from=RUN     stage 2 begins from RUN, the workdir or weight file of stage 1;
               so does x2 from x4.
  x2, x4       enlargement; x4 where none is given.
  unet         Real-ESRGAN's U-Net with spectral norm as discriminator, and its
               weights of the losses (L1 1, five layers of VGG19, GAN 0.1); the
               rest, its rates too, is ESRGAN's, and no figure is published.
  cpu          32 features and 3 blocks on T91 + BSD200, crops of 64 pixels,
               VGG19 up to conv3_4, a smaller discriminator: minutes a stage on
               two CPU cores (docs/reproducing.md). Not with unet.
  smoke        a few steps on the quickstart's photographs; VGG19 is random.

VGG19's ImageNet weights are needed for stage 2: --config.perceptual.vgg=FILE; a
run without them says how the file is made.

Command:  python train.py --config=configs/esrgan.py:psnr
          python train.py --config=configs/esrgan.py:from=runs/esrgan_psnr_x4 \\
            --config.perceptual.vgg=vgg19.safetensors
Cost:     16 crops of 128 pixels a step; 10^6 and 4 * 10^5 steps (0.58 s a step
          on one Titan Xp, stage 2, as its author reports).
Source:   BasicSR `train_RRDBNet_PSNR_x4.yml`, `train_ESRGAN_x4.yml`, which
          MMagic's agree with (RECIPES.md card 5); x2 as Real-ESRGAN's network.
          The paper trains on DF2K + OST, and halves 2e-4 every 2 * 10^5.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "") -> ConfigDict:
  words, pairs = common.variant(
    argument,
    words=("psnr", "x2", "x4", "unet", "cpu", "smoke"),
    keys=("from",),
  )
  scale, cpu = common.scale_of(words, default=4), "cpu" in words
  psnr = "psnr" in words
  if psnr and "unet" in words:
    raise ValueError("psnr has no discriminator, so no 'unet' either")
  if cpu and "unet" in words:
    raise ValueError("cpu has a discriminator of its own: leave 'unet' out")
  config = common.base()
  config.name = f"esrgan{'_psnr' if psnr else ''}_x{scale}"
  config.name += "_unet" if "unet" in words else ""
  if scale == 4 and not cpu and "unet" not in words:
    config.published = "rrdbnet_psnr" if psnr else "esrgan"
  config.model = ConfigDict(
    {
      "name": "rrdbnet",
      "scale": scale,
      "num_features": 32 if cpu else 64,
      "num_blocks": 3 if cpu else 23,
      "growth_features": 16 if cpu else 32,
      # Less memory for a third more work: a batch of 64 fits 16 GB.
      "remat": not cpu,
      "dtype": "float32",
    }
  )
  config.data.train = "div2k"
  config.data.patch_size = 128
  config.data.batch_size = 16
  config.data.num_workers = 4
  config.ema_decay = 0.999
  config.optimizer = common.adam(b2=0.99)
  config.eval.benchmarks = "set5,set14"
  config.log_every = 1000
  if psnr:
    config.steps = 1_000_000
    config.schedule = common.cosine(2e-4, *(250_000,) * 4, eta_min=1e-7)
  else:
    config.steps = 400_000
    milestones = (50_000, 100_000, 200_000, 300_000)
    config.schedule = common.multi_step(1e-4, *milestones)
    config.d_schedule = common.multi_step(1e-4, *milestones)
    config.d_optimizer = common.adam(b2=0.99)
    config.loss.weight = 1e-2
    config.perceptual.weight = 1.0
    config.adversarial.weight = 5e-3
    config.adversarial.relativistic = True
    config.discriminator = ConfigDict(
      {"name": "vgg_discriminator", "num_features": 64, "input_size": 128}
    )
  if "unet" in words:
    config.discriminator = ConfigDict(
      {"name": "unet_discriminator", "num_features": 64}
    )
    config.loss.weight = 1.0
    config.adversarial.weight = 0.1
    config.adversarial.relativistic = False
    config.perceptual.layer_weights = ConfigDict(
      {
        "conv1_2": 0.1,
        "conv2_2": 0.1,
        "conv3_4": 1.0,
        "conv4_4": 1.0,
        "conv5_4": 1.0,
      }
    )
  if cpu:
    _on_a_cpu(config, psnr=psnr)
  if "from" in pairs:
    config.init_from = pairs["from"]
    config.name += "_from"
  if "smoke" in words:
    config = common.smoke(config)
    config.model.update(num_features=8, num_blocks=1, growth_features=4)
    if not psnr:
      config.discriminator.num_features = 4
  return config


def _on_a_cpu(config: Any, *, psnr: bool) -> None:
  """What some minutes train."""
  config.name += "_cpu"
  config.data.train = "t91+bsd200"
  config.data.patch_size = 64
  config.data.batch_size = 8
  config.data.num_workers = 0
  config.eval.benchmarks = "set14"
  # At 0.999 the average of so few steps still holds where it began.
  config.ema_decay = 0.99
  config.log_every = 100
  config.eval_every = 500
  config.eval.metrics = "psnr,ssim,niqe"
  if psnr:
    config.steps = 3500
    config.schedule = common.cosine(8e-4, config.steps, eta_min=1e-6)
    return
  config.steps = 1250
  config.eval_every = 250
  # Of eight settings the one whose NIQE fell most steadily; see docs.
  config.schedule = common.multi_step(3e-4, 250, 500, 750)
  config.d_schedule = common.multi_step(3e-4, 250, 500, 750)
  config.ema_decay = 0.995
  # Caffe's features are 500 times as large as torchvision's conv5_4.
  config.perceptual.layer_weights = ConfigDict({"conv3_4": 2e-3})
  config.adversarial.weight = 0.1
  config.perceptual.vgg = "weights/vgg19_conv1_conv3.npz"
  config.discriminator = ConfigDict(
    {"name": "unet_discriminator", "num_features": 16}
  )
