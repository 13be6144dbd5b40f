"""A linear classifier on unit-length embeddings. LSA's authors use it to train CLIP's image encoder."""

import torch.nn.functional as F
from torch import Tensor, nn


class UnitEmbeddingClassifier(nn.Module):
    """Compute the logits W z / |z| + b for an image's embedding z.

    Source: code of Albert, Arazo, O'Connor and McGuinness (LSA), ECCV 2024, arXiv 2407.05528.

    Args:
        network: maps images `[B, C, H, W]` in [0, 1] to embeddings `[B, num_features]`.
        num_features: number of values of an embedding.
        num_classes: number of logits, K.
    """

    def __init__(self, network: nn.Module, num_features: int, num_classes: int) -> None:
        super().__init__()
        for key, value in {"num_features": num_features, "num_classes": num_classes}.items():
            if value < 1:
                raise ValueError(f"{key} must be positive, got {value}")
        self.network = network
        self.classifier = nn.Linear(num_features, num_classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(F.normalize(self.network(image), dim=1))
