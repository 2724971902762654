"""The models we already have: a pretrained network with normalization, made into one without.

>>> from fedwon.models import convert, detect, explain
>>> print(explain(detect(model)))
>>> free = convert(model)

In evaluation mode a batch norm is a scale and a shift per channel. Where it follows a convolution they are taken into
the filters, which are kept in weight-standardized form (:class:`~fedwon.models.offset_conv.OffsetWSConv2d`), where it
follows a Linear into that, and elsewhere they stay as a :class:`~fedwon.models.channel_affine.ChannelAffine`. The
converted network computes the original's evaluation function up to rounding, takes no statistics, and trains on single
images. Layer norm and others that measure each example have no exact counterpart; they are refused, unless example
images are given to measure constants on (:mod:`~fedwon.models.measuring`).

Nothing that normalizes is left in silently: what cannot be converted raises, unless it is named in ``keep``.

Limits: arithmetic that normalizes without being called so (``x - x.mean()``) is architecture here;
:func:`~fedwon.models.inspection.functional_statistics` finds it. Hooks on replaced layers are lost.
"""

import copy
import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from fedwon.models.absorb import absorbing_conv, absorbing_linear, affine_layer
from fedwon.models.calls import normalization_kernels, replace_call
from fedwon.models.findings import Finding, explain
from fedwon.models.measuring import measure
from fedwon.models.survey import Site, remainder, survey

TOLERANCE = 1e-4
"""Largest difference of converted and original outputs, relative to the largest output, that passes as rounding."""


class ConversionError(ValueError):
    """A network could not be converted; the message says what, why and the way out.

    Attributes:
        findings: What it is about.
    """

    def __init__(self, message: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(message)
        self.findings = tuple(findings)


class NotConvertibleError(ConversionError):
    """It has a normalization that nothing can take the place of, or that nobody could look for."""


class NeedsExamplesError(ConversionError):
    """It has normalization whose constants would have to be measured, and there are no images to measure on."""


class OtherFunctionError(ConversionError):
    """Run on the example, the converted network does not do what the original does, or still normalizes."""


def detect(model: nn.Module) -> list[Finding]:
    """Find every normalization in a network and say what would become of it.

    Args:
        model: Any module that can be deep-copied; left as it is.

    Returns:
        Layers in order of registration, then calls such as ``F.batch_norm``, then modules that could not be traced.

    Raises:
        NotConvertibleError: the network has lazy layers that have not run yet.
    """
    return [site.finding for site in survey(_copied(model).eval())]


def convert(
    model: nn.Module,
    *,
    calibration: Tensor | None = None,
    example: Tensor | None = None,
    keep: Collection[str] = (),
) -> nn.Module:
    """A network without normalization that computes what ``model`` computes in evaluation mode.

    The modules keep their places and names, so that the rest of the state dict stays as it was. Only where a
    ``forward`` calls normalization itself (``F.batch_norm``) does the network, or the largest traceable part of it,
    become a :class:`torch.fx.GraphModule`, whose ``forward`` is the traced one.

    Args:
        model: Any module that can be deep-copied; left as it is.
        calibration: Images ``(N, C, H, W)``, prepared as for training, on which constants are measured for layers that
            have none. Without such layers they are not used.
        example: Images on which the result is proved: no normalization runs (unless layers were kept), and the outputs
            are the original's within :data:`TOLERANCE` (unless constants were measured), in float64 if rounding may be
            what differs. Needed if a part cannot be traced.
        keep: Qualified names of normalization layers to leave in, on purpose.

    Returns:
        The network, in the mode of ``model``, layer by layer.

    Raises:
        NotConvertibleError: something cannot be converted, or not traced and there is no ``example``.
        NeedsExamplesError: layers need measured constants and there is no ``calibration``.
        OtherFunctionError: the proof on ``example`` failed.
        ValueError: ``keep`` names something that is no normalization layer here.
    """
    converted, findings = _unproved(model, calibration, keep, provable=example is not None)
    if example is not None:
        if not keep:
            _prove_free(converted, example, findings)
        if all(finding.form != "measured" for finding in findings):
            _prove_same(model, converted, example, findings, keep)
    return converted


def largest_difference(model: nn.Module, other: nn.Module, images: Tensor) -> float:
    """How far two networks are apart in evaluation mode.

    Args:
        model: The reference; it and ``other`` give a tensor, or the same nesting of tensors. Both stay as they are.
        other: The network compared with it.
        images: What both are run on.

    Returns:
        The largest absolute difference of an output over the largest absolute output of ``model``; infinite if there
        is a difference that is not a number.
    """
    with torch.no_grad():
        wanted, got = (_outputs(network, images) for network in (model, other))
    difference = max(float((a - b).abs().max()) for a, b in zip(wanted, got, strict=True))
    scale = max(float(output.abs().max()) for output in wanted)
    ratio = difference / scale if scale else difference
    return ratio if math.isfinite(ratio) else math.inf


def _unproved(
    model: nn.Module, calibration: Tensor | None, keep: Collection[str], *, provable: bool
) -> tuple[nn.Module, list[Finding]]:
    """The converted network and what was found, before it is run on anything."""
    converted = _copied(model)
    modes = {module: module.training for module in converted.modules()}
    sites = _without_kept(survey(converted.eval()), keep)
    findings = [site.finding for site in sites]
    _refuse(findings, measurable=calibration is not None, provable=provable)
    return _rebuilt(converted, sites, _replacements(converted, sites, calibration), modes), findings


def _copied(model: nn.Module) -> nn.Module:
    lazy = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if is_lazy(value)]
    if lazy:
        raise NotConvertibleError(f"{lazy[0]} has no values yet (lazy). Run the network once on an image.")
    return copy.deepcopy(model)


