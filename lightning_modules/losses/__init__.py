"""Loss functions that methods of several fields share; most are plain functions of tensors."""
