"""TIGER's effort, batched, against autograd one sample at a time over every parameter; memory; nothing left behind."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import T5Config, T5ForConditionalGeneration

from prunebench.datasets.schema import Sequences
from prunebench.recommenders.base import RecommenderError
from prunebench.recommenders.runtime import Cancelled, Runtime
from prunebench.recommenders.tiger.config import TIGERConfig
from prunebench.recommenders.tiger.effort import efforts, squares_by_parameter
from prunebench.recommenders.tiger.model import Spelt, new_model, sample_losses, spell
from prunebench.recommenders.tiger.semantic_ids import SemanticIDs

SIZES = (5, 6, 7, 3)
SMALL: dict[str, Any] = {"layers": 2, "heads": 3, "head_width": 4, "width": 10, "feed_forward": 14}
HISTORIES = [[], [3], [4, 4], [0, 1, 2], [9, 8, 9, 8, 9], list(range(20)), [11, 2, 11]]
TARGETS = [0, 3, 4, 7, 8, 19, 5]
"""Of mixed lengths, one empty, items repeated, targets that stand in the history and others that do not."""


def some_ids(items: int = 30) -> SemanticIDs:
    cells = np.random.default_rng(0).choice(np.prod(SIZES), items, replace=False)
    return SemanticIDs(np.stack(np.unravel_index(cells, SIZES), 1).astype(np.int32), SIZES)


def setup(histories: list[list[int]] = HISTORIES, targets: list[int] = TARGETS, **knobs: Any) -> tuple[Any, Spelt]:
    """A model whose every parameter matters (gains and biases are not at their start), and samples."""
    config = TIGERConfig.model_validate({**SMALL, **knobs})
    ids, runtime = some_ids(), Runtime(seed=1)
    spelt = spell(ids, Sequences.from_rows(histories), config, np.array(targets, np.int32), np.arange(len(targets)))
    return disturbed(new_model(config, ids, runtime)), spelt


def disturbed(model: Any) -> Any:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def reference(model: Any, spelt: Spelt) -> list[dict[str, float]]:
    """Each parameter's gradient norm for each sample, which is alone in its batch: no padding, plain autograd."""
    rows = []
    for position in range(len(spelt)):
        batch = spelt.batch(np.array([position]))
        loss = sample_losses(model(**batch, use_cache=False).logits, batch["labels"]).sum()
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        norms = (0.0 if gradient is None else float(gradient.double().norm()) for gradient in gradients)
        rows.append(dict(zip(names, norms, strict=True)))
    return rows


def check(model: Any, spelt: Spelt) -> None:
    """All samples in one batch, and in several; each parameter by itself, and all together."""
    wanted = reference(model, spelt)
    totals = [np.sqrt(sum(norm**2 for norm in row.values())) for row in wanted]
    squares = squares_by_parameter(model, spelt.batch(np.arange(len(spelt))))
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[parameter]: square.sqrt().numpy() for parameter, square in squares.items()}
    assert set(found) == set(names.values())
    for name, norms in found.items():
        # A gradient that cancels to nothing is as exact as the sums it is made of.
        np.testing.assert_allclose(
            norms, [row[name] for row in wanted], rtol=1e-4, atol=1e-5 * max(totals), err_msg=name
        )
        assert norms.any(), name
    for batch_tokens in (1, 30, 4096):
        np.testing.assert_allclose(efforts(model, spelt, batch_tokens, Runtime()), totals, rtol=1e-4)


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"user_tokens": 4},
        {"layers": 1},
        {"layers": 1, "heads": 1, "head_width": 1, "width": 1, "feed_forward": 1},
        {"layers": 3, "heads": 2, "head_width": 8, "width": 24, "feed_forward": 5},
        {"max_history": 1},
        {"width": 64, "feed_forward": 256, "heads": 6, "head_width": 16},
    ],
    ids=str,
)
def test_equals_autograd_one_sample_at_a_time(knobs: dict[str, Any]) -> None:
    check(*setup(**knobs))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_however_attention_is_computed(attention: str) -> None:
    model, spelt = setup()
    model.set_attn_implementation(attention)
    check(model, spelt)
    assert model.config._attn_implementation == attention


