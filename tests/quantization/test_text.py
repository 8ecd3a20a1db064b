"""Options of a quantization as one line of text: what it may say, and the nearest misses."""

from __future__ import annotations

from typing import Any

import pytest

from graphopt.errors import UsageError
from graphopt.quantization.request import requested
from graphopt.quantization.text import options

READ: dict[str, dict[str, Any]] = {
    "": {},
    " , ": {},
    "int8": {"weights": "int8"},
    "levels23": {"weights": "levels23"},
    "weights=int4, activations=none": {"weights": "int4", "activations": "none"},
    "int8,per-tensor": {"weights": "int8", "per_channel": False},
    "per_channel=false": {"per_channel": False},
    "per-channel": {"per_channel": True},
    "random-data,samples=7,seed=0": {"random_data": True, "samples": 7, "seed": 0},
    "levels=16,block=64": {"levels": 16, "block": 64},
    "target-sqnr=40": {"target_sqnr": 40.0},
    "exclude=head*,exclude=stem": {"exclude": ("head*", "stem")},
    "recover={equalize,gptq{damping=0.01}},method=minmax": {
        "recover": "equalize,gptq{damping=0.01}",
        "method": "minmax",
    },
    "recover=equalize": {"recover": "equalize"},
    "resume=a=b": {"resume": "a=b"},
    "everything": {"everything": True},
    "operators": {"operators": True},
}


@pytest.mark.parametrize("text", READ)
def test_what_can_be_said(text: str) -> None:
    found = options(text)
    assert found == READ[text]
    requested(found)


REFUSED = {
    "weigths=int8": ("no option 'weigths'", "did you mean 'weights'?"),
    "frobnicate=1": ("no option 'frobnicate'", "its options: target"),
    "init8": ("'init8'", "did you mean 'int8'?"),
    "per-tensr": ("no option 'per-tensr'", "did you mean"),
    "random-dta": ("no option 'random-dta'", "did you mean 'random-data'?"),
    "random-data=maybe": ("random_data cannot be 'maybe'", "true or false"),
    "samples=few": ("samples cannot be 'few'", "a whole number"),
    "samples=1.5": ("samples cannot be '1.5'", "a whole number"),
    "target-sqnr=high": ("target_sqnr cannot be 'high'", "a number"),
    "int8,weights": ("weights has no value", "weights=VALUE"),
    "int8,weights=int4": ("weights is given twice", "once"),
    "per-tensor,per-channel": ("per_channel is given twice", "once"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot(text: str) -> None:
    what, advice = REFUSED[text]
    with pytest.raises(UsageError) as refused:
        options(text)
    assert what in refused.value.what and refused.value.help is not None and advice in refused.value.help


@pytest.mark.parametrize("text", ["method=msee", "block=0", "weights=int99", "target=cup"])
def test_values_that_make_no_sense_are_found_by_the_request(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        requested(options(text))
    assert refused.value.where in ("method", "block", "weights", "target")
