r"""FSRCNN on T91 + BSD200, the classical 291 images.

Dong et al. 2016, tables 3 and 4: FSRCNN(56, 12, 4) on Set5 has 36.94 / 33.06 /
30.55 dB at x2 / x3 / x4 when trained on the 91 images alone (PSNR, Y, crop of
the scale, low resolution not quantised), and 37.00 / 33.16 / 30.71 with
General-100. FSRCNN-s(32, 5, 1), with General-100: 36.58 / 32.61 / 30.11.

Variants, after a colon and separated by commas:
  x2, x3, x4   enlargement; x3 where none is given.
  from=RUN     only the deconvolution moves, all else comes from RUN (the
               workdir or weight file of x3): the paper's way to x2 and x4.
               With `muon` everything moves, for a third of the steps.
  small        FSRCNN-s.
  muon         Muon with cosine decay, L1 and larger crops: in minutes of CPU
               what the paper's SGD takes days for. The networks that come with
               sr_jax were trained so.
  smoke        a few steps on the quickstart's photographs.

Command:  python train.py --config=configs/fsrcnn.py:x3,muon
          python train.py \\
            --config=configs/fsrcnn.py:x2,muon,from=runs/fsrcnn_x3_muon
Cost:     x3: 150,000 steps (FSRCNN-s: 60,000), 25 minutes on one CPU core, to
          33.16 dB; x2 and x4 a third of it: docs/reproducing.md.
Source:   the paper, sec. 4.1 (SGD, 1e-3, deconvolution at a tenth; Caffe's
          Euclidean loss, half the sum over a crop; 19-fold augmentation).
          Clipping the gradient to norm 1 is ours: without it this reading of
          the recipe diverges within ten steps.
"""

from ml_collections import ConfigDict

from configs import common

# Side of a low-resolution crop, by scale: sec. 4.1.
_PAPER_CROPS = {2: 10, 3: 7, 4: 6}


def get_config(argument: str = "") -> ConfigDict:
  words, pairs = common.variant(
    argument,
    words=("x2", "x3", "x4", "small", "muon", "smoke"),
    keys=("from",),
  )
  scale = common.scale_of(words, default=3)
  config = common.base()
  small = "small" in words
  config.name = f"fsrcnn{'_s' if small else ''}_x{scale}"
  config.published = "fsrcnn_s" if small else "fsrcnn_t91"
  config.model = ConfigDict(
    {
      "name": "fsrcnn",
      "scale": scale,
      "num_features": 32 if small else 56,
      "shrink_features": 5 if small else 12,
      "num_blocks": 1 if small else 4,
      # As the authors' test code: borders repeated, and the deconvolution's
      # window where theirs begins.
      "padding": "edge",
      "deconv_padding": 3 if scale == 3 else 4,
      "dtype": "float32",
    }
  )
  config.data.train = "t91+bsd200"
  config.data.scales = (1.0, 0.9, 0.8, 0.7, 0.6)
  config.quantize_lr = False
  config.loss.name = "mse"
  if "muon" in words:
    config.name += "_muon"
    # The smallest of the 91 images has 69 pixels.
    config.data.patch_size = {2: 40, 3: 60, 4: 64}[scale]
    config.data.batch_size = 8
    config.data.scales = (1.0,)
    config.loss.name = "l1"
    config.optimizer = common.muon()
    # At the full rate the brightness of whole images swings.
    config.optimizer.multipliers = (("deconv", 0.3),)
    config.steps = 60_000 if small else 150_000
    config.schedule = common.cosine(7e-3, config.steps, eta_min=7e-6)
    config.ema_decay = 0.999
    config.log_every = 1000
    config.eval_every = 10_000
  else:
    config.data.patch_size = _PAPER_CROPS[scale] * scale
    config.data.batch_size = 128
    config.steps = 3_000_000
    # Half the sum over a crop, averaged over the batch.
    config.loss.weight = config.data.patch_size**2 / 2
    config.optimizer = common.sgd(momentum=0.9)
    config.optimizer.multipliers = (("deconv", 0.1),)
    config.optimizer.clip_norm = 1.0
    config.schedule = ConfigDict({"name": "constant", "learning_rate": 1e-3})
    config.log_every = 1000
    config.eval_every = 20_000
  if "from" in pairs:
    config.init_from = pairs["from"]
    config.name += "_from"
    if "muon" in words:
      config.steps = config.steps // 3
      config.schedule.periods = (config.steps,)
    else:
      config.steps = config.steps // 6
      config.optimizer.freeze = ((r"^(?!deconv)", 0, None),)
  return common.smoke(config) if "smoke" in words else config