def _outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    out = copy.deepcopy(network).eval()(images)
    return [leaf for leaf in torch.utils._pytree.tree_leaves(out) if isinstance(leaf, Tensor)]  # noqa: SLF001


def _without_kept(sites: list[Site], keep: Collection[str]) -> list[Site]:
    layers = {site.finding.where for site in sites if site.norm is not None}
    unknown = sorted(set(keep) - layers)
    if unknown:
        raise ValueError(
            f"keep names {unknown[0]!r}, which is no normalization layer here; these are: {sorted(layers)}"
        )
    return [site for site in sites if site.norm is None or site.finding.where not in keep]


def _refuse(findings: list[Finding], *, measurable: bool, provable: bool) -> None:
    barred = [f for f in findings if f.form == "impossible" or (f.form == "opaque" and not provable)]
    if barred:
        raise NotConvertibleError(explain(barred), barred)
    unmeasured = [finding for finding in findings if finding.form == "measured"]
    if unmeasured and not measurable:
        raise NeedsExamplesError(explain(unmeasured), unmeasured)


def _replacements(model: nn.Module, sites: list[Site], calibration: Tensor | None) -> dict[nn.Module, nn.Module]:
    """New layer by old, for carriers and normalization layers."""
    found: dict[nn.Module, nn.Module] = {}
    for site in sites:
        if site.carrier is not None and site.affine is not None:
            absorbing = absorbing_conv if isinstance(site.carrier, nn.Conv2d) else absorbing_linear
            found[site.carrier] = absorbing(site.carrier, site.affine)  # type: ignore[arg-type]
        if site.norm is not None and site.affine is not None:
            constants = None if site.carrier is not None else affine_layer(site.affine, site.dim, _like(site))
            found[site.norm] = _with_remainder(constants, site.norm)
    layers = [site for site in sites if site.finding.form == "measured" and site.norm is not None]
    if layers and calibration is not None:
        measured = measure(model, [site.norm for site in layers if site.norm is not None], calibration)
        missed = [site.finding for site in layers if site.norm not in measured]
        if missed:
            raise NotConvertibleError(f"Not called on the calibration images:\n{explain(missed)}", missed)
        found |= measured
    return found


def _like(site: Site) -> Tensor:
    """The running statistics, which give type and device."""
    return next(buffer for buffer in site.norm.buffers() if buffer.is_floating_point())  # type: ignore[union-attr]


def _with_remainder(constants: nn.Module | None, norm: nn.Module) -> nn.Module:
    left = remainder(norm)
    if constants is None:
        return left
    return constants if isinstance(left, nn.Identity) else nn.Sequential(constants, *left.children())


def _rebuilt(
    model: nn.Module, sites: list[Site], replacements: Mapping[nn.Module, nn.Module], modes: Mapping[nn.Module, bool]
) -> nn.Module:
    """Put the new layers in, write forwards with calls anew, and restore the modes."""
    for old, new in replacements.items():
        new.train(modes[old])
    regions = {}
    for site in sites:
        if site.region is not None and site.node is not None and site.affine is not None:
            layer = None if site.carrier is not None else affine_layer(site.affine, 1, _parameter_of(site.region.root))
            replace_call(site.region, site.node, layer)
            regions[site.region.root] = site.region.graph
    rebuilt = replace_modules(model, replacements)
    graphs = {root: fx.GraphModule(root, graph, type(root).__name__) for root, graph in regions.items()}
    rebuilt = replace_modules(rebuilt, graphs)
    for module, mode in modes.items():
        graphs.get(module, module).training = mode
    return rebuilt


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put modules in place of others, in place, wherever these are registered.

    Args:
        model: The root; changed, unless it is itself replaced.
        replacements: New module by old module, by identity.

    Returns:
        The root: ``model``, or what replaces it.
    """
    for parent in list(model.modules()):
        for name, child in parent._modules.items():  # noqa: SLF001 - named_children leaves out the second of a shared
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]  # noqa: SLF001
    return replacements.get(model, model)


def _parameter_of(root: nn.Module) -> Tensor:
    return next((value for value in (*root.parameters(), *root.buffers()) if value.is_floating_point()), torch.ones(1))


def _prove_free(converted: nn.Module, example: Tensor, findings: list[Finding]) -> None:
    left = normalization_kernels(converted, example)
    if left:
        uses = ", ".join(f"{use.operation} in {use.module or 'the network'}" for use in left)
        raise OtherFunctionError(f"Normalization that could not be seen before it ran is left: {uses}.", findings)


def _prove_same(
    model: nn.Module, converted: nn.Module, example: Tensor, findings: list[Finding], keep: Collection[str]
) -> None:
    difference = largest_difference(model, converted, example)
    # A network may amplify its own rounding past the tolerance; in float64 rounding is no excuse.
    if difference > TOLERANCE and example.dtype != torch.float64:
        precise = copy.deepcopy(model).double()
        converted, _ = _unproved(precise, None, keep, provable=True)
        difference = largest_difference(precise, converted, example.double())
    if difference > TOLERANCE:
        raise OtherFunctionError(
            f"On the example the converted network differs by {difference:.1e} of the largest output (allowed: "
            f"{TOLERANCE:.0e}). A forward that uses the inside of its layers in its own way may be the cause.",
            findings,
        )
