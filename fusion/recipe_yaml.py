"""YAML as recipes have it: each key once, nothing inside itself, texts that can be stored."""

from collections.abc import Iterator
from typing import Any

import yaml

from fusion.errors import BadInputError, one_line
from fusion.paths import is_storable

_MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str, origin: str) -> Any:
    """What a YAML text holds; `origin` names it in sentences.

    Raises:
        BadInputError: it is not YAML, or YAML that means something else than it says.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(node, origin, within=(), seen=set())
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:
        raise BadInputError(f"{origin} is not YAML: {one_line(error)}; mend it.") from None
    except RecursionError as error:
        raise BadInputError(f"{origin} cannot be read: {one_line(error)}.") from None


def _check(node: yaml.Node, origin: str, within: tuple[yaml.Node, ...], seen: set[int]) -> None:
    """See to a node and all below it, once however many aliases it has."""
    if any(node is outer for outer in within):
        raise _mistake(node, origin, "a value holds itself by its own anchor; write it out.")
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.ScalarNode):
        _check_text(node, origin)
    elif isinstance(node, yaml.MappingNode):
        _check_keys(node, origin)
    for child in _children(node):
        _check(child, origin, (*within, node), seen)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _check_text(node: yaml.ScalarNode, origin: str) -> None:
    if not is_storable(node.value):
        raise _mistake(
            node, origin, f"{node.value!a:.60} has a NUL or half a character in it; take it out."
        )


def _check_keys(node: yaml.MappingNode, origin: str) -> None:
    """YAML's reader would take the last of equal keys, and nothing would say so."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            continue
        if first := lines.get((key.tag, key.value)):
            said = f"the key {key.value!r} stands in line {first} already; keep one of them."
            raise _mistake(key, origin, said)
        lines[key.tag, key.value] = _line(key)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _mistake(node: yaml.Node, origin: str, said: str) -> BadInputError:
    return BadInputError(f"{origin}, line {_line(node)}: {said}")
