"""What a table of a target consists of: a row for each operator, and what holds for all of them.

The *role* of an operator says when it runs on integers:

* ``compute``: it gains by itself (a product of matrices, a convolution).
* ``follow``: it has an integer kernel, which pays where its neighbours are integers, too.
* ``move``: it copies numbers and does not look at them; its input and outputs have equal parameters.
* ``absorb``: it is dropped where the Q behind it does its work (Relu: the zero point is the lowest number).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import onnx_ir as ir

Role = Literal["compute", "follow", "move", "absorb"]

Condition = Callable[[ir.Node], str | None]
"""Returns why a node does not run on integers although its operator may; None: it does."""


@dataclass(frozen=True)
class Row:
    """One operator of the standard domain.

    Attributes:
        role: See above.
        data: Inputs that are activations; empty: all.
        weight: The input that may be a constant with a scale for each channel.
        bias: The input that is stored as int32, or left in float, see ``Table.bias``.
        channels: Returns the axis of the weight that has a scale for each position, None if it has one scale.
        constants: Whether a constant may stand where an activation is expected; it is stored in the activations' type.
        output: ``quantized``: the kernel writes integers, a Q must follow; ``either``: it can write float, too;
            ``other``: what it writes is no real number (ArgMax).
        joined: With ``either``: whether the runtime joins the operator to the only reader of a float output before it
            looks for integers, so that there must be a Q between them.
        direct: With ``move``: the runtime copies integers, but looks for no pattern of DQ and Q around it.
        adds: With ``quantized``: the kernel can add a residual before it rounds. An Add that is the only reader of its
            output then reads the float sum, with no Q between them, and gets the Q behind it.
        cost: Nanoseconds an element (of the larger side) in float, and on integers; not of ``compute``.
        apart: What each element of each window takes longer on integers that no integer kernel has written: they lie as
            in float, which the kernel is slow at.
        when: Conditions, all of which must hold.
    """

    role: Role
    data: tuple[int, ...] = (0,)
    weight: int | None = None
    bias: int | None = None
    channels: Callable[[ir.Node], int | None] | None = None
    constants: bool = False
    output: Literal["quantized", "either", "other"] = "quantized"
    joined: Callable[[ir.Node, ir.Node], bool] | None = None
    direct: bool = False
    adds: bool = False
    cost: tuple[float, float] = (0.25, 0.25)
    apart: float = 0.0
    when: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Costs:
    """What integers cost on a target, in nanoseconds on one thread; they decide where borders pay and nothing else.

    What float costs is in ``plan.cost.CostModel``, whose terms these follow.

    Attributes:
        q: Quantizing one element.
        dq: Dequantizing one.
        mac: A multiply-add of a product or an ungrouped convolution.
        weight: Reading one weight of a product of few rows.
        depthwise_mac: One of a convolution of every channel by itself.
        output: Bringing one sum back to 8 bits.
        copy: Moving the channels of one tap of a window to where they are multiplied, if they are a multiple of 4.
        loose_copy: The same if they are not, or of one of several groups.
        layout: Bringing one element of an image to the layout that integer convolutions want, or back.
        node: Starting an operator.
    """

    q: float = 0.15
    dq: float = 0.13
    mac: float = 0.0047
    weight: float = 0.035
    depthwise_mac: float = 0.05
    output: float = 0.2
    copy: float = 0.6
    loose_copy: float = 3.0
    layout: float = 0.12
    node: float = 1500.0


@dataclass(frozen=True)
class Table:
    """One target.

    Attributes:
        rows: By operator.
        activations: Types that activations may have, the default first; ``none`` for weight-only.
        weights: Types that weights may have, the default first.
        bytes: Kernels read 8 bits: types of fewer are stored in them.
        symmetric: The zero point of activations is 0.
        bias: Whether the runtime wants the bias as int32 or as float.
        absorbs: Whether Relu and Clip are dropped by the Q behind them.
        fused: Operators that a float convolution computes on the way, with the nanoseconds an element they take alone.
        takes: Operators that the runtime quantizes by itself where they stand in float between DQ and Q.
        pulled: Operators that the runtime moves a Q in front of, so that what stands in float would run on integers.
        thrifty: Whether what multiplies stays in float where borders cost more than integers save; else it never does.
        costs: What decides about borders.
        kernels: What an operator becomes where that is not called as it is, by its name.
        reasons: Why a type is refused, by its name, where there is more to say than that it is.
    """

    rows: Mapping[str, Row]
    activations: tuple[str, ...]
    weights: tuple[str, ...]
    bytes: bool = False
    symmetric: bool = False
    bias: Literal["int32", "float"] = "int32"
    absorbs: bool = True
    fused: Mapping[str, float] = field(default_factory=dict)
    takes: frozenset[str] = frozenset()
    pulled: frozenset[str] = frozenset()
    thrifty: bool = True
    costs: Costs = field(default_factory=Costs)
    kernels: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
