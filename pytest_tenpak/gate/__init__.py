"""One case, from marker to outcome. Neither pytest nor torch is imported."""
