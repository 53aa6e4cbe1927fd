import copy
import math

import pytest
import torch
from torch import nn
from torch.distributions import Laplace, Normal

from sparsecode import SpikeAndSlab
from sparsecode.vae import MIN_SCALE, ModelSpec, SparseVAE


def spec(**changes):
    values = {
        "n_features": 6,
        "n_latents": 4,
        "spike_weight": 0.5,
        "posterior": "spike_slab",
        "prior": "spike_slab",
        "likelihood": "gaussian",
        "spike_scale": 0.2,
        "encoder_sizes": (),
        "decoder_sizes": (),
        "image_shape": None,
        "usage_balance": 0.3,
    }
    return ModelSpec(**{**values, **changes})


def model(**changes):
    vae = SparseVAE(spec(**changes))
    vae.initialise_(torch.full((6,), 0.3), torch.full((6,), 4.0), torch.Generator().manual_seed(0))
    return vae


@pytest.fixture
def x():
    return torch.rand(7, 6, generator=torch.Generator().manual_seed(1))


def test_the_posterior_has_exact_zeros_and_the_gaussian_one_has_none(x):
    q = model().encode(x)
    assert q.batch_shape == (7, 4)
    assert 0 < (q.gate == 0).sum() < q.gate.numel()
    assert torch.equal(q.mean == 0, q.gate == 0)
    assert (model(posterior="gaussian").encode(x).gate == 1).all()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "continuous_bernoulli"])
@pytest.mark.parametrize("sizes", [(), (5,)])
def test_gradients_reach_every_weight(likelihood, sizes, x):
    vae = model(likelihood=likelihood, encoder_sizes=sizes, decoder_sizes=sizes)
    if sizes:  # which starts at zero, so that its inputs get no gradient before the first step
        for network in (vae.encoder, vae.decoder):
            network.hidden.output.weight.data.fill_(0.1)
    z = vae.encode(x).rsample(generator=torch.Generator().manual_seed(2))
    log_prob = vae.decode(z).log_prob(x)
    assert log_prob.shape == (7,)
    log_prob.sum().backward()
    for name, parameter in vae.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("changes", "shares"),
    [({}, True), ({"spike_weight": 0.0}, False), ({"posterior": "gaussian"}, False)],
)
def test_only_gated_latents_share_their_scale_between_rows(changes, shares, x):
    vae = model(**changes)
    for weight in vae.encoder.log_scale.parameters():
        nn.init.normal_(weight, generator=torch.Generator().manual_seed(3))
    assert vae.heads(x)[1].shape == ((4,) if shares else (len(x), 4))


def test_inputs_are_centred_and_divided_by_one_number(x):
    vae = model()
    torch.testing.assert_close(vae.standardise(x), (x - 0.3) / 2)


def test_constant_data_do_not_divide_by_zero(x):
    vae = SparseVAE(spec())
    vae.initialise_(torch.full((6,), 0.3), torch.zeros(6), torch.Generator().manual_seed(0))
    assert vae.input_scale.item() == 1
    assert vae.encode(x).loc.isfinite().all()


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_an_empty_code_decodes_to_the_mean_of_the_data_at_the_start(likelihood):
    decoded = model(likelihood=likelihood, decoder_sizes=(5,)).decode(torch.zeros(2, 4)).mean
    torch.testing.assert_close(decoded, torch.full((2, 6), 0.3))


@pytest.mark.parametrize("decoder_sizes", [(), (5,)])
def test_the_encoder_starts_as_the_transposed_dictionary(decoder_sizes, x):
    vae = model(decoder_sizes=decoder_sizes)
    decoder = vae.dictionary.weight.detach()
    directions = nn.functional.normalize(decoder, dim=0)
    torch.testing.assert_close(vae.encoder.mean(x).detach(), x @ directions)
    # A code of unit scale moves the reconstruction by 1/sqrt(L0) of the data's norm.
    torch.testing.assert_close(decoder.norm(dim=0), torch.full((4,), math.sqrt(6 / 2)))


