"""The scopes that mmengine gives to what a ``repvit_mm::`` base defines, and where it finds such bases."""
import importlib.metadata

import pytest
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import MODELS, PARAM_SCHEDULERS, DefaultScope

import repvit_mm
from repvit_mm.engine.config import add_scopes
from repvit_mm.registry import SCOPE, SeeThroughRegistry


def looked_up_in(toolbox, name):
    """Look a name up in our scope inside of a toolbox's, as a config with that default scope does."""
    with DefaultScope.overwrite_default_scope(toolbox), MODELS.switch_scope_and_registry(SCOPE) as registry:
        assert isinstance(registry, SeeThroughRegistry)
        return registry.get(name)


@pytest.mark.parametrize('toolbox', ['mmdet', 'mmseg', 'mmpretrain'])
def test_scope_shows_the_toolbox_around_it_however_deep(toolbox):
    # All three have a class of this name.
    with DefaultScope.overwrite_default_scope(toolbox):
        assert looked_up_in(SCOPE, 'ResNet').__module__.startswith(f'{toolbox}.models.backbones')
    assert looked_up_in(toolbox, 'ResNet').__module__.startswith(f'{toolbox}.models.backbones')
    assert looked_up_in(toolbox, 'RepViT') is repvit_mm.RepViT


def test_scope_without_a_toolbox_shows_the_root():
    assert looked_up_in(None, 'RepViT') is repvit_mm.RepViT
    assert looked_up_in('no_such_toolbox', 'RepViT') is repvit_mm.RepViT
    assert MODULE2PACKAGE['repvit_mm'] == 'repvit_mm'
    with PARAM_SCHEDULERS.switch_scope_and_registry(SCOPE) as registry:
        assert registry.get('MultiStepLR').__module__.startswith('mmengine.')


def test_parts_of_a_model_are_the_toolboxes_own():
    head = dict(type='Shared2FCBBoxHead', in_channels=4, fc_out_channels=4, num_classes=2, _scope_=SCOPE)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(head)
    assert type(model).__module__.startswith('mmdet.')
    # A part that the toolbox's own code built while our scope was current.
    assert type(model.loss_cls).__module__.startswith('mmdet.')


def test_full_name_needs_no_scope():
    assert MODELS.get('repvit_mm.RepViT') is repvit_mm.RepViT


@pytest.mark.parametrize('upstream', [True, False])
def test_mmsegmentation_is_found_in_both_stacks(monkeypatch, upstream):
    def version(name):
        if name == 'mmsegmentation' and not upstream:
            raise importlib.metadata.PackageNotFoundError(name)
        return '1.2.2'

    monkeypatch.setattr('repvit_mm.engine.config.version', version)
    packages = {'mmseg': 'mmsegmentation', 'mmdet': 'mmdet'}
    add_scopes(packages)
    assert packages == {'mmseg': 'mmsegmentation' if upstream else 'mmseg', 'mmdet': 'mmdet', 'repvit_mm': 'repvit_mm'}
