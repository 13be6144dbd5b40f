"""The networks of several nodes, which are evaluated together.

The trainable parameters of all nodes are stored in one tensor, with one row per node.
"""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from lightning_modules.distributed.independent import Hosted


class NodeNetworks(Hosted):
    """Copies of a network for several nodes.

    Each node has its own trainable parameters, momentum, frozen parameters and buffers, such as BatchNorm statistics.
    The row of a node in `weights` contains its trainable parameters, flattened and concatenated in the order of the
    network's parameters.

    Args:
        network: network whose weights are the initial weights of all nodes.
        count: number of nodes.
    """

    momentum: Tensor

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__(count)
        # The tuple keeps the network from being registered as a submodule together with its weights.
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
        """The network on the meta device, in the training or evaluation mode of this module.

        The mode is set on each access, because Lightning may change the mode of this module without calling `train`.
        """
        return self._skeleton[0].train(self.training)

    @property
    def size(self) -> int:
        """The length D of the parameter vector of a node."""
        return self.weights.shape[1]

    def tensors(self, whole: bool = False) -> dict[str, Tensor]:
        """Return the parameters and buffers of k nodes, each `[k, ...]`, by their names in the network.

        Args:
            whole: True returns the tensors of all nodes, without gradients; every rank must then call this method.
                False returns the tensors of the nodes on this rank.
        """
        weights = self.whole(self.weights) if whole else self.weights
        parts = weights.split([shape.numel() for shape in self.shapes.values()], dim=1)
        named = zip(self.shapes.items(), parts, strict=True)
        trained = {name: part.unflatten(1, shape) if shape else part[:, 0] for (name, shape), part in named}
        others = {name: getattr(self, key) for name, key in self.others.items()}
        return trained | {name: self.whole(each) if whole else each for name, each in others.items()}

    def each(self, tensors: Mapping[str, Tensor], image: Tensor, shared: bool = False) -> Tensor:
        """Evaluate the network of each node on its own images or on shared images.

        Args:
            tensors: parameters and buffers of k nodes, as returned by the method `tensors`.
            image: one batch for each node, `[k, B, C, H, W]`, or one batch for all nodes, `[B, C, H, W]`.
            shared: whether all nodes use the same batch.

        Returns:
            The logits, `[k, B, K]`.
        """

        skeleton = self.skeleton

        def one(tensors: Mapping[str, Tensor], image: Tensor) -> Tensor:
            return functional_call(skeleton, dict(tensors), (image,))

        return vmap(one, in_dims=(0, None if shared else 0), randomness="different")(dict(tensors), image)

    def forward(self, image: Tensor, tensors: Mapping[str, Tensor] | None = None) -> Tensor:
        """Evaluate the network of one node: the first one in `tensors` or, by default, the first one on this rank."""
        first = {name: each[0] for name, each in (self.tensors() if tensors is None else tensors).items()}
        return functional_call(self.skeleton, first, (image,))
