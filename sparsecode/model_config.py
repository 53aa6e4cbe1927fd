"""The configuration in a model file: text that nobody has checked -> values of the right kinds.

`persistence` parses what it writes, too, so that no file is written that would be refused later.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise
from reprlib import repr as shortened
from typing import Any, NamedTuple

from sparsecode.images import ImageOptions
from sparsecode.strict_json import MAX_ITEMS, parse_json

FORMAT = "sparsecode-model"
FORMAT_VERSION = 1
_MAX_INTEGER = 2**63 - 1
_MAX_SIZE = 2**31 - 1
_MAX_WEIGHTS = 2**34
_MAX_LAYERS = 1000
_ABOVE_ZERO, _BELOW_ONE = math.ulp(0.0), math.nextafter(1, 0)
_LARGEST = math.nextafter(math.inf, 0)


class Rule(NamedTuple):
    """What a value may be, and how to say so."""

    accepts: Callable[[Any], bool]
    said: str


def _integer(low: int, high: int = _MAX_INTEGER) -> Rule:
    return Rule(lambda v: type(v) is int and low <= v <= high, f"an integer from {low} to {high}")


def _number(low: float = -_LARGEST, high: float = _LARGEST) -> Rule:
    return Rule(
        lambda v: type(v) in (int, float) and low <= v <= high, f"a number from {low} to {high}"
    )


def _one_of(*names: str) -> Rule:
    return Rule(lambda v: type(v) is str and v in names, f"one of {', '.join(names)}")


def _either(*rules: Rule) -> Rule:
    return Rule(
        lambda v: any(rule.accepts(v) for rule in rules), " or ".join(rule.said for rule in rules)
    )


def _list_of(rule: Rule, low: int, high: int) -> Rule:
    return Rule(
        lambda v: type(v) is list and low <= len(v) <= high and all(map(rule.accepts, v)),
        f"a list of {low} to {high} entries, each {rule.said}",
    )


_NONE = Rule(lambda v: v is None, "null")
_AUTO = _one_of("auto")
_BOOLEAN = Rule(lambda v: type(v) is bool, "true or false")
_POSITIVE = _number(_ABOVE_ZERO)
_SIZE = _integer(1, _MAX_SIZE)
_SIZES = _list_of(_SIZE, 0, _MAX_LAYERS)
_SHAPE = _either(_NONE, _list_of(_SIZE, 2, 3))
_OBJECT = Rule(lambda v: type(v) is dict, "an object")
_VERSION = Rule(
    lambda v: type(v) is str and v.isascii() and v.isprintable() and len(v) <= 100, "a version"
)
_SHA256 = Rule(
    lambda v: type(v) is str and len(v) == 64 and set(v) <= set("0123456789abcdef"),
    "64 hexadecimal digits",
)
_ANYTHING = Rule(lambda _: True, "anything")
_TEXT = Rule(lambda v: type(v) is str, "text")
_POSTERIOR = _one_of("spike_slab", "gaussian")
_PRIOR = _one_of("spike_slab", "normal", "laplace")
_LIKELIHOOD = _one_of("bernoulli", "continuous_bernoulli", "gaussian")

_ROWS_SEEN = "n_samples_seen"
_CONFIG = {
    "format": _one_of(FORMAT),
    "format_version": _integer(FORMAT_VERSION, FORMAT_VERSION),
    "sparsecode_version": _VERSION,
    "spec": _OBJECT,
    "parameters": _OBJECT,
    "n_features_in": _SIZE,
    "feature_names_in": _either(_NONE, _list_of(_TEXT, 1, MAX_ITEMS)),
    "unit_interval": _BOOLEAN,
    "density": _number(0, 1),
    "n_iter": _integer(0),
    _ROWS_SEEN: _integer(0),
    "history": _list_of(_OBJECT, 0, MAX_ITEMS),
    "custom_networks": _BOOLEAN,
    "images": _either(_NONE, _OBJECT),
    "weights_sha256": _SHA256,
}
_SPEC = {
    "n_features": _SIZE,
    "n_latents": _SIZE,
    "spike_weight": _number(0, _BELOW_ONE),
    "posterior": _POSTERIOR,
    "prior": _PRIOR,
    "likelihood": _LIKELIHOOD,
    "spike_scale": _number(0, _BELOW_ONE),
    "encoder_sizes": _SIZES,
    "decoder_sizes": _SIZES,
    "image_shape": _SHAPE,
    "usage_balance": _number(0, 9),
}
_PARAMETERS = {
    "n_components": _integer(1),
    "p": _number(0, _BELOW_ONE),
    "posterior": _POSTERIOR,
    "likelihood": _either(_AUTO, _LIKELIHOOD),
    "prior": _PRIOR,
    "spike_scale": _number(_ABOVE_ZERO, _BELOW_ONE),
    "kl": _one_of("exact", "monte_carlo"),
    "kl_samples": _integer(1),
    "beta": _either(_AUTO, _number(0)),
    "image_shape": _SHAPE,
    "hidden_sizes": _either(_AUTO, _SIZES),
    "max_iter": _either(_AUTO, _integer(1)),
    "batch_size": _either(_AUTO, _integer(1)),
    "learning_rate": _either(_AUTO, _POSITIVE),
    "max_time": _either(_NONE, _POSITIVE),
    "early_stopping": _BOOLEAN,
    "validation_fraction": _number(_ABOVE_ZERO, _BELOW_ONE),
    "n_iter_no_change": _integer(1),
    "tol": _number(0),
    "sparse_output": _BOOLEAN,
    "warm_start": _BOOLEAN,
}
PARAMETERS = frozenset(_PARAMETERS)
"""The estimator's parameters that a file keeps."""
_EPOCH = {
    "epoch": _integer(1),
    "loss": _number(),
    "rate_slab": _number(),
    "rate_spike": _number(),
    "distortion": _number(),
    "density": _number(0, 1),
    "dead": _integer(0),
    "validation_loss": _either(_NONE, _number()),
    "n_samples": _integer(0),
    "seconds": _number(0),
}


