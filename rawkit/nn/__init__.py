"""Networks: tensors in, tensors out.  Nothing here knows cameras or files (but ``weights``, which reads its own)."""
