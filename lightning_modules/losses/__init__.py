"""Loss functions shared by methods of several fields: plain functions of tensors."""
