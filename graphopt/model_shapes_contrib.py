"""Types and shapes behind operators that onnx does not know: ``com.microsoft`` and other inventions of onnxruntime.

onnx's inference stops at an operator without a schema, and everything behind it stays without sizes. So that one walk
settles all of a model, however these operators alternate with others, the inference is shown each of them as a call of
a *stand-in*: a function, made for this one node, of standard operators that has the same types and shapes (not the same
values). ``FusedConv(x, w, b, z)`` is shown as ``Conv(x, w)``, ``BiasGelu(x, b)`` as ``Identity(x)``.

`TABLE` maps (domain, operator) to a row: the function's lines in onnx's text form, or something that makes them from
the node. Inputs are called ``i0, i1, …``, outputs ``o0, o1, …``, by position; an output without a line stays unknown.
A row that returns ``None`` declines. Inside of stand-ins, operators have the meaning of opset `OPSET`.

    "QLinearAdd": "o0 = Add(i0, i3)"

Part of the family ``graphopt/model*.py``; `graphopt.model_shapes` calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import helper, parser

OPSET = 21
"""The opset of the stand-ins, whatever the model's own is."""

DOMAIN = "graphopt.standin"
MICROSOFT = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Call:
    """One node, as a row of the table sees it."""

    node: onnx.NodeProto
    constants: Mapping[str, tuple[int, ...]]
    """Sizes of the initializers in scope, by name."""

    def has(self, position: int) -> bool:
        """Tell whether an optional input is there."""
        return position < len(self.node.input) and bool(self.node.input[position])

    def sizes(self, position: int) -> tuple[int, ...] | None:
        """Return the sizes of an input that is an initializer."""
        return self.constants.get(self.node.input[position]) if self.has(position) else None

    def attribute(self, name: str, default: Any) -> Any:
        """Return an attribute's value: a number, bytes, or a list of them."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                return helper.get_attribute_value(attribute)
        return default

    def passed(self, *names: str) -> str:
        """Return ``<strides = [2, 2], …>`` with those of the named attributes that the node has."""
        given = [
            f"{a.name} = {_written(helper.get_attribute_value(a))}" for a in self.node.attribute if a.name in names
        ]
        return f"<{', '.join(given)}>" if given else ""


def _written(value: Any) -> str:
    if isinstance(value, bytes):
        return f'"{value.decode()}"'
    if isinstance(value, int | float):
        return repr(value)
    return f"[{', '.join(map(_written, value))}]"


Lines = str | None
Row = str | Callable[[Call], Lines]

TABLE: dict[tuple[str, str], Row] = {}


def row(*op_types: str, domain: str = MICROSOFT) -> Callable[[Callable[[Call], Lines]], Callable[[Call], Lines]]:
    """Add a row whose lines depend on the node."""

    def add(function: Callable[[Call], Lines]) -> Callable[[Call], Lines]:
        for op_type in op_types:
            TABLE[domain, op_type] = function
        return function

    return add


def show(proto: onnx.ModelProto) -> bool:
    """Replace, in place, the nodes of the table by calls of their stand-ins; tell whether there were any.

    Nodes keep their places and the names of their inputs and outputs.
    """
    if not any(
        entry.domain not in ("", "ai.onnx", "ai.onnx.ml") for entry in proto.opset_import
    ) and not _invented_standard(proto.graph):
        return False
    made: dict[tuple[str, int, int], str] = {}
    _show(proto, proto.graph, {}, made)
    if made:
        proto.opset_import.add(domain=DOMAIN, version=1)
    return bool(made)


def _invented_standard(graph: onnx.GraphProto) -> bool:
    """Tell whether there are operators which onnxruntime has put into the standard domain on its own."""
    own = {op_type for domain, op_type in TABLE if not domain}
    return any(node.op_type in own for node in _nodes(graph))


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from _nodes(inner)


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [g for a in node.attribute for g in ([a.g] if a.HasField("g") else a.graphs)]


def _show(
    proto: onnx.ModelProto,
    graph: onnx.GraphProto,
    outer: Mapping[str, tuple[int, ...]],
    made: dict[tuple[str, int, int], str],
) -> None:
    constants = {**outer, **{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}}
    for node in graph.node:
        for inner in _subgraphs(node):
            _show(proto, inner, constants, made)
        found = TABLE.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))
        if found is None:
            continue
        lines = found if isinstance(found, str) else found(Call(node, constants))
        if lines is None:
            continue
        key = (lines, len(node.input), len(node.output))
        if key not in made:
            made[key] = f"{node.op_type}_{len(made)}"
            proto.functions.append(_function(made[key], *key))
        node.op_type, node.domain = made[key], DOMAIN
        del node.attribute[:]


def _function(name: str, lines: str, inputs: int, outputs: int) -> onnx.FunctionProto:
    body = [parser.parse_node(line.strip()) for line in lines.splitlines() if line.strip()]
    given = [f"i{position}" for position in range(inputs)]
    results = [f"o{position}" for position in range(outputs)]
    return helper.make_function(DOMAIN, name, given, results, body, [helper.make_opsetid("", OPSET)])


# -- the table ------------------------------------------------------------------------------------------------------

_SAME = "o0 = Identity(i0)"

_AS_FIRST_INPUT = (
    "BiasAdd BiasGelu BiasSoftmax FastGelu Gelu GroupNorm Inverse MoE QLinearLeakyRelu QLinearSigmoid QLinearSoftmax "
    "QMoE QuickGelu RotaryEmbedding Trilu"
)
for _name in _AS_FIRST_INPUT.split():
    TABLE[MICROSOFT, _name] = _SAME
TABLE["", "SimplifiedLayerNormalization"] = _SAME
for _name in ("GroupNormalization", "MeanVarianceNormalization"):  # standard, but their definitions are not followed
    TABLE["", _name] = _SAME

TABLE |= {
    (MICROSOFT, "BiasDropout"): "o0 = Identity(i0)\no1 = Cast<to=9>(i0)",
    (MICROSOFT, "BiasSplitGelu"): "o0, other = Split<axis=-1, num_outputs=2>(i0)",
    (MICROSOFT, "DequantizeLinear"): "o0 = CastLike(i0, i1)",
    (MICROSOFT, "DynamicQuantizeMatMul"): "weight = CastLike(i1, i0)\no0 = MatMul(i0, weight)",
    (MICROSOFT, "GatherND"): "o0 = GatherND(i0, i1)",
    (MICROSOFT, "MatMulIntegerToFloat"): "a = CastLike(i0, i2)\nb = CastLike(i1, i2)\no0 = MatMul(a, b)",
    (MICROSOFT, "QLinearAdd"): "o0 = Add(i0, i3)",
    (MICROSOFT, "QLinearMul"): "o0 = Mul(i0, i3)",
    (MICROSOFT, "QLinearWhere"): "o0 = Where(i0, i1, i4)",
    (MICROSOFT, "SkipGroupNorm"): "o0 = Identity(i0)\no1 = Identity(i0)",
    (MICROSOFT, "SkipLayerNormalization"): "o0 = Identity(i0)\no3 = Identity(i0)",
    (MICROSOFT, "SkipSimplifiedLayerNormalization"): "o0 = Identity(i0)\no3 = Identity(i0)",
}

_WINDOW = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides", "ceil_mode", "count_include_pad")


@row("FusedConv")
def _fused_conv(call: Call) -> str:
    return f"o0 = Conv{call.passed(*_WINDOW)}(i0, i1)"


@row("FusedGemm")
def _fused_gemm(call: Call) -> str:
    return f"o0 = Gemm{call.passed('transA', 'transB')}(i0, i1)"


@row("FusedMatMul", "TransposeMatMul")
def _fused_matmul(call: Call) -> str | None:
    if call.attribute("transBatchA", 0) or call.attribute("transBatchB", 0):
        return None
    a, b = call.attribute("transA", 0), call.attribute("transB", 0)
    if not a and not b:
        return "o0 = MatMul(i0, i1)"
    # Rows of the one, columns of the other, with whatever number of axes in front: sums that broadcast.
    rows = "rows = ReduceSum<keepdims = 0>(i0, last_but_one)\nleft = Unsqueeze(rows, last)"
    columns = "columns = ReduceSum<keepdims = 0>(i1, last)\nright = Unsqueeze(columns, last_but_one)"
    return f"""
        last = Constant<value_ints = [-1]>()
        last_but_one = Constant<value_ints = [-2]>()
        {rows if a else "left = ReduceSum<keepdims = 1>(i0, last)"}
        {columns if b else "right = ReduceSum<keepdims = 1>(i1, last_but_one)"}
        o0 = Add(left, right)"""


@row("MatMulNBits", "MatMulBnb4")
def _matmul_of_packed(call: Call) -> str:
    shape = f"[{call.attribute('K', 0)}, {call.attribute('N', 0)}]"
    return f"""
        shape = Constant<value_ints = {shape}>()
        zeros = ConstantOfShape(shape)
        weight = CastLike(zeros, i0)
        o0 = MatMul(i0, weight)"""


@row("GatherBlockQuantized")
def _gathered(call: Call) -> str | None:
    """As a Gather of a table whose rows are as long as the scales allow: packed into bytes, or one number each."""
    data, scales = call.sizes(0), call.sizes(2)
    if call.attribute("gather_axis", 0) or not data or not scales or len(data) != 2 or len(scales) != 2:
        return None
    block, packed = call.attribute("block_size", 128), data[1] * 8 // call.attribute("bits", 4)
    fitting = {width for width in (packed, data[1]) if (scales[1] - 1) * block < width <= scales[1] * block}
    if len(fitting) != 1:
        return None
    return f"""
        shape = Constant<value_ints = [{data[0]}, {fitting.pop()}]>()
        zeros = ConstantOfShape(shape)
        table = CastLike(zeros, i2)
        o0 = Gather(table, i1)"""


@row("Attention", domain="")
def _attention(call: Call) -> str | None:
    """``[B, S, Hq*dv]`` or ``[B, Hq, S, dv]``: the queries' axes but the last, and the values' last."""
    heads, shared = call.attribute("q_num_heads", 0), call.attribute("kv_num_heads", 0)
    if not call.has(2) or bool(heads) != bool(shared) or (heads and heads % shared):
        return None
    copies = ", ".join(["columns"] * (heads // shared if heads else 1))
    lines = f"""
        last = Constant<value_ints = [-1]>()
        others = Constant<value_ints = {[1] if heads else [1, 2]}>()
        rows = ReduceSum<keepdims = 1>(i0, last)
        columns = ReduceSum<keepdims = 1>(i2, others)
        wide = Concat<axis = -1>({copies})
        o0 = Add(rows, wide)"""
    for out in (1, 2):  # the keys and values so far
        if len(call.node.output) > out and call.node.output[out]:
            past = f"i{3 + out}" if call.has(3 + out) else ""
            lines += _cached(f"i{out}", past, f"o{out}", shared)
    return lines


def _cached(value: str, past: str, out: str, heads: int) -> str:
    """``[B, S, heads*d]`` (or with heads on axis 1, if ``heads`` is 0) behind ``[B, heads, P, d]``."""
    split = f"""
        {out}_shape = Constant<value_ints = [0, 0, {heads}, -1]>()
        {out}_split = Reshape({value}, {out}_shape)
        {out}_new = Transpose<perm = [0, 2, 1, 3]>({out}_split)"""
    new = f"{out}_new" if heads else value
    joined = f"{out} = Concat<axis = 2>({past}, {new})" if past else f"{out} = Identity({new})"
    return f"{split if heads else ''}\n{joined}"


@row("MultiHeadAttention")
def _multi_head_attention(call: Call) -> str | None:
    if not call.has(1) or not call.has(2):
        return None
    return """
        last = Constant<value_ints = [-1]>()
        second = Constant<value_ints = [1]>()
        rows = ReduceSum<keepdims = 1>(i0, last)
        columns = ReduceSum<keepdims = 1>(i2, second)
        o0 = Add(rows, columns)"""


@row("GroupQueryAttention")
def _group_query_attention(call: Call) -> str | None:
    """As the queries; a cache is as long as a number says that is not known before the model runs."""
    queries, shared = call.attribute("num_heads", 0), call.attribute("kv_num_heads", 0)
    if not queries or not shared or call.attribute("kv_cache_bit_width", 0):
        return None
    keys = "i1"
    if call.has(1):
        lines = "o0 = Identity(i0)"
    else:
        parts = [f"part{number}" for number in range(queries + 2 * shared)]
        lines = f"""
            {", ".join(parts)} = Split<axis = -1, num_outputs = {len(parts)}>(i0)
            o0 = Concat<axis = -1>({", ".join(parts[:queries])})
            keys = Concat<axis = -1>({", ".join(parts[queries : queries + shared])})"""
        keys = "keys"
    for out in (1, 2):
        if len(call.node.output) > out and call.node.output[out]:
            lines += f"""
                {_cached(keys, "", f"now{out}", shared)}
                some{out} = Cast<to = 9>(i5)
                o{out} = Compress<axis = 2>(now{out}, some{out})"""
    return lines


@row("Attention")
def _projected_attention(call: Call) -> str:
    """``[B, S, values]``: the input's axes but the last, and the values' share of the weight's columns."""
    sizes = call.attribute("qkv_hidden_sizes", ())
    if sizes:
        columns = f"""
            shape = Constant<value_ints = [{sizes[2]}]>()
            zeros = ConstantOfShape(shape)
            columns = CastLike(zeros, i0)"""
    else:
        columns = """
            first = Constant<value_ints = [0]>()
            all = ReduceSum<keepdims = 0>(i1, first)
            queries, keys, columns = Split<axis = 0, num_outputs = 3>(all)"""
    return f"""
        {columns}
        last = Constant<value_ints = [-1]>()
        rows = ReduceSum<keepdims = 1>(i0, last)
        o0 = Add(rows, columns)"""


