"""The reference implementations' state dicts, in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from sr_jax import models
from sr_jax.models import FSRCNN, SRCNN, Interpolate
from sr_jax.weights import from_torch, to_torch
from tests.golden import golden_io
from tests.weights.odd import ODD, RGB, filled

NETWORKS = {
  "srcnn_x4_915": SRCNN(scale=4, features=(16, 8), **RGB),
  "fsrcnn_x2": FSRCNN(scale=2),
  "fsrcnn_x4": FSRCNN(
    scale=4, num_features=32, shrink_features=5, num_blocks=1
  ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("optimized")
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
