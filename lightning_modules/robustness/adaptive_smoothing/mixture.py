"""Mixture of two frozen classifiers.

The weight alpha of the robust classifier is either fixed, or predicted for each image by a mixing network. The mixing
network P maps intermediate features of both classifiers to one number per image. BN normalises this number to mean 0
and variance 1. With this number, the weight is computed as

    gamma = BN(P(features)) gamma_scale + gamma_bias,   alpha = sigmoid(gamma) alpha_scale + alpha_bias.

Training differs in two ways. First, the output of P is clamped to within 0.6 standard deviations of the batch mean
before BN; clamped values have no gradient. Second, alpha is sigmoid(gamma), and gamma has a scale and a bias that are
used only in training.

Source: Bai, Anderson, Kim and Sojoudi, Improving the Accuracy-Robustness Trade-Off of Classifiers via Adaptive
Smoothing, SIAM Journal on Mathematics of Data Science 2024, arXiv 2301.12554, with the constants of the authors' code.
The batch normalisation and the clamp use the statistics of the global batch. The authors' code uses the statistics of
the first rank.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from scipy.special import logit
from torch import Tensor, nn

from datamodules.arguments import at_least, positive, within
from lightning_modules.backbones.adaptation import frozen
from lightning_modules.backbones.layer_features import named_layer, tap_layers
from lightning_modules.distributed.global_rows import global_sum
from lightning_modules.full_precision import at_least_float32
from lightning_modules.interfaces import MixtureOutput
from lightning_modules.networks.mlp import MLP
from lightning_modules.networks.preact_resnet import PreActBlock
from lightning_modules.robustness.adaptive_smoothing.mixing import log_mixture

CLAMP_DEVIATIONS = 0.6


class ClampedBatchNorm(nn.Module):
    """Layer that clamps and batch-normalises one number per image.

    In training, the layer uses the statistics of the global batch.

    Args:
        momentum: weight of the current batch when the running statistics are updated.
        eps: constant added to the variance for numerical stability.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, momentum: float, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(()))
        self.register_buffer("running_var", torch.ones(()))

    def forward(self, raw: Tensor) -> Tensor:
        """Map raw outputs `[B]` to normalised outputs `[B]`.

        In training, the global batch must have at least two images.
        """
        if not self.training:
            return (raw - self.running_mean) / (self.running_var + self.eps).sqrt()
        count = global_sum(torch.ones_like(raw).sum())
        with torch.no_grad():
            mean = global_sum(raw.sum()) / count
            reach = CLAMP_DEVIATIONS * (global_sum((raw - mean).square().sum()) / (count - 1)).sqrt()
        clamped = raw.clamp(mean - reach, mean + reach)
        mean = global_sum(clamped.sum()) / count
        variance = global_sum((clamped - mean).square().sum()) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance * count / (count - 1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return (clamped - mean) / (variance + self.eps).sqrt()


class MixingResNet(nn.Module):
    """Mixing network for convolutional classifiers: three stages of two blocks from `preact_resnet.py`.

    The first stage halves the resolution of the first feature maps. A 1x1 convolution of the second feature maps is
    then added to the output of the first stage. With the paper's classifiers, the network has 67.8 million parameters.

    Args:
        in_channels: number of channels of the first feature maps, summed over both classifiers.
        second_channels: number of channels of the second feature maps, summed over both classifiers. These maps have
            half the resolution of the first feature maps.
        widths: numbers of channels of the three stages.
    """

    def __init__(self, in_channels: int, second_channels: int, widths: Sequence[int] = (512, 768, 1024)) -> None:
        super().__init__()
        at_least(1, in_channels=in_channels, second_channels=second_channels)
        if len(widths) != 3 or min(widths) < 1:
            raise ValueError(f"widths must be three integers of at least 1, got {list(widths)}")
        self.stages = nn.ModuleList(
            nn.Sequential(PreActBlock(narrow, wide, stride=2), PreActBlock(wide, wide, stride=1))
            for narrow, wide in pairwise([in_channels, *widths])
        )
        self.second = nn.Conv2d(second_channels, widths[0], 1, bias=False)
        self.linear = nn.Linear(widths[2], 1, bias=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Map features `[B, C1, H, W]` and `[B, C2, H/2, W/2]` to `[B, 1]`."""
        x = self.stages[0](first) + self.second(second)
        x = self.stages[2](self.stages[1](x))
        return self.linear(x.mean(dim=(-2, -1)))


class MixingPerceptron(nn.Module):
    """Mixing network for flattened features.

    Args:
        in_features: number of features per image, summed over both classifiers.
        hidden_features: widths of the hidden layers.
    """

    def __init__(self, in_features: int, hidden_features: list[int]) -> None:
        super().__init__()
        self.network = MLP(in_features, hidden_features, 1)

    def forward(self, *features: Tensor) -> Tensor:
        """Map features `[B, ...]` to `[B, 1]`."""
        return self.network(torch.cat([feature.flatten(1) for feature in features], dim=1))


@dataclass(frozen=True)
class AlphaRange:
    """Scales and biases that map the normalised output of the mixing network to gamma and alpha.

    Args:
        gamma_scale: scale of gamma.
        gamma_bias: bias of gamma.
        alpha_scale: width of the range of alpha.
        alpha_bias: smallest alpha.
    """

    gamma_scale: float = 2.0
    gamma_bias: float = 1.3
    alpha_scale: float = 0.15
    alpha_bias: float = 0.84

    def __post_init__(self) -> None:
        positive(gamma_scale=self.gamma_scale)
        if self.alpha_scale < 0 or self.alpha_bias < 0 or self.alpha_scale + self.alpha_bias > 1 + 1e-9:
            raise ValueError(
                f"alpha_scale and alpha_bias must be at least 0 and their sum at most 1, got {self.alpha_scale} and "
                f"{self.alpha_bias}"
            )

    def alpha(self, gamma: Tensor) -> tuple[Tensor, Tensor]:
        """Compute both alpha and 1 - alpha without loss of precision."""
        rest = 1 - self.alpha_scale - self.alpha_bias
        return (
            torch.sigmoid(gamma) * self.alpha_scale + self.alpha_bias,
            torch.sigmoid(-gamma) * self.alpha_scale + max(rest, 0.0),
        )


class Mixture(nn.Module):
    """Mixture of two frozen classifiers, which are always in evaluation mode, and a trainable mixing network.

    The mixture maps images `[B, C, H, W]` in [0, 1] to log-probabilities `[B, K]`.

    Args:
        accurate: accurate classifier g, which maps images in [0, 1] to logits `[B, K]`.
        robust: robust classifier h of the same classes.
        mixing_network: network that maps features to `[B, 1]`. Its k-th input is the concatenated output of the k-th
            submodule in `accurate_features` and the k-th submodule in `robust_features`. Without a mixing network,
            `alpha` must be given.
        alpha: weight of h in evaluation, in [0, 1]; None uses the prediction of the mixing network for each image.
        accurate_features: names of the submodules of g whose outputs are inputs of the mixing network, for example
            `layer1`, or `stages.0` for a timm network.
        robust_features: names of the submodules of h whose outputs are inputs of the mixing network. There must be as
            many as in `accurate_features`, and the two outputs of each pair must have the same height and width.
        accurate_scale: factor s_g by which the logits of g are multiplied.
        robust_scale: factor s_h by which the logits of h are multiplied.
        evaluation: scales and biases of gamma and alpha in evaluation.
        momentum: weight of the current batch when the running statistics of BN are updated. The running statistics are
            used in evaluation and when generating attacks during training. Runs of a few hundred steps need a larger
            momentum than the 0.01 that the authors use.
        policy_graph: whether gradients flow through the input features of the mixing network. If so, attacks can
            exploit how the image affects alpha.
    """

    alpha: float | None
    in_training = AlphaRange(gamma_scale=2.0, gamma_bias=0.4, alpha_scale=1.0, alpha_bias=0.0)
    """Scales and biases in training, including the attacks in training."""

    def __init__(
        self,
        accurate: nn.Module,
        robust: nn.Module,
        mixing_network: nn.Module | None = None,
        alpha: float | None = None,
        accurate_features: list[str] | None = None,
        robust_features: list[str] | None = None,
        accurate_scale: float = 1.0,
        robust_scale: float = 1.0,
        evaluation: AlphaRange = AlphaRange(),
        momentum: float = 0.01,
        policy_graph: bool = True,
    ) -> None:
        super().__init__()
        within(0, math.inf, "()", accurate_scale=accurate_scale, robust_scale=robust_scale)
        within(0, 1, "(]", momentum=momentum)
        features = {"accurate_features": accurate_features or [], "robust_features": robust_features or []}
        for (key, names), network in zip(features.items(), (accurate, robust), strict=True):
            for name in names:
                named_layer(network, name, key)
        numbers = {key: len(names) for key, names in features.items()}
        if len(set(numbers.values())) > 1 or (mixing_network is not None) != (numbers["accurate_features"] > 0):
            raise ValueError(
                f"accurate_features and robust_features must name the same number of submodules (at least 1 with a "
                f"mixing_network, 0 without), got {numbers['accurate_features']} and {numbers['robust_features']}"
            )
        self.accurate = frozen(accurate)
        self.robust = frozen(robust)
        self.mixing_network = mixing_network
        self.features = list(features.values())
        self.choose(alpha)
        self.accurate_scale = accurate_scale
        self.robust_scale = robust_scale
        self.evaluation = evaluation
        self.policy_graph = policy_graph
        self.normalization = ClampedBatchNorm(momentum)
        self.register_load_state_dict_pre_hook(without_extra_state)

    def choose(self, alpha: float | None) -> None:
        """Set the weight of h in evaluation; see the argument `alpha` of the class.

        Raises:
            ValueError: if `alpha` is outside [0, 1].
        """
        within(0, 1, alpha=alpha)
        self.alpha = alpha

    def forward(self, image: Tensor) -> Tensor:
        return self.mixture_output(image, self.alpha).log_probability

    def mixture_output(self, image: Tensor, alpha: float | None = None) -> MixtureOutput:
        """Compute the output of the mixture in evaluation; alpha is fixed, or predicted by the mixing network."""
        return self.mix(image, self.evaluation) if alpha is None else self.mix_at(image, alpha)

    def extra_repr(self) -> str:
        scales = f"accurate_scale={self.accurate_scale}, robust_scale={self.robust_scale}"
        return (
            f"alpha={self.alpha}, {scales}, evaluation={tuple(vars(self.evaluation).values())}, "
            f"features={self.features}, policy_graph={self.policy_graph}"
        )

    def mix(self, image: Tensor, alpha_range: AlphaRange) -> MixtureOutput:
        """Evaluate the mixture with the alpha predicted by the mixing network.

        Args:
            image: `[B, C, H, W]`, in [0, 1].
            alpha_range: scales and biases of gamma and alpha: `self.evaluation` or `self.in_training`.
        """
        if self.mixing_network is None:
            raise ValueError("alpha must be given, because network has no mixing_network to predict it")
        of_g, of_h = (
            {name: named_layer(network, name) for name in names}
            for network, names in zip((self.accurate, self.robust), self.features, strict=True)
        )
        with tap_layers(of_g) as seen_g, tap_layers(of_h) as seen_h:
            logits_g, logits_h = self.accurate(image), self.robust(image)
        features = [torch.cat([seen_g[a][-1], seen_h[b][-1]], dim=1) for a, b in zip(*self.features, strict=True)]
        if not self.policy_graph:
            features = [feature.detach() for feature in features]
        raw = at_least_float32(self.mixing_network(*features)[:, 0])
        gamma = self.normalization(raw) * alpha_range.gamma_scale + alpha_range.gamma_bias
        alpha, complement = alpha_range.alpha(gamma)
        mixed = log_mixture(self.accurate_scale * logits_g, self.robust_scale * logits_h, alpha, complement)
        return MixtureOutput(mixed, gamma, alpha)

    def mix_at(self, image: Tensor, alpha: float) -> MixtureOutput:
        """Evaluate the mixture with a fixed alpha in [0, 1].

        If alpha is 0 or 1, only one classifier is evaluated.
        """
        if alpha in (0, 1):
            network, scale = (self.robust, self.robust_scale) if alpha else (self.accurate, self.accurate_scale)
            mixed = at_least_float32(scale * network(image)).log_softmax(dim=1)
        else:
            mixed = log_mixture(self.accurate_scale * self.accurate(image), self.robust_logits(image), alpha)
        gamma = float(logit(alpha))
        return MixtureOutput(mixed, mixed.new_full(mixed.shape[:1], gamma), mixed.new_full(mixed.shape[:1], alpha))

    def robust_logits(self, image: Tensor) -> Tensor:
        """Compute the scaled logits s_h h(x) of the robust classifier, `[B, K]`."""
        return self.robust_scale * self.robust(image)


def without_extra_state(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop the extra state (alpha and scales) that checkpoints of early versions contain."""
    state.pop(f"{prefix}_extra_state", None)