@pytest.mark.parametrize(
    "kind", [{"feed_forward_proj": "gated-gelu"}, {"tie_word_embeddings": False}, {"num_decoder_layers": 1}], ids=str
)
def test_other_kinds_of_t5(kind: dict[str, Any]) -> None:
    model, spelt = setup()
    torch.manual_seed(0)
    shape = T5Config(**{**model.config.to_diff_dict(), **kind})
    check(disturbed(T5ForConditionalGeneration(shape).eval()), spelt)


def test_a_padding_row_of_the_embedding_has_no_gradient_by_look_ups() -> None:
    model, spelt = setup()
    plain = efforts(model, spelt, 4096, Runtime())
    for module in model.modules():
        if isinstance(module, nn.Embedding) and module.num_embeddings == model.config.vocab_size:
            module.padding_idx = 0
    check(model, spelt)
    assert (efforts(model, spelt, 4096, Runtime()) != plain).all()


def test_the_rest_of_the_batch_does_not_matter() -> None:
    model, spelt = setup()
    whole = efforts(model, spelt, 4096, Runtime())
    for rows in ([3], [0, 5], [6, 1, 1, 2]):
        assert spelt.answers is not None
        part = Spelt(spelt.tokens.take(np.array(rows)), spelt.answers[rows])
        np.testing.assert_allclose(efforts(model, part, 4096, Runtime()), whole[rows], rtol=1e-4)


def test_without_dropout_and_every_module_back_in_its_mode() -> None:
    model, spelt = setup(dropout=0.5)
    calm = efforts(model, spelt, 4096, Runtime())
    model.train()
    model.decoder.eval()
    modes = [module.training for module in model.modules()]
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    np.testing.assert_array_equal(efforts(model, spelt, 4096, Runtime()), calm)
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_samples() -> None:
    model, spelt = setup([], [])
    assert efforts(model, spelt, 4096, Runtime()).shape == (0,)


def test_samples_without_answers_are_refused() -> None:
    model, spelt = setup()
    with pytest.raises(RecommenderError, match="answers"):
        efforts(model, Spelt(spelt.tokens), 4096, Runtime())


class Gained(nn.LayerNorm):
    """Known by its parent's name only."""


@pytest.mark.parametrize("place", ["encoder", "encoder.block.0"])
@pytest.mark.parametrize(
    "unknown", [lambda: nn.Bilinear(2, 2, 2), lambda: Gained(3), lambda: type("L", (nn.Linear,), {})(2, 2)]
)
def test_a_parameter_without_a_rule_is_named(place: str, unknown: Callable[[], nn.Module]) -> None:
    model, spelt = setup()
    model.get_submodule(place).extra = unknown()
    with pytest.raises(RecommenderError, match=rf"{place}\.extra\.weight"):
        efforts(model, spelt, 4096, Runtime())
    assert not hooks(model)


def test_a_parameter_beside_those_of_a_known_kind_is_named() -> None:
    model, spelt = setup()
    model.encoder.block[0].layer[0].SelfAttention.q.extra = nn.Parameter(torch.ones(2))
    with pytest.raises(RecommenderError, match=r"SelfAttention\.q\.extra"):
        efforts(model, spelt, 4096, Runtime())


def hooks(model: nn.Module) -> list[Any]:
    kinds = [name for name in vars(model) if "hook" in name and isinstance(getattr(model, name), dict)]
    assert {"_forward_hooks", "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs"} <= set(kinds)
    return [hook for module in model.modules() for kind in kinds for hook in getattr(module, kind).items()]


def cancel_now() -> bool:
    return True


