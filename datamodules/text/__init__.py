"""Texts with labels, alone or in pairs, as a tokenizer of transformers gives them (`LabelledTextBatch`)."""
