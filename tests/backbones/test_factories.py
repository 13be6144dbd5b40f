import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_modules.backbones import Normalized, diffusers_model, timm_model
from lightning_modules.backbones.adaptation import Adapters
from tests.networks.compared import gradients, same, trains

UNET: dict[str, Any] = {
    **{"sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": (8, 16), "layers_per_block": 1},
    **{"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")},
    **{"norm_num_groups": 4, "attention_head_dim": 8},
}
FILE = "diffusion_pytorch_model.safetensors"
INPUTS = torch.rand(2, 3, 8, 8), torch.tensor([3, 500])


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(**UNET)


@pytest.fixture(scope="module")
def folder(unet: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline")
    unet.save_pretrained(path / "unet")
    return path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)


# timm


def test_a_timm_network_takes_images_in_pixel_units_with_its_own_statistics() -> None:
    network = timm_model("test_vit", num_classes=7).eval()
    assert isinstance(network, Normalized)
    assert network.mean.flatten().tolist() == list(network.network.pretrained_cfg["mean"])
    image = torch.rand(2, 3, 160, 160)
    assert network(image).shape == (2, 7)
    torch.testing.assert_close(network(image), network.network((image - 0.5) / 0.5))
    own = timm_model("test_vit", num_classes=7, mean=[0.1] * 3, std=[0.2] * 3)
    assert own.mean.flatten().tolist() == pytest.approx([0.1] * 3)
    assert not isinstance(timm_model("test_vit", num_classes=7, normalize=False), Normalized)


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_local_weights_give_the_saved_network(name: str, tmp_path: Path) -> None:
    saved, other = (timm_model(name, num_classes=5, normalize=False) for _ in range(2))
    save_file(saved.state_dict(), tmp_path / "model.safetensors")
    assert same(timm_model(name, num_classes=5, weights=str(tmp_path), normalize=False), saved)
    assert not same(other, saved)


@pytest.mark.parametrize(("saved_classes", "num_classes"), [(5, 3), (0, 3), (5, 0)])
def test_another_number_of_classes_draws_the_classifier_anew(
    saved_classes: int, num_classes: int, tmp_path: Path
) -> None:
    saved = timm_model("test_vit", num_classes=saved_classes, normalize=False)
    torch.save({"state_dict": saved.state_dict()}, tmp_path / "last.ckpt")
    network = timm_model("test_vit", num_classes, weights=str(tmp_path / "last.ckpt"), normalize=False)
    state = saved.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items() if "head." not in key)
    assert network(torch.rand(1, 3, 160, 160)).shape == (1, num_classes or 64)


def test_pretrained_weights_are_adapted_to_other_channels_and_sizes(tmp_path: Path) -> None:
    saved = timm_model("test_vit", num_classes=5, normalize=False)
    save_file(saved.state_dict(), tmp_path / "model.safetensors")
    grey = timm_model(
        "test_vit", 5, weights=str(tmp_path), in_channels=1, image_size=64, mean=[0.5], std=[0.25], drop_path_rate=0.1
    )
    assert grey(torch.rand(2, 1, 64, 64)).shape == (2, 5)
    expected = saved.patch_embed.proj.weight.sum(dim=1, keepdim=True)
    torch.testing.assert_close(grey.network.patch_embed.proj.weight, expected)
    torch.testing.assert_close(grey.network.head.weight, saved.head.weight)


def test_weights_of_another_architecture_are_refused_by_name(tmp_path: Path) -> None:
    state = timm_model("test_vit", num_classes=5, normalize=False).state_dict()
    del state["blocks.0.mlp.fc1.weight"]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(
        ValueError, match=r"weights: .*cut.safetensors does not fit test_vit.*blocks\.0\.mlp\.fc1\.weight"
    ):
        timm_model("test_vit", num_classes=3, weights=str(tmp_path / "cut.safetensors"))
    with pytest.raises(FileNotFoundError, match=r"no weights at .*absent\.pt"):
        timm_model("test_vit", num_classes=3, weights=str(tmp_path / "absent.pt"))


