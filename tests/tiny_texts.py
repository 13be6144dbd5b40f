"""A tokenizer with a few words, and data files of a GLUE task that use these words."""

from pathlib import Path

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "0",
    "1",
    "2",
    "a",
    "cat",
    "sat",
    "on",
    "the",
    "mat",
    "it",
    "slept",
    "well",
]
WORDS += ["rte", "sentence1", "sentence2", ":"]


def save_tokenizer(folder: Path, special: bool = True, model_max_length: int = 64) -> Path:
    """Write a tokenizer as `save_pretrained` does; with special tokens, a pair becomes [CLS] a [SEP] b [SEP]."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    if special:
        tokenizer.post_processor = TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", words["[CLS]"]), ("[SEP]", words["[SEP]"])],
        )
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if special else [])]
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=model_max_length, model_input_names=inputs, **names
    ).save_pretrained(folder)
    return folder


def save_rte(folder: Path, train: int = 11, dev: int = 5) -> Path:
    """Write RTE data in GLUE's layout; the label is entailment if the first sentence begins with the second."""
    (folder / "RTE").mkdir(parents=True)
    for name, count in (("train.tsv", train), ("dev.tsv", dev)):
        lines = ["index\tsentence1\tsentence2\tlabel"]
        for row in range(count):
            follows = row % 3 == 0
            second = "a cat sat" if follows else 'it slept "well'
            lines.append(f"{row}\ta cat sat on the mat\t{second}\t{'entailment' if follows else 'not_entailment'}")
        (folder / "RTE" / name).write_text("\n".join(lines) + "\n")
    return folder
