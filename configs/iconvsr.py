r"""IconVSR: BasicVSR whose features are refilled at key frames, and coupled.

Chan et al. 2021, PSNR / SSIM. REDS4, bicubic x4, RGB, no crop: 31.67 / 0.8948
(MMagic 31.6926 / 0.8951). Trained on Vimeo-90K, Y: Vimeo-90K-T BI 37.47 /
0.9476, BD 37.84 / 0.9524; Vid4 BI 27.39 / 0.8279, BD 28.04 / 0.8570; UDM10 BD
40.03 / 0.9694.

Variants, after a colon and separated by commas:
  reds, vimeo  15 frames of REDS, or 7 of Vimeo-90K followed by the same
               backwards; reds where neither is given.
  bd           vimeo by BD, a gaussian, instead of MATLAB's bicubic.
  from=RUN     begin from RUN, a workdir or weight file.
  smoke        a few steps of a tiny network.

SPyNet learns at an eighth of the rate, and neither it nor the extractor of key
frames at all for the first 5,000 steps, so both begin from weights of their
own: BasicSR's `spynet_sintel_final.pth` and its extractors, of 5 frames
`edvr_reds_pretrained_new.pth` and of 7 `edvr_vimeo90k_pretrained.pth`, in
`weights/` beside the sets or by --config.init_parts.edvr=FILE, which may be an
EDVR of yours.

Command:  python train.py --config=configs/iconvsr.py --data_dir=/my/sets
Cost:     as BasicVSR, and a third more.
Source:   BasicSR `train_IconVSR_REDS.yml`, `..._Vimeo90K_{BI,BD}.yml`,
          RECIPES.md card 8.
"""

from ml_collections import ConfigDict, config_dict

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
  config.name = f"iconvsr_{'vimeo' if vimeo else 'reds'}{'_bd' if bd else ''}"
  on = f"vimeo90k_{'bd' if bd else 'bi'}" if vimeo else "reds"
  config.published = f"iconvsr_{on}"
  config.model = ConfigDict(
    {
      "name": "iconvsr",
      "num_features": 64,
      "num_blocks": 30,
      "keyframe_stride": 5,
      "temporal_padding": 3 if vimeo else 2,
      # Pixels; None holds nothing.
      "max_offset": config_dict.placeholder(float),
      "remat": True,
      "dtype": "float32",
    }
  )
  config.degradation = "BD" if bd else "BI"
  config.data.train = "vimeo90k" if vimeo else "reds"
  config.data.num_frames = 7 if vimeo else 15
  config.data.mirror = vimeo
  config.data.random_reverse = False
  config.data.patch_size = 256
  config.data.batch_size = 8
  config.data.num_workers = 4
  config.loss = ConfigDict({"name": "charbonnier", "weight": 1.0, "eps": 1e-12})
  config.steps = 300_000
  config.schedule = common.cosine(2e-4, config.steps, eta_min=1e-7)
  config.optimizer = common.adam(b2=0.99)
  config.optimizer.multipliers = (("^spynet/", 0.125),)
  config.optimizer.freeze = (("^(spynet|edvr)/", 0, 5000),)
  # Of 7 frames for Vimeo-90K, of 5 for REDS.
  edvr = "edvr_vimeo90k_pretrained" if vimeo else "edvr_reds_pretrained_new"
  config.init_parts = ConfigDict(
    {"spynet": common.SPYNET, "edvr": f"weights/{edvr}.pth"}
  )
  config.ema_decay = 0.999
  config.eval.benchmarks = "vid4" if vimeo else "reds4"
  config.log_every = 100
  if "from" in pairs:
    config.init_from = pairs["from"]
    common.begin_anew(config)
    config.name += "_from"
  if "smoke" in words:
    config = common.smoke_clips(config)
    config.data.num_frames = 5
    common.begin_anew(config)
    config.model.update(num_features=8, num_blocks=1, keyframe_stride=3)
  return config
