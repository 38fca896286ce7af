"""ExecuTorch, PyTorch's own runtime for phones: one ``.pte`` for XNNPACK, which runs on their CPUs."""
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from .files import ExportedFile, append_metadata, read_metadata
from .packages import need
from .prepare import Options, Subject
from .quantisation import Operation, float_layers

#: Kinds of operations, for :class:`repvit_mm.export.quantisation.Operation`.
_KINDS = {'conv2d': 'layer', 'linear': 'layer', 'conv_transpose2d': 'product', 'matmul': 'product', 'mean': 'pool',
          'adaptive_avg_pool2d': 'pool', 'relu': 'passing', 'flatten': 'passing', 'to': 'moving'}


def write(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a program for one image; the metadata end the file.

    Returns:
        Number of occurrences of each operation left to ExecuTorch, among them the part that XNNPACK computes.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    exported = torch.export.export(subject.model, tuple(subject.inputs.values()))
    if options.precision == 'int8':
        exported = _quantised(exported, subject, options)
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)
    append_metadata(path, subject)
    targets = [str(node.target) for node in lowered.exported_program().graph.nodes if node.op == 'call_function']
    return Counter(target for target in targets if target[0] != '<')  # those take from a list, or reserve room


def _quantised(exported: torch.export.ExportedProgram, subject: Subject,
               options: Options) -> torch.export.ExportedProgram:
    """A program that computes in 8 bits as far as :mod:`repvit_mm.export.quantisation` says."""
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer as xnnpack
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    module = exported.module()
    nodes = module.graph.nodes
    kept = float_layers([Operation(node.name, _kind(node), [one.name for one in node.all_input_nodes], [node.name])
                         for node in nodes], [node.name for node in nodes if node.op == 'placeholder'],
                        [one.name for node in nodes if node.op == 'output' for one in node.all_input_nodes])
    quantizer = xnnpack.XNNPACKQuantizer()
    for target in (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default):
        quantizer.set_operator_type(target, xnnpack.get_symmetric_quantization_config(is_per_channel=True))
    quantizer.set_filter_function(lambda node: node.name not in kept)  # asked for weights, too
    prepared = prepare_pt2e(module, quantizer)
    with torch.no_grad():
        for path in options.quantisation.images.calibration:
            prepared(*map(torch.from_numpy, subject.load(path).values()))
    return torch.export.export(convert_pt2e(prepared), tuple(subject.inputs.values()))


def _kind(node: torch.fx.Node) -> str:
    """See :class:`repvit_mm.export.quantisation.Operation`."""
    name = str(node.target).removeprefix('aten.').partition('.')[0]
    return 'grouped' if name == 'conv2d' and node.args[6:] > (1,) else _KINDS.get(name, '')


def open_file(path: Path, threads: int = 0) -> ExportedFile:
    """Open a program, on the CPU. Its Python runtime chooses the number of threads itself."""
    metadata, program = read_metadata(path), need('executorch.runtime').Runtime.get().load_program(path)
    method = program.load_method('forward')

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # The values belong to the program until it runs again.
        found = method.execute([torch.from_numpy(np.ascontiguousarray(inputs['image']))])
        return {name: value.numpy().copy() for name, value in zip(metadata['outputs'], found, strict=True)}
    return ExportedFile(path, run, tuple(metadata['shape']), metadata)
