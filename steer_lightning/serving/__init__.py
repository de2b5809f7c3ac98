"""What runs in vLLM's own environment; nothing here needs the rest of the package."""
