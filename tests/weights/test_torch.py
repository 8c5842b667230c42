"""The reference implementations' state dicts, in and out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

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


def test_what_we_made_survives_the_journey():
  """Linen first: what model.init gives comes back as it was."""
  model = FSRCNN(
    scale=3, num_features=5, shrink_features=3, num_blocks=2, **RGB
  )
  variables = model.init(jax.random.key(0), jnp.zeros((1, 6, 6, 3)))
  back = from_torch(model, to_torch(model, variables))
  jax.tree.map(np.testing.assert_array_equal, variables, back)
  assert jax.tree.structure(variables) == jax.tree.structure(back)


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
