"""Every network in odd widths, and variables to fill it with."""

import jax
import jax.numpy as jnp
import numpy as np

from sr_jax import models

RGB = {"in_channels": 3, "out_channels": 3}
#: One that is read in no time.
SMALL = models.FSRCNN(scale=2, num_features=4, shrink_features=2, num_blocks=1)

# Odd widths, so that no two axes of a kernel are mistaken for each other.
ODD = {
  "srcnn": {"features": (5, 3), "in_channels": 2, "out_channels": 1},
  "fsrcnn": {
    "scale": 3,
    "num_features": 5,
    "shrink_features": 3,
    "num_blocks": 2,
    **RGB,
  },
  "srresnet": {"scale": 8, "num_features": 5, "num_blocks": 3},
  "msrresnet": {"scale": 3, "num_features": 5, "num_blocks": 2},
  "edsr": {"scale": 8, "num_features": 5, "num_blocks": 2},
  "rrdbnet": {
    "scale": 1,
    "num_features": 5,
    "num_blocks": 2,
    "growth_features": 3,
  },
  "srvggnet": {"scale": 3, "num_features": 5, "num_blocks": 2},
  "edvr": {
    "num_features": 6,
    "num_frames": 4,
    "center_frame": 1,
    "deformable_groups": 3,
    "num_extract_blocks": 2,
    "num_reconstruct_blocks": 3,
    "predeblur": True,
    "hr_in": True,
  },
  "spynet": {"widths": (3, 5, 2)},
  "basicvsr": {
    "num_features": 6,
    "num_blocks": 2,
    "spynet_widths": (3, 5),
  },
  "iconvsr": {"num_features": 8, "num_blocks": 2, "spynet_widths": (3, 5)},
  "basicvsr_plusplus": {
    "num_features": 8,
    "num_blocks": 2,
    "spynet_widths": (3, 5),
    "is_low_res_input": False,
  },
  "vgg_discriminator": {"num_features": 1, "in_channels": 5},
  "srgan_discriminator": {"num_features": 1, "input_size": 112},
  "unet_discriminator": {"num_features": 3, "in_channels": 5},
  "dcgan_generator": {
    "latent_features": 7,
    "num_features": 3,
    "image_size": 32,
    "out_channels": 2,
  },
  "dcgan_discriminator": {"num_features": 3, "image_size": 32},
  "vgg19": {"layers": ("relu3_1", "conv1_2"), "widths": (3, 5, 2, 1, 1)},
}


def filled(model, seed=0):
  """Variables of a network, no two numbers alike; nothing is computed."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), *models.example_inputs(model)
  )
  return jax.tree.map(
    lambda x: (
      rng.standard_normal(x.shape).astype(x.dtype)
      if jnp.issubdtype(x.dtype, jnp.floating)
      else rng.integers(1, 99, x.shape).astype(x.dtype)
    ),
    shapes,
  )
