r"""EDVR: the middle of five frames, by deformable alignment and attention.

Wang et al. 2019. REDS4, bicubic x4, RGB, no crop, PSNR / SSIM: M 30.53 / 0.8699
(MMagic 30.4194 / 0.8684), without TSA 30.3430 / 0.8664 (MMagic); L 31.09 /
0.8800 (MMagic 31.0467 / 0.8793), without TSA 31.0010 / 0.8784.

Variants, after a colon and separated by commas:
  m, l         64 features and 10 blocks after the fusion, or 128 and 40; m
               where neither is given.
  wotsa        the first stage: fused by one convolution. Without the word, the
               second, with temporal and spatial attention.
  from=RUN     begin from RUN, the workdir or weight file of the first stage, of
               the same size. Of the second stage TSA alone is trained for the
               first 50,000 steps then, as published; without it everything is
               trained from the first.
  cpu          24 features in 4 groups, 2 and 4 blocks, crops of 128 pixels: for
               two CPU cores and a folder of clips, --config.data.train=FOLDER.
               Evaluated on Vid4's first.
  smoke        a few steps of a tiny network.

Deformable alignment can run away: `offset` of the curves is the mean magnitude
of a layer's offsets in pixels (of the layer that has the largest), and past 50
a run seldom recovers, and says so. Go on from an earlier checkpoint, or hold
the offsets: --config.model.max_offset=32.

Command:  python train.py --config=configs/edvr.py:wotsa
          python train.py --config=configs/edvr.py:from=runs/edvr_m_wotsa
Cost:     32 windows of 5 frames a step, crops of 256 pixels (64 at low
          resolution), 6 * 10^5 steps a stage; the authors had 8 GPUs.
Source:   BasicSR `train_EDVR_{M,L}_x4_SR_REDS{,_woTSA}.yml`, RECIPES.md card 6.
          Its files for L put `ema_decay` where the network takes no such
          argument; it is 0.999 here as for M. MMagic trains the second stage at
          2e-4, L on 64 windows, and TSA alone for 5,000 steps in its 1.x.
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from configs import common

#: All parameters but those of TSA, until this step.
_TSA_ALONE = (r"^(?!features/fusion/)", 0, 50_000)


def get_config(argument: str = "") -> ConfigDict:
  words, pairs = common.variant(
    argument, words=("m", "l", "wotsa", "cpu", "smoke"), keys=("from",)
  )
  if "l" in words and words & {"m", "cpu"}:
    raise ValueError("one size at a time: 'l', or 'm' or 'cpu'")
  large, tsa = "l" in words, "wotsa" not in words
  config = common.base()
  config.name = f"edvr_{'l' if large else 'm'}{'' if tsa else '_wotsa'}"
  config.published = (
    f"edvr_{'l' if large else 'm'}_reds{'' if tsa else '_wotsa'}"
  )
  config.seed = 10
  config.model = ConfigDict(
    {
      "name": "edvr",
      "num_features": 128 if large else 64,
      "num_frames": 5,
      "deformable_groups": 8,
      "num_extract_blocks": 5,
      "num_reconstruct_blocks": 40 if large else 10,
      "tsa": tsa,
      # Pixels; None holds nothing.
      "max_offset": config_dict.placeholder(float),
      "remat": True,
      "dtype": "float32",
    }
  )
  config.data.train = "reds"
  config.data.num_frames = 5
  config.data.interval = 1
  config.data.patch_size = 256
  config.data.batch_size = 32
  config.data.num_workers = 4
  config.loss = ConfigDict(
    {"name": "charbonnier", "weight": 1.0, "reduction": "sum", "eps": 1e-12}
  )
  config.steps = 600_000
  periods = (150_000,) * 4
  if tsa:
    periods = (50_000, 100_000) + (150_000,) * 3
  config.schedule = common.cosine(4e-4, *periods, eta_min=1e-7)
  if large:
    config.schedule.restart_weights = (1.0,) + (0.5,) * (len(periods) - 1)
  config.optimizer = common.adam(b2=0.99)
  config.ema_decay = 0.999
  config.eval.benchmarks = "reds4"
  config.log_every = 100
  if "from" in pairs:
    config.init_from = pairs["from"]
    config.name += "_from"
    if tsa:
      config.optimizer.freeze = (_TSA_ALONE,)
  if "cpu" in words:
    _on_a_cpu(config)
  if "smoke" in words:
    config = common.smoke_clips(config)
    config.model.update(
      num_features=8,
      deformable_groups=2,
      num_extract_blocks=1,
      num_reconstruct_blocks=1,
    )
  return config


def _on_a_cpu(config: Any) -> None:
  """What half an hour trains."""
  common.clips_on_a_cpu(config, steps=4000, batch_size=4)
  config.name = config.name.replace("edvr_m", "edvr_cpu")
  config.model.update(
    num_features=24,
    deformable_groups=4,
    num_extract_blocks=2,
    num_reconstruct_blocks=4,
  )
  config.eval_every = 500
