"""The training step: a pure function made by a factory.

The loop jits it; the ahead-of-time compile lowers the very same function. The
adversarial one is in `gan_steps.py`.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from sr_jax import degradations
from sr_jax.ops.color import rgb_to_y
from sr_jax.sharding import on_mesh, replicated
from sr_jax.training.state import NetState, TrainState
from sr_jax.types import AnyArray, Batch

Metrics: TypeAlias = dict[str, jax.Array]
#: `step(state, batch, key, frozen)`; see `make_step`.
Step: TypeAlias = Callable[..., tuple[TrainState, Metrics]]
#: From a batch and a key to the generator's input and the ground truth.
Prepare: TypeAlias = Callable[[Batch, Any], tuple[jax.Array, jax.Array]]
#: From `(sr, hr, frozen)` to the weighted terms of a loss, by name.
LossTerms: TypeAlias = Callable[
  [jax.Array, jax.Array, Any], dict[str, jax.Array]
]


def make_prepare(
  *,
  scale: int,
  channels: int,
  degradation: degradations.Degradation = degradations.DEGRADATIONS["BI"],
  quantize: bool = True,
  frame: int | None = None,
) -> Prepare:
  """From the uint8 batch, images or clips, to what a network is trained on.

  Args:
    scale: Factor between `hr` and `lr`.
    channels: 3 for RGB; 1 for Y, converted before the degradation.
    degradation: Makes `lr` where the batch has none; the crops of `hr` have its
      margin around them then.
    quantize: Round the made `lr` to 8 bits; papers on Y do not.
    frame: Of clips, the one frame that the network restores; None is all.

  Returns:
    `prepare(batch, key) -> (lr, hr)`, float32 in [0, 1].
  """

  def to_float(image: AnyArray) -> jax.Array:
    floats = _unit(image)
    return jnp.asarray(rgb_to_y(floats)) if channels == 1 else floats

  def prepare(batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    del key  # A degradation that draws nothing.
    hr = to_float(batch["hr"])
    if "lr" in batch:
      lr = to_float(batch["lr"])
    else:
      margin = degradation.margin
      lr = jnp.asarray(
        degradation.downsample(
          hr, scale=scale, margin=margin, quantize=quantize
        )
      )
      hr = jnp.asarray(degradations.drop_margin(hr, margin * scale))
    return lr, hr if frame is None else hr[:, frame]

  return prepare


def make_latent_prepare(latent_features: int) -> Prepare:
  """For a generator that begins from noise.

  Args:
    latent_features: Length of its input.

  Returns:
    `prepare(batch, key) -> (z, hr)`: z from a unit normal, hr float32 in
    [0, 1].
  """

  def prepare(batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    hr = _unit(batch["hr"])
    return jax.random.normal(key, (hr.shape[0], latent_features)), hr

  return prepare


def _unit(image: AnyArray) -> jax.Array:
  return jnp.asarray(image, jnp.float32) / 255.0


def run(
  model: Any, params: Any, batch_stats: Any, x: jax.Array
) -> tuple[jax.Array, Any, Metrics]:
  """A network in training.

  Returns:
    Its output; its statistics as it moves them; and what it lets be watched:
    of the values that layers sow as "metrics", the largest of each name.
  """
  variables, train = {"params": params}, {}
  if batch_stats:
    variables["batch_stats"], train = batch_stats, {"train": True}
  y, moved = model.apply(
    variables, x, mutable=["batch_stats", "metrics"], **train
  )
  watched: Metrics = {}
  for path, value in jax.tree_util.tree_leaves_with_path(
    moved.get("metrics", {})
  ):
    name, value = path[-1].key, jnp.max(value)
    watched[name] = jnp.maximum(watched.get(name, value), value)
  return y, moved.get("batch_stats", batch_stats), watched


def move(
  net: NetState,
  gradients: Any,
  optimizer: optax.GradientTransformationExtraArgs,
  *,
  step: jax.Array,
  batch_stats: Any,
) -> NetState:
  """One network after one update; its moving average is as it was."""
  updates, opt_state = optimizer.update(
    gradients, net.opt_state, net.params, step=step
  )
  return net.replace(
    params=optax.apply_updates(net.params, updates),
    batch_stats=batch_stats,
    opt_state=opt_state,
  )


def average(net: NetState, ema_decay: float) -> NetState:
  """Moves the moving average, where there is one, towards the parameters."""
  if net.ema_params is None:
    return net
  return net.replace(
    ema_params=optax.incremental_update(
      net.params, net.ema_params, 1.0 - ema_decay
    )
  )


def keep_where(finite: jax.Array, new: Any, old: Any) -> Any:
  """The new state, or the old one after a step that was not finite."""
  return jax.tree.map(lambda n, o: jnp.where(finite, n, o), new, old)


def total(terms: dict[str, jax.Array]) -> jax.Array:
  """The sum that is minimised."""
  return sum(terms.values(), jnp.zeros(()))


def named(terms: dict[str, jax.Array]) -> Metrics:
  """Terms as metrics; one alone is the loss itself."""
  if len(terms) < 2:
    return {}
  return {f"loss/{name}": value for name, value in terms.items()}


def compile_step(step: Step, mesh: Mesh, shardings: TrainState) -> Any:
  """A step over the mesh, its old state donated.

  Args:
    step: From `make_step` or `make_gan_step`.
    mesh: Of the run.
    shardings: Of the state.

  Returns:
    The jitted `step(state, batch, key, frozen)`, which folds the state's step
    into the key: a resumed run draws what the unbroken one drew.
  """

  def drawn(state: TrainState, batch: Batch, key: Any, frozen: Any) -> Any:
    return step(state, batch, jax.random.fold_in(key, state.step), frozen)

  everywhere = replicated(mesh)
  return jax.jit(
    on_mesh(mesh, drawn),
    in_shardings=(shardings, None, everywhere, None),
    out_shardings=(shardings, everywhere),
    donate_argnums=0,
  )


def make_step(
  model: Any,
  *,
  optimizer: optax.GradientTransformationExtraArgs,
  loss_fn: LossTerms,
  prepare: Prepare,
  ema_decay: float = 0.0,
  accumulate: int = 1,
) -> Step:
  """A step of plain regression.

  Args:
    model: The generator.
    optimizer: Of the generator; see `make_optimizer`.
    loss_fn: `(sr, hr, frozen) -> {term: loss}`, each weighted and a mean over
      the batch; their sum is minimised.
    prepare: See `make_prepare`.
    ema_decay: Of the parameters' moving average; 0 keeps none.
    accumulate: Parts into which the batch is split one after the other, for
      the memory of one part; the update is that of the whole batch.
      BatchNorm sees one part at a time.

  Returns:
    `step(state, batch, key, frozen=None) -> (state, metrics)`; `frozen` is
    what `loss_fn` needs besides and no step moves, such as the variables of
    VGG19 (as an argument: closed over, they would be constants of the
    program). Where the loss or a gradient is not finite, the network and its
    optimizer stay as they were and the metric `skipped` is 1.
  """

  def loss_of(
    params: Any, batch_stats: Any, frozen: Any, inputs: Any, hr: jax.Array
  ) -> tuple[jax.Array, Any]:
    sr, batch_stats, watched = run(model, params, batch_stats, inputs)
    terms = loss_fn(sr, hr, frozen)
    return total(terms), (terms, watched, batch_stats)

  def mean_gradients(
    net: NetState, batch: Batch, key: jax.Array, frozen: Any
  ) -> tuple[Any, Any]:
    """Terms, what is watched, and gradients; statistics."""

    def gradients(batch_stats: Any, batch: Batch, key: jax.Array) -> Any:
      grads, (terms, watched, batch_stats) = jax.grad(loss_of, has_aux=True)(
        net.params, batch_stats, frozen, *prepare(batch, key)
      )
      return (terms, watched, grads), batch_stats

    if accumulate == 1:
      return gradients(net.batch_stats, batch, key)
    # Every accumulate-th image is of one part: no image changes its device.
    parts = jax.tree.map(
      lambda x: jnp.moveaxis(
        x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]), 1, 0
      ),
      batch,
    )

    def add(carry: Any, given: tuple[Batch, jax.Array]) -> tuple[Any, None]:
      result, batch_stats = gradients(carry[1], *given)
      return (jax.tree.map(jnp.add, carry[0], result), batch_stats), None

    given = (parts, jax.random.split(key, accumulate))
    one = jax.tree.map(lambda x: x[0], given)
    shapes, _ = jax.eval_shape(gradients, net.batch_stats, *one)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    (result, batch_stats), _ = jax.lax.scan(add, (zero, net.batch_stats), given)
    return jax.tree.map(lambda x: x / accumulate, result), batch_stats

  def step(
    state: TrainState, batch: Batch, key: jax.Array, frozen: Any = None
  ) -> tuple[TrainState, Metrics]:
    net = state.generator
    (terms, watched, grads), batch_stats = mean_gradients(
      net, batch, key, frozen
    )
    loss, norm = total(terms), optax.tree.norm(grads)
    moved = move(
      net, grads, optimizer, step=state.step, batch_stats=batch_stats
    )
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    metrics = {
      "loss": loss,
      **named(terms),
      **watched,
      "grad_norm": norm,
      "skipped": 1.0 - finite.astype(jnp.float32),
    }
    kept = keep_where(finite, average(moved, ema_decay), net)
    return state.replace(step=state.step + 1, generator=kept), metrics

  return step
