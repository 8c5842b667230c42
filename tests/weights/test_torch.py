"""The reference implementations' state dicts, in and out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from sr_jax import models
from sr_jax.models import FSRCNN, SRCNN, Interpolate
from sr_jax.weights import from_torch, to_torch
from tests.golden import golden_io

RGB = {"in_channels": 3, "out_channels": 3}
NETWORKS = {
  "srcnn_x4_915": SRCNN(scale=4, features=(16, 8), **RGB),
  "fsrcnn_x2": FSRCNN(scale=2),
  "fsrcnn_x4": FSRCNN(
    scale=4, num_features=32, shrink_features=5, num_blocks=1
  ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_reference_s_weights_give_its_output(name):
  arrays, params, record = golden_io.load(name)
  model = NETWORKS[name]
  variables = from_torch(model, params)
  sr = model.apply(variables, jnp.asarray(golden_io.nhwc(arrays["input"])))
  np.testing.assert_allclose(
    golden_io.nchw(sr), arrays["output"], 0, record["atol"]["output"]
  )


@pytest.mark.parametrize("name", NETWORKS)
def test_to_torch_is_the_exact_inverse(name):
  _, params, _ = golden_io.load(name)
  model = NETWORKS[name]
  back = to_torch(model, freeze(from_torch(model, params)))
  assert list(back) == list(params)  # PyTorch's own order
  for key, value in back.items():
    np.testing.assert_array_equal(value, params[key], err_msg=key)
    assert value.flags.c_contiguous  # torch.from_numpy takes it
    assert value.dtype == np.float32


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


def test_every_network_is_here():
  # None of them is a network of PyTorch's.
  without = {"bicubic", "bilinear", "nearest", "sparse_coding"}
  assert set(ODD) == set(models.MODELS) - without


@pytest.mark.parametrize("name", ODD)
def test_what_we_made_survives_the_journey(name):
  """Linen first: scanned blocks, running statistics, spectral vectors."""
  model = models.build(name, **ODD[name])
  variables = filled(model)
  state_dict = to_torch(model, variables)
  back = from_torch(model, state_dict)
  jax.tree.map(np.testing.assert_array_equal, variables, back)
  assert jax.tree.structure(variables) == jax.tree.structure(back)
  ours, theirs = (
    {x.dtype for x in jax.tree.leaves(tree)} for tree in (variables, back)
  )
  assert ours == theirs
  for key, value in state_dict.items():
    tracked = key.endswith("num_batches_tracked")
    assert value.dtype == (np.int64 if tracked else np.float32), key

  # Checkpoints of before PyTorch 0.4.1 do not count their batches.
  uncounted = {
    key: value
    for key, value in state_dict.items()
    if not key.endswith("num_batches_tracked")
  }
  stats = from_torch(model, uncounted).get("batch_stats", {})
  for path, value in jax.tree.leaves_with_path(stats):
    if path[-1].key == "count":
      assert not np.any(value)


@pytest.mark.parametrize("name", ["srgan_discriminator", "unet_discriminator"])
def test_every_key_is_needed(name):
  model = models.build(name, **ODD[name])
  state_dict = to_torch(model, filled(model))
  for key in state_dict:
    less = {k: v for k, v in state_dict.items() if k != key}
    if key.endswith("num_batches_tracked"):
      continue
    with pytest.raises(ValueError, match=f"missing: {key}. "):
      from_torch(model, less)


def test_the_first_dense_layer_takes_channels_first():
  """PyTorch flattens [c, h, w]; the weights of channel 2 are a block there."""
  model = models.VGGDiscriminator(num_features=1)
  state_dict = to_torch(model, filled(model))
  dense = state_dict["linear1.weight"]
  dense[...] = 0
  dense[7, 2 * 16 + 4 * 3 + 1] = 5  # channel 2, row 3, column 1
  kernel = from_torch(model, state_dict)["params"]["linear1"]["kernel"]
  assert kernel.shape == (4, 4, 8, 100)
  assert np.argwhere(kernel).tolist() == [[3, 1, 2, 7]]


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


def test_vgg19_of_basicsr_and_of_torchvision():
  """Its constants, later layers and dense layers stay behind."""
  model = models.build("vgg19", **ODD["vgg19"])
  variables = filled(model)
  state_dict = to_torch(model, variables)
  assert [key for key in state_dict if key.endswith("weight")] == [
    f"features.{i}.weight" for i in (0, 2, 5, 7, 10)
  ]
  more = {
    "features.12.weight": np.zeros((2, 2, 3, 3)),
    "features.34.bias": np.zeros(1),
    "classifier.6.bias": np.zeros(1000),
  }
  basicsr = dict(
    zip(
      (
        f"vgg_net.conv{layer}.{kind}"
        for layer in ("1_1", "1_2", "2_1", "2_2", "3_1")
        for kind in ("weight", "bias")
      ),
      state_dict.values(),
      strict=True,
    )
  )
  norm = {"mean": np.zeros((1, 3, 1, 1)), "std": np.ones((1, 3, 1, 1))}
  later = {"vgg_net.conv5_4.bias": np.zeros(1)}
  for given in (state_dict | more, basicsr | norm | later):
    back = from_torch(model, given)
    jax.tree.map(np.testing.assert_array_equal, variables, back)
  with pytest.raises(ValueError, match=r"unexpected: features.x, head.weight"):
    from_torch(model, state_dict | {"features.x": 0, "head.weight": 0})
  del state_dict["features.10.bias"]
  with pytest.raises(ValueError, match=r"missing: features.10.bias\."):
    from_torch(model, state_dict | more)


@pytest.mark.parametrize(
  "wrap",
  [
    lambda p: {"params": p},
    lambda p: {"params": dict.fromkeys(p, np.zeros(1)), "params_ema": p},
    lambda p: {"state_dict": p, "meta": {"epoch": 3}},
    lambda p: {f"module.{key}": value for key, value in p.items()},
    lambda p: {
      "state_dict": {
        **{f"generator.{key}": value for key, value in p.items()},
        "discriminator.conv.weight": np.zeros(3),
        "step_counter": np.zeros(1),
      }
    },
    lambda p: {f"module.generator.{key}": value for key, value in p.items()},
    lambda p: {key: value.astype(np.float64) for key, value in p.items()},
  ],
)
def test_unwraps_checkpoints(wrap):
  _, params, _ = golden_io.load("srcnn_x4_915")
  model = NETWORKS["srcnn_x4_915"]
  back = to_torch(model, from_torch(model, wrap(params)))
  for key, value in params.items():
    np.testing.assert_array_equal(back[key], value)


def test_a_list_is_no_state_dict():
  wrapped = from_torch.__wrapped__  # the type hook of the tests speaks first
  with pytest.raises(ValueError, match="a list; the rule is a mapping"):
    wrapped(models.build("fsrcnn", scale=2), [1])


def test_errors_name_the_keys():
  _, params, _ = golden_io.load("srcnn_x4_915")
  model = NETWORKS["srcnn_x4_915"]
  renamed = {key.replace("conv3", "last"): v for key, v in params.items()}
  with pytest.raises(
    ValueError,
    match=r"missing: conv3.weight, conv3.bias; unexpected: last.weight",
  ):
    from_torch(model, renamed)
  turned = {**params, "conv1.weight": params["conv1.weight"][:, :2]}
  with pytest.raises(
    ValueError, match=r"conv1.weight is \(16, 2, 9, 9\), not \(16, 3, 9, 9\)"
  ):
    from_torch(model, turned)
  many = {f"layer{i}": np.zeros(1) for i in range(20)}
  with pytest.raises(ValueError, match=r"unexpected: layer0.* and 12 more"):
    from_torch(model, params | many)
  with pytest.raises(ValueError, match=r"names of Interpolate are not known"):
    from_torch(Interpolate(), {})


def test_every_kind_of_error_is_in_one_message():
  """Of stacked blocks the single one is named."""
  model = models.build("rrdbnet", **ODD["rrdbnet"])
  state_dict = to_torch(model, filled(model))
  del state_dict["body.1.rdb3.conv5.bias"]
  state_dict["body.2.rdb1.conv1.weight"] = np.zeros(3)
  kernel = state_dict["body.0.rdb2.conv4.weight"]
  state_dict["body.0.rdb2.conv4.weight"] = kernel[:, :-1]
  with pytest.raises(
    ValueError,
    match=r"missing: body.1.rdb3.conv5.bias; "
    r"unexpected: body.2.rdb1.conv1.weight; "
    r"of another shape: body.0.rdb2.conv4.weight is \(3, 13, 3, 3\), "
    r"not \(3, 14, 3, 3\)",
  ):
    from_torch(model, state_dict)


def test_to_torch_wants_this_model_s_variables():
  model = NETWORKS["srcnn_x4_915"]
  variables = from_torch(model, golden_io.load("srcnn_x4_915")[1])
  with pytest.raises(
    ValueError, match=r"variables do not fit.*conv1/kernel is"
  ):
    to_torch(SRCNN(features=(8, 8), **RGB), variables)
  del variables["params"]["conv2"]["bias"]
  with pytest.raises(ValueError, match="missing: params/conv2/bias"):
    to_torch(model, variables)
