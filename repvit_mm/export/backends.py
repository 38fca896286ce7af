"""The formats that a model is exported to, one row each, and the export that all of them share."""
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ExportError
from ..io.files import atomic_write
from ..models.inference import InferenceModel
from . import coreml, executorch, litert, ncnn, onnx, openvino
from .detectors import why_not_fixed
from .mil_evaluator import quiet
from .packages import need
from .proof import prove_with
from .runtimes import open_executorch, open_exported, open_litert, open_ncnn, open_onnx, open_openvino
from .subject import Options, Subject, subject_of
from .verification import Comparison, ExportReport, size_on_disk


class Backend(NamedTuple):
    """A format.

    Attributes:
        suffix: Of its files.
        precisions: Keys of :data:`repvit_mm.export.verification.BOUNDS`; the first one is the default.
        packages: What has to be installed.
        build: ``(subject, path, options)`` writes the file and gives the number of each of its operations.
        prove: ``(path, subject, options)`` reads the file back, runs it, and compares it with PyTorch.
        runner: What runs it there.
        options: Those of :class:`Options` that not every format has.
        beside: Suffixes of the files that belong to it.
        is_folder: Whether it is a folder.
        fixed: Whether all shapes are known before a picture is seen.
        engine: A key of :data:`repvit_mm.export.runtimes.ENGINES`, which runs int8 files to judge them.
        add_facts: ``(path, facts)`` adds metadata to such a file.
    """

    suffix: str
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    build: Callable[[Subject, Path, Options], Counter[str]]
    prove: Callable[[Path, Subject, Options], list[Comparison]]
    runner: str
    options: frozenset[str] = frozenset()
    beside: tuple[str, ...] = ()
    is_folder: bool = False
    fixed: bool = False
    engine: str | None = None
    add_facts: Callable[[Path, dict[str, Any]], None] | None = None


#: Name -> format.
BACKENDS = {
    'onnx': Backend('.onnx', ('fp32', 'fp16', 'int8'), ('onnx', 'onnxruntime'), onnx.build, prove_with(open_onnx),
                    'onnxruntime', frozenset({'selection', 'dynamic_size', 'quantisation'}), engine='onnxruntime',
                    add_facts=onnx.add_facts),
    'openvino': Backend('.xml', ('fp32', 'fp16', 'int8'), ('openvino', 'onnx'), openvino.build,
                        prove_with(open_openvino), 'OpenVINO', frozenset({'selection', 'dynamic_size', 'quantisation'}),
                        ('.bin',), engine='openvino', add_facts=openvino.add_facts),
    'coreml': Backend('.mlpackage', ('fp16', 'fp32'), ('coremltools',), coreml.build, coreml.prove, coreml.runner(),
                      frozenset({'selection', 'more_shapes', 'weights'}), is_folder=True, fixed=True),
    'litert': Backend('.tflite', ('fp32', 'fp16'), ('litert_torch', 'ai_edge_litert'), litert.build,
                      prove_with(open_litert), 'LiteRT, XNNPACK', frozenset({'selection'}), fixed=True),
    'ncnn': Backend('.ncnn.param', ('fp32', 'fp16'), ('ncnn', 'pnnx'), ncnn.build, prove_with(open_ncnn), 'ncnn',
                    beside=('.bin',), fixed=True),
    'executorch': Backend('.pte', ('fp32',), ('executorch',), executorch.build, prove_with(open_executorch),
                          'ExecuTorch, XNNPACK', frozenset({'selection'}), fixed=True),
}
#: Option -> how it is given on the command line, and why a format does not have it.
_OPTIONAL = {
    'selection': ('a detector without --pyramid', 'it has no TopK and no Gather, which the selection of boxes needs'),
    'dynamic_size': ('--dynamic-size', 'its files are for images of one size'),
    'more_shapes': ('--also-shape', 'only Core ML lists its sizes'),
    'weights': ('--weights', 'it is for Core ML'),
}
#: Why a format does not have a precision.
_NO_PRECISION = {'bf16': '; bf16 is how an engine computes, not how a file is stored',
                 'int8': '; ONNX and OpenVINO have int8, and Core ML --weights int8'}


