"""What the tools share: configs made ready to run, and the Runner that runs them for every toolbox."""
from .. import training  # noqa: F401, whose classes configs name
from .config import (
    check_weights,
    enable_amp,
    enable_auto_scale_lr,
    latest_checkpoint,
    load_config,
    prepare,
    remove_pretrained,
    set_resume,
)
from .data import check_data, move_data_root
from .distributed import one_report
from .memory_format import ChannelsLast
from .options import add_common_arguments, parse_args
from .runner import Runner, run_config
from .testing import draw_predictions, dump_predictions, enable_slide, enable_tta

__all__ = [
    'ChannelsLast', 'Runner', 'add_common_arguments', 'check_data', 'check_weights', 'draw_predictions',
    'dump_predictions', 'enable_amp', 'enable_auto_scale_lr', 'enable_slide', 'enable_tta', 'latest_checkpoint',
    'load_config', 'move_data_root', 'one_report', 'parse_args', 'prepare', 'remove_pretrained', 'run_config',
    'set_resume',
]
