"""AutoAttack, an ensemble of four attacks: two variants of PGD without a step-size parameter, FAB, and Square.

Each attack runs only on the images that are still classified correctly after all previous attacks. The package
`pyautoattack` is derived from the authors' code.

Source: Croce and Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse Parameter-free
Attacks, ICML 2020, arXiv 2003.01690.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from datamodules.arguments import at_least, one_of
from lightning_modules.robustness.attacks.ascent import Attack, Generators, Network, Norm, without_float16
from lightning_modules.robustness.mean_prediction import log_mean_softmax


def with_fixed_draws(evaluate: Callable[[Tensor, Tensor], Tensor], noise: Tensor) -> Network:
    """Make a smoothed classifier deterministic by using the same noise for all images and all calls.

    The class probabilities are averaged over noise samples and votes, and the logits are the logarithms of these
    averages. The backward pass recomputes the activations, so that memory does not grow with the number of noise
    samples.

    Args:
        evaluate: function that maps images `[B, C, H, W]` and noise of the same shape to the logits `[S, B, K]` of S
            votes.
        noise: noise samples, `[m, C, H, W]`.
    """

    def network(image: Tensor) -> Tensor:
        votes = [
            checkpoint(evaluate, image, one.expand_as(image), use_reentrant=False, preserve_rng_state=False)
            for one in noise
        ]
        return log_mean_softmax(torch.cat(votes))

    return network


@dataclass(frozen=True)
class AutoAttack(Attack):
    """AutoAttack on a deterministic classifier.

    Args:
        norm: norm of the budget, `linf` or `l2`.
        epsilon: budget, in pixel units. On CIFAR-10, 8/255 (0.03137) is common for `linf`, and 0.5 for `l2`.
        version: version of AutoAttack: `standard`, or `plus`, which has more attacks and restarts. The version for
            randomised classifiers is not supported: in this version, a single random evaluation would decide whether an
            image is attacked and whether an attack has succeeded.
        num_draws: number of fixed noise samples that `RobustAccuracy` uses for a smoothed classifier. The cost is
            proportional to this number.
        name: name in tables and metrics; None uses `autoattack_<norm>_<epsilon>`.
    """

    norm: Norm
    epsilon: float
    version: Literal["standard", "plus"] = "standard"
    num_draws: int = 100
    name: str | None = None
    steps = 100
    restarts = 1

    def __post_init__(self) -> None:
        self.check()
        one_of(("standard", "plus"), version=self.version)
        at_least(1, num_draws=self.num_draws)
        if importlib.util.find_spec("pyautoattack") is None:
            raise ModuleNotFoundError("AutoAttack needs the package pyautoattack: pip install noiseworks[attacks]")

    @without_float16()
    def perturb(
        self,
        network: Network,
        image: Tensor,
        label: Tensor,
        generators: Generators = None,
        logits: Tensor | None = None,
    ) -> Tensor:
        """Attack images; see `Attack.perturb`.

        The first generator determines the random numbers for the whole batch.

        Raises:
            ValueError: if the classifier has fewer than four classes, or images are too small for the Square attack.
        """
        import pyautoattack

        with torch.no_grad():
            num_classes = (network(image[:1]) if logits is None else logits).shape[1]
        if num_classes < 4:
            raise ValueError(f"AutoAttack needs at least 4 classes, but this classifier has {num_classes}: use PGD")
        if self.norm == "l2" and image.shape[2] < 5:
            raise ValueError(
                f"AutoAttack with norm l2 needs images at least 5 pixels high, got {image.shape[2]}: use PGD"
            )
        attack = pyautoattack.AutoAttack(
            # The package combines logits and images in one computation, so both must have the same dtype.
            lambda perturbed: network(perturbed).to(perturbed.dtype),
            norm={"linf": "Linf", "l2": "L2"}[self.norm],
            eps=self.epsilon,
            version=self.version,
            device=image.device,
            seed=int(torch.randint(2**31, (), generator=generators[0] if generators else None)),
        )
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, num_classes - 1)
        adversarial, _ = attack.run_standard_evaluation(image, label, batch_size=len(image))
        return adversarial.detach()
