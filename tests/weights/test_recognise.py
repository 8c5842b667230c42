"""Networks told by the names and shapes of their arrays."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy

from sr_jax import models
from sr_jax.weights import from_torch, load, recognise, to_torch, write_pth
from tests.golden import golden_io
from tests.models import (
  test_basicvsr,
  test_discriminators,
  test_edvr,
  test_generators,
  test_spynet,
)
from tests.models.test_generators import EDVR_LARGE, LARGE
from tests.weights.odd import ODD, filled

RECORDED = {
  name: model
  for tests in (
    test_basicvsr,
    test_discriminators,
    test_edvr,
    test_generators,
    test_spynet,
  )
  for name, model in tests.GOLDEN.items()
}
# What no array says.
_UNSAID = {"edvr": {"center_frame": None}, "vgg19": {"layers": ("conv3_1",)}}
_PUBLISHED = [
  *((name, {}) for name in ODD),
  ("msrresnet", {"scale": 2}),
  ("msrresnet", {"scale": 3}),
  ("edsr", LARGE),
  ("edsr", {"scale": 3, **LARGE}),
  ("rrdbnet", {"scale": 2}),
  ("rrdbnet", {"num_blocks": 6}),
  ("srvggnet", {"num_blocks": 32}),
  ("edvr", {"tsa": False}),
  ("edvr", EDVR_LARGE),
  ("edvr", {"predeblur": True, "hr_in": True}),
  ("basicvsr_plusplus", {"is_low_res_input": False}),
]


def _scale(model):
  """What must be told of networks for any enlargement."""
  any_scale = isinstance(model, models.SRCNN | models.FSRCNN)
  return model.scale if any_scale else None


@pytest.mark.parametrize("name", ODD)
def test_odd_widths(name):
  model = models.build(name, **ODD[name])
  state_dict = to_torch(model, filled(model))
  want = model.clone(**_UNSAID.get(name, {}))
  if name == "vgg19":  # the groups that are not there have the paper's
    want = want.clone(widths=(3, 5, 2, 512, 512))
  assert recognise(state_dict, scale=_scale(model)) == want


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), _PUBLISHED)
def test_published_sizes_survive_the_journey(name, arguments, tmp_path):
  """Torch, file, JAX, file, torch: exact."""
  model = models.build(name, **arguments)
  state_dict = to_torch(model, filled(model))
  path = tmp_path / "net.pth"
  write_pth(path, {"params": state_dict})
  have, variables = load(path, scale=_scale(model))
  assert have == model
  back = to_torch(have, variables)
  assert list(back) == list(state_dict)
  for key, value in back.items():
    np.testing.assert_array_equal(value, state_dict[key], strict=True)


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_networks(name):
  model = RECORDED[name]
  _, params, _ = golden_io.load(name)
  have = recognise({"params_ema": params}, scale=_scale(model))
  # Recorded with a residual scale and key frames that no array tells.
  for key in ("residual_scale", "keyframe_stride"):
    if hasattr(model, key):
      have = have.clone(**{key: getattr(model, key)})
  assert have == model


_DENSE = r"^body\.(\d+)\.rdb(\d)\.conv(\d)\."


@pytest.mark.parametrize(
  "renames",
  [
    [
      (_DENSE, r"RRDB_trunk.\1.RDB\2.conv\3."),
      (r"^conv_body\.", "trunk_conv."),
      (r"^conv_up(\d)\.", r"upconv\1."),
      (r"^conv_hr\.", "HRconv."),
    ],
    [
      (_DENSE, r"model.1.sub.\1.RDB\2.conv\3.0."),
      (r"^conv_first\.", "model.0."),
      (r"^conv_body\.", "model.1.sub.2."),
      (r"^conv_up1\.", "model.3."),
      (r"^conv_up2\.", "model.6."),
      (r"^conv_hr\.", "model.8."),
      (r"^conv_last\.", "model.10."),
    ],
  ],
)
def test_esrgan_s_older_names(renames, tmp_path):
  """As in RRDB_ESRGAN_x4.pth of 2019 and RRDB_ESRGAN_x4_old_arch.pth."""
  model = models.RRDBNet(num_features=4, num_blocks=2, growth_features=3)
  variables = filled(model)
  state_dict = {}
  for key, value in to_torch(model, variables).items():
    for pattern, new in renames:
      key = re.sub(pattern, new, key)
    state_dict[key] = value
  path = tmp_path / "old.pth"
  write_pth(path, state_dict)
  have, back = load(path)
  assert have == model
  jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_msrresnet_s_older_names():
  """As BasicSR had them before 2020."""
  model, state_dict = _small()
  older = {
    re.sub(r"^conv_hr", "HRconv", re.sub(r"^body", "recon_trunk", key)): value
    for key, value in state_dict.items()
  }
  assert recognise(older) == model
  want = from_torch(model, state_dict)
  jax.tree.map(np.testing.assert_array_equal, from_torch(model, older), want)


def _small():
  model = models.MSRResNet(scale=2, num_features=4, num_blocks=2)
  return model, to_torch(model, filled(model))


def test_wrappings_and_half_precision(tmp_path):
  model, state_dict = _small()
  half = {key: value.astype(np.float16) for key, value in state_dict.items()}
  want = from_torch(model, half)
  other = {f"discriminator.{key}": value for key, value in half.items()}
  noise = {key: value + 1 for key, value in half.items()}

  def prefixed(prefix, arrays):
    return {prefix + key: value for key, value in arrays.items()}

  wrapped = {
    "plain": half,
    "params": {"params": half},
    "params_ema": {"params": noise, "params_ema": half},
    "mmagic": {
      "meta": {"epoch": 3},
      "state_dict": {**prefixed("generator.", half), **other},
    },
    "ema": {
      "state_dict": {
        **prefixed("generator.", noise),
        **prefixed("generator_ema.module.", half),
      }
    },
    "parallel": prefixed("module.", half),
  }
  for name, checkpoint in wrapped.items():
    path = tmp_path / f"{name}.pth"
    write_pth(path, checkpoint)
    have, variables = load(path)
    assert have == model, name
    jax.tree.map(np.testing.assert_array_equal, variables, want)
  path = tmp_path / "net.safetensors"
  path.write_bytes(safetensors.numpy.save(half))
  have, variables = load(path, scale=2)
  assert have == model
  jax.tree.map(np.testing.assert_array_equal, variables, want)
  # bfloat16 is what is left of float32 without its lower half.
  short = {key: value.astype(jnp.bfloat16) for key, value in half.items()}
  path.write_bytes(safetensors.flax.save(short))
  want = from_torch(model, {k: np.float32(v) for k, v in short.items()})
  jax.tree.map(np.testing.assert_array_equal, load(path)[1], want)


def test_what_does_not_fit_is_named(tmp_path):
  """One missing, one too many, one of another shape: all three."""
  _, state_dict = _small()
  del state_dict["conv_last.weight"]
  state_dict["extra.bias"] = np.zeros(3, np.float32)
  state_dict["body.1.conv2.bias"] = np.zeros(7, np.float32)
  path = tmp_path / "net.pth"
  write_pth(path, {"params": state_dict})
  with pytest.raises(ValueError, match=r"net\.pth") as error:
    load(path)
  for part in (
    "missing: conv_last.weight",
    "unexpected: extra.bias",
    "body.1.conv2.bias is (7,), not (4,)",
  ):
    assert part in str(error.value)


def test_what_is_not_known_is_refused(tmp_path):
  path = tmp_path / "net.pth"
  arrays = {f"layers.{i}.weight": np.zeros((i + 1, 2)) for i in range(9)}
  for content, message in (
    (arrays, r"9 arrays, layers.0.weight \(1, 2\);.*Known are .*rrdbnet"),
    ({}, "none at all"),
    ({"params": [1, 2]}, "none at all"),
    ([np.zeros(3)], "is a list; the rule is a mapping"),
    ({"conv_first.weight": "text"}, "none at all"),
    ({"epoch": 1, "loss": [[1, 2], [3]], "net": arrays}, "it holds 'net', eac"),
    (
      {f"conv{i}.weight": np.zeros((4, 4, 3, 3)) for i in (1, 2, 3, 4)},
      "no network's that is known",
    ),
  ):
    write_pth(path, content)
    with pytest.raises(ValueError, match=message):
      load(path)
  network = models.FSRCNN(scale=3)
  write_pth(path, to_torch(network, filled(network)))
  with pytest.raises(ValueError, match="do not tell the enlargement; give sc"):
    load(path)
  assert load(path, scale=3)[0] == network
  _, state_dict = _small()
  write_pth(path, state_dict)
  with pytest.raises(ValueError, match="network for x2, and scale 4 was"):
    load(path, scale=4)
  # A list that says it has a million blocks is not built.
  state_dict["body.1000000.conv1.weight"] = np.zeros(1)
  write_pth(path, state_dict)
  with pytest.raises(ValueError, match="1000001 is no 'num_blocks'"):
    load(path)
