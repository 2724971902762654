"""Proof that a network is free of normalization: by the types of its layers, and by watching it run.

The types miss what a ``forward`` does by itself (``F.layer_norm``, ``x - x.mean(0)``). So the network is also run on
an example while every operation is watched, below autograd (``TorchDispatchMode``) and at torch's Python surface
(``TorchFunctionMode``), and every statistic is reported that is taken of something that depends on the input.
Statistics of weights, which is what weight standardization is, are not reported.

What depends on the input is followed by storage: an output of an operation with a followed input is followed. A
storage and not a tensor object, because views and autograd make new objects for the same memory. That errs on the
strict side: ``zeros_like(x)`` is followed too, though only its shape comes from the input.

Limits: the sum of squares in a hand-written local response normalization, averages written as a matrix product, and
values that leave torch (``.item()``, ``.numpy()``) are not seen; pooling counts as architecture, not as a statistic.
A comparison of outputs for the same image in different batches covers all of these that mix images.
"""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# _NormBase is the one class above BatchNorm*, SyncBatchNorm, InstanceNorm* and the lazy forms of them.
_LAYERS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d)

# The kernels have many names by backend (native_batch_norm, cudnn_batch_norm, _fused_rms_norm): one pattern for all.
_KERNELS = re.compile(r"(batch|group|layer|instance|rms|local_response)_norm")
# sum, because x.sum(0) / n is a mean; the extremes and sort, because of scaling by range or quantile.
_REDUCTIONS = frozenset(
    (
        *("mean", "nanmean", "var", "std", "var_mean", "std_mean", "sum", "nansum", "cumsum", "logsumexp"),
        *("norm", "native_norm", "linalg_vector_norm", "renorm", "dot"),
        *("amax", "amin", "aminmax", "median", "nanmedian", "kthvalue", "sort"),
        # by overload, for max.other and min.other work element by element
        *("max.default", "max.dim", "min.default", "min.dim"),
    )
)
# Adaptive pooling to 1x1 runs as a mean. It is known by the name it is called by.
_POOLING = frozenset(
    [
        F.adaptive_avg_pool1d,
        F.adaptive_avg_pool2d,
        F.adaptive_avg_pool3d,
        torch._C._nn.adaptive_avg_pool2d,  # noqa: SLF001 - what F.adaptive_avg_pool2d is without the Python wrapper
        torch._C._nn.adaptive_avg_pool3d,  # noqa: SLF001
    ]
)


@dataclass(frozen=True)
class StatisticUse:
    """One place where a network takes a statistic of its activations.

    Attributes:
        module: Qualified name of the innermost module that was running; ``""`` for the network itself.
        operation: What ran, e.g. ``aten::native_layer_norm`` or ``aten::mean``.
    """

    module: str
    operation: str


