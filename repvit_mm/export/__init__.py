"""Export of models to other runtimes. Every file is compared with PyTorch before it is put in place."""
from .backends import BACKENDS, export_model
from .detectors import Selection
from .pictures import load_pictures
from .subject import Options
from .verification import Comparison, ExportReport, fused_for_export

__all__ = ['BACKENDS', 'Comparison', 'ExportReport', 'Options', 'Selection', 'export_model', 'fused_for_export',
           'load_pictures']
