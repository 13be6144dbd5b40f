"""Adapter for forward operators of the package deepinv, such as those of tomography and MRI."""

from typing import Any

from torch import Tensor, nn

from datamodules.corruptions.operators.interface import Operator


class DeepinvPhysics(Operator):
    """Operator that wraps a `deepinv.physics.Physics`.

    The method `A` of the deepinv object is the forward operator, and its method `A_dagger` is the pseudo-inverse.
    Images are in [-1, 1], as for all operators. The noise model of the deepinv object is not used. Instead, the
    DataModule's argument `sigma` determines the noise.

    Args:
        physics: operator of deepinv, such as `deepinv.physics.Tomography`.
        measures_images: whether measurements are images that can be written to files.
    """

    def __init__(self, physics: nn.Module, measures_images: bool = False) -> None:
        lacking = [name for name in ("A", "A_dagger") if not callable(getattr(physics, name, None))]
        if lacking:
            kind = type(physics).__name__
            raise TypeError(f"physics must be a deepinv.physics.Physics, but {kind} has no {' and no '.join(lacking)}")
        self.physics = physics.requires_grad_(False)
        self.measures_images = measures_images

    def forward(self, image: Tensor) -> Tensor:
        return self._on(image).A(image)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        return self._on(measured).A_dagger(measured)

    def _on(self, tensor: Tensor) -> Any:
        """Return the operator on the device of a tensor.

        The operator is not copied if it is already on this device.
        """
        return self.physics.to(tensor.device)