def test_tuning_decides_what_trains_and_the_classifier_is_never_adapted() -> None:
    head = {"head.weight", "head.bias"}
    full = timm_model("test_vit", 3, normalize=False)
    assert trains(full) == {name for name, _ in full.named_parameters()}
    assert trains(timm_model("test_vit", 3, normalize=False, tuning="frozen")) == set()
    probe = timm_model("test_vit", 3, normalize=False, tuning="linear_probe").train()
    assert trains(probe) == head
    assert (probe.head.training, probe.blocks.training) == (True, False)
    lora = trains(timm_model("test_vit", 3, normalize=False, tuning="lora", adapters=Adapters(rank=2, targets=["qkv"])))
    blocks = range(len(full.blocks))
    assert lora == head | {f"blocks.{i}.attn.qkv.lora_{m}.default.weight" for i in blocks for m in "AB"}
    every = trains(timm_model("test_vit", 3, normalize=False, tuning="lora", adapters=Adapters(rank=2)))
    adapted_layers = {name.split(".lora_")[0].split(".", 2)[2] for name in every - head}
    assert adapted_layers == {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}


def test_timm_networks_recompute_with_equal_gradients_and_statistics() -> None:
    for name, size in (("test_vit", 160), ("test_resnet", 64)):
        plain = timm_model(name, 3)
        recomputing = timm_model(name, 3, gradient_checkpointing=True)
        recomputing.load_state_dict(plain.state_dict())
        image = torch.rand(2, 3, size, size)
        torch.testing.assert_close(gradients(recomputing, image), gradients(plain, image))
        torch.testing.assert_close(dict(recomputing.state_dict()), dict(plain.state_dict()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet_50"}, "name: timm has no model 'resnet_50'; the closest are resnet50"),
        ({"name": "qqqqqqqq"}, r"name: timm has no model 'qqqqqqqq'; timm.list_models\(\)"),
        ({"name": "test_vit.nope"}, r"'nope' is not a tag of test_vit.*test_vit\.r160_in1k"),
        ({"name": "test_resnet", "image_size": 64}, "image_size: test_resnet has no such option"),
        ({"name": "vgg11", "drop_path_rate": 0.1}, "drop_path_rate: vgg11 has no such option"),
        (
            {"name": "test_vit", "pretrained": True, "weights": "a.pt"},
            "pretrained cannot .*weights=a.pt: give one of the two",
        ),
        ({"name": "resnet10", "pretrained": True}, "name: timm has no model 'resnet10'"),
        ({"name": "vit_giant_patch14_224", "pretrained": True}, "pretrained: timm has no weights for vit_giant"),
        ({"name": "test_vit", "in_channels": 1}, "mean and std must be given.*in_channels is 1"),
        ({"name": "test_vit", "num_classes": 0, "tuning": "linear_probe"}, "linear_probe.*num_classes=0"),
    ],
)
def test_bad_timm_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        timm_model(**({"num_classes": 3} | arguments))


@pytest.mark.usefixtures("offline")
def test_weights_that_can_not_be_fetched_are_one_sentence() -> None:
    with pytest.raises(
        FileNotFoundError, match="pretrained: the weights of test_vit are not in the Hugging Face cache"
    ):
        timm_model("test_vit", 3, pretrained=True)


# diffusers


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
def test_a_local_folder_gives_the_saved_network_however_it_is_tuned(tuning: Any, unet: Any, folder: Path) -> None:
    options: Any = {"adapters": Adapters(rank=2, targets=["to_q", "to_v"])} if tuning == "lora" else {}
    network = diffusers_model(str(folder), subfolder="unet", tuning=tuning, **options)
    torch.testing.assert_close(network(*INPUTS).sample, unet(*INPUTS).sample, rtol=1e-4, atol=1e-5)
    names = {name for name, _ in network.named_parameters()}
    expected = {"full": names, "lora": {name for name in names if "lora_" in name}, "frozen": set()}[tuning]
    assert trains(network) == expected
    if tuning == "lora":
        assert {name.split(".lora_")[0].split(".")[-1] for name in expected} == {"to_q", "to_v"}
    assert network.train().training is (tuning != "frozen")


def test_the_folder_itself_is_found_and_trains_after_loading(unet: Any, folder: Path) -> None:
    network = diffusers_model(str(folder / "unet"))
    assert same(network, unet)
    assert network.training


