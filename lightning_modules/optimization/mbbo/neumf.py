"""NeuMF: scores of items by products of users' and items' vectors and by a perceptron on other ones.

Source: He, Liao, Zhang, Nie, Hu and Chua, Neural Collaborative Filtering, WWW 2017, arXiv 1708.05031.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class NeuMF(nn.Module):
    """Score items for users, `[b, J]`, by the users' numbers `[b]` and the items' `[b, J]`.

    Args:
        users: number of users.
        items: number of items.
        width: numbers in each vector.
        hidden_features: widths of the perceptron's layers.
        dropout: probability in the perceptron.
    """

    def __init__(
        self, users: int, items: int, width: int = 64, hidden_features: Sequence[int] = (64,), dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.users, self.items = (nn.ModuleList([nn.Embedding(n, width) for _ in range(2)]) for n in (users, items))
        layers: list[nn.Module] = []
        for given, made in zip((2 * width, *hidden_features), hidden_features, strict=False):
            layers += [nn.Linear(given, made), nn.ReLU(), nn.Dropout(dropout)]
        self.perceptron = nn.Sequential(*layers)
        self.last = nn.Linear((hidden_features[-1] if hidden_features else 2 * width) + width, 1, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Embedding, nn.Linear)):
                nn.init.normal_(module.weight, std=0.01)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        first, second = (vectors(user)[:, None].expand(-1, item.shape[1], -1) for vectors in self.users)
        product = first * self.items[0](item)
        joined = torch.cat([second, self.items[1](item)], dim=2)
        return self.last(torch.cat([product, self.perceptron(joined)], dim=2))[..., 0]