def config_sha256(config: Mapping[str, Any]) -> str:
    """Return the hash of a configuration, without the entry that holds it: of its sorted JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, allow_nan=False).encode()).hexdigest()


def parse_config(text: str, parameters: Collection[str] = PARAMETERS) -> dict[str, Any]:
    """Parse a model's configuration.

    Parameters
    ----------
    text : str
    parameters : collection of str, optional
        Names of those that must be there, if they are not the estimator's but a subclass's; the
        values of those that it adds are its own to check.

    Returns
    -------
    dict
        With exactly the keys that this version writes, each of its kind and within its range.

    Raises
    ------
    ValueError
        It is anything else.
    """
    config = parse_json(text)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError("it is not a sparsecode model")
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"it has model format version {shortened(config.get('format_version'))}; this "
            f"sparsecode reads version {FORMAT_VERSION}"
        )
    digest = config.pop("config_sha256", None)  # files from before there was one have none
    # Nor do files from before rows were counted have the count.
    rules = {name: rule for name, rule in _CONFIG.items() if name != _ROWS_SEEN or name in config}
    _check(config, rules, "configuration")
    if digest not in (None, config_sha256(config)):
        raise ValueError("it is damaged: the configuration does not have the stored hash")
    _check(config["spec"], _SPEC, "spec")
    wanted = {name: _PARAMETERS.get(name, _ANYTHING) for name in parameters}
    _check(config["parameters"], wanted, "parameters")
    for record in config["history"]:
        _check(record, _EPOCH, "history")
    config.setdefault(_ROWS_SEEN, sum(record["n_samples"] for record in config["history"]))
    _check_sizes(config)
    return config


def _check(values: Mapping[str, Any], rules: Mapping[str, Rule], where: str) -> None:
    if values.keys() != rules.keys():
        differing = sorted(values.keys() ^ rules.keys())
        raise ValueError(f"{where} keys missing or unknown: {shortened(differing)}")
    for name, rule in rules.items():
        if not rule.accepts(values[name]):
            raise ValueError(f"{where} {name}={shortened(values[name])} is not {rule.said}")


def _check_sizes(config: Mapping[str, Any]) -> None:
    """Check what more than one entry says."""
    spec = config["spec"]
    n_features, n_latents, shape = spec["n_features"], spec["n_latents"], spec["image_shape"]
    names, images = config["feature_names_in"], config["images"]
    if config["n_features_in"] != n_features:
        raise ValueError("n_features_in differs from spec")
    if names is not None and len(names) != n_features:
        raise ValueError(f"feature_names_in has {len(names)} names for {n_features} features")
    if shape is not None and math.prod(shape) != n_features:
        raise ValueError(f"image_shape={shape} does not have {n_features} values")
    if images is not None and ImageOptions.from_dict(images).n_features != n_features:
        raise ValueError(f"images do not have {n_features} values")
    if config["n_iter"] < len(config["history"]):
        raise ValueError("history has more epochs than n_iter")
    encoder = (n_features, *spec["encoder_sizes"], n_latents)
    decoder = (n_latents, *spec["decoder_sizes"], n_features)
    for n_in, n_out in (*pairwise(encoder), *pairwise(decoder), (n_features, n_latents)):
        if n_in * n_out > _MAX_WEIGHTS:
            raise ValueError(f"a layer of {n_in} x {n_out} weights is too large")
