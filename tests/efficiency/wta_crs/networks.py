"""Small networks from timm and transformers, without dropout by default."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

TOKENS = 16


def vit(fused: bool = True, dropout: float = 0.0) -> nn.Module:
    network = timm.models.VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        embed_dim=16,
        depth=2,
        num_heads=2,
        num_classes=3,
        attn_drop_rate=dropout,
        proj_drop_rate=dropout,
    )
    for block in network.blocks:
        block.attn.fused_attn = fused
    return network.train()


def bert(dropout: float = 0.0, attention: str = "sdpa") -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=3,
        attn_implementation=attention,
    )
    return BertForSequenceClassification(config).train()


def t5(dropout: float = 0.0, d_model: int = 16, layers: int = 2, attention: str = "sdpa") -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=50,
        d_model=d_model,
        d_kv=d_model // 4,
        d_ff=4 * d_model,
        num_layers=layers,
        num_heads=4,
        dropout_rate=dropout,
        decoder_start_token_id=0,
        attn_implementation=attention,
    )
    try:
        return T5ForConditionalGeneration(config).train()
    except ValueError as error:  # transformers 5.0 supports only eager attention
        if "does not support an attention implementation" not in str(error):
            raise
        pytest.skip("this version of transformers has no fused attention for T5")


def logits(network: Any, samples: int = 2, tokens: int = TOKENS) -> Tensor:
    """Run a network on random images or texts, with a shorter second text."""
    random = torch.Generator().manual_seed(0)
    if isinstance(network, timm.models.VisionTransformer):
        return network(torch.rand(samples, 1, 8, 8, generator=random).to(next(network.parameters()).dtype))
    ids = torch.randint(50, (samples, tokens), generator=random)
    mask = torch.ones_like(ids)
    mask[1, -3:] = 0
    more = {"decoder_input_ids": ids[:, :2], "use_cache": False} if network.config.is_encoder_decoder else {}
    return network(input_ids=ids, attention_mask=mask, **more).logits
