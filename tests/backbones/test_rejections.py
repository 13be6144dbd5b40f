import json
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from lightning_modules.backbones import (
    Adapters,
    adapt,
    diffusers_model,
    frozen,
    smp_model,
    with_gradient_checkpointing,
    with_lora,
)
from lightning_modules.backbones.normalized import Normalized
from lightning_modules.backbones.replacement import layers_named, replace_layers
from lightning_modules.backbones.text_classifier import transformers_classifier
from lightning_modules.backbones.tiled import TiledInference, apply_padded, apply_tiled
from lightning_modules.networks.cifar_resnet import CIFARResNet
from lightning_modules.networks.mlp import MLP
from tests.backbones.test_replacement import Doubled, vit
from tests.backbones.test_text_classifier import BERT
from tests.backbones.test_tiled import IMAGE
from tests.rejections import Row, rejection_test


def config_must_name_a_network_of_diffusers(root: Path, class_name: str | None) -> object:
    (root / "config.json").write_text(json.dumps({"_class_name": class_name}))
    return diffusers_model(str(root / "config.json"), pretrained=False)


def wrong_key_type_or_value_in_a_config(factory: str, init_args: dict[str, Any]) -> object:
    first = "name" if factory == "timm_model" else "name_or_path"
    config = {"class_path": f"lightning_modules.backbones.{factory}", "init_args": {first: "test_vit", **init_args}}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--network", type=nn.Module)
    return parser.instantiate(parser.parse_object({"network": config})).network


def replaced(network: nn.Module, patterns: list[str]) -> object:
    return replace_layers(network, layers_named(network, patterns, (nn.Linear,), "layers"), "layers", Doubled)


def smp(arguments: dict[str, Any]) -> object:
    pytest.importorskip("segmentation_models_pytorch")
    return smp_model(**{"name": "Unet", "num_classes": 3, **arguments})


def text_classifier(arguments: dict[str, Any]) -> object:
    given = {"name_or_path": "unread", "num_classes": 2, "architecture": BERT, "pretrained": False, **arguments}
    if "name_or_path" in arguments:
        given |= {"pretrained": True, "architecture": None}
    return transformers_classifier(**given)


