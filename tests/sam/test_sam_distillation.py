"""Distilling an encoder: loss, teacher, cache of embeddings, and a training through the tools."""
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from running import run_tool
from sam_samples import ROOT, save_picture, small_sam
from torch.utils.data import DataLoader

from repvit_mm.engine.mistakes import user_errors
from repvit_mm.errors import CheckpointError, ConfigError, DatasetError, UserError
from repvit_mm.sam.distillation import (
    SamDistiller,
    SamImages,
    SamPreprocessor,
    mask_agreement,
    masked_mse,
    valid_cells,
)
from repvit_mm.sam.teacher import SamTeacher

SMALL = dict(encoder=dict(type='SamVit', embed_dim=32, depth=2, num_heads=2, global_attn_indexes=(1,)), random=True)
SIZE = 64


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        save_picture(tmp_path / f'train/{number % 2}/{number}.png', 48, 96, seed=number)
    for number in range(2):
        save_picture(tmp_path / f'val/{number}.png', 90, 60, seed=10 + number)
    return tmp_path


def distiller():
    torch.manual_seed(0)
    return SamDistiller(dict(arch='m0_6'), SMALL, SIZE, points_per_side=2)


def batch_of(dataset):
    items = [dataset[index] for index in range(len(dataset))]
    return SamPreprocessor(SIZE)({key: [item[key] for item in items] for key in items[0]})


@pytest.mark.parametrize('size, cells', [((64, 64), (4, 4)), ((33, 64), (3, 4)), ((32, 1), (2, 1))])
def test_cells_cover_the_image(size, cells):
    assert valid_cells(size) == cells


def test_loss_is_the_mean_squared_error_where_the_image_is():
    embeddings = torch.randn(2, 3, 4, 4, requires_grad=True)
    targets = torch.randn(2, 3, 4, 4)
    loss = masked_mse(embeddings, targets, [(64, 33), (16, 64)])
    parts = torch.cat([((embeddings - targets)[0, :, :, :3] ** 2).flatten(),
                       ((embeddings - targets)[1, :, :1] ** 2).flatten()])
    torch.testing.assert_close(loss, parts.mean())
    loss.backward()
    assert (embeddings.grad[0, :, :, 3] == 0).all() and (embeddings.grad[1, :, 1:] == 0).all()
    assert (embeddings.grad[0, :, :, :3] != 0).all()


def test_images_are_prepared_as_sam_does(folder):
    sam = small_sam(SIZE)
    dataset = SamImages(str(folder), dict(img='train'), SIZE)
    assert len(dataset) == 4 and dataset[0]['inputs'].shape == (3, 32, 64)
    batch = batch_of(dataset)
    torch.testing.assert_close(batch['inputs'][2], sam.preprocess(dataset[2]['inputs']))
    assert batch['sizes'] == [(32, 64)] * 4


def test_masks_of_the_same_embedding_agree_and_of_another_do_not():
    sam = small_sam(SIZE)
    ours, theirs = torch.randn(2, 1, 256, 4, 4)
    assert mask_agreement(sam, ours, ours, (64, 48), 2) == 1
    assert mask_agreement(sam, ours, theirs, (64, 48), 2) < 0.95


def test_teacher_is_frozen_and_no_part_of_the_model(folder):
    model = distiller()
    batch = batch_of(SamImages(str(folder), dict(img='train'), SIZE))
    model.train()(**batch, mode='loss')['loss_embedding'].backward()
    assert all(name.startswith('student.') for name in model.state_dict())
    sam, again = (one.teacher.sam(torch.device('cpu')) for one in (model, distiller()))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in sam.state_dict().items())
    assert not sam.training and not any(parameter.requires_grad for parameter in sam.parameters())
    assert not torch.allclose(*model.teacher.embed(batch['inputs'][:2]))


def test_training_does_not_start_without_the_teachers_weights():
    model = SamDistiller(dict(arch='m0_6'), dict(SMALL, random=False, checkpoint='nowhere.pth'), SIZE)
    with pytest.raises(ConfigError, match='model.teacher: there is no file nowhere.pth'):
        model.init_weights()


