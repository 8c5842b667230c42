r"""BasicVSR: features carried through a clip, forwards and backwards.

Chan et al. 2021, PSNR / SSIM. REDS4, bicubic x4, RGB, no crop: 31.42 / 0.8909
(MMagic 31.4170 / 0.8909). Trained on Vimeo-90K, Y: Vimeo-90K-T BI 37.18 /
0.9450, BD 37.53 / 0.9498; Vid4 BI 27.24 / 0.8251, BD 27.96 / 0.8553; UDM10 BD
39.96 / 0.9694.

Variants, after a colon and separated by commas:
  reds, vimeo  15 frames of REDS, or 7 of Vimeo-90K followed by the same
               backwards; reds where neither is given.
  bd           vimeo by BD, a gaussian, instead of MATLAB's bicubic.
  from=RUN     begin from RUN, a workdir or weight file.
  cpu          24 features and 5 blocks, SPyNet small and from nothing, 7
               frames, crops of 128 pixels: for two CPU cores and a folder of
               clips, --config.data.train=FOLDER. Evaluated on Vid4's first.
  smoke        a few steps of a tiny network.

SPyNet learns at an eighth of the rate, and not at all for the first 5,000
steps, so it begins from weights of its own: BasicSR's
`spynet_sintel_final.pth`, in `weights/` beside the sets or by
--config.init_parts.spynet=FILE.

Command:  python train.py --config=configs/basicvsr.py --data_dir=/my/sets
          python train.py --config=configs/basicvsr.py:vimeo,bd
Cost:     8 clips of 15 frames a step, crops of 256 pixels; 3 * 10^5 steps, five
          days on two V100 as others report.
Source:   BasicSR `train_BasicVSR_REDS.yml`, `..._Vimeo90K_{BI,BD}.yml`,
          RECIPES.md card 7.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common


def get_config(argument: str = "") -> ConfigDict:
  words, pairs = common.variant(
    argument, words=("reds", "vimeo", "bd", "cpu", "smoke"), keys=("from",)
  )
  if {"reds", "vimeo"} <= words:
    raise ValueError("one set at a time, not 'reds' and 'vimeo'")
  if "bd" in words and "vimeo" not in words:
    raise ValueError("bd is a variant of vimeo: say 'vimeo,bd'")
  if "cpu" in words and "vimeo" in words:
    raise ValueError("cpu is of a folder of clips: not 'vimeo,cpu'")
  vimeo, bd = "vimeo" in words, "bd" in words
  config = common.base()
  config.name = f"basicvsr_{'vimeo' if vimeo else 'reds'}{'_bd' if bd else ''}"
  on = f"vimeo90k_{'bd' if bd else 'bi'}" if vimeo else "reds"
  config.published = f"basicvsr_{on}"
  config.model = ConfigDict(
    {
      "name": "basicvsr",
      "num_features": 64,
      "num_blocks": 30,
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
  config.optimizer.freeze = (("^spynet/", 0, 5000),)
  config.init_parts.spynet = common.SPYNET
  config.ema_decay = 0.999
  config.eval.benchmarks = "vid4" if vimeo else "reds4"
  config.log_every = 100
  if "cpu" in words:
    _on_a_cpu(config)
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


def _on_a_cpu(config: Any) -> None:
  """What half an hour trains; SPyNet small, and from nothing."""
  common.clips_on_a_cpu(config, steps=2400, batch_size=2)
  config.name = "basicvsr_cpu"
  config.model.update(
    num_features=24, num_blocks=5, spynet_widths=(16, 32, 16, 8)
  )
  config.data.num_frames = 7
  config.eval_every = 400
