"""Graphs whose weights are 8-bit integers, a quarter of their size.

A matrix of weights has a scale for each column. Products with it are computed in integers too
where that does little harm: the other factor then has 256 levels between its least and its largest
value, which is too coarse where a few values are far larger than the rest, as behind one GELU or
another of a vision transformer. What does harm is measured, not guessed: both factors are rounded
so for a few pictures, and a product that changes by more than `MOST_CHANGE` is computed in float32,
of weights that are made float32 again. Convolutions and embeddings are computed so, too.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from captioning.system.errors import UserError

Array = NDArray[Any]
Feeds = dict[str, Array]
FEWEST_WEIGHTS = 4096
"""Smaller tables stay as they are."""
MOST_CHANGE = 0.01
"""Of a product, as a part of its own size (norm of the difference over the norm, mean of rows)."""
FLOAT_OPERATORS = {"MatMul": (1, 1), "Conv": (1, 0), "Gather": (0, 0)}
"""Where such an operator has its weights, and the axis along which each place has a scale."""


def quantise_graph(path: Path, samples: Sequence[Feeds]) -> dict[str, float]:
    """Rewrite a graph in its place; gives the change of each product, measured on `samples`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.onnx_model import ONNXModel

    if path.with_name(f"{path.name}.data").exists():
        raise UserError(
            f"{path.name} has more than 2 GB of weights, which cannot be made --int8 here; leave "
            "--int8 out."
        )
    model = ONNXModel(onnx.load(path))
    model.replace_gemm_with_matmul()
    _drop_unused(model.model.graph)
    changes = measure_changes(model.model, samples)
    in_integers = [name for name, change in changes.items() if change <= MOST_CHANGE]
    whole = path.with_suffix(".tmp")
    onnx.save(model.model, whole)
    if in_integers:
        logging.disable(logging.WARNING)  # it advises to optimise first, which loses node names
        try:
            quantize_dynamic(
                whole,
                path,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=in_integers,
                per_channel=True,
                weight_type=QuantType.QInt8,
                extra_options={"MatMulConstBOnly": True},
            )
        finally:
            logging.disable(logging.NOTSET)
    else:
        onnx.save(model.model, path)
    whole.unlink()
    quantised = onnx.load(path)
    store_in_8_bits(quantised)
    onnx.checker.check_model(quantised, full_check=True)
    onnx.save(quantised, path)
    return changes


def measure_changes(model: Any, samples: Sequence[Feeds]) -> dict[str, float]:
    """How much integers would change each product with a matrix of weights, by its node's name."""
    import onnxruntime
    from onnx import helper, numpy_helper

    weights = {one.name: one for one in model.graph.initializer}
    products = {
        node.name: (node.input[0], numpy_helper.to_array(weights[node.input[1]]))
        for node in model.graph.node
        if node.op_type == "MatMul" and _is_large(weights.get(node.input[1]))
    }
    if not products:
        return {}
    inputs = dict.fromkeys(name for name, _ in products.values())
    known = {one.name for one in (*model.graph.output, *model.graph.input)}
    told = [helper.make_empty_tensor_value_info(name) for name in inputs if name not in known]
    model.graph.output.extend(told)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
    finally:
        del model.graph.output[len(model.graph.output) - len(told) :]
    worst = dict.fromkeys(products, 0.0)
    for feeds in samples:
        found = feeds | dict(zip(inputs, session.run(list(inputs), feeds), strict=True))
        for node, (name, matrix) in products.items():
            worst[node] = max(worst[node], change_of_product(found[name], matrix))
    return worst


def change_of_product(x: Array, matrix: Array) -> float:
    """How much `x @ matrix` changes, relative to its size, where both are rounded to integers."""
    exact = x @ matrix
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = (high - low) / 255 or 1.0
    rounded = np.clip(np.rint(x / step) + np.rint(-low / step), 0, 255) - np.rint(-low / step)
    scales = np.maximum(np.abs(matrix).max(0), 1e-30) / 127
    product = (rounded * step).astype(np.float32) @ (np.rint(matrix / scales) * scales)
    lost, size = (np.linalg.norm(one, axis=-1) for one in (product - exact, exact))
    return float((lost / np.maximum(size, 1e-30)).mean())


def store_in_8_bits(model: Any) -> None:
    """Store what weights are left as 8-bit integers with scales, and compute as before."""
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    weights = {one.name: one for one in graph.initializer}
    nodes: list[Any] = []
    for node in graph.node:
        place, axis = FLOAT_OPERATORS.get(node.op_type, (0, 0))
        name = node.input[place] if len(node.input) > place else ""
        if node.op_type not in FLOAT_OPERATORS or not _is_large(weights.get(name)):
            nodes.append(node)
            continue
        table = numpy_helper.to_array(weights[name])
        others = tuple(one for one in range(table.ndim) if one != axis)
        scales = np.maximum(np.abs(table).max(others), 1e-30).astype(np.float32) / np.float32(127)
        shape = [-1 if one == axis else 1 for one in range(table.ndim)]
        integers = np.rint(table / scales.reshape(shape)).astype(np.int8)
        small, by = f"{name}.int8", f"{name}.scales"
        if small not in weights:
            for content, called in ((integers, small), (scales, by)):
                graph.initializer.append(numpy_helper.from_array(content, called))
                weights[called] = graph.initializer[-1]
        if node.op_type == "Gather":  # rows of a table: scales are looked up as the rows are
            rows, row_scales = f"{node.output[0]}.rows", f"{node.output[0]}.scales"
            nodes += [
                helper.make_node("Gather", [small, node.input[1]], [rows], axis=0),
                helper.make_node("Cast", [rows], [f"{rows}.float"], to=TensorProto.FLOAT),
                helper.make_node("Gather", [by, node.input[1]], [row_scales], axis=0),
                helper.make_node("Unsqueeze", [row_scales, "int8.last"], [f"{row_scales}.column"]),
                helper.make_node(
                    "Mul", [f"{rows}.float", f"{row_scales}.column"], [node.output[0]]
                ),
            ]
            if "int8.last" not in weights:
                last = numpy_helper.from_array(np.array([-1]), "int8.last")
                graph.initializer.append(last)
                weights[last.name] = last
            continue
        floats = f"{name}.float"
        if not any(floats in one.output for one in nodes):
            nodes.append(helper.make_node("DequantizeLinear", [small, by], [floats], axis=axis))
        node.input[place] = floats
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused(graph)


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input}
    used |= {one.name for one in graph.output}
    kept = [one for one in graph.initializer if one.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _is_large(weights: Any) -> bool:
    """Whether an initialiser is a float table worth storing in 8 bits."""
    from onnx import TensorProto

    return (
        weights is not None
        and weights.data_type == TensorProto.FLOAT
        and len(weights.dims) >= 2
        and int(np.prod(weights.dims)) >= FEWEST_WEIGHTS
    )
