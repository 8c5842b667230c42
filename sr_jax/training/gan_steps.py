"""The adversarial step: two networks, two optimizers, one jitted function.

In BasicSR's order. The generator's loss comes first, with the discriminator
held still; then the discriminator's, on the very image that the generator made
before it moved; then both move. The generator runs forwards once. The
discriminator's BatchNorm and spectral vectors move at every one of its
forwards, as they do there: three times a step, or five with the relativistic
loss (real, fake; fake, real, fake). Those that compute the same thing twice,
XLA computes once.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sr_jax import losses
from sr_jax.training.state import NetState, TrainState
from sr_jax.training.steps import (
  LossTerms,
  Metrics,
  Prepare,
  Step,
  average,
  keep_where,
  move,
  named,
  run,
  total,
)
from sr_jax.types import Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adversarial:
  """The game that the two networks play.

  Attributes:
    weight: Of the adversarial term in the generator's loss. The
      discriminator's loss has none, as in BasicSR.
    kind: See `losses.adversarial`.
    relativistic: Each logit is compared with the mean of the other side
      (relativistic average, ESRGAN sec. 3.2).
    real_label: What "real" means to vanilla and lsgan; 0.9 is a soft label.
    fake_label: What "fake" means.
    gradient_penalty: Weight of Gulrajani's penalty on the discriminator.
    r1: Weight of the penalty on its gradient at real images.

  Raises:
    ValueError: an unknown kind, one that has no relativistic form, a weight
      that is negative or not finite, or a label that is no probability
      (vanilla) or not finite. The message begins with the field.
  """

  weight: float = 5e-3
  kind: str = "vanilla"
  relativistic: bool = False
  real_label: float = 1.0
  fake_label: float = 0.0
  gradient_penalty: float = 0.0
  r1: float = 0.0

  def __post_init__(self):
    for name in ("weight", "gradient_penalty", "r1"):
      if not 0 <= getattr(self, name) < math.inf:
        raise ValueError(
          f"{name} {getattr(self, name)} must be finite and not negative"
        )
    for name in ("real_label", "fake_label"):
      label = getattr(self, name)
      if not math.isfinite(label):
        raise ValueError(f"{name} {label} must be finite")
      if self.kind == "vanilla" and not 0 <= label <= 1:
        raise ValueError(
          f"{name} {label} must be in [0, 1]: a probability, to kind 'vanilla'"
        )
    logit = jnp.zeros(1)
    if self.relativistic:
      losses.relativistic_generator(logit, logit, **self._target)
    losses.adversarial(logit, real=True, for_discriminator=True, **self._target)

  @property
  def _target(self) -> dict[str, Any]:
    return {
      "kind": self.kind,
      "real_label": self.real_label,
      "fake_label": self.fake_label,
    }

  def for_generator(
    self, discriminator: Any, net: NetState, sr: jax.Array, hr: jax.Array
  ) -> tuple[jax.Array, Any]:
    """The generator's term, and the discriminator's statistics after it."""
    real, batch_stats = None, net.batch_stats
    if self.relativistic:
      real, batch_stats, _ = run(discriminator, net.params, batch_stats, hr)
    fake, batch_stats, _ = run(discriminator, net.params, batch_stats, sr)
    if real is not None:
      term = losses.relativistic_generator(real, fake, **self._target)
    else:
      term = losses.adversarial(
        fake, real=True, for_discriminator=False, **self._target
      )
    return self.weight * term, batch_stats

  def for_discriminator(
    self,
    discriminator: Any,
    params: Any,
    batch_stats: Any,
    sr: jax.Array,
    hr: jax.Array,
    key: jax.Array,
  ) -> tuple[dict[str, jax.Array], tuple[jax.Array, jax.Array], Any]:
    """The discriminator's terms; its logits, real and fake; its statistics."""
    if self.relativistic:
      compared, batch_stats, _ = run(discriminator, params, batch_stats, sr)
      real, batch_stats, _ = run(discriminator, params, batch_stats, hr)
      fake, batch_stats, _ = run(discriminator, params, batch_stats, sr)
      terms = {
        "real": losses.relativistic_discriminator(
          real, compared, real=True, **self._target
        ),
        "fake": losses.relativistic_discriminator(
          fake, real, real=False, **self._target
        ),
      }
    else:
      real, batch_stats, _ = run(discriminator, params, batch_stats, hr)
      fake, batch_stats, _ = run(discriminator, params, batch_stats, sr)
      terms = {
        name: losses.adversarial(
          logits, real=name == "real", for_discriminator=True, **self._target
        )
        for name, logits in (("real", real), ("fake", fake))
      }

    def judge(image: jax.Array) -> jax.Array:
      # By the running statistics: a slope is of one image, not of a batch.
      variables = {"params": params, "batch_stats": batch_stats}
      return discriminator.apply(variables, image)

    if self.gradient_penalty:
      alpha = jax.random.uniform(key, (hr.shape[0], 1, 1, 1))
      terms["gradient_penalty"] = (
        self.gradient_penalty
        * losses.gradient_penalty(judge, hr, sr, alpha=alpha, norm="sample")
      )
    if self.r1:
      terms["r1"] = self.r1 * losses.r1_penalty(judge, hr)
    return terms, (real, fake), batch_stats


