"""What --input and --dynamic mean, and what is said when they mean nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.inputspec import DTYPES, InputSpec, axis_of, parse_dynamic, parse_input, parse_inputs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=float32[1,3,32,32]", InputSpec("x", "float32", (1, 3, 32, 32))),
        ("ids=int64[0,7]", InputSpec("ids", "int64", (0, 7))),
        (" x = bool [ 2 , 1 ] ", InputSpec("x", "bool", (2, 1))),
        ("scale=float16[]", InputSpec("scale", "float16", ())),
        ("a.b/c:0=uint8[13]", InputSpec("a.b/c:0", "uint8", (13,))),
    ],
)
def test_input_is_read(text: str, expected: InputSpec) -> None:
    assert parse_input(text) == expected


@given(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]*", fullmatch=True),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 10**6), max_size=6),
)
def test_every_spec_reads_back(name: str, dtype: str, shape: list[int]) -> None:
    assert parse_input(f"{name}={dtype}[{','.join(map(str, shape))}]") == InputSpec(name, dtype, tuple(shape))


@pytest.mark.parametrize(
    ("text", "what", "help"),
    [
        ("x", "cannot be read", "x=float32[1,3,32,32]"),
        ("=float32[1]", "cannot be read", "NAME=DTYPE"),
        ("x=float32", "cannot be read", "NAME=DTYPE"),
        ("x=float32[1", "cannot be read", "NAME=DTYPE"),
        ("x=float32[1]]", "cannot be read", "NAME=DTYPE"),
        ("x=flaot32[1]", "unknown element type 'flaot32'", "did you mean float32?"),
        ("x=float[1]", "unknown element type 'float'", "did you mean float32?"),
        ("x=[1]", "unknown element type ''", "known: float16"),
        ("x=float32[-1]", "the size '-1' is not a number", "NAME=DTYPE"),
        ("x=float32[1,,2]", "the size '' is not a number", "NAME=DTYPE"),
        ("x=float32[1.5]", "the size '1.5' is not a number", "NAME=DTYPE"),
        ("x=float32[²]", "the size '²' is not a number", "NAME=DTYPE"),
        ("x=float32[3,batch]", "the size 'batch' is not a number", "--dynamic x=1:batch"),
    ],
)
def test_bad_input_says_what_and_where_and_how(text: str, what: str, help: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_input(text)
    assert what in caught.value.what
    assert caught.value.where == f"--input {text}"
    assert help in (caught.value.help or "")
    assert caught.value.exit_status == 2


def test_inputs_keep_their_order_and_have_different_names() -> None:
    assert [spec.name for spec in parse_inputs(["b=bool[1]", "a=bool[1]"])] == ["b", "a"]
    assert parse_inputs([]) == []
    with pytest.raises(UsageError, match="two inputs are named 'a'"):
        parse_inputs(["a=bool[1]", "b=bool[1]", "a=int8[1]"])


def test_dynamic_axes_are_read() -> None:
    assert parse_dynamic([]) == {}
    assert parse_dynamic(["x=0:batch", "x=2:h,3:w", "y=0:batch"]) == {
        "x": {0: "batch", 2: "h", 3: "w"},
        "y": {0: "batch"},
    }
    assert parse_dynamic(["x=-1:n"]) == {"x": {-1: "n"}}  # the rank is not known here


def test_dynamic_axes_are_checked_against_the_inputs() -> None:
    inputs = parse_inputs(["x=float32[1,3,7]", "y=float32[1,5]", "s=float32[]"])
    assert parse_dynamic(["x=-1:n,0:batch", "y=0:batch"], inputs) == {"x": {2: "n", 0: "batch"}, "y": {0: "batch"}}
    for text, what, help in [
        ("z=0:batch", "there is no input 'z'", "inputs: x, y, s"),
        ("x=3:n", "has no axis 3", "from 0 to 2"),
        ("x=-4:n", "has no axis -4", "from 0 to 2"),
        ("s=0:n", "has no axis 0", "a scalar has no axes"),
        ("x=0:a,-3:b", "axis 0 of 'x' is given twice", "one symbol"),
    ]:
        with pytest.raises(UsageError) as caught:
            parse_dynamic([text], inputs)
        assert what in caught.value.what and help in (caught.value.help or "")
    with pytest.raises(UsageError, match="'n' is 7 on one axis and 5 on axis 1 of 'y'"):
        parse_dynamic(["x=2:n", "y=1:n"], inputs)


@pytest.mark.parametrize("text", ["x", "x=", "=0:b", "x=0", "x=0:", "x=:b", "x=a:b", "x=0:1b", "x=0:a b", "x=0:b,"])
def test_bad_dynamic_axis(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be read") as caught:
        parse_dynamic([text])
    assert "x=0:batch" in (caught.value.help or "")


@given(st.integers(0, 5), st.integers(-8, 8))
def test_axis_counts_from_both_ends(rank: int, axis: int) -> None:
    if -rank <= axis < rank:
        assert axis_of(axis, rank, None, "x") == range(rank)[axis]
    else:
        with pytest.raises(UsageError):
            axis_of(axis, rank, None, "x")


def test_parsing_needs_no_heavy_import() -> None:
    code = (
        "import sys, graphopt.inputspec, graphopt.torch_export\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnx_ir', 'onnxruntime'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
