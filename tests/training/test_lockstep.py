"""The steps beside BasicSR's own optimise step, iteration by iteration.

From the same weights on the same batches: every loss, and the networks that
come out. The recorded parameters agree only to what Adam makes of the last
digit of a gradient, which the manifest's tolerance is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sr_jax import losses, models, training, weights
from sr_jax.models.vgg import VGG19
from sr_jax.training.schedules import constant
from tests.golden import golden_io


def _trace(name):
  """Arrays, weights of each network by torch name, and the record."""
  arrays, params, record = golden_io.load(name)
  nets = {}
  for key, value in params.items():
    net, _, rest = key.partition("/")
    nets.setdefault(net, {})[rest] = value
  return arrays, nets, record


def _net(model, state_dict, optimizer, *, ema):
  variables = weights.from_torch(model, state_dict)
  return training.NetState.create(variables, optimizer, ema=ema)


def _adam(ctor, rate):
  b1, b2 = ctor["adam"]["betas"]
  return training.make_optimizer(
    constant(ctor["adam"][rate]), b1=b1, b2=b2, eps=ctor["adam"]["eps"]
  )


def _features(params, layer):
  """VGG19 as recorded, narrow."""
  variables = {}
  for key, value in params.items():
    if key.startswith("vgg_net."):
      _, name, kind = key.split(".")
      part = variables.setdefault(name, {})
      if kind == "weight":
        part["kernel"] = jnp.asarray(value.transpose(2, 3, 1, 0))
      else:
        part["bias"] = jnp.asarray(value)
  widths = tuple(
    params[f"vgg_net.conv{b}_1.bias"].size
    for b in range(1, 6)
    if f"vgg_net.conv{b}_1.bias" in params
  )
  widths += (1,) * (5 - len(widths))
  vgg = VGG19(layers=(layer,), widths=widths)
  return lambda image: vgg.apply({"params": variables}, image)


def _run(step, state, arrays):
  """The metrics of each iteration, and the last state."""
  step, rows = jax.jit(step), []
  for lq, gt in zip(arrays["lq"], arrays["gt"], strict=True):
    batch = {"lr": golden_io.nhwc(lq), "hr": golden_io.nhwc(gt)}
    state, metrics = step(state, batch, jax.random.key(0))
    rows.append(jax.device_get(metrics))
  return rows, state


def _check_net(model, params, stats, arrays, prefix, atol):
  variables = {"params": params}
  if stats:
    variables["batch_stats"] = stats
  found = weights.to_torch(model, variables)
  wanted = {
    key.removeprefix(prefix): value
    for key, value in arrays.items()
    if key.startswith(prefix)
  }
  # The record leaves out the largest array.
  assert set(found) - set(wanted) <= {"linear1.weight"}
  assert set(wanted) <= set(found)
  for key, value in wanted.items():
    np.testing.assert_allclose(
      found[key], value, rtol=0, atol=atol, err_msg=f"{prefix}{key}"
    )


def _as_is(batch, key):
  del key
  return batch["lr"], batch["hr"]


@pytest.mark.usefixtures("optimized")
def test_regression_is_the_recorded_one():
  arrays, nets, record = _trace("train_msrresnet_l1")
  ctor, atol = record["ctor"], record["atol"]
  model = models.build("msrresnet", num_features=8, num_blocks=2)
  optimizer = _adam(ctor, "lr_g")
  step = training.make_step(
    model,
    optimizer=optimizer,
    loss_fn=lambda sr, hr, _: {"pixel": losses.l1(sr, hr)},
    prepare=_as_is,
    ema_decay=ctor["ema_decay"],
  )
  state = training.TrainState(
    step=jnp.zeros((), jnp.int32),
    generator=_net(model, nets["g0"], optimizer, ema=True),
  )
  rows, state = _run(step, state, arrays)
  np.testing.assert_allclose(
    [[row["loss"]] for row in rows], arrays["losses"], atol=atol["losses"]
  )
  net = state.generator
  _check_net(model, net.params, {}, arrays, "final_g/", atol["final_g"])
  _check_net(model, net.ema_params, {}, arrays, "final_ema/", atol["final_ema"])


# Where BasicSR's columns are among our metrics.
_COLUMNS = {
  "l_g_pix": "loss/pixel",
  "l_g_percep": "loss/perceptual",
  "l_g_gan": "loss/adversarial",
  "l_d_real": "d_loss/real",
  "l_d_fake": "d_loss/fake",
  "out_d_real": "d_real",
  "out_d_fake": "d_fake",
}

_GANS = {
  "train_srgan": (
    ("msrresnet", {"num_features": 8, "num_blocks": 1}),
    ("vgg_discriminator", {"num_features": 2, "input_size": 128}),
    {"relativistic": False},
  ),
  "train_esrgan_unet": (
    ("rrdbnet", {"num_features": 8, "num_blocks": 1, "growth_features": 4}),
    ("unet_discriminator", {"num_features": 4}),
    {"relativistic": True},
  ),
}


# Of SRGAN's game one LeakyReLU is nearer to zero than the order of a sum
# matters. Vectorised sums have another order on another kind of processor, even
# with AVX2 alone (Zen 5); those that are not vectorised, as tests' programs are
# not, have one.
@pytest.mark.parametrize("name", sorted(_GANS))
def test_the_game_is_the_recorded_one(name):
  arrays, nets, record = _trace(name)
  ctor, atol = record["ctor"], record["atol"]
  (g_name, g_args), (d_name, d_args), game = _GANS[name]
  generator = models.build(g_name, **g_args)
  discriminator = models.build(d_name, **d_args)
  ((layer, layer_weight),) = ctor["layer_weights"].items()
  features_fn = _features(nets["vgg"], layer)

  def content(sr, hr, frozen):
    del frozen  # these are small enough to close over
    perceptual, _ = losses.perceptual(
      sr, hr, features_fn=features_fn, layer_weights={layer: layer_weight}
    )
    return {
      "pixel": ctor["pixel_weight"] * losses.l1(sr, hr),
      "perceptual": perceptual,
    }

  optimizer, d_optimizer = _adam(ctor, "lr_g"), _adam(ctor, "lr_d")
  step = training.make_gan_step(
    generator,
    discriminator,
    optimizer=optimizer,
    d_optimizer=d_optimizer,
    loss_fn=content,
    adversarial=training.Adversarial(
      weight=ctor["gan_weight"], kind=ctor["gan"], **game
    ),
    prepare=_as_is,
    ema_decay=ctor["ema_decay"],
  )
  state = training.TrainState(
    step=jnp.zeros((), jnp.int32),
    generator=_net(generator, nets["g0"], optimizer, ema=True),
    discriminator=_net(discriminator, nets["d0"], d_optimizer, ema=False),
  )
  rows, state = _run(step, state, arrays)
  found = [[row[_COLUMNS[c]] for c in record["loss_columns"]] for row in rows]
  np.testing.assert_allclose(
    found, arrays["losses"], rtol=0, atol=atol["losses"]
  )
  g, d = state.generator, state.discriminator
  _check_net(generator, g.params, {}, arrays, "final_g/", atol["final_g"])
  _check_net(
    generator, g.ema_params, {}, arrays, "final_ema/", atol["final_ema"]
  )
  # num_batches_tracked among them: three forwards a step, or five.
  _check_net(
    discriminator, d.params, d.batch_stats, arrays, "final_d/", atol["final_d"]
  )