# fmt: off
REJECTED: list[Row] = [
    ("frozen trainable", lambda _: frozen(CIFARResNet(8), trainable=["fc"]), ValueError,
     "trainable: CIFARResNet has no submodule fc; it has: conv1, "),
    ("with_lora trainable", lambda _: with_lora(CIFARResNet(8), trainable=["fc"]), ValueError,
     "trainable: CIFARResNet has no submodule fc; .*linear"),
    ("adapted dora", lambda _: adapt(MLP(4, [3], 2), adapters=Adapters(dora=True)), ValueError,
     "adapters.dora is used only with tuning lora: leave it at False, got True"),
    ("rotated with dropout", lambda _: Adapters(kind="oft", dropout=0.1), ValueError,
     "adapters.dropout is used only with adapters.kind lora: leave it at 0.0, got 0.1"),
    ("rotated with alpha", lambda _: Adapters(kind="oft", alpha=3), ValueError,
     "adapters.alpha is used only with adapters.kind lora, loha or lokr: leave it at None, got 3"),
    ("rotated patches", lambda _: with_lora(CIFARResNet(8), Adapters(2, ["conv1"], kind="oft")), ValueError,
     "adapters.kind oft is only for linear layers and 1 x 1 convolutions, got conv1"),
    ("unknown kind", lambda _: Adapters(kind="ia3"), ValueError,  # type: ignore[arg-type]
     "adapters.kind must be one of lora, loha, lokr, oft, got 'ia3'"),
    ("with_lora targets", lambda _: with_lora(MLP(4, [3], 2), Adapters(targets=["0", "to_q"])), ValueError,
     "adapters.targets: MLP has no layer named to_q; it has: 0"),
    ("with_lora", lambda _: with_lora(nn.Sequential(nn.Conv2d(1, 1, 3))), ValueError,
     "adapters.targets must be given.*no nn.Linear; it has: 0"),
    ("with_gradient_checkpointing", lambda _: with_gradient_checkpointing(MLP(4, [3], 2)), ValueError,
     "gradient_checkpointing: MLP has no blocks"),
    ("adapted tuning", lambda _: adapt(MLP(4, [3], 2), tuning="half"), ValueError,
     "tuning must be full, lora or frozen, got 'half'"),
    ("adapted dtype", lambda _: adapt(MLP(4, [3], 2), dtype="int8"), ValueError,
     "dtype must be float32, bfloat16 or float16, got 'int8'"),
    ("config must name a network of diffusers 1", lambda root: config_must_name_a_network_of_diffusers(root, None),
     ValueError, r"_class_name in .*config\.json must be a diffusers network"),
    ("config must name a network of diffusers 2",
     lambda root: config_must_name_a_network_of_diffusers(root, "DDPMScheduler"), ValueError,
     r"_class_name in .*config\.json must be a diffusers network"),
    ("config must name a network of diffusers 3", lambda root: config_must_name_a_network_of_diffusers(root, "os"),
     ValueError, r"_class_name in .*config\.json must be a diffusers network"),
    ("config must name a network of diffusers 4",
     lambda root: config_must_name_a_network_of_diffusers(root, "NoSuchNetwork"), ValueError,
     r"_class_name in .*config\.json must be a diffusers network"),
    ("wrong key type or value in a config 1",
     lambda _: wrong_key_type_or_value_in_a_config("timm_model", {"num_classes": 3, "pretrain": True}), ArgumentError,
     "pretrain"),
    ("wrong key type or value in a config 2",
     lambda _: wrong_key_type_or_value_in_a_config("timm_model", {"num_classes": "many"}), ArgumentError, "many"),
    ("wrong key type or value in a config 3",
     lambda _: wrong_key_type_or_value_in_a_config("timm_model", {"num_classes": 3, "tuning": "half"}), ArgumentError,
     "half"),
    ("wrong key type or value in a config 4",
     lambda _: wrong_key_type_or_value_in_a_config("timm_model", {"num_classes": 3, "adapters": {"rank": "two"}}),
     ArgumentError, "two"),
    ("wrong key type or value in a config 5",
     lambda _: wrong_key_type_or_value_in_a_config("timm_model", {"num_classes": 3, "trainable": ["head"]}),
     ArgumentError, "trainable"),
    ("wrong key type or value in a config 6", lambda _: wrong_key_type_or_value_in_a_config("timm_model", {}),
     ArgumentError, "num_classes"),
    ("wrong key type or value in a config 7",
     lambda _: wrong_key_type_or_value_in_a_config("diffusers_model", {"compile": 3}), ArgumentError, "compile"),
    ("wrong key type or value in a config 8",
     lambda _: wrong_key_type_or_value_in_a_config("transformers_model", {"adapters": {"target": ["fc1"]}}),
     ArgumentError, "target"),
    ("Normalized 1", lambda _: Normalized(nn.Linear(1, 1), None, [1.0]), ValueError, "mean must be given.*Linear"),
    ("Normalized 2", lambda _: Normalized(nn.Linear(1, 1), [0.0], None), ValueError, "std must be given.*Linear"),
    ("Normalized 4", lambda _: Normalized(nn.Linear(1, 1), [0.0, 0.0], [1.0, 1.0, 1.0]), ValueError,
     "equal lengths, got 2 and 3"),
    ("replaced 1", lambda _: replaced(vit(), ["*.fc1", "*.fc9"]), ValueError,
     r"layers: '\*.fc9' matches no Linear of VisionTransformer.*: blocks.\*.attn.qkv, .*head"),
    ("replaced 2", lambda _: replaced(vit(), ["*.norm1"]), ValueError, r"norm1' matches no Linear"),
    ("replaced 3", lambda _: replaced(nn.Sequential(nn.ReLU()), ["*"]), ValueError, "it has: none"),
    ("replaced 4", lambda _: replaced(nn.MultiheadAttention(4, 2), ["out_proj"]), ValueError, "it has: none"),
    ("replaced 5", lambda _: replaced(vit().requires_grad_(False), ["*.fc1"]), ValueError,
     "layers: blocks.0.mlp.fc1 is frozen"),
    ("replaced 6", lambda _: replaced(nn.Sequential(Doubled("", nn.Linear(2, 2))), ["0"]), ValueError,
     "layers: 0 is a Doubled, whose computation differs from"),
    ("replaced 7", lambda _: replaced(nn.Sequential(weight_norm(nn.Linear(2, 2))), ["0"]), ValueError,
     "layers: 0 is a ParametrizedLinear, whose computation differs"),
    ("smp 1", lambda _: smp({"name": "Ynet"}), ValueError,
     "name: segmentation-models-pytorch has no Ynet; it has .*Unet"),
    ("smp 2", lambda _: smp({"encoder": "resnet43"}), ValueError,
     "encoder: segmentation-models-pytorch has no resnet43; it has resnet34"),
    ("smp 3", lambda _: smp({"encoder": "tu-nothing"}), ValueError, "Unet on tu-nothing"),
    ("smp 4", lambda _: smp({"pretrained": True, "weights": "x"}), ValueError, "give one of the two"),
    ("smp 5", lambda _: smp({"in_channels": 1}), ValueError, "mean and std must be given"),
    ("text classifier 1", lambda _: text_classifier({"name_or_path": "/nowhere"}), FileNotFoundError,
     "name_or_path: no transformers network at /nowhere"),
    ("text classifier 2", lambda _: text_classifier({"architecture": {"model_type": "bart2"}}), ValueError,
     "architecture: .*bart2"),
    ("text classifier 3", lambda _: text_classifier({"architecture": {"model_type": "vit"}}), ValueError,
     "vit is not a text classification network of transformers"),
    ("text classifier 4", lambda _: text_classifier({"tuning": "half"}), ValueError,
     "tuning must be full, lora or frozen"),
    ("padded", lambda _: apply_padded(nn.Identity(), torch.zeros(1, 1, 8, 40), 32), ValueError,
     "8 x 40 pixels are too small.*multiples of 32"),
    ("tiled 1", lambda _: apply_tiled(nn.Identity(), IMAGE, 16, 8), ValueError,
     "overlap must be .* less than half of the tile, 16, got 8"),
    ("TiledInference tile", lambda _: TiledInference(tile=100), ValueError, "less than half of the tile, 100, got 64"),
]
# fmt: on

test_what_is_rejected_is_named = rejection_test(*REJECTED)
