"""Export to OpenVINO's own format, proven with OpenVINO."""
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import ExportError
from ..files import atomic_write
from ..inference import InferenceModel
from .detectors import Selection
from .onnx import proven_sizes, subject_of, write_onnx
from .packages import need
from .proof import prove
from .runtimes import METADATA, facts_of, open_openvino, open_session
from .verification import BOUNDS, ExportReport, size_on_disk


def export_openvino(model: InferenceModel, shape: Sequence[int], out: str | Path, dynamic_size: bool = False,
                    pictures: Sequence[str | Path] = (), selection: Selection | None = None,
                    precision: str = 'fp32') -> ExportReport:
    """Export the fused form as an OpenVINO model: the file ``.xml`` and the weights in ``.bin`` beside it.

    Args:
        model: Stays as it is.
        shape: Height and width of the image, in pixels.
        out: The ``.xml``, replaced if it is there, and its ``.bin``.
        dynamic_size: As for :func:`repvit_mm.export.export_onnx`, like inputs, outputs and metadata.
        pictures: Files to compare the outputs on; see :func:`repvit_mm.export.load_pictures`.
        selection: Which detections a whole detector keeps; None for backbone and neck.
        precision: Of the stored weights, ``'fp32'`` or ``'fp16'``.

    Returns:
        What was written and how it was proven.

    Raises:
        ExportError: If the model cannot be exported, the file not be written, or its outputs are not PyTorch's.
    """
    openvino = need('openvino')
    out = Path(out)
    if out.suffix != '.xml':
        raise ExportError(f'{out} must end in .xml')
    subject = subject_of(model, shape, selection)
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / 'model.onnx'
        write_onnx(subject, shape, graph, dynamic_size)
        facts, converted = facts_of(open_session(graph)), openvino.convert_model(graph)
    converted.set_rt_info(json.dumps(facts), METADATA)
    # The weights are put in place first: a graph without its weights would be half a file.
    with atomic_write(out) as path, atomic_write(out.with_suffix('.bin')) as weights:
        openvino.save_model(converted, path, compress_to_fp16=precision == 'fp16')
        proven = path.with_suffix('.bin')
        file = open_openvino(path)
        comparisons = [result for size in proven_sizes(shape, dynamic_size)
                       for result in prove(file, subject, size, BOUNDS[precision], pictures)]
        del file  # which keeps the weights mapped
        proven.rename(weights)
        size = size_on_disk(path) + size_on_disk(weights)
    operations = Counter(operation.get_type_name() for operation in converted.get_ops())
    return ExportReport(out, size, operations, tuple(comparisons), 'OpenVINO')
