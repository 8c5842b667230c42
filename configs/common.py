"""What every recipe begins from. A recipe sets fields; it inherits nothing."""

import difflib
from typing import Any

from ml_collections import ConfigDict

#: BasicSR's weights of SPyNet, under the folder of the sets.
SPYNET = "weights/spynet_sintel_final.pth"


def variant(
  argument: str | None, *, words: tuple[str, ...], keys: tuple[str, ...] = ()
) -> tuple[set[str], dict[str, str]]:
  """Reads what follows the colon of `--config=configs/NAME.py:x3,from=DIR`.

  Args:
    argument: Words and `key=value` pairs, separated by commas.
    words: Those the recipe knows.
    keys: Those the recipe knows.

  Returns:
    The words given and the pairs given.

  Raises:
    ValueError: one that the recipe does not know.
  """
  given_words: set[str] = set()
  given_pairs: dict[str, str] = {}
  for part in filter(None, (argument or "").split(",")):
    key, equals, value = part.partition("=")
    if equals and key in keys and value:
      given_pairs[key] = value
    elif not equals and part in words:
      given_words.add(part)
    else:
      known = [*words, *(f"{key}=..." for key in keys)]
      close = difflib.get_close_matches(part, known, n=1, cutoff=0.0)
      raise ValueError(
        f"this recipe has no variant '{part}'; did you mean '{close[0]}'? It "
        f"knows {known}"
      )
  return given_words, given_pairs


def scale_of(words: set[str], default: int) -> int:
  """The enlargement among the words "x2", "x3", "x4"; one at most.

  Raises:
    ValueError: more than one.
  """
  scales = [int(w[1:]) for w in words if w in ("x2", "x3", "x4")]
  if len(scales) > 1:
    raise ValueError(f"one scale at a time, not {sorted(scales)}")
  return scales[0] if scales else default


def _optimizer(**fields: Any) -> ConfigDict:
  """An optimizer with the fields that all have."""
  return ConfigDict(
    {
      **fields,
      # (pattern, factor) of the learning rate, by parameter path.
      "multipliers": (),
      # (pattern, first frozen step, first free step or None).
      "freeze": (),
      # Largest gradient norm; 0 does not clip.
      "clip_norm": 0.0,
      "weight_decay": 0.0,
    }
  )


def adam(*, b1: float = 0.9, b2: float = 0.999) -> ConfigDict:
  """Kingma & Ba 2015."""
  return _optimizer(name="adam", b1=b1, b2=b2)


def muon(*, beta: float = 0.95) -> ConfigDict:
  """Jordan et al. 2024: momentum made orthogonal; Adam for all but kernels."""
  return _optimizer(name="muon", beta=beta)


def sgd(*, momentum: float) -> ConfigDict:
  """Stochastic gradient descent with momentum."""
  return _optimizer(name="sgd", momentum=momentum)


def cosine(learning_rate: float, *periods: int, eta_min: float) -> ConfigDict:
  """Cosine decay over each period, all from the same rate."""
  return ConfigDict(
    {
      "name": "cosine_restarts",
      "learning_rate": learning_rate,
      "periods": periods,
      "restart_weights": (1.0,) * len(periods),
      "eta_min": eta_min,
    }
  )


def multi_step(
  learning_rate: float, *milestones: int, gamma: float = 0.5
) -> ConfigDict:
  """Multiplied by `gamma` at each milestone."""
  return ConfigDict(
    {
      "name": "multi_step",
      "learning_rate": learning_rate,
      "milestones": milestones,
      "gamma": gamma,
    }
  )


