"""DataModule for texts with one label each, for networks from the library transformers.

LabelledTexts(Glue("rte", "~/data/glue"), tokenizer="bert-base-uncased", batch_size=32)
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from datamodules.arguments import at_least
from datamodules.files.limits import sentence
from datamodules.files.text_files import check_pretrained_json
from datamodules.loading import Loading
from datamodules.loading.global_batches import Request
from datamodules.loading.seeded_batches import SeededBatches
from datamodules.text.text_set import Texts, TextSet


class TokenizedSet:
    """Dataset that tokenizes the texts of each `Request`. All tokenized texts have the same length.

    Args:
        source: texts of one split.
        tokenizer: tokenizer from the library transformers.
        max_length: length to which each text or pair is truncated or padded, in tokens.
    """

    in_memory = True

    def __init__(self, source: Texts, tokenizer: Any, max_length: int) -> None:
        self.source = source
        self.label = source.label
        self.tokenizer = tokenizer
        self.max_length = max_length

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, request: Request) -> dict[str, Any]:
        rows = request.indices.tolist()
        texts = [self.source.first[row] for row in rows]
        pairs = None if self.source.second is None else [self.source.second[row] for row in rows]
        options = {"max_length": self.max_length, "padding": "max_length", "truncation": True, "return_tensors": "pt"}
        tokens = self.tokenizer(texts, pairs, **options)
        label = self.label[request.indices]
        return {
            "text": dict(tokens),
            "label": label,
            "index": request.indices,
            "global_batch_size": request.global_batch_size,
        }


class LabelledTexts(SeededBatches):
    """DataModule with batches of tokenized texts and labels (`datamodules.batches.LabelledTextBatch`).

    All tokenized texts have the same length, so a method can keep state for each token of a sample. The order of
    training samples depends only on (seed, epoch), not on the number of ranks.

    Args:
        texts: dataset of texts.
        tokenizer: local folder of a tokenizer that was saved by `save_pretrained`, or the name of a tokenizer on the
            Hugging Face Hub.
        max_length: length to which each text or pair is truncated or padded, in tokens.
        batch_size: global training batch size, over all ranks.
        loading: how batches are read, and the seed.
    """

    def __init__(
        self,
        texts: TextSet,
        tokenizer: str,
        max_length: int = 128,
        batch_size: int = 32,
        loading: Loading = Loading(),
    ) -> None:
        super().__init__(batch_size, loading)
        at_least(1, max_length=max_length)
        self.texts = texts
        self.tokenizer_name = tokenizer
        self.max_length = max_length

    @property
    def num_classes(self) -> int:
        return self.texts.num_classes

    @property
    def class_names(self) -> Sequence[str] | None:
        return self.texts.class_names

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer from the library transformers. It is loaded on first access."""
        try:
            from transformers import AutoTokenizer
        except ImportError as error:
            raise ImportError("LabelledTexts needs transformers: pip install 'noiseworks[pipelines]'") from error
        folder = Path(self.tokenizer_name).expanduser()
        where = str(folder) if folder.is_dir() else self.tokenizer_name
        check_pretrained_json(folder)
        try:
            found: Any = AutoTokenizer.from_pretrained(where, local_files_only=folder.is_dir(), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"tokenizer: found none at {self.tokenizer_name}; expected a folder with tokenizer.json, as written by "
                f"save_pretrained, or a name on the Hugging Face Hub"
            ) from error
        except Exception as error:  # a damaged file may raise almost any exception type
            raise ValueError(f"tokenizer: {self.tokenizer_name} cannot be read: {sentence(error)}") from error
        if type(found.model_max_length) not in (int, float):
            raise ValueError(
                f"tokenizer: model_max_length of {self.tokenizer_name} must be a number, got {found.model_max_length!r}"
            )
        if self.max_length > found.model_max_length:
            raise ValueError(
                f"max_length must be at most {found.model_max_length} for the tokenizer {self.tokenizer_name}, "
                f"got {self.max_length}"
            )
        return found

    def prepare_data(self) -> None:
        self.texts.fetch_missing()

    def set_up_training(self) -> None:
        self.train_set = TokenizedSet(self.texts.training(), self.tokenizer, self.max_length)
        if (validation := self.texts.validation()) is not None:
            self.validation_set = TokenizedSet(validation, self.tokenizer, self.max_length)

    def set_up_test(self) -> None:
        self.test_set = TokenizedSet(self.texts.test(), self.tokenizer, self.max_length)
