import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.backbones import transformers_model
from lightning_modules.backbones.adaptation import Adapters

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION: dict[str, Any] = {**SMALL, "image_size": 16, "patch_size": 4}
TEXT = {**SMALL, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
HALF = [0.5, 0.5, 0.5]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save tiny networks with random weights in the layout of `save_pretrained`."""
    root = tmp_path_factory.mktemp("transformers")
    torch.manual_seed(0)
    clip = transformers.CLIPConfig(vision_config={**VISION, "projection_dim": 12}, text_config=TEXT, projection_dim=12)
    transformers.CLIPModel(clip).save_pretrained(root / "clip")
    statistics = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (root / "clip/preprocessor_config.json").write_text(json.dumps(statistics))
    transformers.ViTModel(transformers.ViTConfig(**VISION)).save_pretrained(root / "vit")
    stages: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    transformers.ResNetModel(transformers.ResNetConfig(**stages)).save_pretrained(root / "resnet")
    transformers.BertModel(transformers.BertConfig(**TEXT)).save_pretrained(root / "bert")
    return root


@pytest.fixture
def image() -> Tensor:
    return torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_features_of_clip_are_those_of_its_vision_tower_for_images_in_the_unit_interval(
    saved: Path, image: Tensor
) -> None:
    clip = transformers.CLIPModel.from_pretrained(saved / "clip").eval()
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]))
    with torch.no_grad():
        output = clip.vision_model(pixel_values=(image - mean) / std)
        expected = {
            "pooled": output.pooler_output,
            "first_token": output.last_hidden_state[:, 0],
            "mean_token": output.last_hidden_state.mean(dim=1),
            "projected": clip.visual_projection(output.pooler_output),
        }
        for features, value in expected.items():
            network = transformers_model(str(saved / "clip"), features=features, tuning="frozen")  # type: ignore[arg-type]
            torch.testing.assert_close(network(image), value)
            assert network.network.num_features == value.shape[1]  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "width"), [("vit", 32), ("resnet", 16)])
def test_any_vision_network_gives_features_and_logits(name: str, width: int, saved: Path, image: Tensor) -> None:
    for features in ("pooled", "mean_token"):
        options: dict[str, Any] = {"features": features, "mean": HALF, "std": HALF}
        assert transformers_model(str(saved / name), **options)(image).shape == (3, width)
        assert transformers_model(str(saved / name), num_classes=5, **options)(image).shape == (3, 5)


@pytest.mark.parametrize(
    ("tuning", "trained"),  # a classifier with 5 outputs; with lora, also rank-2 adapters of two matrices in two layers
    [("linear_probe", 165), ("lora", 165 + 2 * 2 * 2 * (32 + 64)), ("frozen", 0)],
)
def test_tuning_decides_what_trains(tuning: Any, trained: int, saved: Path, image: Tensor) -> None:
    options: Any = {"adapters": Adapters(rank=2, targets=["fc1", "fc2"])} if tuning == "lora" else {}
    network = transformers_model(str(saved / "clip"), 5, tuning=tuning, **options)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == trained
    assert network(image).shape == (3, 5)


def test_without_weights_it_is_drawn_anew_and_on_the_meta_device_nothing_is_read(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((saved / "clip/config.json").read_text())
    options: dict[str, Any] = {"mean": HALF, "std": HALF}
    one, other = (transformers_model(str(tmp_path), pretrained=False, **options) for _ in range(2))
    weight = next(name for name in one.state_dict() if name.endswith("encoder.layers.0.mlp.fc1.weight"))
    assert not torch.equal(one.state_dict()[weight], other.state_dict()[weight])
    with torch.device("meta"):
        network = transformers_model(str(tmp_path), 7, **options)
        assert network(torch.empty(2, 3, 16, 16)).shape == (2, 7)
    with pytest.raises(FileNotFoundError, match=r"no weights of CLIPVisionModel for .*: expected model\.safetensors"):
        transformers_model(str(tmp_path), **options)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("bert", {}, ValueError, "bert is not a vision network of transformers"),
        ("nothing", {}, FileNotFoundError, r"no transformers network at .*: expected a folder with config"),
        ("vit", {"mean": None}, ValueError, "mean must be given: there is no image_mean in preprocessor_config"),
        ("vit", {"features": "projected"}, ValueError, "features: projected .* vit has no projection"),
        ("vit", {"features": "x"}, ValueError, "must be one of pooled, first_token, mean_token, projected, got 'x'"),
        ("vit", {"tuning": "linear_probe"}, ValueError, "linear_probe trains the classifier, but num_classes=0 leaves"),
        ("cut", {}, ValueError, r"lack: .*and \d+ more"),
    ],
)
def test_what_does_not_fit_is_named(
    name: str, options: dict[str, Any], error: type[Exception], message: str, saved: Path
) -> None:
    (saved / "nothing").mkdir(exist_ok=True)
    (saved / "cut").mkdir(exist_ok=True)
    save_file({"layernorm.weight": torch.ones(32)}, saved / "cut/model.safetensors", {"format": "pt"})
    (saved / "cut/config.json").write_text((saved / "vit/config.json").read_text())
    with pytest.raises(error, match=message):
        transformers_model(str(saved / name), **({"mean": HALF, "std": HALF} | options))
