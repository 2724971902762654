"""In which order a network's layers run, and what feeds what: torch.fx, with a way on where it cannot follow.

The order of registration is not the order of execution, and a layer may be called twice or not at all. torch.fx runs
``forward`` on placeholders, so it also sees across Sequential boundaries and into functional calls. It stops where
``forward`` decides by values. Then the module's children are followed one by one, each a region of its own; what a
Sequential or a list holds just below such a module is taken apart, because that ``forward`` may take it apart too
(``for layer in self.features``), and its items do not count as following one another.
"""

from collections import defaultdict
from dataclasses import dataclass, field

from torch import fx, nn

from fedwon.models.inspection import is_normalization
from fedwon.models.ws_conv import WSConv2d

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


class _Tracer(fx.Tracer):
    """fx's own, which keeps subclasses of layers whole that torch.nn alone would have it enter."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a call of this module is one node, and its inside is not looked into."""
        if is_normalization(m) or isinstance(m, (nn.Conv2d, nn.Linear)):
            return True
        # Layers of torch.nn such as TransformerEncoderLayer hold normalization that must be seen.
        inside = any(is_normalization(layer) for layer in m.modules())
        return not inside and super().is_leaf_module(m, module_qualified_name)


@dataclass(frozen=True, eq=False)
class Region:
    """A module that could be traced whole.

    Attributes:
        name: Its qualified name; ``""`` for the network itself.
        root: The module.
        graph: Its operations in order; targets are relative to ``root``.
    """

    name: str
    root: nn.Module
    graph: fx.Graph

    def module(self, node: object) -> nn.Module | None:
        """The layer that a node calls, if that is what it does."""
        if isinstance(node, fx.Node) and node.op == "call_module":
            return self.root.get_submodule(str(node.target))
        return None

    def qualified(self, name: str) -> str:
        """A name relative to the root, as seen from the network."""
        return ".".join(part for part in (self.name, name) if part)


@dataclass(eq=False)
class Execution:
    """How a network runs in evaluation mode, as far as it can be told.

    Attributes:
        regions: What could be traced.
        opaque: Qualified name and reason of each module whose ``forward`` could not.
        calls: The nodes that call a layer, by layer.
    """

    regions: list[Region] = field(default_factory=list)
    opaque: dict[str, str] = field(default_factory=dict)
    calls: dict[nn.Module, list[tuple[Region, fx.Node]]] = field(default_factory=lambda: defaultdict(list))

    def add(self, region: Region) -> None:
        """Take in a traced region."""
        self.regions.append(region)
        for node in region.graph.nodes:
            layer = region.module(node)
            if layer is not None:
                self.calls[layer].append((region, node))


def trace(model: nn.Module) -> Execution:
    """Follow a network, as a whole or in parts.

    Args:
        model: Any module, in the mode whose order is wanted; it is not run on data and not changed.
    """
    execution = Execution()
    _follow(execution, "", model)
    return execution


def trace_whole(module: nn.Module) -> fx.Graph:
    """Trace one module.

    Raises:
        Exception: whatever its ``forward`` raises on a placeholder.
    """
    return _Tracer().trace(module)


def source(node: fx.Node) -> object:
    """The first argument of a call, however it is given: the input, for a layer or a normalization function."""
    return node.args[0] if node.args else node.kwargs.get("input")


def _follow(execution: Execution, name: str, module: nn.Module) -> None:
    if _is_plain(module):
        return
    try:
        execution.add(Region(name, module, trace_whole(module)))
    except Exception as error:  # noqa: BLE001 - the module's own code ran, on what it was not written for
        execution.opaque[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0]}" if str(error) else ""
        _follow_children(execution, name, module)


def _follow_children(execution: Execution, name: str, module: nn.Module) -> None:
    for child_name, child in module.named_children():
        qualified = ".".join(part for part in (name, child_name) if part)
        if type(child).forward in {kind.forward for kind in _CONTAINERS}:
            _follow_children(execution, qualified, child)
        else:
            _follow(execution, qualified, child)


def _is_plain(module: nn.Module) -> bool:
    """Whether there is nothing to follow in a layer: its inside is no network."""
    return isinstance(module, WSConv2d) or _Tracer().is_leaf_module(module, "")
