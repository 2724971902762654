"""YAML of somebody else's: PyYAML's safe loader, made stricter and bounded.

A key that is given twice is an error, for the first value would be lost in silence. An alias (`*name`) is a few bytes
that stand for as much as they like: what a text comes to with each alias written out is counted before anything is made
of it ("a billion laughs"), and an alias inside of what it names is refused.
"""

from __future__ import annotations

from typing import Any

import yaml

LARGEST_TEXT = 2**20
"""Bytes of a configuration file (1 MiB); ours have a few thousand."""
MOST_NODES = 100_000
"""Keys and values that a file may come to with all its aliases written out."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that is given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping after a look at its keys."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"`{key.value}` is given twice", problem_mark=node.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_text(text: str) -> Any:
    """Return what a YAML text says.

    Raises:
        yaml.YAMLError: it is not YAML, holds more than one document, or goes beyond the bounds.
        ValueError: a date that there is not, or a number with thousands of digits.
        RecursionError: it is nested too deeply.
    """
    if len(text) > LARGEST_TEXT:
        raise yaml.YAMLError(f"it has {len(text)} characters; {LARGEST_TEXT} are the most")
    loader = _StrictLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _written_out(root, {})
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _written_out(node: yaml.Node, counted: dict[int, int]) -> int:
    """Return how many nodes there are in a node, each as often as it is referred to; 0 in `counted`: it is open."""
    if id(node) in counted:
        if not counted[id(node)]:
            raise yaml.MarkedYAMLError(problem="an alias stands inside of what it names", problem_mark=node.start_mark)
        return counted[id(node)]
    counted[id(node)] = 0
    total = 1
    for child in _children(node):
        total += _written_out(child, counted)
        if total > MOST_NODES:
            raise yaml.MarkedYAMLError(
                problem=f"with its aliases written out it has more than {MOST_NODES} values",
                problem_mark=node.start_mark,
            )
    counted[id(node)] = total
    return total


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
