"""ExecuTorch, PyTorch's own runtime for phones: one ``.pte`` for XNNPACK, which runs on their CPUs."""
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch

from .packages import need
from .runtimes import append_facts
from .subject import Options, Subject
from .verification import GraphNode, check_fused, constant_scales


def build(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a program for one image at a time; the metadata end the file.

    Returns:
        How often each operation occurs that is left to ExecuTorch, among them the part that XNNPACK computes.

    Raises:
        ExportError: If the program is not fused.
    """
    need('executorch')
    with warnings.catch_warnings(), constant_scales():
        warnings.simplefilter('ignore')
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        exported = torch.export.export(subject.model, tuple(subject.inputs.values()))
        check_fused(_nodes(exported), subject.convolutions)
        lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)
    append_facts(path, subject)
    targets = [str(node.target) for node in lowered.exported_program().graph.nodes if node.op == 'call_function']
    return Counter(target for target in targets if target[0] != '<')  # which take from a list, or reserve room


def _nodes(exported: torch.export.ExportedProgram) -> Iterator[GraphNode]:
    for node in exported.graph.nodes:
        if node.op != 'call_function':
            continue
        source = str(node.args[0]) if node.args else ''
        if 'conv2d' in str(node.target):
            groups = node.args[6] if len(node.args) > 6 else 1
            yield GraphNode('conv', source, groups > 1 and groups == node.meta['val'].shape[1])
        else:
            yield GraphNode('norm' if 'norm' in str(node.target) else 'other', source)