def test_only_one_layer_counts_as_a_linear_decoder():
    beside_hidden_layers = model(decoder_sizes=(5,))
    assert beside_hidden_layers.linear_decoder is None
    assert beside_hidden_layers.dictionary is beside_hidden_layers.decoder.linear
    assert model(posterior="gaussian", decoder_sizes=(5,)).dictionary is None
    own = SparseVAE(spec(), nn.Linear(6, 8), nn.Linear(4, 6))
    assert own.linear_decoder is own.decoder


def test_beside_hidden_layers_the_atoms_are_the_filters(x):
    vae = model(decoder_sizes=(5,))
    names = {name for name, _ in vae.encoder.named_parameters()}
    assert names == {"gain", "bias", "log_scale.bias"}
    copied = copy.deepcopy(vae).double()
    for each in (vae, copied):
        with torch.no_grad():
            each.dictionary.weight.mul_(2)
        rows = x.to(each.scale)
        expected = rows @ each.dictionary.weight * each.encoder.gain + each.encoder.bias
        torch.testing.assert_close(each.encoder.mean(rows), expected)
    # The copy follows its own dictionary, not that of the original.
    assert copied.encoder.dictionary is copied.dictionary
    assert vae.encoder.dictionary is vae.dictionary
    assert vae.multiply_adds_per_row >= 6 * 4


def test_own_networks_are_not_drawn_anew():
    own = SparseVAE(spec(), nn.Linear(6, 8), nn.Sequential(nn.Linear(4, 6)))
    before = {name: value.clone() for name, value in own.named_parameters()}
    own.initialise_(torch.zeros(6), torch.ones(6), torch.Generator().manual_seed(0))
    for name, value in own.named_parameters():
        assert torch.equal(value, before[name])


def test_a_decoder_of_the_wrong_width_is_refused():
    own = SparseVAE(spec(), nn.Linear(6, 8), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"decoder must map \(2, 4\) to \(2, 6\).*got \(2, 1\)"):
        own.decode(torch.zeros(2, 4))


def test_the_scale_moves_to_the_root_mean_square_error():
    vae = model()
    x = torch.full((50, 6), 1.0)
    for _ in range(200):
        vae.track_scale(x, torch.zeros_like(x))
    assert vae.scale.item() == pytest.approx(0.5, rel=1e-4)  # in units of input_scale = 2
    assert vae.decode(torch.zeros(1, 4)).stddev[0, 0].item() == pytest.approx(1, rel=1e-4)
    for _ in range(300):
        vae.track_scale(x, x)
    assert vae.scale.item() == pytest.approx(MIN_SCALE)
    other = model(likelihood="bernoulli")
    other.track_scale(x, torch.zeros_like(x))
    assert other.scale.item() == 1


def test_extreme_log_scales_stay_finite(x):
    own = SparseVAE(spec(), nn.Linear(6, 8), nn.Linear(4, 6))
    for value in (1e4, -1e4):
        own.encoder.module.bias.data[4:] = value
        scale = own.encode(x).scale
        assert scale.isfinite().all()
        assert (scale > 0).all()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, SpikeAndSlab),
        ({"posterior": "gaussian"}, SpikeAndSlab),
        ({"posterior": "gaussian", "prior": "normal"}, Normal),
        ({"posterior": "gaussian", "prior": "laplace"}, Laplace),
    ],
)
def test_priors(changes, kind):
    prior = model(**changes).prior()
    assert type(prior) is kind
    if kind is not SpikeAndSlab:
        assert prior.variance.item() == pytest.approx(1)
    elif changes:
        assert prior.spike_scale.item() == pytest.approx(0.2)
    else:
        assert prior.spike_scale.item() == 0


def test_in_double_everything_is_double(x):
    vae = model().double()
    q = vae.encode(x.double())
    assert q.loc.dtype == q.scale.dtype == torch.float64
    assert vae.decode(q.mean).mean.dtype == torch.float64
    torch.testing.assert_close(q.loc.float(), model().encode(x).loc)