@row("QGemm")
def _qgemm(call: Call) -> str:
    kind = "o0 = CastLike(product, i8)" if call.has(8) else "o0 = Identity(product)"
    return f"""
        a = Cast<to = 1>(i0)
        b = Cast<to = 1>(i3)
        product = Gemm{call.passed("transA", "transB")}(a, b)
        {kind}"""


@row("QLinearConcat")
def _qlinear_concat(call: Call) -> str:
    parts = ", ".join(f"i{position}" for position in range(2, len(call.node.input), 3))
    return f"o0 = Concat{call.passed('axis')}({parts})"


@row("QLinearConv")
def _qlinear_conv(call: Call) -> str | None:
    return _image(call, "Conv", "weight", len(call.sizes(3) or ()))


@row("QLinearAveragePool")
def _qlinear_average_pool(call: Call) -> str | None:
    return _image(call, "AveragePool", "", len(call.attribute("kernel_shape", ())) + 2)


@row("QLinearGlobalAveragePool")
def _qlinear_global_pool(call: Call) -> str | None:
    return None if call.attribute("channels_last", 0) else _image(call, "GlobalAveragePool", "", 0)


@row("NhwcMaxPool")
def _nhwc_max_pool(call: Call) -> str | None:
    return _image(call, "MaxPool", "", len(call.attribute("kernel_shape", ())) + 2, channels_last=True)


@row("QuantizeLinear")
def _quantize(call: Call) -> str:
    return "o0 = CastLike(i0, i2)" if call.has(2) else "o0 = Cast<to=2>(i0)"


def _image(call: Call, op: str, weight: str, rank: int, *, channels_last: bool = False) -> str | None:
    """An operator on quantized images: in floats, and between two transposes where channels come last."""
    channels_last = channels_last or bool(call.attribute("channels_last", 0))
    if channels_last and rank < 3:
        return None
    first: Sequence[int] = [0, rank - 1, *range(1, rank - 1)]
    last: Sequence[int] = [0, *range(2, rank), 1]
    operands = "turned, weight" if weight else "turned"
    return f"""
        image = Cast<to = 1>(i0)
        {"weight = Cast<to = 1>(i3)" if weight else ""}
        turned = {f"Transpose<perm = {first}>" if channels_last else "Identity"}(image)
        result = {op}{call.passed(*_WINDOW)}({operands})
        back = {f"Transpose<perm = {last}>" if channels_last else "Identity"}(result)
        o0 = CastLike(back, i0)"""
