"""Refuses YAML that would unfold into more than memory holds."""

from __future__ import annotations

from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

MAX_NODES = 100_000
"""Values of a configuration, each alias counted as what it stands for."""

JSONARGPARSE = get_loader("yaml")


def bound_yaml() -> None:
    """Has jsonargparse look at the size of whatever it reads: files that files name, and values."""
    set_loader("yaml", load_bounded, (yaml.YAMLError,))


def load_bounded(text: str) -> Any:
    """What jsonargparse makes of a YAML.

    Raises:
        yaml.YAMLError: If it is none, or a few lines unfold, alias by alias, into a huge tree.
    """
    check_yaml_size(text)
    return JSONARGPARSE(text)


def check_yaml_size(text: str) -> None:
    """Raises a YAMLError for a YAML, or one inside its texts, that unfolds too far.

    What is no readable YAML is left to the parser, which tells the line.
    """
    if "&" not in text or "*" not in text:  # no aliases
        return
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return
    if root is not None and _size(root, {}) > MAX_NODES:
        raise yaml.YAMLError(
            f"it unfolds into more than {MAX_NODES:,} values, since its aliases (*name) repeat "
            "each other: write it without them"
        )


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes of a tree whose aliases are shared nodes; infinite where one holds itself."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # should it hold itself
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.ScalarNode):  # a text is parsed, too, where it may be a number
            check_yaml_size(node.value)
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
