"""Malformed config files of pretrained folders are rejected with an error that names the file.

Some of these files contain lists, some are truncated or malicious, and some lack keys.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, ViTConfig, ViTModel

from datamodules.text.labelled_texts import LabelledTexts
from lightning_modules.backbones import diffusers_model, transformers_model
from lightning_modules.backbones.text_classifier import transformers_classifier
from lightning_modules.diffusion.golden_noise import CLIPReward
from lightning_modules.diffusion.score_sde import pretrained_process
from lightning_modules.robustness.diffusion_guard.editing import CLIP
from tests.robustness.diffusion_guard.tiny_clip import save_tiny_clip
from tests.tiny_pipelines import VOCABULARY, save_tokenizer

SMALL: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, text_to_image: Path) -> Path:
    root = tmp_path_factory.mktemp("folders")
    ViTModel(ViTConfig(**SMALL, image_size=16, patch_size=8)).save_pretrained(root / "vit")
    preprocessing = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (root / "vit/preprocessor_config.json").write_text(json.dumps(preprocessing))
    BertModel(BertConfig(vocab_size=80, **SMALL)).save_pretrained(root / "bert")
    save_tokenizer(root / "bert", VOCABULARY, 16).save_pretrained(root / "bert")
    save_tiny_clip(root / "clip")
    shutil.copytree(text_to_image, root / "pipeline")
    return root


def tokenizer(folder: str) -> Any:
    texts: Any = None
    return LabelledTexts(texts, tokenizer=folder, max_length=8).tokenizer


READERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "vit": ("vit/config.json", transformers_model),
    "new vit": ("vit/config.json", lambda folder: transformers_model(folder, pretrained=False)),
    "pixels": ("vit/preprocessor_config.json", transformers_model),
    "bert": ("bert/config.json", lambda folder: transformers_classifier(folder, 2)),
    "tokenizer": ("bert/tokenizer_config.json", tokenizer),
    "reward": ("clip/config.json", CLIPReward),
    "its tokenizer": ("clip/tokenizer_config.json", CLIPReward),
    "similarity": ("clip/config.json", CLIP),
    "its processor": ("clip/preprocessor_config.json", CLIP),
    "u-net": ("pipeline/unet/config.json", lambda folder: diffusers_model(folder, "unet")),
    "new u-net": ("pipeline/unet/config.json", lambda folder: diffusers_model(folder, "unet", pretrained=False)),
    "process": ("pipeline/scheduler/scheduler_config.json", pretrained_process),
}


def change(saved: Path, tmp_path: Path, name: str) -> tuple[Path, Path]:
    kind, _, file = name.partition("/")
    folder = shutil.copytree(saved / kind, tmp_path / kind)
    return folder, folder / file


@pytest.mark.parametrize("content", ["[1]", "{", "3", "[" * 100_000], ids=["list", "cut", "number", "deep"])
@pytest.mark.parametrize("reader", READERS)
def test_a_config_that_is_no_object_is_named(reader: str, content: str, saved: Path, tmp_path: Path) -> None:
    name, read = READERS[reader]
    folder, file = change(saved, tmp_path, name)
    file.write_text(content)
    with pytest.raises(ValueError, match=rf"{file} (is not JSON|must contain a JSON object)") as caught:
        read(str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reader", "changed", "message"),
    [
        ("vit", {"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10000"),
        ("new vit", {"num_hidden_layers": 10**9}, "num_hidden_layers must be at most 10000"),
        ("vit", {"hidden_size": "wide"}, "vit"),
        ("new vit", {"hidden_size": -3}, "vit"),
        ("vit", {"attn_implementation": "stranger/kernel"}, "must be a name that transformers knows"),
        ("pixels", {"image_mean": "grey"}, "image_mean must be numbers, one per channel"),
        ("pixels", {"image_std": []}, "image_std must be numbers, one per channel"),
        ("bert", {"model_type": 3}, "bert"),
        ("reward", {"text_config": [1]}, "clip"),
        ("reward", {"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers must be at most 10000"),
        ("tokenizer", {"model_max_length": "long"}, "bert"),
        ("u-net", {"block_out_channels": 3}, "unet"),
        ("new u-net", {"block_out_channels": 3}, "unet"),
        ("u-net", {"sample_size": "64"}, "sample_size must be a whole number in 1 ... 8192, got '64'"),
        ("new u-net", {"sample_size": [8, 10**9]}, r"sample_size must be a whole number in 1 ... 8192, got '\[8, 100"),
        ("new u-net", {"layers_per_block": 10**9}, "layers_per_block must be at most 10000"),
        ("process", {"beta_start": None}, "beta_start must be a positive number below 1e9, got None"),
        ("process", {"beta_end": "1"}, "beta_end must be a positive number below 1e9, got '1'"),
        ("process", {"num_train_timesteps": 10**30}, "num_train_timesteps must be a positive number below 1e9"),
        ("process", {"_class_name": "ScoreSdeVeScheduler"}, "sigma_min must be a positive number below 1e9, got None"),
    ],
)
def test_a_config_of_other_values_is_named(
    reader: str, changed: dict[str, Any], message: str, saved: Path, tmp_path: Path
) -> None:
    name, read = READERS[reader]
    folder, file = change(saved, tmp_path, name)
    linear = {"beta_schedule": "linear"} if reader == "process" else {}
    file.write_text(json.dumps(json.loads(file.read_text()) | linear | changed))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        read(str(folder))
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", ["vit", "bert", "reward", "similarity", "u-net"])
def test_weights_that_are_cut_or_lacking_are_named(reader: str, saved: Path, tmp_path: Path) -> None:
    name, read = READERS[reader]
    folder, file = change(saved, tmp_path, name)
    weights = next(file.parent.glob("*.safetensors"))
    whole, kept = weights.read_bytes(), load_file(weights)
    weights.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=rf"{weights} is not a readable file of weights"):
        read(str(folder))
    lost = next(
        key
        for key in sorted(kept)
        if key.endswith(("layer_norm1.bias", "LayerNorm.bias", "before.bias", "conv_in.bias"))
    )
    save_file({key: value for key, value in kept.items() if key != lost}, weights, {"format": "pt"})
    with pytest.raises(ValueError, match=rf"the weights of {file.parent} lack: .*{lost.rpartition('.')[0][-9:]}"):
        read(str(folder))


def test_the_reward_asks_for_no_code(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = change(saved, tmp_path, "clip/tokenizer_config.json")
    asked: list[Any] = []
    monkeypatch.setattr("builtins.input", lambda *said: asked.append(said) or "y")
    (folder / "mine.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass Mine: pass\n"
    )
    own = {"auto_map": {"AutoTokenizer": ["mine.Mine", "mine.Mine"]}, "tokenizer_class": "Mine", "model_type": "mine"}
    for name in ("tokenizer_config.json", "config.json"):
        (folder / name).write_text(json.dumps(own))
    with pytest.raises(FileNotFoundError, match="no CLIP model"):
        CLIPReward(str(folder))
    assert not asked
    assert not (tmp_path / "ran").exists()


def test_weights_of_pickles_are_not_taken(saved: Path, tmp_path: Path) -> None:
    folder, _ = change(saved, tmp_path, "vit/config.json")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected model\.safetensors"):
        transformers_model(str(folder))
