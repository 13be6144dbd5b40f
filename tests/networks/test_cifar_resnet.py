import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.backbones import Normalized, with_weights
from lightning_modules.networks.cifar_resnet import CIFARResNet
from tests.networks.compared import normalized, rectified, warmed


def functional(state: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    x = rectified(state, F.conv2d(x, state["conv1.weight"], padding=1), "bn1")
    for stage in (1, 2, 3):
        for block in (f"layer{stage}.{i}" for i in range(blocks)):
            stride = 2 if stage > 1 and block.endswith(".0") else 1
            y = F.conv2d(x, state[f"{block}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(rectified(state, y, f"{block}.bn1"), state[f"{block}.conv2.weight"], padding=1)
            if stride == 2:
                zeros = torch.zeros(len(x), x.shape[1] // 2, *y.shape[2:], dtype=x.dtype)
                x = torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1)
            x = (x + normalized(state, y, f"{block}.bn2")).clamp(min=0)
    return x.mean(dim=(2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_output_equals_an_independent_computation() -> None:
    network, image = warmed(CIFARResNet(14), 5, 3, 32, 32)
    torch.testing.assert_close(network(image), functional(network.state_dict(), image, blocks=2))
    torch.testing.assert_close(network.linear(network.forward_features(image)), network(image))


@pytest.mark.data
@pytest.mark.parametrize(("depth", "accuracy"), [(20, 0.810)])
def test_published_weights_reach_their_accuracy_on_the_jpeg_test_set(depth: int, accuracy: float) -> None:
    from PIL import Image
    from pyarrow.parquet import read_table

    root = os.environ.get("NOISEWORKS_DATA")
    if not root:
        pytest.skip("NOISEWORKS_DATA is not set: CIFAR-10 in parquet and the weights of ResNet-20 are not at hand")
    parquet = next((Path(root) / "cifar10" / "plain_text").glob("test-*.parquet"), None)
    weights = Path(root) / "weights" / f"resnet{depth}_cifar10.safetensors"
    if parquet is None or not weights.exists():
        pytest.skip(f"NOISEWORKS_DATA={root} has no cifar10/plain_text/test-*.parquet or no {weights.name}")
    table = read_table(parquet).to_pydict()
    images = np.stack([np.asarray(Image.open(io.BytesIO(image["bytes"]))) for image in table["img"]])
    image = torch.from_numpy(images).permute(0, 3, 1, 2)
    network = Normalized(CIFARResNet(depth), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with_weights(network, str(weights)).eval()
    with torch.inference_mode():
        prediction = torch.cat([network(batch.float() / 255).argmax(dim=1) for batch in image.split(500)])
    measured = (prediction == torch.tensor(table["label"])).float().mean().item()
    assert measured == pytest.approx(accuracy, abs=0.003)
