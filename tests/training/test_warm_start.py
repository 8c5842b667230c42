"""What a run takes over from another network, and what begins anew."""

import importlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import models, weights
from sr_jax.training import NetState, TrainState, make_optimizer
from sr_jax.training.schedules import constant
from sr_jax.training.warm_start import read_start, warm_start

_OPTIMIZER = make_optimizer(constant(1e-3))


def _variables(model, seed):
  """No value is the other seed's, biases and statistics included."""
  shapes = jax.eval_shape(
    model.init, jax.random.key(0), *models.example_inputs(model)
  )
  rng = np.random.default_rng(seed)
  return jax.tree.map(
    lambda x: jnp.asarray(100 * rng.random(x.shape) + 1, x.dtype), shapes
  )


def _start(model, source_model, tmp_path, **options):
  given = _variables(source_model, 1)
  file = tmp_path / "given.safetensors"
  weights.save(file, source_model, given)
  state = TrainState(
    step=jnp.zeros((), jnp.int32),
    generator=NetState.create(_variables(model, 2), _OPTIMIZER, ema=True),
  )
  start = read_start(str(file), model, **options)
  after = warm_start(state, start)
  return given, state.generator, after.generator, start.missing


def _check(given, before, after, anew):
  """Each array is the given one, or as it was."""
  for name, leaves in before.items():
    for path, old in jax.tree_util.tree_leaves_with_path(leaves):
      key = jax.tree_util.keystr(path, simple=True, separator="/")
      source = before if name in anew or f"{name}/{key}" in anew else given
      wanted, found = source[name], after[name]
      for part in key.split("/"):
        wanted, found = wanted[part], found[part]
      assert found.shape == old.shape
      np.testing.assert_array_equal(found, wanted, err_msg=f"{name}/{key}")


@pytest.mark.parametrize(
  ("name", "given_scale", "scale", "anew"),
  [
    # RECIPES.md cards 3 and 12: x2 and x3 from x4; x3 and x4 from x2.
    ("msrresnet", 4, 2, set()),
    ("msrresnet", 4, 3, {"upconv1"}),
    ("edsr", 2, 3, {"upconv1"}),
    ("edsr", 2, 4, {"upconv2"}),
    # Real-ESRGAN's x2 folds 2x2 pixels into channels first.
    ("rrdbnet", 4, 2, {"conv_first/kernel"}),
  ],
)
def test_another_scale_begins_anew_where_it_must(
  name, given_scale, scale, anew, tmp_path
):
  """One block, stacked: the fewest arrays that such a network has."""
  fields = {"num_features": 4, "num_blocks": 1}
  if name == "rrdbnet":
    fields["growth_features"] = 4
  given, before, after, missing = _start(
    models.build(name, scale=scale, **fields),
    models.build(name, scale=given_scale, **fields),
    tmp_path,
  )
  _check(given["params"], before.params, after.params, anew)
  assert {p if p in anew else p.split("/")[0] for p in missing} == anew
  # The average begins where the parameters do, in memory of its own.
  _check(given["params"], before.params, after.ema_params, anew)
  for a, b in zip(
    jax.tree.leaves(after.params),
    jax.tree.leaves(after.ema_params),
    strict=True,
  ):
    assert a is not b
  # Adam begins anew.
  jax.tree.map(np.testing.assert_array_equal, after.opt_state, before.opt_state)


def test_statistics_of_batch_norm_come_along(tmp_path):
  fields = {"num_features": 4, "num_blocks": 2}
  given, before, after, missing = _start(
    models.build("srresnet", scale=2, **fields),
    models.build("srresnet", scale=4, **fields),
    tmp_path,
  )
  assert not missing
  _check(given["params"], before.params, after.params, set())
  assert set(after.batch_stats) == {"body", "bn_body"}
  _check(given["batch_stats"], before.batch_stats, after.batch_stats, set())


@pytest.mark.parametrize(
  ("fields", "given_fields"),
  [
    ({"num_blocks": 1}, {"num_features": 6, "num_blocks": 1}),
    ({"num_features": 6}, {}),
  ],
)
def test_another_width_is_refused(fields, given_fields, tmp_path):
  build = lambda given: models.build(
    "msrresnet", **{"num_features": 4, "num_blocks": 2, **given}
  )
  with pytest.raises(
    ValueError, match=r"another network: msrresnet .* num_(features|blocks)"
  ):
    _start(build(fields), build(given_fields), tmp_path)


def test_tsa_begins_behind_the_network_without_it(tmp_path, monkeypatch):
  """EDVR's second stage: TSA alone moves at first, whatever the run was."""
  monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))
  recipe = importlib.import_module("configs.edvr").get_config("from=RUN")
  freeze = recipe.optimizer.freeze
  model = models.build(
    "edvr",
    num_features=4,
    deformable_groups=2,
    num_extract_blocks=1,
    num_reconstruct_blocks=1,
  )
  given, before, after, missing = _start(
    model, model.clone(tsa=False), tmp_path, freeze=freeze
  )
  assert missing
  assert all(path.startswith("features/fusion/") for path in missing)
  _check(given["params"], before.params, after.params, set(missing))

  optimizer = make_optimizer(constant(1e-3), freeze=freeze)
  gradients = jax.tree.map(jnp.ones_like, after.params)
  update = jax.jit(
    lambda step: optimizer.update(
      gradients, optimizer.init(after.params), after.params, step=step
    )[0]
  )
  for step, alone in ((0, True), (49_999, True), (50_000, False)):
    for path, moved in jax.tree_util.tree_leaves_with_path(update(step)):
      path = jax.tree_util.keystr(path, simple=True, separator="/")
      fusion = path.startswith("features/fusion/")
      assert np.all(moved != 0) == (fusion or not alone), (step, path)


def test_another_class_is_refused_however_much_fits(tmp_path):
  """Their blocks have the same names and shapes."""
  fields = {"scale": 2, "num_features": 4, "num_blocks": 2}
  with pytest.raises(
    ValueError, match=r"^config\.init_from .*: edsr there and msrresnet here"
  ) as caught:
    _start(
      models.build("msrresnet", **fields),
      models.build("edsr", **fields),
      tmp_path,
    )
  assert str(caught.value).count("/kernel") <= 3