def make_gan_step(
  generator: Any,
  discriminator: Any,
  *,
  optimizer: optax.GradientTransformationExtraArgs,
  d_optimizer: optax.GradientTransformationExtraArgs,
  loss_fn: LossTerms,
  adversarial: Adversarial,
  prepare: Prepare,
  ema_decay: float = 0.0,
  d_steps: int = 1,
  d_init_steps: int = 0,
) -> Step:
  """A step of two networks.

  Args:
    generator: `apply(variables, inputs) -> sr`.
    discriminator: `apply(variables, image) -> logits`.
    optimizer: Of the generator; see `make_optimizer`.
    d_optimizer: Of the discriminator.
    loss_fn: `(sr, hr, frozen) -> {term: loss}`: the content terms of the
      generator, weighted; the adversarial one is added. May return none.
    adversarial: The game.
    prepare: See `make_prepare` and `make_latent_prepare`.
    ema_decay: Of the generator's moving average; 0 keeps none. It moves every
      step.
    d_steps: The generator moves in every so many steps, the discriminator in
      all.
    d_init_steps: The discriminator moves alone for so many steps first.

  Returns:
    `step(state, batch, key, frozen=None) -> (state, metrics)`, `frozen` as in
    `make_step`. Where a loss or a gradient of either network is not finite,
    both and their optimizers stay as they were and the metric `skipped` is 1.

  Raises:
    ValueError: `d_steps` is less than 1, or `d_init_steps` negative.

  Source: BasicSR `SRGANModel` and `ESRGANModel.optimize_parameters`; Goodfellow
  et al. 2014, alg. 1.
  """
  if d_steps < 1 or d_init_steps < 0:
    raise ValueError(
      f"d_steps {d_steps} must be at least 1, and d_init_steps {d_init_steps} "
      "not negative"
    )

  def generator_loss(
    params: Any, state: TrainState, frozen: Any, inputs: Any, hr: Any
  ) -> tuple[jax.Array, Any]:
    stats, d_net = state.generator.batch_stats, state.discriminator
    sr, batch_stats, watched = run(generator, params, stats, inputs)
    terms = loss_fn(sr, hr, frozen)
    terms["adversarial"], d_stats = adversarial.for_generator(
      discriminator, d_net, sr, hr
    )
    return total(terms), (terms, watched, sr, batch_stats, d_stats)

  def discriminator_loss(
    params: Any, d_stats: Any, sr: Any, hr: Any, key: jax.Array
  ) -> tuple[jax.Array, Any]:
    terms, logits, d_stats = adversarial.for_discriminator(
      discriminator, params, d_stats, sr, hr, key
    )
    return total(terms), (terms, logits, d_stats)

  def step(
    state: TrainState, batch: Batch, key: jax.Array, frozen: Any = None
  ) -> tuple[TrainState, Metrics]:
    net, d_net = state.generator, state.discriminator
    prepare_key, penalty_key = jax.random.split(key)
    inputs, hr = prepare(batch, prepare_key)

    def move_generator() -> tuple[NetState, jax.Array, Any, Metrics]:
      grads, (terms, watched, sr, batch_stats, d_stats) = jax.grad(
        generator_loss, has_aux=True
      )(net.params, state, frozen, inputs, hr)
      moved = move(
        net, grads, optimizer, step=state.step, batch_stats=batch_stats
      )
      metrics = {
        "loss": total(terms),
        **named(terms),
        **watched,
        "grad_norm": optax.tree.norm(grads),
      }
      return moved, sr, d_stats, metrics

    def hold_generator() -> tuple[NetState, jax.Array, Any, Metrics]:
      sr, batch_stats, _ = run(generator, net.params, net.batch_stats, inputs)
      shapes = jax.eval_shape(move_generator)[-1]
      nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
      held = net.replace(batch_stats=batch_stats)
      return held, sr, d_net.batch_stats, nothing

    if d_steps == 1 and d_init_steps == 0:
      moves = jnp.asarray(True)
      moved, sr, d_stats, metrics = move_generator()
    else:
      number = state.step + 1
      moves = (number % d_steps == 0) & (number > d_init_steps)
      moved, sr, d_stats, metrics = jax.lax.cond(
        moves, move_generator, hold_generator
      )

    d_grads, (d_terms, (real, fake), d_stats) = jax.grad(
      discriminator_loss, has_aux=True
    )(d_net.params, d_stats, jax.lax.stop_gradient(sr), hr, penalty_key)
    d_moved = move(
      d_net, d_grads, d_optimizer, step=state.step, batch_stats=d_stats
    )
    metrics |= {f"d_loss/{name}": value for name, value in d_terms.items()}
    metrics |= {
      "d_loss": total(d_terms),
      "d_grad_norm": optax.tree.norm(d_grads),
      "d_real": real.mean(),
      "d_fake": fake.mean(),
      "d_gap": real.mean() - fake.mean(),
      "moved": moves.astype(jnp.float32),
    }
    norms = ("loss", "grad_norm", "d_loss", "d_grad_norm")
    finite = jnp.isfinite(jnp.stack([metrics[name] for name in norms])).all()
    metrics["skipped"] = 1.0 - finite.astype(jnp.float32)
    kept, d_kept = keep_where(
      finite, (average(moved, ema_decay), d_moved), (net, d_net)
    )
    state = state.replace(
      step=state.step + 1, generator=kept, discriminator=d_kept
    )
    return state, metrics

  return step
