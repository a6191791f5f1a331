"""Per-sample gradients from one forward and one backward pass per batch: their norms, or they themselves."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle


class Use(NamedTuple):
    """One use of a weight in a pass, as the factors of what it adds to every sample's gradient.

    A matrix [out, in] gets Σ_t left_t right_tᵀ. Of a linear map, ``left`` [b, t, out] is the gradient at the output and
    ``right`` [b, t, in] what entered; its columns are the matrix's rows from ``first`` on. Of a look-up, ``left`` int64
    [b, t] are the rows looked up (it stands for their one-hot vectors) and ``right`` [b, t, in] the gradient at the
    output. A vector [out] (a bias, a gain) gets Σ_t left_t and has no ``right``.
    """

    left: Tensor
    right: Tensor | None = None
    first: int = 0


Factors = Mapping[Hashable, Callable[[Tensor], Use]]
"""For each weight used by one operation, its ``Use`` as a function of the gradient at the operation's output."""


class Watch:
    """Sees what entered an operation and the gradient that arrives at its output, for the weights asked about.

    ``reduce(weight, uses)`` is called once per weight, as soon as the backward pass has reached all its uses, so that
    no more than one weight's uses wait at a time; ``flush`` reduces what is left where some use never reached the loss.
    """

    def __init__(self, reduce: Callable[[Hashable, list[Use]], None]) -> None:
        self._reduce = reduce
        self._expected: Counter[Hashable] = Counter()
        self._arrived: defaultdict[Hashable, list[Use]] = defaultdict(list)

    def notice(self, output: Tensor, factors: Factors) -> Tensor:
        """The output to go on with, of an operation that uses the weights of ``factors``."""
        # With all parameters frozen, the graph has to start somewhere: at the first weight asked about.
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        self._expected.update(factors.keys())

        def arrived(gradient: Tensor) -> None:
            for weight, use in factors.items():
                uses = self._arrived[weight]
                uses.append(use(gradient))
                if len(uses) == self._expected[weight]:
                    self._reduce(weight, self._arrived.pop(weight))

        output.register_hook(arrived)
        return output

    def attach(self, module: nn.Module, factors: Callable[[Any, Tensor], Factors]) -> RemovableHandle:
        """A hook that notices every call of ``module``; ``factors`` of the module and of what entered it."""

        def called(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            return self.notice(output, factors(module, inputs[0].detach()))

        return module.register_forward_hook(called)

    def flush(self) -> None:
        while self._arrived:
            self._reduce(*self._arrived.popitem())


Attach = Callable[[Watch], Iterable[RemovableHandle]]
"""Puts the hooks on a model that make a watch notice its operations, and returns them."""

PullBack = Callable[[Use], Use]
"""From a use of a derived table to the use of the parameter it was derived from."""


class Watched(dict[str, Tensor]):
    """Parameters by name of which some, ``names``, are watched: the operations of ``surrogates.layers`` notice.

    ``derived``: tables that are no parameters but a linear function of one, by name: that parameter's and the pull-back.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        names: frozenset[str],
        watch: Watch,
        derived: Mapping[str, tuple[str, PullBack]] | None = None,
    ) -> None:
        super().__init__(tensors)
        self.names, self.watch, self.derived = names, watch, dict(derived or {})

    def over(self, tensors: Mapping[str, Tensor]) -> Watched:
        """These parameters beside and before others, which are not watched."""
        return Watched({**tensors, **self}, self.names, self.watch, self.derived)

    def deriving(self, name: str, table: Tensor, parameter: str, pull_back: PullBack) -> Watched:
        """With one more table, made of ``parameter``."""
        derived = {**self.derived, name: (parameter, pull_back)}
        return Watched({**self, name: table.detach()}, self.names, self.watch, derived)

    def notice(self, output: Tensor, factors: Mapping[str, Callable[[Tensor], Use]]) -> Tensor:
        """The output to go on with, of an operation that uses the weights or derived tables of ``factors``."""
        wanted: dict[Hashable, Callable[[Tensor], Use]] = {}
        for name, use in factors.items():
            parameter, pull_back = self.derived.get(name, (name, None))
            if parameter in self.names:
                wanted[parameter] = use if pull_back is None else _pulled(use, pull_back)
        return self.watch.notice(output, wanted) if wanted else output


def _pulled(use: Callable[[Tensor], Use], pull_back: PullBack) -> Callable[[Tensor], Use]:
    return lambda gradient: pull_back(use(gradient))


def linear_factors(layer: nn.Linear, x: Tensor) -> Factors:
    """Of nn.Linear: its weight, and its bias where it has one."""
    factors: dict[Hashable, Callable[[Tensor], Use]] = {layer.weight: lambda gradient: Use(gradient, x)}
    if getattr(layer, "bias", None) is not None:
        factors[layer.bias] = Use
    return factors


def embedding_factors(table: nn.Embedding, rows: Tensor) -> Factors:
    """Of nn.Embedding: its weight, of which the row of padding has no gradient."""

    def use(gradient: Tensor) -> Use:
        if table.padding_idx is not None:
            gradient = gradient.masked_fill(rows.eq(table.padding_idx)[..., None], 0)
        return Use(rows, gradient)

    return {table.weight: use}


def gradient_norms(model: nn.Module, layers: Sequence[nn.Linear], losses: Callable[[], Tensor]) -> Tensor:
    """‖∇L(s)‖₂ over the weights (and biases) of ``layers`` for every sample of a batch, float32 [b].

    ``losses`` as for ``squared_norms``. Equation 12 of the DEALRec paper.
    """
    values, squares = squared_norms(model, losses, _on(layers))
    return _root_of_sum(squares.values(), values)


def squared_norms(
    model: nn.Module, losses: Callable[[], Tensor], attach: Attach
) -> tuple[Tensor, dict[Hashable, Tensor]]:
    """Per-sample losses [b], and ‖∇L(s)‖₂² by each parameter that the hooks of ``attach(watch)`` notice, float32 [b].

    ``losses()`` runs ``model`` once and returns per-sample losses [b]; the batch must be the leading dimension of
    what enters each layer, and no sample may influence another (no batch statistics). A layer's gradient of
    sample s is Σ_t g_t x_tᵀ (x its input, g the gradient of its output), so one forward and one backward pass serve
    the batch, and the batch's own weight gradient is never formed. A parameter that does not reach the loss has no entry.

    Parameters are left as they are, their ``requires_grad`` and ``grad`` too, and no hook stays.
    """
    squares: dict[Hashable, Tensor] = {}

    def reduce(parameter: Hashable, uses: list[Use]) -> None:
        squares[parameter] = squared_norm(uses)

    return _watched_pass(model, losses, attach, reduce), squares


def sample_gradients(
    model: nn.Module, layers: Sequence[nn.Linear], losses: Callable[[], Tensor]
) -> dict[nn.Linear, Tensor]:
    """∇L(s) by each layer's weight for every sample of a batch, float32 [b, out, in]; biases are left out.

    As ``gradient_norms``, but the gradients themselves: b times the layers' weights in memory. A layer that does not
    reach the loss has zeros.
    """
    gradients: dict[Hashable, Tensor] = {}
    weights = {layer.weight for layer in layers}

    def keep(parameter: Hashable, uses: list[Use]) -> None:
        if parameter in weights:
            gradients[parameter] = matrix_gradients(uses)

    values = _watched_pass(model, losses, _on(layers), keep)
    return {
        layer: gradients[layer.weight]
        if layer.weight in gradients
        else values.new_zeros(len(values), *layer.weight.shape).float()
        for layer in layers
    }


def functional_gradient_norms(parameters: Mapping[str, Tensor], losses: Callable[[Watched], Tensor]) -> Tensor:
    """‖∇L(s)‖₂ by ``parameters`` for every sample of a batch, float32 [b], of a function of them.

    ``losses`` of the watched parameters returns per-sample losses [b]. Every use of a parameter must be an operation
    that notices (those of ``surrogates.layers`` do), the batch being the leading dimension.
    """
    squares: list[Tensor] = []
    watch = Watch(lambda _, uses: squares.append(squared_norm(uses)))
    frozen = {name: value.detach() for name, value in parameters.items()}
    with torch.enable_grad():
        values = losses(Watched(frozen, frozenset(parameters), watch))
        _backward(values)
    watch.flush()
    return _root_of_sum(squares, values)


def squared_norm(uses: Sequence[Use]) -> Tensor:
    """Squared Frobenius norm of Σ over all ``uses`` of one weight, per sample, float32 [b].

    The products of the factors' Gram matrices, Σ_{t,u} (left_t·left_u)(right_t·right_u), give it without the gradient
    ("ghost clipping", Li et al., ICLR 2022); where a matrix is small beside the tokens, the gradient itself does
    (Goodfellow, 2015).
    """
    if uses[0].right is None:
        return _vector(uses).square().sum(1)
    dense, looked_up = _joined(uses)
    total = torch.zeros(len(uses[0].left), dtype=torch.float32, device=uses[0].left.device)
    if dense is not None:
        total += _dense_square(*dense[:2])
    if looked_up is not None:
        rows, right = looked_up
        same = rows[:, :, None] == rows[:, None, :]
        total += (torch.bmm(right, right.transpose(1, 2)) * same).sum((1, 2))
    if dense is not None and looked_up is not None:
        left, entered, first = dense
        # A table may have rows that are looked up but that no linear map reaches: padding, a mask.
        column = (rows - first).clamp(0, left.shape[2] - 1)
        shared = left.gather(2, column[:, None, :].expand(-1, left.shape[1], -1)) * (column == rows - first)[:, None, :]
        total += 2 * (torch.bmm(entered, right.transpose(1, 2)) * shared).sum((1, 2))
    return total.clamp_min(0)


def matrix_gradients(uses: Sequence[Use]) -> Tensor:
    """Σ over all ``uses`` of a linear map's weight, per sample, float32 [b, out, in]."""
    left = _side_by_side([_tokens(use.left) for use in uses])
    right = _side_by_side([_tokens(use.right) for use in uses])
    return torch.bmm(left.transpose(1, 2), right)


def _dense_square(left: Tensor, right: Tensor) -> Tensor:
    tokens, width_out, width_in = left.shape[1], left.shape[2], right.shape[2]
    if width_in * width_out <= tokens * (width_in + width_out):
        return torch.bmm(left.transpose(1, 2), right).square().sum((1, 2))
    grams = torch.bmm(left, left.transpose(1, 2)) * torch.bmm(right, right.transpose(1, 2))
    return grams.sum((1, 2))


def _joined(uses: Sequence[Use]) -> tuple[tuple[Tensor, Tensor, int] | None, tuple[Tensor, Tensor] | None]:
    """All uses as linear maps side by side, and all look-ups: factors [b, t, width] (rows looked up: [b, t])."""
    dense = [use for use in uses if use.left.is_floating_point()]
    looked_up = [use for use in uses if not use.left.is_floating_point()]
    maps = rows = None
    if dense:
        first = min(use.first for use in dense)
        left = _side_by_side([_shifted(_tokens(use.left), use.first - first) for use in dense])
        maps = left, _side_by_side([_tokens(use.right) for use in dense]), first
    if looked_up:
        rows = (
            _side_by_side([use.left.reshape(len(use.left), -1) for use in looked_up]),
            _side_by_side([_tokens(use.right) for use in looked_up]),
        )
    return maps, rows


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """All parts' tokens [b, Σ t, …]; most weights have one use, which is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)


def _shifted(x: Tensor, columns: int) -> Tensor:
    return F.pad(x, (columns, 0)) if columns else x


def _vector(uses: Sequence[Use]) -> Tensor:
    return torch.stack([_tokens(use.left).sum(1) for use in uses]).sum(0)


def _tokens(x: Tensor | None) -> Tensor:
    """[b, …, width] as float32 [b, t, width]."""
    assert x is not None
    return x.reshape(x.shape[0], -1, x.shape[-1]).float()


def _root_of_sum(squares: Iterable[Tensor], values: Tensor) -> Tensor:
    total = torch.zeros(len(values), dtype=torch.float32, device=values.device)
    for square in squares:
        total += square
    return total.sqrt()


def _on(layers: Sequence[nn.Linear]) -> Attach:
    return lambda watch: [watch.attach(layer, linear_factors) for layer in layers]


def _watched_pass(
    model: nn.Module,
    losses: Callable[[], Tensor],
    attach: Attach,
    reduce: Callable[[Hashable, list[Use]], None],
) -> Tensor:
    """One forward and one backward pass with hooks; a weight's name is the parameter itself. Returns the losses [b]."""
    watch = Watch(reduce)
    with ExitStack() as hooks:
        for hook in attach(watch):
            hooks.enter_context(hook)
        with _frozen(model), torch.enable_grad():
            values = losses()
            _backward(values)
    watch.flush()
    return values


def _backward(values: Tensor) -> None:
    # No watched weight on the way to the loss: no gradient.
    if values.requires_grad:
        values.sum().backward()


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient: only outputs do, so that the backward pass does nothing for weights."""
    asked = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asked:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asked:
            parameter.requires_grad_(True)
