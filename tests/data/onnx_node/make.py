"""Copies the ONNX standard's node tests of the quantization operators: NAME.onnx, and NAME.data.onnx with the inputs and
the expected outputs as constants. Written by onnx 1.23, whose package carries them (onnx.backend.test.case.node).

    python make.py        writes beside itself
"""
import warnings
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

warnings.filterwarnings("ignore")
from onnx.backend.test.case.node import collect_testcases  # noqa: E402

HERE = Path(__file__).resolve().parent
OPERATORS = {
    "QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
    "DynamicQuantizeLinear",
}

for path in HERE.glob("*.onnx"):
    path.unlink()
written = set()
for case in collect_testcases():
    graph = case.model.graph
    if not {n.op_type for n in graph.node} & OPERATORS or case.name in written or case.name.endswith("_expanded"):
        continue
    written.add(case.name)
    (inputs, outputs) = case.data_sets[0]
    tensors = []
    for value, data in [*zip(graph.input, inputs), *zip(graph.output, outputs)]:
        if isinstance(data, onnx.TensorProto):
            tensor = onnx.TensorProto()
            tensor.CopyFrom(data)
            tensor.name = value.name
        else:
            tensor = numpy_helper.from_array(np.asarray(data), value.name)
        tensors.append(tensor)
    data = helper.make_graph([], "data", [], [], tensors)
    onnx.save(case.model, HERE / f"{case.name}.onnx")
    onnx.save(helper.make_model(data), HERE / f"{case.name}.data.onnx")
print(len(written), "cases")
