"""Models by name, and what the toolboxes' own functions and Inferencers make of them."""
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from oracles import randomise_norms
from PIL import Image
from running import forget_runs

import repvit_mm
from repvit_mm.checkpoints import convert_state_dict, published
from repvit_mm.errors import CheckpointError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
CLASSIFIER, SEGMENTOR = 'repvit_m0_6_distill_300e', 'fpn_repvit_m1_1'


@pytest.fixture
def clean():
    """As in a new process: no toolbox is the default scope."""
    forget_runs()
    yield
    forget_runs()


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """Files as the authors released them, with random weights, where downloads are kept; model -> our weights."""
    home = tmp_path_factory.mktemp('torch')
    cache = home / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    models = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TORCH_HOME', str(home))
        for name, key in ((CLASSIFIER, 'm0_6_distill_300e'), (SEGMENTOR, 'm1_1_ade20k')):
            model = randomise_norms(repvit_mm.get_model(name))
            models[name] = model.state_dict()
            torch.save({'state_dict': convert_state_dict(model.state_dict(), to='official')},
                       cache / published()[key].file)
        yield models


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'x.png')
    return str(tmp_path / 'x.png')


def is_same(model, tensors):
    return all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())


def test_names_are_those_of_the_configs_and_their_weights_those_of_the_metafiles():
    entries = [entry for task in ('classification', 'detection', 'segmentation')
               for entry in yaml.safe_load((ROOT / f'configs/{task}/metafile.yml').read_text())['Models']]
    names = repvit_mm.list_models()
    assert len(set(names)) == len(names) == len(repvit_mm.ARCHS) + len(
        [path for path in (ROOT / 'configs').glob('*/*.py') if path.parent.name != 'sam'])
    assert {entry['Name'] for entry in entries if 'Weights' in entry} == set(
        repvit_mm.list_models('*repvit*', pretrained=True))
    assert repvit_mm.list_models('maskrcnn*m1_?') == ['maskrcnn_repvit_m1_0', 'maskrcnn_repvit_m1_1',
                                                      'maskrcnn_repvit_m1_5']


@pytest.mark.parametrize('name', [CLASSIFIER, SEGMENTOR])
def test_published_weights_come_with_the_name(weights, clean, name):
    model = repvit_mm.get_model(name, pretrained=True)
    assert is_same(model, weights[name]) and not model.training
    assert model.cfg.filename.endswith(f'{name}.py')
    assert len(model.dataset_meta['classes']) == {CLASSIFIER: 1000, SEGMENTOR: 150}[name]


def test_architecture_is_the_backbone(weights):
    model = repvit_mm.get_model('m0_6', pretrained=True)
    assert type(model) is repvit_mm.RepViT and not model.training
    assert is_same(model, {name.removeprefix('backbone.'): value for name, value in weights[CLASSIFIER].items()})


@pytest.mark.parametrize(('name', 'pretrained', 'error', 'message'), [
    ('maskrcnn_repvit_m0_9', True, CheckpointError, 'no weights are published for maskrcnn_repvit_m0_9'),
    ('maskrcn_repvit_m0_9', False, ConfigError, 'did you mean maskrcnn_repvit_m0_9'),
    ('xyz', False, ConfigError, 'or a name: m0_6, '),
    (CLASSIFIER, 'no.pth', CheckpointError, 'there is no file no.pth'),
    ('fpn_repvit_m0_6', f'repvit://{CLASSIFIER[7:]}', CheckpointError, 'it fits the backbone only')])
def test_wrong_names(weights, name, pretrained, error, message):
    with pytest.raises(error, match=message):
        repvit_mm.get_model(name, pretrained)


def test_mmsegs_own_functions_take_our_config_and_our_model(weights, clean, picture):
    from mmseg.apis import MMSegInferencer, inference_model
    inferencer = MMSegInferencer(repvit_mm.config_path(SEGMENTOR), 'repvit://m1_1_ade20k', device='cpu')
    assert is_same(inferencer.model, weights[SEGMENTOR])
    labels = inference_model(repvit_mm.get_model(SEGMENTOR, pretrained=True), picture).pred_sem_seg.data[0]
    assert len(labels.unique()) > 1
    np.testing.assert_array_equal(inferencer(picture)['predictions'], labels)


def test_segmentor_without_names_of_classes_numbers_them(clean, tmp_path):
    (tmp_path / 'x.py').write_text("_base_ = 'repvit_mm::segmentation/fpn_repvit_m0_6.py'\n"
                                   "test_dataloader = dict(dataset=dict(type='BaseSegDataset'))")
    meta = repvit_mm.get_model(tmp_path / 'x.py').dataset_meta
    assert meta['classes'][::149] == ['class 0', 'class 149'] and len(meta['palette']) == 150


def test_mmpretrain_takes_our_names_and_our_models(weights, clean, picture):
    import mmpretrain

    from repvit_mm.training.classification import register_names
    register_names()
    register_names()
    assert CLASSIFIER in mmpretrain.list_models('repvit')
    by_name = mmpretrain.ImageClassificationInferencer(CLASSIFIER, device='cpu')
    assert is_same(by_name.model, weights[CLASSIFIER])
    ours = mmpretrain.ImageClassificationInferencer(repvit_mm.get_model(CLASSIFIER, pretrained=True))
    np.testing.assert_array_equal(by_name(picture)[0]['pred_scores'], ours(picture)[0]['pred_scores'])
