"""Labelled texts or pairs of texts, tokenized for networks of the library transformers (`LabelledTextBatch`)."""
