"""Finding every normalization of a network, by type, and deciding what can become of it."""

import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

from fedwon.models.absorb import Affine, affine_layer, constants_of
from fedwon.models.calls import normalization_calls
from fedwon.models.findings import Finding, Form
from fedwon.models.inspection import normalization_layers
from fedwon.models.tracing import Execution, Region, source, trace

_PROBE_TOLERANCE = 1e-4  # relative to the output
_MEASURE = (
    "Give `calibration=` example images to put measured constants in its place, and train on; or name it in `keep`."
)


@dataclass(frozen=True, eq=False)
class Site:
    """A finding with the objects that it is about.

    Attributes:
        finding: What is said about it.
        norm: The layer; ``None`` for a call.
        affine: Its constants, where it has any.
        dim: Its channels' dimension.
        carrier: The convolution or Linear that takes the constants, for these forms.
        region: Where a call stands.
        node: The call.
    """

    finding: Finding
    norm: nn.Module | None = None
    affine: Affine | None = None
    dim: int = 1
    carrier: nn.Module | None = None
    region: Region | None = None
    node: fx.Node | None = None


class _Verdict(NamedTuple):
    form: Form
    why: str
    way_out: str = ""
    after: str = ""


def survey(model: nn.Module) -> list[Site]:
    """Look at a network that is in evaluation mode.

    Args:
        model: The network. It is not run on data; its mode may change.

    Returns:
        Layers in order of registration, then calls, then what could not be followed.
    """
    execution = trace(model)
    feeders = _Feeders(model, execution)
    layers = [_layer_site(name, norm, feeders) for name, norm in normalization_layers(model)]
    calls = [_call_site(feeders, *found) for region in execution.regions for found in normalization_calls(region)]
    opaque = [_opaque_site(model, name, reason) for name, reason in execution.opaque.items()]
    return [*layers, *calls, *opaque]


class _Feeders:
    """What feeds a normalization, and whether that layer can take its constants."""

    def __init__(self, model: nn.Module, execution: Execution) -> None:
        self._names = {module: name for name, module in model.named_modules()}
        self._execution = execution
        owners = [parameter for module in model.modules() for parameter in module.parameters(recurse=False)]
        self._owners = Counter(map(id, owners))
        self._read = {id(value) for region in execution.regions for value in _read_directly(region)}

    def calls(self, layer: nn.Module) -> list[tuple[Region, fx.Node]]:
        """Where a layer is called."""
        return self._execution.calls.get(layer, [])

    def describe(self, region: Region, node: object) -> str:
        """What a node is, in words."""
        layer = region.module(node)
        if layer is not None:
            return f"{type(layer).__name__} {self._names[layer]}"
        if not isinstance(node, fx.Node) or node.op == "get_attr":
            return "a constant"
        return "the input" if node.op == "placeholder" else getattr(node.target, "__name__", str(node.target))

    def carrier(self, region: Region, node: object) -> tuple[nn.Module | None, str]:
        """The layer that can take the constants of what it feeds alone; or why there is none."""
        layer, what = region.module(node), self.describe(region, node)
        if type(layer) not in {nn.Conv2d, nn.Linear} or not isinstance(node, fx.Node) or layer is None:
            return None, f"{what} cannot take it in"
        if len(node.users) > 1 or len(self.calls(layer)) > 1:
            return None, f"what {what} computes is also used elsewhere"
        if layer._forward_pre_hooks or layer._forward_hooks:  # noqa: SLF001 - e.g. spectral_norm's
            return None, f"{what} has hooks"
        if any(self._owners[id(value)] > 1 or id(value) in self._read for value in layer.parameters()):
            return None, f"the weights of {what} are also used elsewhere"
        return layer, ""


def _layer_site(name: str, norm: nn.Module, feeders: _Feeders) -> Site:
    verdict, carrier = _layer_verdict(norm, feeders)
    finding = Finding(name, type(norm).__name__, verdict.after, verdict.form, verdict.why, verdict.way_out)
    affine = constants_of(norm) if finding.exact else None
    return Site(finding, norm, affine, channel_dim(norm), carrier)


def _layer_verdict(norm: nn.Module, feeders: _Feeders) -> tuple[_Verdict, nn.Module | None]:
    calls = feeders.calls(norm)
    after = ", ".join(dict.fromkeys(feeders.describe(region, source(node)) for region, node in calls))
    refusal = _refusal(norm, len(calls))
    if refusal is not None:
        return refusal._replace(after=after), None
    if len(calls) != 1:
        times = f"it is called {len(calls)} times" if calls else "no call of it was seen in evaluation mode"
        return _Verdict("affine", f"becomes a scale and shift per channel, for {times}", after=after), None
    region, node = calls[0]
    carrier, reason = feeders.carrier(region, source(node))
    return _absorbed(carrier, after, reason), carrier


def _absorbed(carrier: nn.Module | None, after: str, reason: str) -> _Verdict:
    if carrier is None:
        return _Verdict("affine", f"becomes a scale and shift per channel, for {reason}", after=after)
    if isinstance(carrier, nn.Linear):
        return _Verdict("linear", "taken into the weights and bias of the layer before", after=after)
    return _Verdict("conv", "taken into gain, offset and bias of the convolution before", after=after)


