"""Mistakes of the user, and the process of a run that reports them."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

import repvit_mm  # noqa: F401  registers
from repvit_mm.engine import mistakes
from repvit_mm.engine.mistakes import one_report, user_errors
from repvit_mm.errors import ConfigError, DatasetError, UserError


@pytest.mark.parametrize('error', [TypeError("f() got an unexpected keyword argument 'x'"), KeyError('x'),
                                   FileNotFoundError('x'), AssertionError('failed to load image: x')])
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error)) as raised, user_errors(Config()):
        raise error
    assert raised.value is error


def test_weights_that_a_base_names_for_its_own_backbone():
    with pytest.raises(ConfigError, match=r'pretrained.*\(model\.pretrained\); set model=dict\(pretrained=None\)'), (
            user_errors(Config(dict(model=dict(pretrained='resnet50'))))):
        MODELS.build(dict(type='RepViT', arch='m0_6', pretrained='resnet50'))


def test_a_label_outside_of_the_classes_is_a_mistake_of_the_data():
    message = 'a label is outside of the classes of the model: Target 7'
    with pytest.raises(DatasetError, match=message), user_errors(Config()):
        torch.nn.functional.cross_entropy(torch.zeros(1, 3), torch.tensor([7]))


@pytest.mark.parametrize(('error', 'status'), [(UserError('x'), 1), (KeyboardInterrupt(), 130)])
def test_only_the_first_process_of_a_machine_reports(monkeypatch, error, status):
    monkeypatch.setenv('LOCAL_RANK', '0')
    with pytest.raises(type(error)), one_report():
        raise error
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(SystemExit) as end, one_report():
        raise error
    assert end.value.code == status


def test_the_first_process_that_fails_reports_once_they_know_each_other(monkeypatch):
    store = torch.distributed.HashStore()
    monkeypatch.setattr(mistakes.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(mistakes.distributed.distributed_c10d, '_get_default_store', lambda: store)
    monkeypatch.setenv('LOCAL_RANK', '1')
    with pytest.raises(RuntimeError, match='out of memory'), one_report():
        raise RuntimeError('out of memory')
    with pytest.raises(UserError), one_report():  # as the first, on whatever rank
        raise UserError('x')
    for error in (UserError('x'), RuntimeError('connection closed by peer')):
        with pytest.raises(SystemExit) as end, one_report():
            raise error
        assert end.value.code == 1