def test_without_pretrained_the_architecture_is_drawn_anew(unet: Any, folder: Path) -> None:
    torch.manual_seed(1)  # a seed other than the fixture's
    for where in (folder / "unet", folder / "unet" / "config.json"):
        network = diffusers_model(str(where), pretrained=False)
        assert type(network) is type(unet)
        shapes, expected = ({k: v.shape for k, v in each.state_dict().items()} for each in (network, unet))
        assert shapes == expected
        assert not same(network, unet)
    with torch.device("meta"):
        meta = diffusers_model(
            str(folder), subfolder="unet", pretrained=False, tuning="lora", adapters=Adapters(rank=2)
        )
        meta(torch.rand(2, 3, 8, 8), torch.tensor([1, 2])).sample.sum().backward()
    assert all(parameter.is_meta for parameter in meta.parameters())


def test_recomputed_activations_give_the_same_gradients(folder: Path) -> None:
    plain = diffusers_model(str(folder), subfolder="unet")
    recomputing = diffusers_model(str(folder), subfolder="unet", gradient_checkpointing=True)
    passes: list[int] = []
    recomputing.down_blocks[0].resnets[0].conv1.register_forward_hook(lambda module, args, output: passes.append(1))
    torch.testing.assert_close(gradients(recomputing, *INPUTS), gradients(plain, *INPUTS))
    assert len(passes) == 2


def test_half_precision_weights_take_and_give_single_precision(unet: Any, folder: Path) -> None:
    network = diffusers_model(str(folder), subfolder="unet", dtype="bfloat16")
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    noisy, timestep = torch.rand(2, 3, 8, 8), torch.tensor([3.25, 500.75])
    estimate = network(noisy, timestep).sample
    expected = unet(noisy, timestep).sample
    assert estimate.dtype == torch.float32
    assert 0 < (estimate - expected).abs().max() < 0.1 * expected.abs().max()
    assert network(noisy, timestep, return_dict=False)[0].dtype == torch.float32


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (
            "google/ddpm-cifar10-32",
            FileNotFoundError,
            "no diffusers network google/ddpm.*hf download google/ddpm-cifar",
        ),
        ("{folder}/absent", FileNotFoundError, r"no diffusers network at .*absent: expected a folder"),
        ("{folder}", FileNotFoundError, r"expected .*config\.json; subfolder could be unet"),
        ("{bare}", FileNotFoundError, r"no weights of UNet2DModel.*diffusion_pytorch_model\.safetensors"),
        ("{folder}/unet/diffusion_pytorch_model.safetensors", NotADirectoryError, "is a file; give the folder"),
        ("{bare}/config.json", ValueError, r"pretrained: .*is a config without weights"),
        ("{cut}", ValueError, r"weights of .* lack: conv_in\.bias"),
        ("{reshaped}", ValueError, r"weights of .* do not fit: .*conv_in\.bias"),
        ("{damaged}", ValueError, r"config\.json is not JSON"),
    ],
)
def test_what_is_not_there_or_does_not_fit_is_one_sentence(
    where: str, error: type[Exception], message: str, folder: Path, tmp_path: Path
) -> None:
    config, weights = (folder / "unet" / "config.json").read_text(), load_file(folder / "unet" / FILE)
    paths = {name: tmp_path / name for name in ("bare", "cut", "reshaped", "damaged")}
    for name, path in paths.items():
        path.mkdir()
        (path / "config.json").write_text("not JSON" if name == "damaged" else config)
    save_file({key: value for key, value in weights.items() if key != "conv_in.bias"}, paths["cut"] / FILE)
    save_file(weights | {"conv_in.bias": torch.zeros(3)}, paths["reshaped"] / FILE)
    with pytest.raises(error, match=message):
        diffusers_model(where.format(folder=folder, **paths))
    with torch.device("meta"):
        assert next(diffusers_model(str(paths["bare"])).parameters()).is_meta


def test_the_package_imports_nothing_heavy_but_torch() -> None:
    code = (
        "import sys, lightning_modules.backbones as backbones; assert backbones.timm_model;"
        "heavy = {'timm', 'diffusers', 'peft', 'transformers', 'torchvision', 'lightning', 'huggingface_hub'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
