import argparse
from functools import partial

import pytest
import timm
import torch
from bad_files import RunsCode
from checkpoint_samples import TINY, Classifier, Detector, RepViT, is_same, trained
from mmengine.logging import HistoryBuffer
from running import run_tool

from repvit_mm import convert_state_dict, get_model
from repvit_mm.checkpoints import classes_of, convert_file, read_checkpoint


@pytest.fixture
def official(tmp_path):
    """A file as the authors' training writes it."""
    model = trained(Classifier('m0_6', classes=10))
    args = argparse.Namespace(model='repvit_m0_6', lr=1e-3)
    torch.save({'model': convert_state_dict(model.state_dict(), 'official'), 'optimizer': {'state': {}}, 'epoch': 299,
                'args': args}, tmp_path / 'official.pth')
    return tmp_path / 'official.pth'


@pytest.mark.parametrize('to,key', [('repvit_mm', 'state_dict'), ('official', 'model'), ('timm', None)])
def test_the_weights_are_where_the_users_of_the_names_expect_them(official, tmp_path, to, key):
    convert_file(official, tmp_path / 'out.pth', to)
    content = torch.load(tmp_path / 'out.pth', weights_only=True)
    assert list(content) == [key] if key else 'stem.conv1.c.weight' in content


def test_a_detector_with_official_names_stays_an_openmmlab_file(tmp_path):
    torch.save({'state_dict': Detector(TINY).state_dict(), 'meta': {'CLASSES': ('cat',)}, 'optimizer': {}},
               tmp_path / 'x.pth')
    done = convert_file(tmp_path / 'x.pth', tmp_path / 'y.pth', 'official')
    content = read_checkpoint(tmp_path / 'y.pth')
    assert list(content) == ['state_dict', 'meta']
    assert content['meta'] == {'CLASSES': ('cat',)}
    assert 'backbone.features.0.0.c.weight' in content['state_dict'] and 'neck.weight' in content['state_dict']
    assert done.left_out == ('optimizer',)


@pytest.mark.parametrize(('name', 'arch'), [('out.pth', 'm0_9'), ('out.safetensors', 'm1')])
def test_timm_loads_the_written_folder(tmp_path, name, arch):
    model = trained(Classifier(arch))
    torch.save(model.state_dict(), tmp_path / 'x.pth')
    convert_file(tmp_path / 'x.pth', tmp_path / name, 'timm')
    image = torch.randn(1, 3, 64, 64)
    converted = timm.create_model(f'repvit_{arch}', checkpoint_path=str(tmp_path / name)).eval()
    torch.testing.assert_close(converted(image), model(image), rtol=1e-4, atol=1e-5)


def test_a_safetensors_file_has_the_metadata_of_the_model(tmp_path):
    history = HistoryBuffer([70., 78.5], [1, 1])
    torch.save({'state_dict': trained(Classifier(TINY, classes=2)).state_dict(), 'message_hub': {'log_scalars': {
        'val/accuracy/top1': history, 'train/loss': history}},
        'meta': {'dataset_meta': {'classes': ('cat', 'dog')}, 'cfg': 'model = dict()', 'iter': 3}}, tmp_path / 'x.pth')
    convert_file(tmp_path / 'x.pth', tmp_path / 'y.safetensors')
    content = read_checkpoint(tmp_path / 'y.safetensors')
    assert classes_of(content, 'y') == ('cat', 'dog')
    assert content['meta']['metrics'] == {'accuracy/top1': 78.5} and content['meta']['cfg'] == 'model = dict()'


