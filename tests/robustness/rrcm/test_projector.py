import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_modules.robustness.rrcm.projector import Projector


@pytest.mark.parametrize("batch_norm", [True, False])
def test_no_linear_layer_of_the_projector_has_a_bias(batch_norm: bool) -> None:
    projector = Projector(3, 5, 2, batch_norm).double()
    first, second, last = [layer.weight for layer in projector.layers if isinstance(layer, nn.Linear)]
    feature = torch.randn(4, 3, dtype=torch.float64)

    def rectified(x: Tensor) -> Tensor:
        return F.relu((x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() if batch_norm else x)

    torch.testing.assert_close(projector(feature), rectified(rectified(feature @ first.T) @ second.T) @ last.T)
    assert sum(parameter.numel() for parameter in projector.parameters()) == 3 * 5 + 5 * 5 + 5 * 2 + 20 * batch_norm
