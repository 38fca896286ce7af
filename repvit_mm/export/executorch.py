"""ExecuTorch, PyTorch's own runtime for phones: one ``.pte`` for XNNPACK, which runs on their CPUs."""
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from .files import ExportedFile, append_facts, read_facts
from .packages import need
from .prepare import Options, Subject


def write(subject: Subject, path: Path, options: Options) -> Counter[str]:
    """Write a program for one image; the metadata end the file.

    Returns:
        Number of occurrences of each operation left to ExecuTorch, among them the part that XNNPACK computes.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    exported = torch.export.export(subject.model, tuple(subject.inputs.values()))
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)
    append_facts(path, subject)
    targets = [str(node.target) for node in lowered.exported_program().graph.nodes if node.op == 'call_function']
    return Counter(target for target in targets if target[0] != '<')  # those take from a list, or reserve room


def open_file(path: Path, threads: int = 0) -> ExportedFile:
    """Open a program, on the CPU. Its Python runtime chooses the number of threads itself."""
    need('executorch')
    from executorch.runtime import Runtime
    facts, program = read_facts(path), Runtime.get().load_program(path)
    method = program.load_method('forward')

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # The values belong to the program until it runs again.
        found = method.execute([torch.from_numpy(np.ascontiguousarray(inputs['image']))])
        return {name: value.numpy().copy() for name, value in zip(facts['outputs'], found, strict=True)}
    return ExportedFile(path, run, tuple(facts['shape']), facts)
