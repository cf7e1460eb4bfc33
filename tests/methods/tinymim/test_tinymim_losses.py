"""Relations and their divergence against the authors' code, and what they hold for large logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from modicum.methods.tinymim.losses import (
    regrouped,
    relation_divergence,
    relation_error,
    relation_logits,
    relations,
)
from modicum.methods.tinymim.networks.vit import Attention

GOLDEN = Path(__file__).parents[2] / "golden" / "tinymim"


def attention(golden: dict[str, Tensor], side: str, width: int) -> Attention:
    module = Attention(width, 4)
    state = {name[2:]: value for name, value in golden.items() if name.startswith(f"{side}.")}
    module.load_state_dict(state)
    return module


def test_relations_and_their_divergence_are_those_of_the_authors() -> None:
    golden = load_file(GOLDEN / "relation.safetensors")
    teacher, student = attention(golden, "t", 64), attention(golden, "s", 32)
    tokens = golden["xs"].requires_grad_()
    t, s = teacher.split(golden["xt"]), student.split(tokens)
    for side, qkv in (("t", t), ("s", s)):
        for kind, found in relations(*qkv).items():
            torch.testing.assert_close(found, golden[f"{side}{kind}"], rtol=0, atol=1e-6)
    losses = {
        "qk": relation_divergence((t.q, t.k), (s.q, s.k)),
        "vv": relation_divergence((t.v, t.v), (s.v, s.v)),
    }
    for kind, loss in losses.items():
        torch.testing.assert_close(loss, golden[f"loss_{kind}"], rtol=0, atol=1e-6)
    (losses["qk"] + losses["vv"]).backward()
    gradients = {
        "grad_xs": tokens.grad,
        "grad_s_qkv_w": student.qkv.weight.grad,
        "grad_s_qkv_b": student.qkv.bias.grad,
    }
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, golden[name], rtol=0, atol=1e-5)


def plain(teacher: tuple[Tensor, Tensor], student: tuple[Tensor, Tensor]) -> Tensor:
    """The definition, in one piece."""
    t, s = (relation_logits(*sides).log_softmax(-1) for sides in (teacher, student))
    return functional.kl_div(s, t, log_target=True, reduction="sum") / t[..., 0].numel()


def sides(count: int, d: int, factor: float, seed: int = 0, tokens: int = 9) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [factor * torch.randn(2, 3, tokens, d, generator=random) for _ in range(count)]


@pytest.mark.parametrize("factor", [1.0, 1000.0])
@pytest.mark.parametrize("numbers", [1, 1 << 22], ids=["image by image", "at once"])
def test_divergence_in_parts_is_the_definition(
    factor: float, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For logits so large that probabilities underflow, too."""
    monkeypatch.setattr("modicum.methods.tinymim.losses._NUMBERS", numbers)
    ta, tb = sides(2, 8, factor)
    ours, theirs = ([x.requires_grad_() for x in sides(2, 4, factor, 1)] for _ in range(2))
    losses = [f((ta, tb), (x[0], x[1])) for f, x in ((relation_divergence, ours), (plain, theirs))]
    assert losses[0].isfinite()
    torch.testing.assert_close(*losses)
    for loss in losses:
        (3 * loss).backward()
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert one.grad.isfinite().all()
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_one_side_twice_has_the_gradient_of_both() -> None:
    (teacher,) = sides(1, 8, 1.0)
    ours, theirs = (sides(1, 4, 1.0, 1)[0].requires_grad_() for _ in range(2))
    relation_divergence((teacher, teacher), (ours, ours)).backward()
    plain((teacher, teacher), (theirs, theirs)).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_same_relations_have_no_divergence() -> None:
    a, b = sides(2, 8, 1.0)
    assert float(relation_divergence((a, b), (a, b))) == pytest.approx(0, abs=1e-6)
    assert float(relation_error((a, b), (a, b))) == 0


def test_half_precision_is_compared_in_single() -> None:
    t, s = sides(2, 8, 1.0), sides(2, 4, 1.0, 1)
    half = [x.bfloat16() for x in (*t, *s)]
    expected = plain((half[0].float(), half[1].float()), (half[2].float(), half[3].float()))
    with torch.autocast("cpu", torch.bfloat16):
        found = relation_divergence((half[0], half[1]), (half[2], half[3]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected)


def test_relation_heads_cut_the_heads_laid_side_by_side() -> None:
    (side,) = sides(1, 8, 1.0)
    joined = side.transpose(1, 2).flatten(2)
    again = regrouped(side, 6)
    assert again.shape == (2, 6, 9, 4)
    torch.testing.assert_close(again[:, 2], joined[:, :, 8:12])
    with pytest.raises(ValueError, match="24 cannot be divided among 5 relation heads"):
        regrouped(side, 5)


def test_what_cannot_be_compared_is_refused() -> None:
    (t,), (s,) = sides(1, 8, 1.0), sides(1, 8, 1.0, tokens=8)
    with pytest.raises(ValueError, match=r"\(2, 3, 9\) .* and \(2, 3, 8\) cannot be compared"):
        relation_divergence((t, t), (s, s))