def check_options(name: str, options: Options) -> Options:
    """The options with the format's own precision, if none was given.

    Raises:
        ExportError: If a package is missing, or the format does not have what is asked.
    """
    backend = BACKENDS[name]
    with quiet():
        for package in backend.packages:
            need(package)
    precision = options.precision or backend.precisions[0]
    if precision not in backend.precisions:
        why = _NO_PRECISION.get(precision, '')
        raise ExportError(f'{name} has no precision {precision}: choose from {", ".join(backend.precisions)}{why}')
    if (precision == 'int8') != (options.quantisation is not None):
        raise ExportError('--precision int8 and --calibrate DIR need each other: the folder holds some hundred '
                          'pictures like those that the model will see')
    for option, (asked, reason) in _OPTIONAL.items():
        if option not in backend.options and getattr(options, option) != Options._field_defaults[option]:
            raise ExportError(f'{name} does not take {asked}: {reason}')
    return options._replace(precision=precision)


def why_no_detections(name: str, model: InferenceModel) -> str:
    """Why a format does not hold the whole of a detector that others hold; empty if it does."""
    backend = BACKENDS[name]
    if 'selection' not in backend.options:
        return _OPTIONAL['selection'][1]
    return f'{model.name} {why_not_fixed(model)}' if backend.fixed and why_not_fixed(model) else ''


def export_model(model: InferenceModel, name: str, shape: Sequence[int], out: str | Path,
                 options: Options = Options()) -> ExportReport:  # noqa: B008, it is immutable
    """Export the fused form of a model, and compare the file with PyTorch before it is put in place.

    The input is a normalised image, the outputs are a classifier's logits, a segmentor's logits at the size of the
    image, the maps of a backbone, or those of a detector's neck; with a selection what the whole detector finds in one
    image, see :class:`repvit_mm.export.detectors.WholeDetector`. The metadata say how the image is prepared and what
    outputs are, and name the classes. Core ML has pre- and postprocessing inside, see :func:`.coreml.build`.

    Args:
        model: The model; not modified.
        name: A key of :data:`BACKENDS`.
        shape: Height and width of the image, in pixels.
        out: The file; an existing one is replaced.
        options: See :class:`Options`.

    Returns:
        What was written, and how it compares with PyTorch.

    Raises:
        ExportError: If the model cannot be exported, or the file's outputs differ from PyTorch's.
        UserError: If the file cannot be written.
    """
    backend, out = BACKENDS[name], Path(out)
    options = check_options(name, options)
    if not out.name.endswith(backend.suffix):
        raise ExportError(f'{out} must end in {backend.suffix}')
    if options.selection is not None and model.task.name != 'detection':
        raise ExportError(f'{model.name} is not a detector: it has no detections to select')
    if options.quantisation is not None and (model.config is None or options.selection is None
                                             and model.task.decision is None):
        raise ExportError(f'{model.name} in int8: an int8 file is judged by what it decides, and the one of a backbone '
                          'or a pyramid decides nothing')
    subject = subject_of(model, shape, options, backend.fixed)
    with ExitStack() as stack:
        path = stack.enter_context(atomic_write(out, backend.is_folder))
        # They are put in place first: a graph without its weights would be half a file.
        beside = [stack.enter_context(atomic_write(out.with_suffix(suffix))) for suffix in backend.beside]
        operations = backend.build(subject, path, options)
        comparisons, verdict = [], None
        if options.precision == 'int8':
            from .judging import judge  # with the engine, which only this needs
            verdict = judge(subject, open_exported(path, backend.engine), backend.engine, options)
            backend.add_facts(path, {'int8': {**verdict._asdict(), 'lost': verdict.lost,
                                              'calibrated_on': len(options.quantisation.pictures.calibration)}})
        else:
            comparisons = backend.prove(path, subject, options)
        for other in beside:
            path.with_suffix(other.suffix).rename(other)
        size = sum(map(size_on_disk, (path, *beside)))
    return ExportReport(out, size, operations, tuple(comparisons), backend.runner, verdict)