def _refusal(norm: nn.Module, calls: int) -> _Verdict | None:
    """Why a layer cannot be converted exactly; ``None`` if it can."""
    if isinstance(norm, _NormBase) and norm.running_mean is not None:
        return _refusal_of_constants(norm)
    what = "each batch" if isinstance(norm, _BatchNorm) else "each example"
    why = f"it measures {what} anew, so no constants compute the same"
    for barred, reason, way_out in (
        (calls > 1, f"it is called {calls} times", "Give each place a layer of its own, or name it in `keep`."),
        (any(norm.children()), "it holds further layers", "Make these layers of their own, or name it in `keep`."),
        (
            len(getattr(norm, "normalized_shape", (0,))) != 1,
            "it has weights per position",
            "Use GroupNorm, or name it in `keep`.",
        ),
    ):
        if barred:
            return _Verdict("impossible", f"{why}, and {reason}", way_out)
    return _Verdict("measured", why, _MEASURE)


def _refusal_of_constants(norm: _NormBase) -> _Verdict | None:
    constants = constants_of(norm)
    if not all(vector.isfinite().all() for vector in constants):
        return _Verdict("impossible", "its statistics or weights are not finite", "Take an undamaged model.")
    if not type(norm).__module__.startswith("torch.nn.") and not _computes(norm, constants):
        why = f"{type(norm).__name__}.forward computes something else than its constants say"
        return _Verdict("impossible", why, "Put a torch.nn layer in its place, or name it in `keep`.")
    return None


def _computes(norm: _NormBase, constants: Affine) -> bool:
    """Try a subclass of somebody else's: its constants, then the layers it holds (timm's BatchNormAct2d: drop, act)."""
    layer = copy.deepcopy(norm).eval()
    like = constants_of(norm).scale.to(norm.running_mean) if norm.running_mean is not None else constants.scale
    dimensions = 1 if "1d" in _torch_name(norm) else 3 if "3d" in _torch_name(norm) else 2
    generator = torch.Generator().manual_seed(0)
    images = 3 * torch.randn(2, len(like), *[3] * dimensions, generator=generator).to(like)
    replaced = remainder(layer)
    affine = affine_layer(constants, channel_dim(norm), like)
    with torch.no_grad():
        try:
            wanted, got = layer(images.clone()), replaced(affine(images))
        except Exception:  # noqa: BLE001 - whatever it raises, it is not what we take it for
            return False
    return wanted.shape == got.shape and bool((wanted - got).abs().max() <= _PROBE_TOLERANCE * wanted.abs().max())


def remainder(norm: nn.Module) -> nn.Module:
    """What is left of a layer without its normalization: the layers that it holds, in order; mostly nothing.

    Args:
        norm: A normalization layer; its children become part of what is returned.
    """
    held = dict(norm.named_children())
    if all(isinstance(layer, nn.Identity) for layer in held.values()):
        return nn.Identity()
    left = nn.Sequential()
    for name, layer in held.items():
        left.add_module(name, layer)
    return left


def channel_dim(norm: nn.Module) -> int:
    """The channels' dimension of a layer's input; for LayerNorm of a subclass only the likely one."""
    if isinstance(norm, _InstanceNorm):  # which takes images without a batch too
        return -norm._get_no_batch_dim()  # type: ignore[no-untyped-call,no-any-return]  # noqa: SLF001
    return -1 if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)) else 1


def _torch_name(norm: nn.Module) -> str:
    return next((kind.__name__ for kind in type(norm).__mro__ if kind.__module__.startswith("torch.nn.")), "")


def _call_site(feeders: _Feeders, region: Region, node: fx.Node, where: str, affine: Affine | str) -> Site:
    name = f"F.{getattr(node.target, '__name__', node.target)}"
    after = feeders.describe(region, source(node))
    if isinstance(affine, str):
        way_out = "Write it as a layer of torch.nn, which can then be converted, measured or kept."
        return Site(Finding(where, name, after, "impossible", affine, way_out))
    carrier, reason = feeders.carrier(region, source(node))
    verdict = _absorbed(carrier, after, reason)
    finding = Finding(where, name, after, verdict.form, verdict.why)
    return Site(finding, None, affine, 1, carrier, region, node)


def _opaque_site(model: nn.Module, name: str, reason: str) -> Site:
    kind = type(model.get_submodule(name)).__name__
    why = f"torch.fx could not trace its forward ({reason}), so a normalization call in there would go unseen"
    return Site(
        Finding(
            name, kind, "", "opaque", why, "Give `example=` images: the converted network is then proved by running it."
        )
    )


def _read_directly(region: Region) -> Iterator[Tensor]:
    """Parameters and buffers that a ``forward`` reads itself, past the layer that holds them."""
    for node in region.graph.nodes:
        if node.op == "get_attr":
            value: Any = region.root
            for part in str(node.target).split("."):
                value = getattr(value, part)
            if isinstance(value, Tensor):
                yield value
