"""Export of models to other runtimes. Every exporter compares its file with PyTorch before it puts it in place."""
from .coreml import export_coreml
from .detectors import Selection
from .onnx import export_onnx
from .openvino import export_openvino
from .pictures import load_pictures
from .verification import Comparison, ExportReport, fused_for_export

__all__ = ['Comparison', 'ExportReport', 'Selection', 'export_coreml', 'export_onnx', 'export_openvino',
           'fused_for_export', 'load_pictures']
