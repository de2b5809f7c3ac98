"""What every room may use: files, processes, plain values; nothing of language models."""