@pytest.mark.parametrize("failure", [None, "forward", "backward", "cancelled"])
def test_the_model_is_left_as_it_was(failure: str | None) -> None:
    model, spelt = setup()
    model.shared.weight.grad = torch.full_like(model.shared.weight, 3)
    model.encoder.block[1].layer[0].SelfAttention.q.weight.requires_grad_(False)
    before = copy.deepcopy(model)
    names = [sorted(vars(module)) for module in model.modules()]
    runtime = Runtime(cancelled=cancel_now) if failure == "cancelled" else Runtime()
    if failure is None:
        efforts(model, spelt, 4096, runtime)
    elif failure == "cancelled":
        with pytest.raises(Cancelled):
            efforts(model, spelt, 4096, runtime)
    else:
        where = model.decoder.final_layer_norm
        broken = where.register_forward_hook(breaking(failure))
        with broken, pytest.raises(ZeroDivisionError):
            efforts(model, spelt, 4096, runtime)
    assert not hooks(model)
    assert [sorted(vars(module)) for module in model.modules()] == names
    assert model.config.to_dict() == before.config.to_dict()
    assert model.config._attn_implementation == before.config._attn_implementation
    for (name, old), new in zip(before.named_parameters(), model.parameters(), strict=True):
        assert torch.equal(old, new), name
        assert old.requires_grad == new.requires_grad, name
        assert (new.grad is None) == (name != "shared.weight"), name
    assert torch.equal(model.shared.weight.grad, torch.full_like(model.shared.weight, 3))


def breaking(where: str) -> Callable[..., None]:
    def stop(gradient: Tensor) -> None:
        raise ZeroDivisionError

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if where == "forward":
            raise ZeroDivisionError
        output.register_hook(stop)

    return hook


class Meter(TorchDispatchMode):
    """Live bytes of all tensors made while it is on, their greatest sum, and the shapes of what was made."""

    def __init__(self, *known: Tensor) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.shapes: set[tuple[int, ...]] = set()
        self._seen = {tensor.untyped_storage().data_ptr() for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._notice(tensor)
        return result

    def _notice(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._seen:
            return
        address, size = storage.data_ptr(), storage.nbytes()
        self._seen.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        self.shapes.add(tuple(tensor.shape))
        weakref.finalize(storage, self._gone, address, size)

    def _gone(self, address: int, size: int) -> None:
        self._seen.discard(address)
        self.live -= size


def metered(model: Any, samples: int, batch_tokens: int) -> Meter:
    rng = np.random.default_rng(5)
    config = TIGERConfig.model_validate(SMALL)
    rows = [list(rng.integers(0, 30, length)) for length in np.arange(samples) % 9]
    targets = rng.integers(0, 30, samples).astype(np.int32)
    spelt = spell(some_ids(), Sequences.from_rows(rows), config, targets)
    with Meter(*model.parameters()) as meter:
        efforts(model, spelt, batch_tokens, Runtime())
    return meter


def test_memory_follows_the_batch_and_not_the_samples() -> None:
    model, _ = setup()
    few, many, together = metered(model, 27, 64), metered(model, 270, 64), metered(model, 270, 10**9)
    assert many.peak < 1.2 * few.peak
    assert together.peak > 10 * many.peak
    assert many.live < 0.02 * many.peak


def test_no_weight_gradient_of_the_batch_is_formed() -> None:
    model, spelt = setup()
    shapes = {tuple(weight.shape) for weight in model.parameters() if weight.dim() == 2}
    shapes |= {shape[::-1] for shape in shapes}
    batch = spelt.batch(np.arange(len(spelt)))
    with Meter(*model.parameters()) as meter:
        squares_by_parameter(model, batch)
    assert not meter.shapes & shapes
    with Meter(*model.parameters()) as plain:
        sample_losses(model(**batch).logits, batch["labels"]).sum().backward()
    assert plain.shapes & shapes
