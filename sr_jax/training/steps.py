"""The training step: a pure function made by a factory.

The loop jits it; the ahead-of-time compile lowers the very same function.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from sr_jax import degradations
from sr_jax.ops.color import rgb_to_y
from sr_jax.training.state import NetState, TrainState
from sr_jax.types import AnyArray, Batch

Metrics: TypeAlias = dict[str, jax.Array]
Step: TypeAlias = Callable[
  [TrainState, Batch, jax.Array], tuple[TrainState, Metrics]
]
Prepare: TypeAlias = Callable[[Batch], tuple[jax.Array, jax.Array]]


def make_prepare(
  *,
  scale: int,
  channels: int,
  margin: int = degradations.MARGIN,
  quantize: bool = True,
) -> Prepare:
  """From the uint8 batch to what a network is trained on.

  Args:
    scale: Factor between `hr` and `lr`.
    channels: 3 for RGB; 1 for Y, converted before the degradation.
    margin: Low-resolution pixels of context around the crops of `hr`.
    quantize: Round the made `lr` to 8 bits; papers on Y do not.

  Returns:
    `prepare(batch) -> (lr, hr)`, float32 in [0, 1].
  """

  def to_float(image: AnyArray) -> jax.Array:
    floats = jnp.asarray(image, jnp.float32) / 255.0
    return jnp.asarray(rgb_to_y(floats)) if channels == 1 else floats

  def prepare(batch: Batch) -> tuple[jax.Array, jax.Array]:
    hr = to_float(batch["hr"])
    if "lr" in batch:
      return to_float(batch["lr"]), hr
    lr = degradations.bicubic(hr, scale=scale, margin=margin, quantize=quantize)
    return lr, degradations.drop_margin(hr, margin * scale)

  return prepare


def make_step(
  model: Any,
  *,
  optimizer: optax.GradientTransformationExtraArgs,
  loss_fn: Callable[..., jax.Array],
  prepare: Prepare,
  ema_decay: float = 0.0,
  accumulate: int = 1,
) -> Step:
  """A step of plain regression.

  Args:
    model: The generator.
    optimizer: Of the generator; see `make_optimizer`.
    loss_fn: `(sr, hr) -> loss`, a mean over the batch.
    prepare: See `make_prepare`.
    ema_decay: Of the parameters' moving average; 0 keeps none.
    accumulate: Parts into which the batch is split one after the other, for
      the memory of one part; the update is that of the whole batch.

  Returns:
    `step(state, batch, key) -> (state, metrics)`. Where the loss or a
    gradient is not finite, the network and its optimizer stay as they were
    and the metric `skipped` is 1.
  """

  def loss_of(params: Any, lr: AnyArray, hr: AnyArray) -> jax.Array:
    return loss_fn(model.apply({"params": params}, lr), hr)

  def gradients(params: Any, batch: Batch) -> tuple[jax.Array, Any]:
    lr, hr = prepare(batch)
    return jax.value_and_grad(loss_of)(params, lr, hr)

  def mean_gradients(params: Any, batch: Batch) -> tuple[jax.Array, Any]:
    if accumulate == 1:
      return gradients(params, batch)
    # Every accumulate-th image is of one part: no image changes its device.
    parts = jax.tree.map(
      lambda x: jnp.moveaxis(
        x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 1, 0
      ),
      batch,
    )
    zero = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))

    def add(total: Any, part: Batch) -> tuple[Any, None]:
      return jax.tree.map(jnp.add, total, gradients(params, part)), None

    total, _ = jax.lax.scan(add, zero, parts)
    return jax.tree.map(lambda x: x / accumulate, total)

  def step(
    state: TrainState, batch: Batch, key: jax.Array
  ) -> tuple[TrainState, Metrics]:
    del key  # Regression draws nothing.
    net = state.generator
    loss, grads = mean_gradients(net.params, batch)
    norm = optax.tree.norm(grads)
    updates, opt_state = optimizer.update(
      grads, net.opt_state, net.params, step=state.step
    )
    params = optax.apply_updates(net.params, updates)
    ema = net.ema_params
    if ema is not None:
      ema = optax.incremental_update(params, ema, 1.0 - ema_decay)
    moved = NetState(params, net.batch_stats, opt_state, ema)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    kept = jax.tree.map(
      lambda new, old: jnp.where(finite, new, old), moved, net
    )
    metrics = {
      "loss": loss,
      "grad_norm": norm,
      "skipped": 1.0 - finite.astype(jnp.float32),
    }
    return state.replace(step=state.step + 1, generator=kept), metrics

  return step
