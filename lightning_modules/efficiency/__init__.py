"""Methods for efficient training, with less memory, arithmetic or precision."""
