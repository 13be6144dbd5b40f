"""The SVRG estimate of the gradient in the space of outputs.

If each batch contains all n samples, the loss is the sum of l_i(z_i) over these samples, where z_i is the output for
sample i. Every k-th step takes a snapshot: the gradients of all samples are computed at the current outputs z~. Every
other step computes only the gradients of a set B of b random samples:

    G_i = l_i'(z~_i) + (n/b) 1[i in B] (l_i'(z_i) - l_i'(z~_i)),    so that    E[G] = l'(z)  and
    E||G - l'(z)||^2 = (n/b - 1) sum_i ||l_i'(z_i) - l_i'(z~_i)||^2.

When SVRG is applied to the weights, the gradients at the snapshot must be computed again in each step. Here l_i depends
only on the output of sample i, so the stored gradients of the snapshot suffice. If the outputs are linear in the
weights, one small step on the surrogate is equal to one SVRG step on the weights. The surrogate depends on the outputs
of all n samples, because G contains the snapshot gradients of all samples.

Source: Johnson and Zhang, Accelerating Stochastic Gradient Descent using Predictive Variance Reduction, NIPS 2013.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from datamodules.arguments import at_least, within
from datamodules.distributed.collectives import rank, run_seed, world_size
from datamodules.randomness.generators import generator_of
from lightning_modules.distributed.per_sample import PerSample
from lightning_modules.optimization.sso.target_steps import allocate_state

SAMPLED = 9
"""Key of the random generator that selects the samples of a step."""


def svrg_estimate(snapshot: Tensor, rows: Tensor, gradient: Tensor, factor: float) -> Tensor:
    """Compute the estimate G, `[n, K]`.

    Args:
        snapshot: gradients of all samples at the snapshot, `[n, K]`.
        rows: indices of the samples that the step uses, `[b]`, int64.
        gradient: gradients of these samples at the current outputs, `[b, K]`.
        factor: the ratio n/b.
    """
    return snapshot.index_add(0, rows, gradient - snapshot[rows], alpha=factor)


class SVRG:
    """Estimator that computes the gradient with respect to all outputs from the gradients of some samples (SVRG).

    Each batch must contain all samples, so `data.batch_size` must be null.

    Args:
        samples_per_step: number b of random samples for which a step computes gradients.
        every: number k of steps between snapshots; a snapshot computes the gradients of all samples.
    """

    def __init__(self, samples_per_step: int, every: int) -> None:
        at_least(1, samples_per_step=samples_per_step, every=every)
        self.samples_per_step = samples_per_step
        self.every = every
        self.snapshot = PerSample(0)

    def sample_from(self, step: int, num_samples: int) -> Tensor:
        """Sample which positions of the global batch a step uses, `[b]`; they depend on the run's seed and the step."""
        random = generator_of(run_seed(), SAMPLED, step)
        return torch.randperm(num_samples, generator=random)[: self.samples_per_step]

    def __call__(
        self, at: Tensor, gradients: Callable[[Tensor], Tensor], index: Tensor, batch_size: int, samples: int, step: int
    ) -> Tensor:
        """Return this rank's part of G, `[b, K]`; every rank must call this method.

        Args:
            at: outputs for this rank's rows, `[b, K]`.
            gradients: function that maps row indices on this rank to the gradients of these rows.
            index: positions of this rank's rows in the training set, `[b]`.
            batch_size: global batch size.
            samples: number of training samples, n.
            step: number of steps so far.
        """
        if batch_size != samples:
            raise ValueError(
                f"svrg needs all {samples} samples in each batch, but the batch has {batch_size}: set data.batch_size "
                f"to null"
            )
        within(1, samples, **{"svrg.samples_per_step": self.samples_per_step})
        rows = torch.arange(len(at), device=at.device)
        self.snapshot = allocate_state(self.snapshot, at.flatten(1), samples)
        if step % self.every == 0:
            new = gradients(rows)
            self.snapshot.update(index, new.flatten(1), lambda old, value: value, batch_size)
            return new
        kept = self.snapshot.update(index, at.flatten(1), lambda old, value: old, batch_size).view_as(at)
        chosen = self.sample_from(step, samples)
        own = (chosen[chosen % world_size() == rank()] // world_size()).to(at.device, non_blocking=True)
        return svrg_estimate(kept, own, gradients(own), samples / self.samples_per_step)
