r"""BasicVSR++: propagation of second order, twice, by flow-guided deformation.

Chan et al. 2022, PSNR / SSIM. REDS4, bicubic x4, RGB, no crop: 32.39 / 0.9069
(MMagic 32.3855 / 0.9069). Trained on Vimeo-90K, Y: Vimeo-90K-T BI 37.79 /
0.9500, BD 38.21 / 0.9550; Vid4 BI 27.79 / 0.8400, BD 29.04 / 0.8753; UDM10 BD
40.72 / 0.9722.

Variants, after a colon and separated by commas:
  reds, vimeo  30 frames of REDS, or 7 of Vimeo-90K followed by the same
               backwards; reds where neither is given.
  bd           vimeo by BD, a gaussian, instead of MATLAB's bicubic.
  from=RUN     begin from RUN, a workdir or weight file. Vimeo's published
               models begin from that of REDS: without it 0.5 to 1.1 dB are
               lost, as others found (mmagic issue 510).
  smoke        a few steps of a tiny network.

SPyNet learns at a quarter of the rate, and not at all for the first 5,000 steps
of REDS, so it begins from weights of its own: BasicSR's
`spynet_sintel_final.pth`, in `weights/` beside the sets or by
--config.init_parts.spynet=FILE.

Command:  python train.py --config=configs/basicvsr_plusplus.py
          python train.py --config=configs/basicvsr_plusplus.py:vimeo,from=RUN
Cost:     8 clips of 30 frames a step, crops of 256 pixels; 6 * 10^5 steps, and
          3 * 10^5 on Vimeo-90K.
Source:   BasicSR `train_BasicVSRPP_REDS.yml`, MMagic `basicvsr-pp_*`,
          RECIPES.md card 9.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "") -> ConfigDict:
  words, pairs = common.variant(
    argument, words=("reds", "vimeo", "bd", "smoke"), keys=("from",)
  )
  if {"reds", "vimeo"} <= words:
    raise ValueError("one set at a time, not 'reds' and 'vimeo'")
  if "bd" in words and "vimeo" not in words:
    raise ValueError("bd is a variant of vimeo: say 'vimeo,bd'")
  vimeo, bd = "vimeo" in words, "bd" in words
  config = common.base()
  config.name = (
    f"basicvsr_plusplus_{'vimeo' if vimeo else 'reds'}{'_bd' if bd else ''}"
  )
  on = f"vimeo90k_{'bd' if bd else 'bi'}" if vimeo else "reds"
  config.published = f"basicvsr_plusplus_{on}"
  config.model = ConfigDict(
    {
      "name": "basicvsr_plusplus",
      "num_features": 64,
      "num_blocks": 7,
      "max_residue_magnitude": 10.0,
      "remat": True,
      "dtype": "float32",
    }
  )
  config.degradation = "BD" if bd else "BI"
  config.data.train = "vimeo90k" if vimeo else "reds"
  config.data.num_frames = 7 if vimeo else 30
  config.data.mirror = vimeo
  config.data.random_reverse = False
  config.data.patch_size = 256
  config.data.batch_size = 8
  config.data.num_workers = 4
  config.loss = ConfigDict({"name": "charbonnier", "weight": 1.0, "eps": 1e-12})
  config.steps = 300_000 if vimeo else 600_000
  config.schedule = common.cosine(1e-4, config.steps, eta_min=1e-7)
  config.optimizer = common.adam(b2=0.99)
  config.optimizer.multipliers = (("^spynet/", 0.25),)
  if not vimeo:
    config.optimizer.freeze = (("^spynet/", 0, 5000),)
  config.init_parts.spynet = common.SPYNET
  config.ema_decay = 0.999
  config.eval.benchmarks = "vid4" if vimeo else "reds4"
  config.log_every = 100
  if "from" in pairs:
    config.init_from = pairs["from"]
    common.begin_anew(config)
    config.name += "_from"
  if "smoke" in words:
    config = common.smoke_clips(config)
    config.data.num_frames = 3
    common.begin_anew(config)
    config.model.update(num_features=8, num_blocks=1)
  return config
