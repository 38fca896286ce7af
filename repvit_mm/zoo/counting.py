"""Counting and timing published models."""
import logging
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from mmengine.logging import MMLogger

from ..analysis import count
from ..analysis.benchmark import run
from ..analysis.systems import Request, describe_machine
from ..models.inference import InferenceModel, build_inference_model
from .evaluation import Unavailable
from .rows import TABLES, Row
from .verdicts import FigureComparison

#: Backends for the latency of this machine.
BACKENDS = ('eager', 'channels_last')
_SIZE = {'Parameters (M)': ('parameters', 1e6), 'MACs (G)': ('MACs', 1e9)}


def build(row: Row) -> InferenceModel:
    """Build the model of a row's figures.

    Raises:
        Unavailable: If its toolbox is not installed.
    """
    if row.table == 'sam':  # its config is of the distillation, its figures are of the encoder
        return build_inference_model(f'sam_{row.arch}')
    toolbox = TABLES[row.table].toolbox
    if find_spec(toolbox) is None:
        raise Unavailable(f'{toolbox} is not installed')
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)  # building a model logs and warns about its training
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)
            return build_inference_model(row.config_path)
    finally:
        logger.setLevel(level)


def count_row(row: Row) -> dict[str, int]:
    """Parameters before and after fusion, and multiply-adds after it.

    Raises:
        Unavailable: If its toolbox is not installed.
    """
    model = build(row)
    training, fused = (count(model, row.resolution, fused=fused, depth=0) for fused in (False, True))
    return {'parameters': fused.parameters, 'training parameters': training.parameters, 'MACs': fused.macs}


def compare_counts(row: Row, measured: dict[str, int]) -> list[FigureComparison]:
    """Compare with the counts of the metafile and the rounded ones of the paper."""
    exact = {'parameters': row.parameters, 'training parameters': row.training_parameters, 'MACs': row.macs}
    return [*(FigureComparison(name, stated, None, measured[name]) for name, stated in exact.items()),
            *(FigureComparison(name, printed, 1, measured[_SIZE[name][0]] / _SIZE[name][1])
              for name, printed in row.published_size.items())]


def latency_source(row: Row) -> tuple[str, tuple[int, int]]:
    """Model and image size of a row's latency: the classifier, the backbone at 512, or SAM's encoder."""
    if row.table == 'imagenet':
        return str(row.config_path), row.resolution
    if row.table == 'sam':
        return f'sam_{row.arch}', row.resolution
    return row.arch, row.latencies[0].resolution


def latency_inputs(row: Row, device: str) -> dict[str, Any]:
    """What the latency depends on. Fused classifiers of one architecture share it."""
    return {'table': row.table if row.table in ('imagenet', 'sam') else 'backbone', 'arch': row.arch,
            'resolution': list(latency_source(row)[1]), 'backends': list(BACKENDS),
            'machine': describe_machine(device, torch.get_num_threads())}


def measure_latency(row: Row, device: str) -> dict[str, float]:
    """Backend -> median in milliseconds for one image, fused, in single precision.

    Raises:
        UserError: If the device is not usable.
    """
    source, shape = latency_source(row)
    result = run(Request([source], shape, backends=BACKENDS, device=device, timm=False))
    return {system.backend: figures.median for system, figures in result.latencies.items()}
