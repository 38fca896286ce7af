"""Export of models to other runtimes. Every exporter compares its file with PyTorch before it puts it in place."""
from .coreml import export_coreml
from .onnx import export_onnx
from .pictures import load_pictures
from .verification import Comparison, ExportReport, fused_for_export

__all__ = ['Comparison', 'ExportReport', 'export_coreml', 'export_onnx', 'fused_for_export', 'load_pictures']
