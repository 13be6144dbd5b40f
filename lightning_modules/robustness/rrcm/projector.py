"""Put a perceptron between features and the contrastive loss; fine-tuning leaves it behind."""

from torch import Tensor, nn


class Projector(nn.Module):
    """Linear-BatchNorm-ReLU twice, then linear; no linear layer has a bias.

    Args:
        in_features: number of the encoder's features, D.
        hidden_features: number of hidden features.
        out_features: number of the features that are compared.
        batch_norm: False leaves the normalisation out; with it each process normalises by its share of the batch,
            unless `trainer.sync_batchnorm` is on.
    """

    def __init__(
        self, in_features: int, hidden_features: int = 2048, out_features: int = 256, batch_norm: bool = True
    ) -> None:
        super().__init__()

        def normalized() -> nn.Module:
            return nn.BatchNorm1d(hidden_features) if batch_norm else nn.Identity()

        self.layers = nn.Sequential(
            nn.Linear(in_features, hidden_features, bias=False),
            normalized(),
            nn.ReLU(),
            nn.Linear(hidden_features, hidden_features, bias=False),
            normalized(),
            nn.ReLU(),
            nn.Linear(hidden_features, out_features, bias=False),
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Maps `[B, D]` to `[B, out_features]`."""
        return self.layers(feature)
