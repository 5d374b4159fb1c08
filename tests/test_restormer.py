"""The blocks equal the paper's formulas; the network is bias-free, shape-true and the identity before training."""

import math

import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402

from rawkit.nn.restormer import GDFN, MDTA, SIZES, ChannelNorm, RawRestormer, RestormerConfig  # noqa: E402

SMALL = RestormerConfig(widths=(8, 16, 32), encoder=(0, 1), bottom=1, decoder=(2, 1), attention_from=1, head_width=8)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(1)


def trained_like(network):
    """Every weight drawn anew, the zero output layer too, so that nothing cancels by being zero."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.normal_(1.0 if weight.ndim in (1, 3) else 0.0, 0.2)
    return network.eval()


def reference_mdta(block, x):
    """Zamir et al. 2022, eqs. 1 and 2, token by token: normalized queries and keys, softmax of tau Q K^T, project."""
    batch, channels, height, width = x.shape

    def through(point, local):
        mixed = torch.einsum("oi,bihw->bohw", point.weight, x)
        return F.conv2d(mixed, local.weight, padding=1, groups=mixed.shape[1]).flatten(2)

    query, key = through(block.query_key, block.query_key_local).chunk(2, 1)
    value = through(block.value, block.value_local)
    heads = [t.view(batch, block.heads, -1, height * width) for t in (query, key, value)]
    query, key = (F.normalize(t, dim=-1) for t in heads[:2])
    attention = (query @ key.transpose(-1, -2) * block.temperature).softmax(-1)
    out = (attention @ heads[2]).reshape(batch, channels, height, width)
    return torch.einsum("oi,bihw->bohw", block.project.weight, out)


def reference_gdfn(block, x):
    """Eq. 3."""

    def through(point, local):
        mixed = torch.einsum("oi,bihw->bohw", point.weight, x)
        return F.conv2d(mixed, local.weight, padding=1, groups=mixed.shape[1])

    gate = through(block.gate, block.gate_local)
    gelu = gate * 0.5 * (1 + torch.erf(gate / math.sqrt(2)))
    return torch.einsum("oi,bihw->bohw", block.project.weight, gelu * through(block.content, block.content_local))


def test_a_batch_that_shares_its_attention_is_one_picture():
    """With kernels of their center only, two patches side by side are the picture of both."""
    torch.manual_seed(5)
    layer = MDTA(16, 8)
    for local in (layer.query_key_local, layer.value_local):
        local.weight.data[:, :, [0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]] = 0
    patches = torch.randn(2, 16, 6, 6) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    layer.seen = []
    shared = layer(patches)
    taken, layer.seen = layer.seen, None
    whole = layer(torch.cat(tuple(patches), 2)[None])
    torch.testing.assert_close(torch.cat(tuple(shared), 2)[None], whole, rtol=1e-5, atol=1e-6)
    assert taken[0].shape == (1, 2, 8, 8)
    assert (layer(patches) - shared).abs().max() > 1e-3  # each with its own is something else


@pytest.mark.parametrize(("block", "reference"), [(MDTA(16, 8), reference_mdta), (GDFN(16, 2.0), reference_gdfn)])
@pytest.mark.parametrize("shape", [(2, 16, 12, 20), (1, 16, 1, 3)])
def test_fast_forms_equal_the_formulas(block, reference, shape):
    block = trained_like(block).double() if isinstance(block, GDFN) else trained_like(block)
    x = torch.randn(shape, dtype=next(block.parameters()).dtype)
    ours = block(x.contiguous(memory_format=torch.channels_last))
    expected = reference(block, x)
    # float32 sums of up to 240 products: rounding 6e-8 each, growing as their root
    torch.testing.assert_close(ours, expected, rtol=2e-5, atol=2e-5 * float(expected.detach().abs().max()))


def test_norm_divides_by_the_channels_deviation():
    x = torch.randn(2, 8, 5, 7) * 30 + 100
    y = ChannelNorm(8)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 5, 7), atol=1e-4, rtol=0)
    torch.testing.assert_close(y.std(1, correction=0), torch.ones(2, 5, 7), atol=1e-3, rtol=0)


def test_untrained_network_is_the_identity():
    x = torch.randn(1, SMALL.inputs, 16, 24)
    assert torch.equal(RawRestormer(SMALL)(x), x[:, :4])


def test_nothing_comes_from_nothing():
    network = trained_like(RawRestormer(SMALL))
    assert not network(torch.zeros(1, SMALL.inputs, 16, 16)).any()


def test_shift_by_one_token_shifts_the_output():
    """Inside, away from the border: attention sees all pixels, so only a periodic picture keeps its statistics."""
    config = RestormerConfig(widths=(8, 16), encoder=(1,), bottom=1, decoder=(1,), attention_from=2, head_width=8)
    network = trained_like(RawRestormer(config))
    x = torch.randn(1, config.inputs, 64, 64)
    step = config.multiple
    moved = network(torch.roll(x, (step, step), (2, 3)))
    inside = slice(24, 40)
    expected = torch.roll(network(x), (step, step), (2, 3))
    torch.testing.assert_close(moved[..., inside, inside], expected[..., inside, inside], rtol=1e-4, atol=1e-3)


def test_recomputing_blocks_gives_the_same_gradient():
    plain = trained_like(RawRestormer(SMALL)).train()
    saving = RawRestormer(SMALL, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(1, SMALL.inputs, 16, 16)
    for network in (plain, saving):
        network(x).square().mean().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_a_larger_network_begins_as_a_smaller_one():
    from dataclasses import replace

    smaller = trained_like(RawRestormer(SMALL))
    larger = RawRestormer(replace(SMALL, encoder=(1, 2), bottom=2, decoder=(2, 2), expansion=4.0))
    larger.take_over(smaller)
    x = torch.randn(1, SMALL.inputs, 16, 24)
    torch.testing.assert_close(larger(x), smaller(x), rtol=1e-4, atol=1e-5)
    for _ in range(2):  # what was silent learns: its last products first, then the rest
        larger.zero_grad()
        larger(x).square().mean().backward()
        with torch.no_grad():
            for p in larger.parameters():
                p -= 1e-3 * p.grad
    assert all(bool(p.grad.any()) for p in larger.parameters())
    for other in (replace(SMALL, decoder=(1, 1)), replace(SMALL, widths=(8, 16, 40)), replace(SMALL, uncertainty=True)):
        with pytest.raises(ValueError, match="there"):
            RawRestormer(other).take_over(smaller)


def test_uncertainty_head_adds_planes_and_leaves_the_picture():
    from dataclasses import replace

    network = trained_like(RawRestormer(replace(SMALL, uncertainty=True)))
    out = network(torch.randn(1, SMALL.inputs, 16, 16))
    assert out.shape == (1, 8, 16, 16)


def test_gram_stays_finite_on_large_bright_pictures_in_half_precision():
    block = trained_like(MDTA(8, 8)).to(torch.bfloat16)
    x = 200 * torch.randn(1, 8, 768, 768).to(torch.bfloat16)
    assert torch.isfinite(block(x)).all()


def test_graph_has_no_breaks():
    network = trained_like(RawRestormer(SMALL))
    x = torch.randn(1, SMALL.inputs, 16, 16)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), network(x))


@pytest.mark.parametrize("size", SIZES)
def test_sizes_run(size):
    config = SIZES[size]
    network = RawRestormer(config)
    edge = config.multiple
    assert network(torch.randn(1, config.inputs, edge, 2 * edge)).shape == (1, 4, edge, 2 * edge)
    megabytes = 2 * sum(p.numel() for p in network.parameters()) / 1e6
    assert megabytes < 16, "half-precision weights must fit in git"


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="multiples of 8"):
        RawRestormer(SMALL)(torch.randn(1, SMALL.inputs, 12, 16))
    with pytest.raises(ValueError, match="multiples of head_width"):
        RestormerConfig(widths=(32, 40), encoder=(1,), bottom=1, decoder=(1,))
    with pytest.raises(ValueError, match="its own"):
        RestormerConfig(widths=(32,), encoder=(1,), bottom=1, decoder=())
    assert RestormerConfig.from_dict(SMALL.to_dict()) == SMALL