@pytest.mark.parametrize(('build', 'classes'), [(Classifier, ('cat', 'dog')), (RepViT, None)])
def test_timm_and_get_model_load_a_folder_for_the_hub(tmp_path, build, classes):
    model = trained(build('m1', classes=2) if classes else build('m1'))
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'classes': classes}}}, tmp_path / 'x.pth')
    convert = partial(run_tool, 'convert_checkpoint', tmp_path / 'x.pth', '--hub')
    done = convert(tmp_path / 'hub')
    assert done.status == 0, done.err
    theirs = timm.create_model(f'local-dir:{tmp_path / "hub"}', pretrained=True).eval()
    ours = get_model(tmp_path / 'hub')
    assert is_same(ours.state_dict(), model.state_dict())
    image = torch.randn(1, 3, 64, 64)
    found, expected = (theirs(image), model(image)) if classes else (theirs.forward_features(image), model(image)[-1])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if classes:
        assert theirs.pretrained_cfg['label_names'] == list(classes) == list(ours.dataset_meta['classes'])
    card = (tmp_path / 'hub/README.md').read_text()
    assert 'license: apache-2.0' in card and ('classifier of 2 classes' in card) == bool(classes)
    done = convert(tmp_path / 'hub')
    assert done.status == 1 and 'exists; --overwrite replaces it' in done.err
    assert convert(tmp_path / 'hub', '--overwrite').status == 0
    done = convert(tmp_path, '--overwrite')  # it would remove x.pth
    assert done.status == 1 and 'holds other files' in done.err and (tmp_path / 'x.pth').is_file()


@pytest.mark.parametrize(('arch', 'settings'), [('m0_6', {}), (TINY, {}), ('m1', {'deploy': True})])
def test_timm_lacks_some_architectures_and_fused_weights(tmp_path, arch, settings):
    torch.save(RepViT(arch, **settings).state_dict(), tmp_path / 'x.pth')
    done = run_tool('convert_checkpoint', tmp_path / 'x.pth', '--hub', tmp_path / 'hub')
    assert done.status == 1 and 'timm has the unfused architectures' in done.err
    assert not (tmp_path / 'hub').exists()


def test_the_tool_reports_the_source_and_the_result(official, tmp_path):
    content = read_checkpoint(official)
    torch.save({**content, 'model_ema': dict(content['model'])}, official)
    status, out, _ = run_tool('convert_checkpoint', official, tmp_path / 'out.pth', '--to', 'timm')
    assert status == 0 and out.splitlines() == [
        f'{official}: m0_6, official names, 476 tensors',
        f'{tmp_path / "out.pth"}: timm names, 476 of 476 tensors renamed',
        'left out, not weights: optimizer, epoch, args',
        'left out, as only one set of weights is kept: model_ema']


def test_nothing_is_overwritten_unless_that_is_forced(official):
    before = official.read_bytes()
    status, _, error = run_tool('convert_checkpoint', official, official, '--to', 'timm')
    assert status == 1 and error == f'error: {official} exists; --overwrite replaces it\n'
    assert official.read_bytes() == before
    weights = read_checkpoint(official)['model']
    assert run_tool('convert_checkpoint', official, official, '--to', 'timm', '--overwrite').status == 0
    assert is_same(convert_state_dict(read_checkpoint(official), 'official'), weights)


def test_code_in_the_file_runs_only_if_that_is_asked_for_and_does_not_get_into_the_new_one(tmp_path):
    made = tmp_path / 'made'
    meta = {'hook': RunsCode(made), 'head': torch.nn.Linear(1, 1)}
    torch.save({'state_dict': Detector(TINY).state_dict(), 'meta': meta}, tmp_path / 'x.pth')
    status, _, error = run_tool('convert_checkpoint', tmp_path / 'x.pth', tmp_path / 'y.pth')
    assert status == 1 and 'needs the type' in error
    assert not made.exists()
    done = convert_file(tmp_path / 'x.pth', tmp_path / 'y.pth', trust=True)
    assert made.exists()
    assert read_checkpoint(tmp_path / 'y.pth')['meta'] == {'hook': None, 'head': None}
    assert done.left_out == ()


@pytest.mark.parametrize('spoil,message', [
    (lambda path: path.unlink(), 'there is no file'),
    (lambda path: path.write_bytes(path.read_bytes()[:1000]), 'is truncated'),
    (lambda path: torch.save({'model': {'conv1.weight': torch.zeros(1)}}, path), 'none of its 1 tensors has a name of'),
    (lambda path: torch.save({'model': {**RepViT(TINY).state_dict(), 'x': torch.tensor([1., float('nan')])}}, path),
     'infinite values or NaN, first x'),
])
def test_a_file_that_cannot_be_converted_leaves_nothing_behind(official, tmp_path, spoil, message):
    spoil(official)
    status, _, error = run_tool('convert_checkpoint', official, tmp_path / 'out.pth')
    assert status == 1
    assert error.startswith(f'error: {official}') or error.startswith('error: there is no file')
    assert message in error and error.count('\n') == 1
    assert not list(tmp_path.glob('out*'))