def test_teacher_takes_the_checkpoint_of_a_whole_sam(tmp_path):
    weights = SamTeacher(**SMALL, image_size=SIZE).sam(torch.device('cpu')).state_dict()
    weights = {name: value + 1 for name, value in weights.items()}
    torch.save(weights, tmp_path / 'sam.pth')
    loaded = SamTeacher(SMALL['encoder'], str(tmp_path / 'sam.pth'), SIZE).sam(torch.device('cpu')).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in loaded.items())
    other = dict(SMALL['encoder'], depth=3)
    with pytest.raises(CheckpointError, match='is not a SAM with the image encoder .*: ') as caught:
        SamTeacher(other, str(tmp_path / 'sam.pth'), SIZE).sam(torch.device('cpu'))
    assert '\n' not in str(caught.value)


def test_teacher_can_be_a_repvit_sam(tmp_path):
    sam = small_sam(SIZE)
    torch.save(sam.state_dict(), tmp_path / 'sam.pth')
    teacher = SamTeacher(dict(type='SamEncoder', arch='m0_6'), str(tmp_path / 'sam.pth'), SIZE)
    image = torch.randn(1, 3, SIZE, SIZE)
    torch.testing.assert_close(teacher.embed(image), sam.image_encoder(image))


@pytest.mark.parametrize('settings, error, message', [
    (dict(encoder='vit_h'), CheckpointError, 'the teacher vit_h has no weights'),
    (dict(checkpoint='a.pth', random=True), ConfigError, 'leave out one of them'),
])
def test_teacher_that_cannot_be_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        SamTeacher(**settings)


def cached_teacher(folder, encoder=SMALL['encoder']):
    """A teacher with a cache, and a list that grows by the number of images of each of its forward passes."""
    teacher, ran = SamTeacher(encoder, random=True, image_size=SIZE, cache=str(folder / 'cache')), []
    teacher.sam(torch.device('cpu')).image_encoder.register_forward_pre_hook(lambda _, args: ran.append(len(args[0])))
    return teacher, ran


def test_a_cache_computes_each_image_once(folder):
    batch = batch_of(SamImages(str(folder), dict(img='train'), SIZE))
    inputs, digests = batch['inputs'], batch['digests']
    assert len({*digests}) == 4
    teacher, ran = cached_teacher(folder)
    expected = SamTeacher(**SMALL, image_size=SIZE).embed(inputs)
    for count, images in ((3, [3]), (4, [3, 1]), (4, [3, 1])):
        found = teacher.embed(inputs[:count], digests[:count])
        torch.testing.assert_close(found, expected[:count], atol=2e-3, rtol=2e-3)
        assert ran == images
    computed = cached_teacher(folder / 'another')[0].embed(inputs, digests)
    assert torch.equal(cached_teacher(folder / 'another')[0].embed(inputs, digests), computed)  # resumed in an epoch
    shutil.copy(folder / 'train/0/0.png', folder / 'val/copy.png')
    assert SamImages(str(folder), dict(img='val'), SIZE)[2]['digests'] == digests[0]


def test_another_teacher_does_not_use_the_cache(folder):
    batch = batch_of(SamImages(str(folder), dict(img='train'), SIZE))
    for encoder in (SMALL['encoder'], dict(SMALL['encoder'], depth=3)):
        teacher, ran = cached_teacher(folder, encoder)
        teacher.embed(batch['inputs'], batch['digests'])
        assert ran == [4]


@pytest.mark.parametrize('spoil', [
    lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:200]),
    lambda path: np.savez(path, np.full((256, 4, 4), np.nan, np.float16)),
    lambda path: np.savez(path, np.zeros((256, 4, 2), np.float16))], ids=['missing', 'cut', 'NaN', 'shape'])
def test_a_damaged_embedding_is_computed_again(folder, spoil):
    batch = batch_of(SamImages(str(folder), dict(img='train'), SIZE))
    teacher, ran = cached_teacher(folder)
    expected = teacher.embed(batch['inputs'], batch['digests'])
    spoil(next((folder / 'cache').rglob(f'{batch["digests"][2]}.npz')))
    for _ in range(2):
        found = teacher.embed(batch['inputs'], batch['digests'])
        torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    assert ran == [4, 1]


