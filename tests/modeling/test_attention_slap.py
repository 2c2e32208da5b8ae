"""Every back end of packed attention computes the same rule, and the rule is the one of a dense mask."""

import pytest
import torch
import torch.nn.functional as F

from hf_slap.modeling.attention_slap import BACKENDS, PackedLayout, choose_backend, packed_attention

ON_CPU = ["eager", "clips", "banded", "padded", "auto"]
MIXES = [[4], [28, 28, 28], [124, 4, 8, 248, 248, 28], [520, 12]]  # tokens per clip, 4 rows per column


def dense(q, k, v, layout, window):
    """The rule as one dense mask over the whole batch: the oracle."""
    mask = layout.clip[:, None] == layout.clip[None, :]
    if window is not None:
        mask &= (layout.place[:, None] - layout.place[None, :]).abs() <= window
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)


def inputs(layout, dtype):
    torch.manual_seed(layout.total)
    return [torch.randn(layout.total, 3, 8, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("exact_columns", [False, True])
@pytest.mark.parametrize("window", [None, 3, 12])
@pytest.mark.parametrize("lengths", MIXES, ids=str)
@pytest.mark.parametrize("backend", ON_CPU)
def test_outputs_and_gradients_equal_the_dense_mask(backend, lengths, window, exact_columns):
    layout = PackedLayout(lengths, rows=4, exact_columns=exact_columns)
    if window is not None and not exact_columns:
        window *= 4
    qkv = inputs(layout, torch.float64)
    weight = torch.randn(layout.total, 3, 8, dtype=torch.float64)
    results = []
    for out in (packed_attention(*qkv, layout, window, backend), dense(*qkv, layout, window)):
        results.append([out, *torch.autograd.grad((out * weight).sum(), qkv)])
    for ours, oracle in zip(*results, strict=True):
        torch.testing.assert_close(ours, oracle, atol=1e-10, rtol=0)


@pytest.mark.parametrize("backend", [*ON_CPU, "flex"])
@pytest.mark.parametrize("window", [None, 48])
def test_inference_equals_the_dense_mask_in_float32(backend, window):
    layout = PackedLayout([124, 4, 8, 248, 248, 28], rows=4)
    with torch.inference_mode():
        q, k, v = (torch.randn(layout.total, 3, 16) for _ in range(3))
        ours, oracle = packed_attention(q, k, v, layout, window, backend), dense(q, k, v, layout, window)
    torch.testing.assert_close(ours, oracle, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ON_CPU)
def test_nothing_leaks_between_clips(backend):
    layout = PackedLayout([28, 124, 8], rows=4)
    q, k, v = inputs(layout, torch.float64)
    out = packed_attention(q, k, v, layout, 48, backend)
    for gradient in torch.autograd.grad(out[28:152].sum(), (q, k, v)):
        assert gradient[:28].abs().max() == 0 and gradient[152:].abs().max() == 0


def test_a_local_layer_sees_its_window_and_not_one_token_more():
    layout = PackedLayout([248], rows=4)
    q, k, v = inputs(layout, torch.float64)
    (gradient,) = torch.autograd.grad(packed_attention(q, k, v, layout, 48, "banded")[100].sum(), (v,))
    seen = gradient.abs().sum((1, 2)).nonzero().flatten()
    assert seen.tolist() == list(range(100 - 48, 100 + 48 + 1))


def test_exact_columns_see_all_rows_of_a_column():
    layout = PackedLayout([248], rows=4, exact_columns=True)
    q, k, v = inputs(layout, torch.float64)
    (gradient,) = torch.autograd.grad(packed_attention(q, k, v, layout, 12, "banded")[102].sum(), (v,))
    columns = gradient.abs().sum((1, 2)).nonzero().flatten() // 4
    assert columns.unique().tolist() == list(range(25 - 12, 25 + 12 + 1))
    assert len(columns) == 25 * 4


def test_flash_kernels_get_the_borders_and_a_two_sided_window(monkeypatch):
    """The CUDA kernel cannot run here; what reaches it can be checked against its documented meaning."""
    import torch.nn.attention.varlen as varlen

    def documented(q, k, v, starts_q, starts_k, longest_q, longest_k, *, window_size):
        assert starts_q.dtype == torch.int32 and longest_q == 248
        parts = []
        for start, end in zip(starts_q.tolist(), starts_q[1:].tolist(), strict=False):
            i = torch.arange(end - start)
            left, right = window_size
            distance = i[None] - i[:, None]
            mask = ((left < 0) | (distance >= -left)) & ((right < 0) | (distance <= right))
            q_, k_, v_ = (x[start:end].transpose(0, 1) for x in (q, k, v))
            parts.append(F.scaled_dot_product_attention(q_, k_, v_, attn_mask=mask).transpose(0, 1))
        return torch.cat(parts)

    monkeypatch.setattr(varlen, "varlen_attn", documented)
    layout = PackedLayout([124, 4, 248], rows=4)
    qkv = inputs(layout, torch.float64)
    for window in (None, 48):
        ours, oracle = packed_attention(*qkv, layout, window, "varlen"), dense(*qkv, layout, window)
        torch.testing.assert_close(ours, oracle, atol=1e-10, rtol=0)


def test_flash_kernels_refuse_the_rule_they_cannot_express():
    layout = PackedLayout([124], rows=4, exact_columns=True)
    with pytest.raises(ValueError, match="exact_columns"):
        packed_attention(*inputs(layout, torch.float32), layout, 12, "varlen")


def test_flex_attention_says_that_it_cannot_train_on_cpu():
    layout = PackedLayout([124], rows=4)
    with pytest.raises(NotImplementedError, match="no backward on CPU"):
        packed_attention(*inputs(layout, torch.float32), layout, None, "flex")


def test_an_unknown_back_end_is_refused_with_the_known_ones():
    layout = PackedLayout([124], rows=4)
    with pytest.raises(ValueError, match="'flash' is unknown; accepted are .*banded"):
        packed_attention(*inputs(layout, torch.float32), layout, None, "flash")


def test_long_clips_take_the_linear_back_end_and_short_ones_the_loop():
    short, long = PackedLayout([124] * 3), PackedLayout([124, 3000])
    q = torch.zeros(1)
    assert choose_backend(q, short, 48) == "clips"
    assert choose_backend(q, long, 48) == "banded"
    assert choose_backend(q, long, None) == "clips"
    assert set(BACKENDS) == {"eager", "clips", "banded", "padded", "varlen", "flex"}


def test_padding_and_packing_are_inverse():
    layout = PackedLayout([8, 20, 4], rows=4)
    x = torch.randn(32, 5)
    padded = layout.pad(x)
    assert padded.shape == (3, 20, 5)
    assert torch.equal(padded[layout.mask()], x)
    assert padded[~layout.mask()].abs().max() == 0
