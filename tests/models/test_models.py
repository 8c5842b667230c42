"""build(), describe() and example_inputs() of every network."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import pytest

from sr_jax import models


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_the_example_is_an_input(name):
  model = models.build(name)
  example = models.example_inputs(model)
  variables = jax.eval_shape(model.init, jax.random.key(0), *example)
  output = jax.eval_shape(model.apply, variables, *example)
  assert {x.dtype for x in jax.tree.leaves(output)} == {np.dtype("float32")}
  assert set(variables) <= {"params", "batch_stats"}


def test_describe_keeps_what_was_given():
  model = models.build("vgg19", layers=["relu1_1"], widths=[2, 2, 2, 2, 2])
  name, arguments = models.describe(model)
  assert arguments["layers"] == ["relu1_1"]
  assert models.build(name, **arguments) == model


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_describe_rebuilds(name):
  make = models.MODELS[name]
  fields = dataclasses.fields(getattr(make, "func", make))
  scales = "scale" in {field.name for field in fields}
  model = models.build(name, **({"scale": 2} if scales else {}))
  found, arguments = models.describe(model)
  assert found == name
  assert models.build(found, **arguments) == model


def test_describe_refuses_strangers():
  with pytest.raises(ValueError, match="MODELS"):
    models.describe(nn.Dense(3))


@pytest.mark.parametrize(
  ("name", "arguments", "message"),
  [
    ("fsrnn", {}, "did you mean 'fsrcnn'"),
    ("fsrcnn", {"num_feature": 3}, "did you mean 'num_features'"),
    ("bicubic", {"method": "nearest"}, "no argument 'method'"),
    ("fsrcnn", {"dtype": "float33"}, "not a dtype"),
    ("fsrcnn", {"scale": 0}, "scale 0 of model 'fsrcnn'"),
    ("fsrcnn", {"num_features": 2.5}, "positive integer, such as 56"),
    ("srcnn", {"features": (64, 0)}, "positive integer"),
    ("rrdbnet", {"num_blocks": -1}, "positive integer, such as 23"),
    ("dcgan_generator", {"latent_features": 0}, "positive integer"),
    ("vgg_discriminator", {"scale": 4}, "no argument 'scale'"),
  ],
)
def test_build_names_the_nearest(name, arguments, message):
  with pytest.raises(ValueError, match=message):
    models.build(name, **arguments)
