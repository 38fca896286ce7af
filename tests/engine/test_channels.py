"""What follows the backbone, against the maps that it gives."""
import pytest
from mmengine.config import Config

from repvit_mm.engine.channels import check_channels
from repvit_mm.engine.configs import INSTALLED_CONFIGS
from repvit_mm.errors import ConfigError

WIDTHS = [64, 128, 256, 512]


def check(backbone=None, **followers):
    check_channels(Config(dict(model=dict(backbone=dict(type='RepViT', arch='m1_1', **(backbone or {})), **followers))))


@pytest.mark.parametrize('path', sorted(INSTALLED_CONFIGS.glob('*/*.py')), ids=lambda path: path.stem)
def test_our_configs_pass(path):
    check_channels(Config.fromfile(path))


@pytest.mark.parametrize('followers', [
    dict(neck=dict(in_channels=WIDTHS), decode_head=dict(in_channels=[9, 9])),
    dict(neck=dict(in_channels=tuple(WIDTHS))),
    dict(neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=512)),
    dict(decode_head=dict(in_channels=256, in_index=2)),
    dict(decode_head=dict(in_channels=[128, 512], in_index=[1, 3])),
    dict(decode_head=dict(in_channels=192, in_index=[0, 1], input_transform='resize_concat')),
    dict(neck=[dict(in_channels=9)], head=dict(in_channels=9)),
    dict(neck=dict(type='Other'), decode_head=dict(in_channels=9)),
    {},
], ids=str)
def test_fitting_channels_pass(followers):
    check(**followers)


def test_other_backbones_are_left_alone():
    check_channels(Config(dict(model=dict(backbone=dict(type='ResNet', depth=18), neck=dict(in_channels=[1, 2])))))
    check_channels(Config(dict(work_dir='x')))


@pytest.mark.parametrize(('backbone', 'followers', 'message'), [
    ({}, dict(neck=dict(in_channels=[40, 80, 160, 320])),
     r'model\.neck\.in_channels=\[40, .*\], but model\.backbone, m1_1, gives \[64, 128, 256, 512\]; change one'),
    (dict(out_indices=(1, 2)), dict(neck=dict(in_channels=WIDTHS)), r'm1_1, gives \[128, 256\]'),
    ({}, dict(neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=384)), r'head\.in_channels=384.*gives 512'),
    ({}, dict(decode_head=dict(in_channels=[64, 512], in_index=[1, 3])), r'decode_head.* gives \[128, 512\]'),
], ids=['pyramid', 'fewer maps', 'classifier', 'chosen maps'])
def test_other_channels_are_told_before_the_run(backbone, followers, message):
    with pytest.raises(ConfigError, match=message):
        check(backbone, **followers)
