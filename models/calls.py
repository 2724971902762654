"""Normalization that is a call in a ``forward`` (``F.batch_norm``) and no layer: found in the traced graph."""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from fedwon.models.absorb import Affine, affine_of
from fedwon.models.inspection import StatisticUse, functional_statistics
from fedwon.models.tracing import Region, trace_whole

_NAMES = re.compile(r"(batch|group|layer|instance|rms|local_response)_norm")
_ARGUMENTS = inspect.signature(F.batch_norm)
_PER_EXAMPLE = "it measures its input anew each time, so no constants compute the same"
_TWO_MODES = "the forward around it does something else in training, which a rewritten forward would lose"


def normalization_calls(region: Region) -> Iterator[tuple[Region, fx.Node, str, Affine | str]]:
    """The calls in a region, in order.

    Args:
        region: A traced module, in evaluation mode; is traced once more in training mode if it has such a call.

    Yields:
        The region, the node, the qualified name of the module in whose ``forward`` it stands, and the constants of
        the call, or why it has none that can be used.
    """
    found = [node for node in region.graph.nodes if _is_normalization_call(node)]
    one_graph = not found or _same_in_training(region)
    for node in found:
        stack = list(node.meta.get("nn_module_stack", {}))
        where = region.qualified(stack[-1] if stack else "")
        yield region, node, where, _constants(region, node) if one_graph else _TWO_MODES


def _is_normalization_call(node: fx.Node) -> bool:
    if node.op not in {"call_function", "call_method"}:
        return False
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return _NAMES.search(name) is not None


def _constants(region: Region, node: fx.Node) -> Affine | str:
    if node.target is not F.batch_norm:
        return _PER_EXAMPLE
    bound = _ARGUMENTS.bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    given = bound.arguments
    if given["training"] is not False or given["running_mean"] is None or given["running_var"] is None:
        return "it measures each batch anew, so no constants compute the same"
    vectors = [_value(region, given[name]) for name in ("running_mean", "running_var", "weight", "bias")]
    if any(isinstance(vector, str) for vector in vectors) or not isinstance(given["eps"], float):
        return "its statistics or weights are computed and not stored"
    mean, variance, weight, bias = vectors
    constants = affine_of(mean, variance, weight, bias, given["eps"])
    return constants if all(v.isfinite().all() for v in constants) else "its statistics or weights are not finite"


def _value(region: Region, argument: object) -> Any:
    """A stored tensor, ``None``, or a text for anything else."""
    if not isinstance(argument, fx.Node):
        return argument if argument is None or isinstance(argument, Tensor) else "computed"
    if argument.op != "get_attr":
        return "computed"
    owner, _, name = str(argument.target).rpartition(".")
    return getattr(region.root.get_submodule(owner), name)


def _same_in_training(region: Region) -> bool:
    """Whether the graph is the same in training, but for what its batch norm calls are told."""
    region.root.train()
    try:
        training = trace_whole(region.root)
    except Exception:  # noqa: BLE001 - the module's own code ran, on what it was not written for
        return False
    finally:
        region.root.eval()
    return _skeleton(training) == _skeleton(region.graph)


def _skeleton(graph: fx.Graph) -> list[tuple[str, ...]]:
    return [
        (node.op, str(node.target), *(() if _is_normalization_call(node) else (str(node.args), str(node.kwargs))))
        for node in graph.nodes
    ]


def normalization_kernels(model: nn.Module, example: Tensor) -> list[StatisticUse]:
    """The normalization kernels that really run, whether or not they can be traced.

    Args:
        model: Any module that can be deep-copied.
        example: A batch of images.
    """
    return [use for use in functional_statistics(model, example) if _NAMES.search(use.operation)]


def replace_call(region: Region, node: fx.Node, layer: nn.Module | None) -> None:
    """Put a layer in place of a call, in the region's graph and root.

    Args:
        region: Where the call stands.
        node: The call.
        layer: What takes its place; ``None``: nothing, what came in goes on.
    """
    replacement = node.args[0] if node.args else node.kwargs["input"]
    if layer is not None:
        name = _free_name(region.root, node.name)
        region.root.add_module(name, layer)
        with region.graph.inserting_before(node):
            replacement = region.graph.call_module(name, (replacement,))
    node.replace_all_uses_with(replacement)  # type: ignore[arg-type]
    read = node.all_input_nodes
    region.graph.erase_node(node)
    for other in read:  # its statistics, which nothing reads any more
        if other.op == "get_attr" and not other.users:
            region.graph.erase_node(other)


def _free_name(root: nn.Module, wish: str) -> str:
    while hasattr(root, wish):
        wish += "_"
    return wish
