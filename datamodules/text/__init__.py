"""Labelled texts, alone or in pairs, tokenized for transformers networks (`LabelledTextBatch`)."""