def normalization_layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The layers whose type computes statistics over the batch or the activations.

    BatchNorm*, SyncBatchNorm, InstanceNorm* (lazy ones too), GroupNorm, LayerNorm, RMSNorm, LocalResponseNorm and
    CrossMapLRN2d, and subclasses of these; never by name.

    Returns:
        ``(qualified name, module)`` in order of registration, a shared module once; ``""`` is the model itself.
    """
    return [(name, module) for name, module in model.named_modules() if is_normalization(module)]


def is_normalization(layer: nn.Module) -> bool:
    """Whether a layer is one of those that :func:`normalization_layers` finds."""
    return isinstance(layer, _LAYERS)


def functional_statistics(model: nn.Module, example: Tensor | Sequence[Tensor]) -> list[StatisticUse]:
    """Run the model and report each normalization or statistic of activations that is computed on the way.

    Runs a copy, once in training and once in evaluation mode: the model, its buffers, its mode and torch's (CPU)
    random generator stay as they are.

    Args:
        model: Any module that can be deep-copied.
        example: The argument of ``model``, or a sequence of arguments. Give a batch of two or more: batch norm in
            training refuses one.

    Returns:
        What was found, each place and operation once, in the order of running; empty if nothing was.

    Raises:
        Exception: whatever the model raises on the example.
    """
    arguments = (example,) if isinstance(example, Tensor) else tuple(example)
    watched = copy.deepcopy(model)
    watch = _Watch()
    watch.follow_modules(watched)
    for training in (True, False):
        watched.train(training)
        # Clones, so that the input shares no memory with anything of the model's.
        inputs = [argument.detach().clone() for argument in arguments]
        watch.follow(inputs)
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), _Surface(watch), _Dispatch(watch):
            watched(*inputs)
    return list(watch.found)


def is_normalization_free(model: nn.Module, example: Tensor | Sequence[Tensor]) -> bool:
    """Whether the model has no normalization layer and takes no statistic of its activations.

    Args:
        model: Any module that can be deep-copied.
        example: As :func:`functional_statistics`.

    Raises:
        Exception: whatever the model raises on the example.
    """
    return not normalization_layers(model) and not functional_statistics(model, example)


class _Watch:
    """What is known while the model runs: the storages that depend on the input, where we are, what was found."""

    def __init__(self) -> None:
        # Keyed by address; holding the storage keeps the address from being given to another.
        self._storages: dict[int, torch.UntypedStorage] = {}
        self._modules = [""]
        self._pooling = False
        self.found: dict[StatisticUse, None] = {}

    def follow(self, value: object) -> None:
        """Note that the tensors in a value depend on the input."""
        for tensor in _tensors(value):
            storage = tensor.untyped_storage()
            if storage.data_ptr():
                self._storages[storage.data_ptr()] = storage

    def follows(self, value: object) -> bool:
        """Tell whether a tensor in a value depends on the input."""
        return any(tensor.untyped_storage().data_ptr() in self._storages for tensor in _tensors(value))

    def report(self, operation: str) -> None:
        """Note an operation that takes statistics, unless it is part of a pooling."""
        if not self._pooling:
            self.found[StatisticUse(self._modules[-1], operation)] = None

    @contextmanager
    def pooling(self) -> Iterator[None]:
        """Let operations pass while the block runs: pooling is no normalization."""
        self._pooling = True
        try:
            yield
        finally:
            self._pooling = False

    def follow_modules(self, model: nn.Module) -> None:
        """Keep the name of the running module on a stack, by hooks."""
        for name, module in model.named_modules():
            module.register_forward_pre_hook(lambda *_, name=name: self._modules.append(name))
            module.register_forward_hook(self._leave, always_call=True)

    def _leave(self, *_: object) -> None:
        self._modules.pop()


class _Surface(TorchFunctionMode):
    """Watches calls as the model writes them: the ones that have no kernel of their own, and pooling."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.local_response_norm and self._watch.follows((args, kwargs)):
            self._watch.report("local_response_norm")
        if func in _POOLING:
            with self._watch.pooling():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Watches the kernels that really run, and carries on what depends on the input."""

    def __init__(self, watch: _Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watch = watch

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        followed = self._watch.follows((args, kwargs))
        out = func(*args, **kwargs)
        if followed:
            self._watch.follow((out, _written(func, args, kwargs)))
            name = func.overloadpacket.__name__
            if name in _REDUCTIONS or f"{name}.{func._overloadname}" in _REDUCTIONS or _KERNELS.search(name):  # noqa: SLF001
                self._watch.report(f"{func.namespace}::{name}")
        return out


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that the operation writes into, by its schema."""
    formal = func._schema.arguments  # noqa: SLF001 - the only place where torch says so
    actual = [*zip(formal, args, strict=False), *((arg, kwargs[arg.name]) for arg in formal if arg.name in kwargs)]
    return [value for arg, value in actual if arg.alias_info is not None and arg.alias_info.is_write]


def _tensors(value: object) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
