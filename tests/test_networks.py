import pytest
import torch
from torch import nn

from sparsecode.networks import (
    INITIAL_LOG_SCALE,
    CustomEncoder,
    DictionaryPlusHidden,
    TiedEncoder,
    build_decoder,
    build_encoder,
    initialise_,
)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("hidden_sizes", [(), (7,), (7, 5)])
@pytest.mark.parametrize("image_shape", [None, (4, 9), (9, 4, 1), (6, 7, 3)])
def test_shapes(hidden_sizes, image_shape):
    n_features = 36 if image_shape is None else torch.Size(image_shape).numel()
    encoder = build_encoder(n_features, 5, hidden_sizes, image_shape)
    decoder = build_decoder(n_features, 5, hidden_sizes, image_shape)
    x = torch.rand(3, n_features, generator=generator())
    loc, log_scale = encoder(x)
    assert loc.shape == log_scale.shape == (3, 5)
    torch.testing.assert_close(encoder.mean(x), loc)
    assert decoder(loc).shape == (3, n_features)


def test_without_hidden_layers_both_are_linear():
    encoder, decoder = build_encoder(6, 4, (), None), build_decoder(6, 4, (), None)
    assert len(encoder.body) == 0
    assert [type(layer) for layer in decoder] == [nn.Linear]


def test_widths_of_the_decoder_are_taken_from_the_latents_outwards():
    decoder = build_decoder(20, 4, (7, 9), None)
    widths = [layer.out_features for layer in decoder if isinstance(layer, nn.Linear)]
    assert widths == [7, 9, 20]


def test_hidden_layers_beside_a_dictionary_start_at_nothing():
    decoder = build_decoder(20, 4, (7, 9), None, is_gated=True)
    assert isinstance(decoder, DictionaryPlusHidden)
    decoder.initialise_(generator())
    z = torch.rand(3, 4, generator=generator())
    torch.testing.assert_close(decoder(z), decoder.linear(z))
    decoder.hidden.output.weight.data.fill_(1.0)
    hidden = decoder.hidden.mlp(z).sum(1, keepdim=True)
    torch.testing.assert_close(decoder(z), decoder.linear(z) + hidden)
    assert hidden.any()
    assert build_decoder(20, 4, (), None, is_gated=True)[0].weight.shape == (20, 4)


@pytest.mark.parametrize("is_tied", [False, True])
def test_hidden_layers_beside_filters_start_at_nothing(is_tied):
    encoder = build_encoder(20, 4, (7, 9), None, is_gated=True)
    if is_tied:
        encoder = TiedEncoder(nn.Linear(4, 20), (7, 9))
    with torch.no_grad():
        encoder.initialise_(generator())
        x = torch.rand(3, 20, generator=generator())
        before = encoder.mean(x)
        encoder.hidden.output.weight.fill_(1.0)
        hidden = encoder.hidden.mlp(x).sum(1, keepdim=True)
        torch.testing.assert_close(encoder.mean(x), before + hidden)
    assert hidden.any()
    assert build_encoder(20, 4, (), None, is_gated=True).hidden is None


def test_a_shared_scale_is_one_number_for_each_latent():
    encoder = build_encoder(6, 4, (5,), None, is_gated=True)
    encoder.initialise_(generator())
    encoder.log_scale.bias.data.copy_(torch.arange(4.0))
    log_scale = encoder(torch.rand(8, 6, generator=generator()))[1]
    torch.testing.assert_close(log_scale, torch.arange(4.0))


def test_pixels_keep_their_places():
    # A convolution sees neighbours: moving an image by its stride (4) moves the features.
    encoder = build_encoder(20 * 20 * 2, 3, (), (20, 20, 2))
    encoder.initialise_(generator())
    image = torch.zeros(1, 20, 20, 2)
    image[0, 8:12, 8:12, 0] = 1
    to_maps = encoder.body[:-1]  # without the last flattening
    maps = to_maps(image.flatten(1))
    assert maps.shape == (1, 64, 5, 5)
    moved = to_maps(image.roll(4, dims=1).flatten(1))
    torch.testing.assert_close(moved[:, :, 3, 2], maps[:, :, 2, 2])
    other_channel = to_maps(image.roll(1, dims=3).flatten(1))
    assert not torch.allclose(other_channel, maps)


def test_weights_come_from_the_generator_alone():
    before = torch.random.get_rng_state()
    networks = []
    for _ in range(2):
        decoder = nn.Sequential(nn.Linear(4, 5), nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 1, 3))
        torch.random.set_rng_state(before)
        initialise_(decoder, generator())
        networks.append(decoder.state_dict())
    assert torch.equal(torch.random.get_rng_state(), before)
    for name, first in networks[0].items():
        assert torch.equal(first, networks[1][name])
        assert name.endswith("weight") == bool(first.any())  # biases are zero


def test_the_noise_starts_small_and_the_same_for_every_row():
    encoder = build_encoder(6, 4, (5,), None)
    encoder.initialise_(generator())
    log_scale = encoder(torch.rand(8, 6, generator=generator()))[1]
    assert (log_scale == INITIAL_LOG_SCALE).all()


def test_an_encoder_of_the_user_gives_means_and_then_log_scales():
    module = nn.Linear(3, 8)
    x = torch.rand(5, 3, generator=generator())
    loc, log_scale = CustomEncoder(module, 4)(x)
    torch.testing.assert_close(torch.cat([loc, log_scale], 1), module(x))
    torch.testing.assert_close(CustomEncoder(module, 4).mean(x), loc)


def test_an_encoder_of_the_wrong_width_is_refused():
    with pytest.raises(ValueError, match=r"encoder must map \(5, 3\) to \(5, 8\).*got \(5, 4\)"):
        CustomEncoder(nn.Linear(3, 4), 4)(torch.zeros(5, 3))


KINDS = ["linear", "mlp", "convolutional", "beside", "tied", "tied, beside", "custom"]


@pytest.mark.parametrize("kind", KINDS)
def test_single_means_are_those_of_the_matrix_in_float64(kind):
    image_shape = (4, 9) if kind == "convolutional" else None
    sizes = (7,) if kind in ("mlp", "beside", "tied, beside") else ()
    encoder = build_encoder(36, 5, sizes, image_shape, is_gated=kind == "beside")
    if kind.startswith("tied"):
        encoder = TiedEncoder(nn.Linear(5, 36), sizes)
    with torch.no_grad():
        encoder.initialise_(generator())
        if encoder.hidden is not None:
            encoder.hidden.output.weight.uniform_(generator=generator())
    if kind == "custom":
        encoder = CustomEncoder(nn.Linear(36, 10), 5)
        initialise_(encoder, generator())
    x = torch.rand(8, 36, generator=generator())
    latent = torch.tensor([0, 4, 2, 2, 1, 3, 0, 4])
    mean_at = encoder.in_double()
    got = mean_at(x.double(), latent)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got.float(), encoder.mean(x)[range(8), latent])
    # Two evaluations in different batches agree to 1e-12, which is what `coding` counts on.
    alone = torch.cat([mean_at(x[i : i + 1].double(), latent[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(alone, got, rtol=0, atol=1e-12)
    assert all(p.dtype == torch.float32 for p in encoder.parameters())
