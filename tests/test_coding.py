import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from test_vae import model
from torch import nn

from sparsecode.coding import Codes, decode, encode, filled, to_csr


@pytest.fixture
def x():
    return torch.rand(40, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("posterior", ["spike_slab", "gaussian"])
def test_a_code_is_the_mean_where_the_score_clears_the_threshold(posterior, x):
    vae = model(posterior=posterior).eval()
    vae.gate.threshold.fill_(0.1)
    codes = encode(vae, x).to_dense()
    loc = vae.encode(x).loc.detach()
    score = loc.abs() if posterior == "gaussian" else loc
    torch.testing.assert_close(codes, torch.where(score > 0.1, loc, 0.0))
    assert 0 < (codes == 0).sum() < codes.numel()
    assert codes.dtype == torch.float32
    assert not codes.requires_grad


class Rounds(nn.Module):
    """Encoder whose float32 output is off by what depends on the batch, as a product's may be."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def mean(self, x):
        return self.encoder.mean(x) + 2e-6 * (1 if len(x) == 1 else -1)

    def in_double(self):
        return self.encoder.in_double()


@pytest.mark.parametrize("posterior", ["spike_slab", "gaussian"])
def test_a_score_within_rounding_of_the_threshold_falls_on_one_side(posterior, x):
    vae = model(posterior=posterior).eval()
    exact = vae.double().encode(x.double()).loc.detach()[0]
    vae.float()
    vae.encoder = Rounds(vae.encoder)
    for j in range(4):
        for error in (-1e-6, 1e-6):
            score = exact[j].abs() if posterior == "gaussian" else exact[j]
            vae.gate.threshold.copy_(score + error)
            together = encode(vae, x).to_dense()
            alone = torch.cat([encode(vae, row[None]).to_dense() for row in x])
            assert torch.equal(together == 0, alone == 0)
            assert (together[0, j] != 0).item() == (score > vae.gate.threshold.double()).item()
            torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_compressed_codes_hold_the_non_zeros_only():
    codes = torch.tensor([[0.0, 1.5, 0.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 3.0]])
    matrix = to_csr([Codes.of_dense(codes)])
    assert isinstance(matrix, sparse.csr_array)
    assert matrix.dtype == np.float32
    assert matrix.nnz == 3
    assert matrix.has_canonical_format
    np.testing.assert_array_equal(matrix.toarray(), codes)
    assert to_csr([Codes.of_dense(torch.zeros(2, 3))]).shape == (2, 3)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 9), st.randoms())
def test_the_parts_of_codes_are_put_one_below_the_other(lengths, k, random):
    generator = torch.Generator().manual_seed(random.randrange(1000))
    density = random.random()
    parts = [
        torch.randn(n, k, generator=generator) * (torch.rand(n, k, generator=generator) < density)
        for n in lengths
    ]
    matrix = to_csr(Codes.of_dense(part) for part in parts)
    np.testing.assert_array_equal(matrix.toarray(), torch.cat(parts))
    assert (matrix.data != 0).all()
    matrix.check_format(full_check=True)


def test_parts_are_let_go_once_they_are_copied():
    alive = []

    def parts():
        for i in range(20):
            part = np.full((3, 2), i, np.float32)
            alive.append(weakref.ref(part))
            yield part
            del part
        assert sum(part() is not None for part in alive) <= 3

    whole = filled(parts(), 60)
    np.testing.assert_array_equal(whole, np.repeat(np.arange(20), 6).reshape(60, 2))
    assert whole.dtype == np.float32


DECODERS = {
    "dictionary": {},
    "MLP": {"posterior": "gaussian", "decoder_sizes": (5,)},
    "dictionary and MLP": {"decoder_sizes": (5,)},
}


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("density", [0.0, 0.05, 0.5])
def test_sparse_codes_are_decoded_as_dense_ones_are(kind, density):
    vae = randomised(**DECODERS[kind])
    codes = random_codes(300, vae.spec.n_latents, density)
    np.testing.assert_allclose(decode(vae, codes), decode(vae, codes.toarray()), atol=1e-5)


@pytest.mark.parametrize("kind", DECODERS)
def test_a_sparse_code_is_decoded_alike_whatever_is_beside_it(kind):
    vae = randomised(**DECODERS[kind])
    codes = random_codes(300, vae.spec.n_latents, 0.05)
    together = decode(vae, codes)
    for i in (0, 7, 299):
        np.testing.assert_allclose(decode(vae, codes[[i]])[0], together[i], atol=1e-6)
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_allclose(decode(vae, codes[order]), together[order], atol=1e-6)


def test_any_csr_is_decoded():
    """Columns in any order, repeated, with stored zeros, and arrays that cannot be written to."""
    vae = randomised()
    data = np.array([1.0, 2.0, 0.0, 3.0], np.float32)
    indices = np.array([3, 0, 1, 3], np.int32)
    for array in (data, indices):
        array.flags.writeable = False
    codes = sparse.csr_array((data, indices, [0] + [4] * 300), (300, vae.spec.n_latents))
    expected = np.zeros(codes.shape, np.float32)
    expected[0, [0, 3]] = 2, 4
    np.testing.assert_allclose(decode(vae, codes), decode(vae, expected), atol=1e-5)


def test_a_decoder_of_another_kind_is_given_dense_codes():
    class Doubled(nn.Sequential):
        def forward(self, z):
            return 2 * super().forward(z)

    vae = randomised()
    vae.decoder = Doubled(nn.Linear(vae.spec.n_latents, vae.spec.n_features))
    codes = random_codes(300, vae.spec.n_latents, 0.02)
    np.testing.assert_allclose(decode(vae, codes), decode(vae, codes.toarray()), atol=1e-6)


def randomised(**spec):
    """Return a model whose weights, biases too, are all random."""
    vae = model(**spec).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in vae.parameters():
            weight.normal_(generator=generator)
    return vae


def random_codes(n, k, density):
    return sparse.csr_array(
        sparse.random(n, k, density, format="csr", dtype=np.float32, random_state=2)
    )
