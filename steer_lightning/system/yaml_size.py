"""Refuses YAML that would unfold into more than memory holds."""

from __future__ import annotations

from typing import Any

import yaml
from jsonargparse import get_loader, set_loader

MAX_NODES = 100_000
"""Largest number of values in a configuration; an alias counts as many as it stands for."""

JSONARGPARSE = get_loader("yaml")


def bound_yaml() -> None:
    """Makes jsonargparse check the size of all YAML it reads, including nested files and values."""
    set_loader("yaml", load_bounded, (yaml.YAMLError,))


def load_bounded(text: str) -> Any:
    """Parses a YAML text as jsonargparse does, unless it would unfold too far.

    Raises:
        yaml.YAMLError: If the text is not valid YAML, or its aliases unfold into a huge tree.
    """
    check_yaml_size(text)
    return JSONARGPARSE(text)


def check_yaml_size(text: str) -> None:
    """Raises a YAMLError for a YAML text that unfolds too far, or contains a text that does.

    A text that is not valid YAML is left to the parser, whose error names the line.
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
    """Counts the nodes of a tree whose aliases are shared; too many if a node contains itself."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES + 1  # this remains if the node contains itself
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.ScalarNode):  # jsonargparse parses a text where a number fits
            check_yaml_size(node.value)
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
