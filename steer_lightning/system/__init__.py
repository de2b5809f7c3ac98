"""Helpers for all other packages: files, processes, plain values; nothing about language models."""
