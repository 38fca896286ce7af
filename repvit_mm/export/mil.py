"""Evaluates the program of a saved Core ML package in torch, operation by operation.

Core ML itself runs on macOS only. On other systems, this shows that the file on disk computes what the model computes:
program and weights are read from the package. Values are rounded to half precision between operations where the program
says so; sums within an operation use single precision.
"""
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ExportError
from .mil_operations import OPERATIONS
from .packages import need
from .tracing import quiet

#: Type of the program -> torch's.
_DTYPES = {'fp16': torch.float16, 'fp32': torch.float32, 'int32': torch.int32, 'uint8': torch.uint8, 'bool': torch.bool}


class MILProgram:
    """The program of a saved package.

    Args:
        package: A ``.mlpackage`` of an ML Program.

    Attributes:
        spec: The description of the package.
        operations: Its operations without the constants, in order, as coremltools represents them.

    Raises:
        ExportError: If coremltools is not installed.
    """

    def __init__(self, package: Path):
        coremltools = need('coremltools')
        from coremltools.converters.mil.frontend.milproto.load import load
        with quiet():
            model = coremltools.models.MLModel(str(package), skip_model_load=True)
            self.spec = model.get_spec()
            program = load(self.spec, specification_version=self.spec.specificationVersion,
                           file_weights_dir=model.weights_dir)
        everything = list(program.functions['main'].operations)
        self._constants = [op for op in everything if _is_constant(op)]
        self.operations = [op for op in everything if not _is_constant(op)]

    def counts(self) -> Counter[str]:
        """Number of occurrences of each operation."""
        return Counter(op.op_type for op in (*self.operations, *self._constants) if op.op_type != 'const')

    def source_of(self, kind: str) -> str:
        """Name of the input of the last operation of a kind."""
        return next(op.inputs['x'].name for op in reversed(self.operations) if op.op_type == kind)

    @torch.no_grad()
    def run(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the program.

        Args:
            **inputs: Tensor for each input; an image is float (1, channels, H, W) of pixels from 0 to 255.

        Returns:
            Name -> value of every tensor that the program computes; half precision as float.

        Raises:
            ExportError: If the program has an unsupported operation.
        """
        values: dict[str, Any] = dict(inputs)
        for op in self._constants:
            values[op.outputs[0].name] = _constant(op)
        for op in self.operations:
            if op.op_type == 'classify':  # the label of the largest probability, and the probabilities unchanged
                label, probabilities = op.outputs
                values[probabilities.name] = values[op.inputs['probabilities'].name]
                values[label.name] = values[probabilities.name].argmax()
                continue
            if op.op_type not in OPERATIONS:
                raise ExportError(f'the package cannot be checked: the operation {op.op_type} is not supported, only '
                                  f'{", ".join(OPERATIONS)}')
            given = {key: [values[one.name] for one in value] if isinstance(value, list | tuple)
                     else values[value.name] for key, value in op.inputs.items() if value is not None}
            results = OPERATIONS[op.op_type](given)
            results = (results,) if len(op.outputs) == 1 else results
            for result, output in zip(results, op.outputs, strict=True):
                values[output.name] = _rounded(result, output)
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _is_constant(op: Any) -> bool:
    return op.op_type == 'const' or op.op_type.startswith('constexpr_')


def _constant(op: Any) -> Any:
    """A tensor for an array, other values unchanged; coremltools decompresses compressed weights."""
    value = op.outputs[0].val if op.op_type == 'const' else op.materialized_val_inference()
    if isinstance(value, np.ndarray) and value.ndim and value.dtype.kind == 'f':
        return torch.from_numpy(np.array(value)).float()
    return value


def _rounded(value: Tensor, output: Any) -> Tensor:
    """Round a value to the program's type; half precision is then held as float."""
    from coremltools.converters.mil.mil import types
    dtype = _DTYPES[types.builtin_to_string(output.dtype)]
    value = value.to(dtype)
    return value.float() if dtype == torch.float16 else value
