"""Export of models to other runtimes. Every file is compared with PyTorch before it is put in place."""
from .detectors import Selection
from .formats import FORMATS, export_model
from .images import load_images
from .prepare import Options
from .report import Comparison, ExportReport

__all__ = ['FORMATS', 'Comparison', 'ExportReport', 'Options', 'Selection', 'export_model', 'load_images']
