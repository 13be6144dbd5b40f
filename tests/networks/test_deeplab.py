from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50
from torchvision.models.segmentation import deeplabv3_resnet50 as torchvision_deeplab

from lightning_modules.networks.deeplab import deeplabv3_resnet50
from tests.networks.compared import count


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a complete network with 21 categories and an auxiliary classifier, in torchvision's weight layout."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "deeplab.pth"
    network = torchvision_deeplab(weights=None, weights_backbone=None, num_classes=21, aux_loss=True)
    torch.save(network.state_dict(), path)
    return path


def test_logits_are_those_of_the_saved_network(saved: Path) -> None:
    reference = torchvision_deeplab(weights=None, weights_backbone=None, num_classes=21, aux_loss=True).eval()
    reference.load_state_dict(torch.load(saved, weights_only=True))
    network = deeplabv3_resnet50(21, weights=str(saved)).eval()
    image = torch.rand(1, 3, 33, 40)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        logits = network(image)
        torch.testing.assert_close(logits, reference((image - mean) / std)["out"])
    assert logits.shape == (1, 21, 33, 40)


def test_another_number_of_categories_keeps_all_but_the_last_layer(saved: Path) -> None:
    state = torch.load(saved, weights_only=True)
    network = deeplabv3_resnet50(5, weights=str(saved), normalize=False)
    own = {key.removeprefix("network."): value for key, value in network.state_dict().items()}
    assert own["classifier.4.weight"].shape == (5, 256, 1, 1)
    kept = [key for key in own if not key.startswith("classifier.4")]
    assert all(torch.equal(own[key], state[key]) for key in kept)
    assert not any(key.startswith("aux") for key in own)


def test_a_classifiers_weights_go_into_the_backbone(tmp_path: Path) -> None:
    classifier = resnet50(weights=None)
    torch.save(classifier.state_dict(), tmp_path / "resnet50.pth")
    network = deeplabv3_resnet50(3, weights=str(tmp_path / "resnet50.pth"), normalize=False)
    own, theirs = network.state_dict(), classifier.state_dict()
    backbone = {key.removeprefix("network.backbone."): own[key] for key in own if ".backbone." in key}
    assert set(backbone) == {key for key in theirs if not key.startswith("fc.")}
    assert all(torch.equal(backbone[key], theirs[key]) for key in backbone)


def test_parameters_on_the_meta_device_whatever_the_weights() -> None:
    """The network has 39,638,869 parameters with 21 categories (torchvision), and 257 fewer for each category less."""
    with torch.device("meta"):
        network = deeplabv3_resnet50(20, pretrained_backbone=True)
    assert count(network) == 39_638_869 - 257
