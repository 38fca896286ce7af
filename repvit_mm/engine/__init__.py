"""What the tools share: preparing a config, and the Runner that runs it with any toolbox."""
from .. import training  # noqa: F401, whose classes configs name
from .data import check_data, move_data_root
from .distributed import one_report
from .options import add_common_arguments, parse_args
from .preparing import (
    check_weights,
    enable_amp,
    enable_auto_scale_lr,
    latest_checkpoint,
    prepare,
    remove_pretrained,
    resume_by_config,
    set_resume,
)
from .runner import Runner, run_config

__all__ = [
    'Runner', 'add_common_arguments', 'check_data', 'check_weights', 'enable_amp', 'enable_auto_scale_lr',
    'latest_checkpoint', 'move_data_root', 'one_report', 'parse_args', 'prepare', 'remove_pretrained',
    'resume_by_config', 'run_config', 'set_resume',
]
