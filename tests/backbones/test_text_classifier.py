"""Text classifiers from transformers: logits equal to the library's, adapters, heads, and rejections."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.backbones.adaptation import Adapters
from lightning_modules.backbones.text_classifier import transformers_classifier, transformers_text_encoder
from tests.tiny_texts import save_tokenizer

BERT = {
    "model_type": "bert",
    "vocab_size": 20,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
T5 = {"model_type": "t5", "vocab_size": 20, "d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}
TEXT = {"input_ids": torch.tensor([[2, 7, 8, 3, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 1, 0]])}


def test_an_encoder_gets_a_new_classifier_on_its_weights(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    options = {key: value for key, value in BERT.items() if key != "model_type"}
    plain = BertModel(BertConfig(**options))
    plain.save_pretrained(tmp_path)
    network: Any = transformers_classifier(str(tmp_path), 3).eval()
    assert network(TEXT).shape == (1, 3)
    hidden = plain.eval()(**TEXT).last_hidden_state
    torch.testing.assert_close(network.network.bert(**TEXT).last_hidden_state, hidden)


def test_adapters_leave_the_new_classifier_to_training() -> None:
    network = transformers_classifier(
        "unread", 3, BERT, pretrained=False, tuning="lora", adapters=Adapters(rank=2, targets=["query"], dropout=0.5)
    )
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name or name.startswith("network.classifier.") for name in trained)
    assert len(trained) == 4
    assert any(type(module) is torch.nn.Dropout and module.p == 0.5 for module in network.modules())


def test_an_encoder_and_decoder_answers_with_the_classes_numbers(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    options = {key: value for key, value in T5.items() if key != "model_type"}
    plain = T5ForConditionalGeneration(T5Config(**options, decoder_start_token_id=0)).eval()
    plain.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, special=False)
    network = transformers_classifier(str(tmp_path), 3).eval()
    words = plain(**TEXT, decoder_input_ids=torch.zeros(1, 1, dtype=torch.int64)).logits[:, 0]
    torch.testing.assert_close(network(TEXT), words[:, [4, 5, 6]])
    assert "answers" not in network.state_dict()
    save_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="num_classes: indices below 3 must start with different tokens, got 2, 2, 2"):
        transformers_classifier(str(tmp_path), 3)


def test_a_text_encoder_averages_the_tokens_without_padding(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

    options = {key: value for key, value in BERT.items() if key != "model_type"}
    plain = BertModel(BertConfig(**options)).eval()
    plain.save_pretrained(tmp_path)
    encoder = transformers_text_encoder(str(tmp_path)).train()
    hidden = plain(**TEXT).last_hidden_state[0]
    torch.testing.assert_close(encoder(TEXT), hidden[:4].mean(dim=0, keepdim=True))
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    options = {key: value for key, value in T5.items() if key != "model_type"}
    T5ForConditionalGeneration(T5Config(**options, decoder_start_token_id=0)).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match="t5 has a decoder, but features require an encoder-only network"):
        transformers_text_encoder(str(tmp_path / "t5"))
