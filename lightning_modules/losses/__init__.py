"""Loss functions that methods of several fields use: plain functions of tensors."""