def test_an_embedding_that_half_precision_cannot_hold_is_named(folder, monkeypatch):
    teacher, _ = cached_teacher(folder)
    large = SimpleNamespace(image_encoder=lambda inputs: torch.full((len(inputs), 256, 4, 4), 1e5))
    monkeypatch.setattr(teacher, 'sam', lambda device: large)
    with pytest.raises(UserError, match='of aaa exceeds half precision: leave out model.teacher.cache'):
        teacher.embed(torch.zeros(1, 3, SIZE, SIZE), ['aaa'])
    assert not list((folder / 'cache').rglob('*.npz'))


def test_a_cache_that_cannot_be_written_is_named(folder):
    (folder / 'cache').write_text('')
    with pytest.raises(UserError, match='model.teacher.cache .*cache/.*: the folder cannot be created'):
        cached_teacher(folder)[0].embed(torch.zeros(1, 3, SIZE, SIZE), ['a' * 64])


def test_an_unreadable_image_is_named(folder):
    (folder / 'train/0/0.png').write_text('no picture')
    images = SamImages(str(folder), dict(img='train'), SIZE)
    with pytest.raises(DatasetError, match=r'train/0/0.png is not in a supported image format .* remove or replace it'):
        images[0]
    # What comes out of a worker brings a traceback along.
    unreadable = '^.*train/0/0.png is not in a supported image format'
    with pytest.raises(UserError, match=unreadable) as caught, user_errors(Config()):
        next(iter(DataLoader(images, num_workers=1)))
    assert '\n' not in str(caught.value)
    with pytest.raises(UserError, match='the folder .*test does not exist'):
        SamImages(str(folder), dict(img='test'), SIZE)


@pytest.mark.parametrize('config', sorted((ROOT / 'configs/sam').glob('*.py')), ids=lambda path: path.stem)
def test_configs_build(config):
    cfg = Config.fromfile(config)
    with torch.device('meta'):
        model = MODELS.build(cfg.model) if cfg.model.teacher.get('random') else MODELS.build(
            {**cfg.model, 'teacher': {**cfg.model.teacher, 'checkpoint': 'any.pth'}})
    assert cfg.train_cfg.max_epochs == 8  # as published
    assert model.student.img_size == cfg.model.image_size == cfg.train_dataloader.dataset.image_size
    assert cfg.val_dataloader.dataset.image_size == cfg.test_dataloader.dataset.image_size == cfg.model.image_size
    assert config.stem.removeprefix('distill_repvit_').removesuffix('_trial') == cfg.model.student.arch


@pytest.mark.slow
def test_training_on_cached_embeddings_brings_the_student_to_the_teacher(folder):
    config = folder / 'tiny.py'
    config.write_text(f"""
_base_ = {str(ROOT / 'configs/sam/distill_repvit_m0_6_trial.py')!r}
encoder = dict(embed_dim=32, depth=2, num_heads=2, global_attn_indexes=(1,))
model = dict(image_size={SIZE}, teacher=dict(encoder=encoder))
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(image_size={SIZE}))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(image_size={SIZE}))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=25, val_interval=25)
param_scheduler = [dict(type='ConstantLR', factor=1.)]
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=25))
""")
    # The same pictures to train and to validate on: can it learn at all?
    shutil.copytree(folder / 'train', folder / 'val', dirs_exist_ok=True)
    cache, work = folder / 'cache', folder / 'work'
    assert not run_tool('train', config, '--data-root', folder, '--work-dir', work, '--seed', 0, '--cfg-options',
                        f'model.teacher.cache={cache}').status
    assert len(list(cache.rglob('*.npz'))) == 6
    log, = work.glob('*/vis_data/scalars.json')
    losses = [entry['loss'] for line in log.read_text().splitlines() if 'loss' in (entry := json.loads(line))]
    assert len(losses) == 25
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
