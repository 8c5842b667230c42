"""Networks in MMagic's names, in."""

import re

import jax
import numpy as np
import pytest

from sr_jax import models
from sr_jax.weights import from_torch, to_torch
from tests.weights.odd import ODD, filled


@pytest.mark.parametrize(
  ("name", "renames"),
  [
    (
      "msrresnet",
      [("body.", "trunk_net."), ("upconv1.", "upsample1.upsample_conv.")],
    ),
    (
      "edsr",
      [(f"upsample.{2 * i}.", f"upsample.{i}.upsample_conv.") for i in (1, 2)]
      + [("upsample.0.", "upsample.0.upsample_conv.")],
    ),
  ],
)
def test_mmagic_s_names(name, renames):
  model = models.build(name, **ODD[name])
  variables = filled(model)
  state_dict = {}
  for key, value in to_torch(model, variables).items():
    for ours, theirs in renames:
      if key.startswith(ours):
        key = f"generator.{theirs}{key.removeprefix(ours)}"
        break
    else:
      key = f"generator.{key}"
    state_dict[key] = value
  assert (
    sum("upsample_conv" in key for key in state_dict)
    == {
      "msrresnet": 2,
      "edsr": 6,
    }[name]
  )
  back = from_torch(model, {"state_dict": state_dict})
  jax.tree.map(np.testing.assert_array_equal, variables, back)


@pytest.mark.parametrize("tsa", [False, True])
def test_mmagic_s_names_of_edvr(tsa):
  """Its ConvModules, levels, alignment and enlargement are called otherwise."""
  model = models.build(
    "edvr",
    num_features=4,
    deformable_groups=2,
    num_reconstruct_blocks=2,
    tsa=tsa,
  )
  variables = filled(model)
  basicsr = to_torch(model, variables)
  wrapped = (
    r"^(conv_l\d_\d|pcd_align\.(offset_conv\d|feat_conv)\.l\d"
    r"|pcd_align\.cas_offset_conv\d"
    r"|fusion\.(feat_fusion|spatial_attn([1-4]|_l\d|_add1)))\."
  )
  state_dict = {}
  for key, value in basicsr.items():
    key = re.sub(wrapped, r"\1.conv.", key)
    key = re.sub(r"^conv_l(\d)_(\d)", r"feat_l\1_conv\2", key)
    key = re.sub(r"^pcd_align\.", "pcd_alignment.", key)
    key = re.sub(r"^upconv(\d)", r"upsample\1.upsample_conv", key)
    state_dict[f"generator.{key}"] = value
  changed = [
    k for k in state_dict if k.removeprefix("generator.") not in basicsr
  ]
  # Four layers of the levels, all 40 arrays of the alignment, two that enlarge.
  assert len(changed) == 8 + 40 + 4 + 2 * tsa * 9
  back = from_torch(model, {"state_dict": state_dict, "step_counter": 0})
  jax.tree.map(np.testing.assert_array_equal, variables, back)


def _mmagic_spynet(basicsr):
  """Its ConvModules are numbered without the activations between."""
  return {
    re.sub(
      r"(basic_module.\d.basic_module)\.(\d)\.",
      lambda m: f"{m[1]}.{int(m[2]) // 2}.conv.",
      key,
    ): value
    for key, value in basicsr.items()
  }


def test_mmagic_s_names_of_basicvsr():
  model = models.build("basicvsr", **ODD["basicvsr"])
  variables = filled(model)
  basicsr = to_torch(model, variables)
  state_dict = {}
  for key, value in _mmagic_spynet(basicsr).items():
    key = re.sub(r"^(backward|forward)_trunk", r"\1_resblocks", key)
    key = re.sub(r"^upconv(\d)", r"upsample\1.upsample_conv", key)
    state_dict[f"generator.{key}"] = value
  # Three layers of six levels, five of two passes, two that enlarge.
  kept = [k for k in state_dict if k.removeprefix("generator.") in basicsr]
  assert len(state_dict) - len(kept) == 2 * (3 * 6 + 5 * 2 + 2)
  back = from_torch(model, {"state_dict": state_dict, "step_counter": 0})
  jax.tree.map(np.testing.assert_array_equal, variables, back)


def test_mmagic_s_names_of_spynet():
  model = models.build("spynet", **ODD["spynet"])
  variables = filled(model)
  basicsr = to_torch(model, variables)
  assert basicsr["mean"].shape == basicsr["std"].shape == (1, 3, 1, 1)
  state_dict = _mmagic_spynet(basicsr)
  assert len(set(state_dict) - set(basicsr)) == 6 * 2 * 4
  back = from_torch(model, state_dict)
  jax.tree.map(np.testing.assert_array_equal, variables, back)
  # A network that was trained with other constants is another network.
  with pytest.raises(ValueError, match=r"std is .* SPyNet computes with"):
    from_torch(model, {**basicsr, "std": np.ones((1, 3, 1, 1))})
