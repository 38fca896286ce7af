"""The formats of exported files, one row each, and the export that all of them share."""
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from ..errors import ExportError
from ..io.files import atomic_write
from ..models.inference import InferenceModel
from . import coreml, executorch, litert, ncnn, onnx, openvino
from .packages import need, one_line
from .prepare import Options, Subject, prepare
from .prove import prove, prove_half
from .report import ExportReport
from .runtimes import open_exported
from .tracing import quiet, traceable


class Format(NamedTuple):
    """A format of files.

    Attributes:
        suffix: Of its files.
        precisions: Those of :class:`Options`; the first one is the default.
        packages: Required packages.
        write: ``(subject, path, options)`` writes the file and returns the number of each of its operations.
        engine: Runs the file; a key of :data:`repvit_mm.export.runtimes.ENGINES`.
        options: Options that not every format has.
        beside: Suffixes of the files that belong to it.
        is_folder: Whether it is a folder.
        fixed: Whether all shapes of a whole detector are fixed.
    """

    suffix: str
    precisions: tuple[str, ...]
    packages: tuple[str, ...]
    write: Callable[[Subject, Path, Options], Counter[str]]
    engine: str
    options: frozenset[str] = frozenset()
    beside: tuple[str, ...] = ()
    is_folder: bool = False
    fixed: bool = False


_DYNAMIC = frozenset({'selection', 'dynamic_batch', 'dynamic_size'})
#: Name -> format.
FORMATS = {
    'onnx': Format('.onnx', ('fp32', 'fp16', 'int8'), ('onnx', 'onnxruntime'), onnx.write, 'onnxruntime', _DYNAMIC),
    'openvino': Format('.xml', ('fp32', 'fp16', 'int8'), ('openvino', 'onnx'), openvino.write, 'openvino', _DYNAMIC,
                       beside=('.bin',)),
    'coreml': Format('.mlpackage', ('fp16', 'fp32'), ('coremltools',), coreml.write, 'coreml',
                     frozenset({'selection', 'more_shapes', 'weights'}), is_folder=True, fixed=True),
    'litert': Format('.tflite', ('fp32', 'fp16', 'int8', 'int8-weights'), ('litert_torch', 'ai_edge_litert'),
                     litert.write, 'litert', frozenset({'selection', 'layout'}), fixed=True),
    'ncnn': Format('.ncnn.param', ('fp32', 'fp16'), ('ncnn', 'pnnx'), ncnn.write, 'ncnn', beside=('.bin',), fixed=True),
    'executorch': Format('.pte', ('fp32', 'int8'), ('executorch',), executorch.write, 'executorch',
                         frozenset({'selection'}), fixed=True),
}
#: Option -> its name on the command line, and the reason why a format lacks it.
_OPTIONAL = {
    'selection': ('a detector without --pyramid', 'it lacks TopK and Gather, which box selection needs'),
    'dynamic_batch': ('--dynamic-batch', 'its files take one image'),
    'dynamic_size': ('--dynamic-size', 'its files are for images of one size'),
    'more_shapes': ('--also-shape', 'only Core ML lists its sizes'),
    'weights': ('--weights', 'it is for Core ML'),
    'layout': ('--layout', 'it is for LiteRT'),
}


def check_options(name: str, options: Options) -> Options:
    """The options with the format's default precision, if none is given.

    Raises:
        ExportError: If a package is missing, or the format lacks an option.
    """
    row = FORMATS[name]
    for package in row.packages:
        need(package)
    precision = options.precision or row.precisions[0]
    if precision not in row.precisions:
        why = '; Core ML has --weights int8' * (precision == 'int8')
        raise ExportError(f'{name} has no precision {precision}: choose from {", ".join(row.precisions)}{why}')
    if precision.startswith('int8') != (options.quantisation is not None):
        raise ExportError('--precision int8 and --calibrate DIR need each other: the folder holds some hundred '
                          'images like those that the model will see')
    for option, (asked, reason) in _OPTIONAL.items():
        if option not in row.options and getattr(options, option) != Options._field_defaults[option]:
            raise ExportError(f'{name} does not take {asked}: {reason}')
    return options._replace(precision=precision)


def export_model(model: InferenceModel, name: str, shape: Sequence[int], out: str | Path,
                 options: Options = Options()) -> ExportReport:  # noqa: B008, it is immutable
    """Export the fused form of a model, and compare the file with PyTorch before it is put in place.

    The input is a normalised image, the outputs are a classifier's logits, a segmentor's logits at the size of the
    image, the maps of a backbone or of a detector's neck, or with a selection the detections of one image, see
    :class:`repvit_mm.export.detectors.WholeDetector`. The metadata give the preparation of the image, the meaning of
    the outputs, and the names of the classes. Core ML has pre- and postprocessing inside, see :func:`.coreml.write`.

    Args:
        model: The model; not modified.
        name: A key of :data:`FORMATS`.
        shape: Height and width of the image, in pixels.
        out: The file; overwritten if it exists.
        options: See :class:`Options`.

    Returns:
        The written file, and its differences from PyTorch.

    Raises:
        ExportError: If the model cannot be exported, or the file's outputs differ from PyTorch's.
        UserError: If the file cannot be written.
    """
    row, out, options = FORMATS[name], Path(out), check_options(name, options)
    if not out.name.endswith(row.suffix):
        raise ExportError(f'{out} must end in {row.suffix}')
    if options.selection is not None and model.task.name != 'detection':
        raise ExportError(f'{model.name} is not a detector: it has no detections to select')
    if options.selection is not None and options.dynamic_batch:
        raise ExportError(f'{model.name} with its detections takes one image: --dynamic-batch is for --pyramid')
    if options.quantisation is not None and options.selection is None and model.task.decision is None:
        raise ExportError(f'{model.name} in int8: an int8 file is judged by its decisions, and a backbone or a pyramid '
                          'decides nothing')
    subject = prepare(model, shape, options, row.fixed)
    half = prove_half(subject, options) if options.precision == 'fp16' else None
    if half is not None:
        subject.metadata['half_precision'] = {'largest_activation': half.largest, 'share_of_half_precision': half.share,
                                              'layer': half.layer}
    with ExitStack() as stack:
        path = stack.enter_context(atomic_write(out, row.is_folder))
        # They are put in place first: a graph without its weights would be half a file.
        beside = [stack.enter_context(atomic_write(out.with_suffix(suffix))) for suffix in row.beside]
        with one_line(f'{name} cannot express {model.name}'), traceable(), quiet():
            operations = row.write(subject, path, options)
        file, comparisons, verdict = open_exported(path, row.engine), [], None
        if options.quantisation is not None:
            from .judging import judge  # with the engine of training and test, which only this needs
            verdict = judge(subject, file, row.engine, options)
        else:
            comparisons = prove(file, subject, options)
        for other in beside:
            path.with_suffix(other.suffix).rename(other)
        size = sum(map(size_on_disk, (path, *beside)))
    return ExportReport(out, size, operations, tuple(comparisons), row.engine, verdict, half,
                        subject.metadata.get('gelu_by_tanh'))


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in [path, *path.rglob('*')] if file.is_file())
