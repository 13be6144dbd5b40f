"""Any forward operator of deepinv as an operator here, such as tomography or MRI, with `deepinv` installed."""

import torch
from torch import Tensor, nn

from datamodules.corruptions.operators.interface import Operator


class DeepinvPhysics(Operator):
    """A `deepinv.physics.Physics`: its `A` measures, its `A_dagger` is the pseudo-inverse, and its noise is not used.

    The operator is applied to images in [-1, 1], as the others of this folder are; noise is the DataModule's `sigma`.

    Args:
        physics: the deepinv operator, such as `deepinv.physics.Tomography`.
        measures_images: whether a measurement is an image, which a file can hold.

    Raises:
        TypeError: if `physics` has no `A` or no `A_dagger`.
    """

    def __init__(self, physics: nn.Module, measures_images: bool = False) -> None:
        lacking = [name for name in ("A", "A_dagger") if not callable(getattr(physics, name, None))]
        if lacking:
            kind = type(physics).__name__
            raise TypeError(f"physics must be a deepinv.physics.Physics, and {kind} has no {' and no '.join(lacking)}")
        self.physics = physics.requires_grad_(False)
        self.measures_images = measures_images

    def forward(self, image: Tensor) -> Tensor:
        return self._on(image).A(image)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        with torch.set_grad_enabled(measured.requires_grad):
            return self._on(measured).A_dagger(measured)

    def _on(self, tensor: Tensor) -> nn.Module:
        """The operator on a tensor's device; PyTorch moves what lies elsewhere, once."""
        return self.physics.to(tensor.device)
