from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from published import SIZES

from repvit_mm import ARCHS, fuse

FOLDER = Path('configs/classification')
#: What is published for 450 epochs, too.
LONGER = ('m0_9', 'm1_0', 'm1_1', 'm1_5', 'm2_3')


def model_of(name):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    init_default_scope('mmpretrain')
    with torch.device('meta'):
        return MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor}), cfg


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize('arch', ARCHS)
def test_without_a_teacher_there_is_one_head(arch):
    model, cfg = model_of(f'repvit_{arch}_300e')
    assert size(fuse(model.eval())) == SIZES[arch][1]
    assert model.head.fc_dist is None and 'teacher' not in cfg.model


@pytest.mark.parametrize('arch', ARCHS)
def test_the_lengths_of_the_schedules_agree(arch):
    for name in [f'repvit_{arch}_distill_300e', f'repvit_{arch}_300e'] + [f'repvit_{arch}_distill_450e'] * (
            arch in LONGER):
        cfg = Config.fromfile(FOLDER / f'{name}.py')
        assert f'_{cfg.train_cfg.max_epochs}e' in name
        assert cfg.param_scheduler.epochs == cfg.train_cfg.max_epochs


@pytest.mark.parametrize('path', sorted(FOLDER.glob('*.py')), ids=lambda path: path.stem)
def test_every_config_is_complete(path):
    model, cfg = model_of(path.stem)
    assert model.head.in_channels == model.backbone.out_channels[-1]
    assert cfg.optim_wrapper.constructor == 'TwoGroupsConstructor'
    assert cfg.auto_scale_lr.enable, 'on one GPU, the rate is that of its batch'


def test_there_is_a_config_for_each_published_model():
    names = {path.stem for path in FOLDER.glob('repvit_*.py')}
    expected = {f'repvit_{arch}_{kind}300e' for arch in ARCHS for kind in ('', 'distill_')}
    assert names == expected | {f'repvit_{arch}_distill_450e' for arch in LONGER}


def test_the_published_teacher_is_asked_for_its_best_class():
    model = Config.fromfile(FOLDER / 'repvit_m0_6_distill_300e.py').model
    assert (model.teacher.model, model.distill_type, model.distill_weight) == ('regnety_160.deit_in1k', 'hard', 0.5)
