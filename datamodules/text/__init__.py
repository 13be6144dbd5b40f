"""Labelled texts or pairs of texts, tokenized for networks from the library transformers (`LabelledTextBatch`)."""
