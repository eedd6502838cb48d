"""The audit: a checkpoint's tensors and files compared with the model's, without running either."""