def base() -> Any:
  """All fields there are, with the values that suit most recipes."""
  return ConfigDict(
    {
      # Names the run's folder where no --workdir is given.
      "name": "",
      "seed": 0,
      # Updates of the whole run.
      "steps": 0,
      # A weight file or the workdir of a run to begin from.
      "init_from": "",
      # Part of the model -> a weight file of it to begin from; empty is none.
      "init_parts": ConfigDict({}),
      # Entry of sr_jax/evaluation/published.toml to compare with, if any.
      "published": "",
      # sr_jax.models.build(**model).
      "model": ConfigDict({"name": ""}),
      "data": {
        # A set's name, a folder, or several joined with "+".
        "train": "",
        # Where the named sets lie; the environment's SR_JAX_DATA where empty.
        "data_dir": "",
        # Images over all hosts, and the side of their crops in HR pixels.
        "batch_size": 16,
        "patch_size": 96,
        # Of clips: frames of a window (0: images), the distance from one to the
        # next, half of the windows turned round in time, and each followed by
        # its frames backwards, so that 7 become 14.
        "num_frames": 0,
        "interval": 1,
        "random_reverse": False,
        "mirror": False,
        # Flips and rotations.
        "augment": True,
        # Smaller copies of each image, as FSRCNN's authors add them.
        "scales": (1.0,),
        # Large images, but not the frames of clips, are cut up when the set is
        # built.
        "sub_image_size": 480,
        "sub_image_step": 240,
        "crops_per_image": 1,
        # Keep decoded images in memory: "auto", True or False.
        "cache": "auto",
        # Processes that decode; 0 is a thread of this one.
        "num_workers": 0,
        # Seconds without a batch after which the run stops; 0 waits for ever.
        "timeout": 600.0,
        # Images that cannot be decoded, and damaged records, that are skipped
        # until the run stops and names them; 0 stops at the first.
        "max_bad": 10,
      },
      # How the step makes the low-resolution image: BI (MATLAB's bicubic), BD
      # (BasicVSR's gaussian) or DUF (DUF's).
      "degradation": "BI",
      # Round the low-resolution image that the step makes to 8 bits.
      "quantize_lr": True,
      # sr_jax.losses, by name, its arguments, and its weight in the sum.
      "loss": ConfigDict({"name": "l1", "weight": 1.0}),
      # Terms on VGG19's features (losses.perceptual); weight 0 leaves one out.
      "perceptual": {
        "weight": 0.0,
        "style_weight": 0.0,
        "criterion": "l1",
        # conv names are before the activation, relu names after it.
        "layer_weights": ConfigDict({"conv5_4": 1.0}),
        # A weight file, under the folder of the sets or anywhere; empty is
        # weights/vgg19.safetensors there; "random" is for tests of speed.
        "vgg": "",
        "input_norm": True,
        "range_norm": False,
      },
      # sr_jax.models.build(**discriminator); no name is plain regression.
      "discriminator": ConfigDict({"name": ""}),
      # The game; see sr_jax.training.gan_steps.Adversarial.
      "adversarial": {
        "weight": 5e-3,
        "kind": "vanilla",
        "relativistic": False,
        "real_label": 1.0,
        "fake_label": 0.0,
        "gradient_penalty": 0.0,
        "r1": 0.0,
      },
      # The generator moves in every so many steps, and not in the first.
      "d_steps": 1,
      "d_init_steps": 0,
      # sr_jax.training.optimizers.make_optimizer(**optimizer).
      "optimizer": adam(),
      # sr_jax.training.schedules, by name, and its arguments.
      "schedule": ConfigDict({"name": "constant", "learning_rate": 2e-4}),
      # Those of the discriminator.
      "d_optimizer": adam(),
      "d_schedule": ConfigDict({"name": "constant", "learning_rate": 1e-4}),
      "warm_up_steps": 0,
      # 0 keeps no moving average.
      "ema_decay": 0.0,
      # Parts of a batch computed one after the other.
      "accumulate": 1,
      # Updates skipped in a row, for a loss that is not finite, until the run
      # stops.
      "max_skipped": 100,
      # When the discriminator counts as saturated, and what is done: "warn",
      # "stop" or "rollback"; see sr_jax.training.health.Health.
      "health": {
        "max_gap": 10.0,
        "patience": 3,
        "action": "warn",
        "max_rollbacks": 3,
        # Mean offset of a deformable convolution, in pixels, that is told; 0 is
        # none.
        "max_offset": 50.0,
      },
      "mesh": {"data": -1, "fsdp": 1, "space": 1},
      "log_every": 100,
      # Evaluation, sample pictures and a checkpoint.
      "eval_every": 5000,
      # Sets or folders, with commas between; 0 images are all.
      "eval": {
        "benchmarks": "set5",
        "max_images": 0,
        # Of psnr, ssim and niqe, with commas between.
        "metrics": "psnr,ssim",
        # Its natural images' statistics; empty looks among the sets' weights.
        "niqe_prior": "",
      },
      # Go on with a run that another config began.
      "resume_changed": False,
      "keep_last": 2,
      "keep_best": 1,
    }
  )


def begin_anew(config: Any) -> None:
  """No part of the network begins from a file, unless a flag names one."""
  for part in config.init_parts:
    config.init_parts[part] = ""


def clips_on_a_cpu(config: Any, *, steps: int, batch_size: int) -> None:
  """A recipe of clips for half an hour of two cores, on a folder of clips.

  The network and its parts are the recipe's to make small. Evaluated on Vid4's
  first clip.
  """
  config.published = ""
  config.optimizer.freeze = ()
  config.optimizer.multipliers = ()
  begin_anew(config)
  config.data.random_reverse = True
  config.data.patch_size = 128
  config.data.batch_size = batch_size
  config.data.num_workers = 0
  config.eval.benchmarks = "vid4"
  config.eval.max_images = 1
  config.steps = steps
  config.schedule = cosine(4e-4, steps, eta_min=1e-6)
  config.ema_decay = 0.99


def smoke(config: Any) -> Any:
  """The same recipe in seconds, on the photographs that are always there.

  What a test runs: every part of the real run, none of its size.
  """
  config.name += "_smoke"
  config.steps = 4
  config.data.train = "photos"
  config.data.batch_size = 2
  config.data.scales = (1.0,)
  config.data.num_workers = 0
  config.eval.benchmarks = "photos"
  config.eval.max_images = 1
  config.log_every = 2
  config.eval_every = 2
  if config.perceptual.weight:
    config.perceptual.vgg = "random"
  return config


def smoke_clips(config: Any) -> Any:
  """`smoke` of a recipe of clips: pans over the photographs."""
  config = smoke(config)
  config.data.train = config.eval.benchmarks = "pans"
  config.data.patch_size = 64
  config.eval_every = config.steps  # a clip takes longer
  return config
