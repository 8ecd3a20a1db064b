"""``SplitToSequence`` → ``SequenceAt`` written as one ``Split``."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def split_plainly(model: ir.Model) -> None:
    """Replace sequences of parts that are only ever indexed by constants.

    Dynamo writes ``x.chunk(3, -1)`` and ``torch.split`` (so the packed weights of ``MultiheadAttention`` too) as a
    sequence and a read from it for each part; a sequence hides from every fact what a ``Split`` shows. Left alone: a
    sequence that is used in another way, an index that is not constant, an axis of unknown size.
    """
    for node in list(model.graph.all_nodes()):
        if node.op_type == "SplitToSequence" and node.domain == "":
            _rewrite(node)


def _rewrite(node: ir.Node) -> None:
    graph, source, sequence = node.graph, node.inputs[0], node.outputs[0]
    if not isinstance(graph, ir.Graph) or source is None or source.shape is None or sequence.is_graph_output():
        return
    axis = node.attributes.get_int("axis", 0) % len(source.shape)
    total = source.shape[axis]
    lengths = _lengths(_constant(node, 1), total) if isinstance(total, int) else None
    if lengths is None:
        return
    reads: list[tuple[ir.Node, int]] = []
    for read in sequence.consumers():
        index = _constant(read, 1)
        if read.op_type != "SequenceAt" or index is None or not -len(lengths) <= int(index) < len(lengths):
            return
        reads.append((read, int(index) % len(lengths)))

    name = f"{sequence.name}_lengths"
    constant = ir.tensor(np.array(lengths, dtype=np.int64), name=name)
    sizes = ir.Value(
        name=name, const_value=constant, type=ir.TensorType(constant.dtype), shape=ir.Shape([len(lengths)])
    )
    graph.initializers.add(sizes)
    split = ir.Node(
        "", "Split", [source, sizes], [ir.AttrInt64("axis", axis)], num_outputs=len(lengths), name=node.name
    )
    split.metadata_props.update(node.metadata_props)
    graph.insert_before(node, split)
    for index, part in enumerate(split.outputs):
        part.name, part.type = f"{sequence.name}_{index}", source.type
        part.shape = ir.Shape([lengths[index] if a == axis else size for a, size in enumerate(source.shape)])
    for read, index in reads:
        # An identity keeps the name of a part that is a graph output; the others are eliminated with all identities.
        identity = ir.Node("", "Identity", [split.outputs[index]], num_outputs=1, name=read.name)
        identity.metadata_props.update(read.metadata_props)
        old, new = read.outputs[0], identity.outputs[0]
        new.type, new.shape = old.type, old.shape
        graph.insert_before(read, identity)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(read, safe=True)
        new.name = old.name
    graph.remove(node, safe=True)


def _constant(node: ir.Node, index: int) -> np.ndarray | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def _lengths(split: np.ndarray | None, total: int) -> list[int] | None:
    """The lengths of the parts of an axis of ``total``: given, or all equal with a shorter rest."""
    if split is None or total < 1 or split.min(initial=1) < 1:
        return None
    if split.ndim:
        return [int(length) for length in split] if split.sum() == total else None
    length = int(split)
    return [min(length, total - start) for start in range(0, total, length)]
