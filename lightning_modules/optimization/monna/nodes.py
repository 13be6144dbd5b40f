"""The networks of several nodes.

One tensor has a row for each node, and all networks are evaluated together.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lightning_modules.distributed.independent import Hosted


class NodeNetworks(Hosted):
    """Copies of a network for several nodes.

    Each node has separate weights, momentum and buffers. The row of a node in `weights` contains its trainable
    parameters, flattened in the order of the parameters of the network. Each node has separate buffers, such as
    BatchNorm statistics, and separate frozen parameters.

    Args:
        network: network with the initial weights of all nodes.
        count: number of nodes.
    """

    momentum: Tensor

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__(count)
        # Not a submodule, whose weights would be registered here, too.
        self._skeleton = (copy.deepcopy(network).to("meta"),)
        trained = {name: each.detach() for name, each in network.named_parameters() if each.requires_grad}
        frozen = {name: each.detach() for name, each in network.named_parameters() if name not in trained}
        if not trained:
            raise ValueError(f"network: {type(network).__name__} has no trainable parameters for nodes to exchange")
        self.shapes = {name: each.shape for name, each in trained.items()}
        weights = torch.cat([each.flatten() for each in trained.values()])
        self.weights = nn.Parameter(weights.repeat(count, 1))
        self.register_buffer("momentum", torch.zeros_like(self.weights, requires_grad=False))
        kept = {name for name in network.state_dict() if name not in trained}
        self.others = {name: name.replace(".", "/") for name in (*frozen, *dict(network.named_buffers()))}
        for name, each in (*frozen.items(), *network.named_buffers()):
            self.register_buffer(self.others[name], each.detach().repeat(count, *[1] * each.ndim), name in kept)

    @property
    def skeleton(self) -> nn.Module:
        """The network without values, in the mode of this module.

        Lightning may set this mode without calling `train`.
        """
        return self._skeleton[0].train(self.training)

    @property
    def size(self) -> int:
        """The length D of the vector of a node."""
        return self.weights.shape[1]

    def tensors(self, whole: bool = False) -> dict[str, Tensor]:
        """Return the parameters and buffers of k nodes, `[k, ...]` each, by their names in the network.

        Args:
            whole: whether to return the tensors of all nodes, without gradient; every rank must then call this method.
                False returns the tensors of the nodes on this rank.
        """
        weights = self.whole(self.weights) if whole else self.weights
        parts = weights.split([shape.numel() for shape in self.shapes.values()], dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        trained = {name: part.unflatten(1, shape) if shape else part[:, 0] for (name, shape), part in named}
        others = {name: getattr(self, key) for name, key in self.others.items()}
        return trained | {name: self.whole(each) if whole else each for name, each in others.items()}

    def each(self, tensors: Mapping[str, Tensor], image: Tensor, shared: bool = False) -> Tensor:
        """Evaluate the network of each node on the images of the node.

        Args:
            tensors: tensors of k nodes, as the method `tensors` returns them.
            image: one batch for each node, `[k, B, C, H, W]`, or one batch for all nodes, `[B, C, H, W]`.
            shared: whether all nodes get the same batch.

        Returns:
            `[k, B, K]`.
        """

        skeleton = self.skeleton

        def one(tensors: Mapping[str, Tensor], image: Tensor) -> Tensor:
            return functional_call(skeleton, dict(tensors), (image,))

        return vmap(one, in_dims=(0, None if shared else 0), randomness="different")(dict(tensors), image)

    def forward(self, image: Tensor, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """Evaluate only the network of the first node on this rank, or of the first node in `tensors`."""
        first = {name: each[0] for name, each in (self.tensors() if tensors is None else tensors).items()}
        return functional_call(self.skeleton, first, (image,))
