"""What ``tools/infer.py`` does: any model of a toolbox on pictures, videos and cameras, with drawings and JSON."""
from .predictors import Predictor, load_predictor
from .running import Run
from .sources import Inputs, find_inputs

__all__ = ['Inputs', 'Predictor', 'Run', 'find_inputs', 'load_predictor']
