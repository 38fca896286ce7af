"""tools/infer.py with a small model of each toolbox: the results are those of the toolbox's own function."""
import json
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from mmengine.config import Config
from oracles import randomise_norms
from PIL import Image
from pycocotools import mask as mask_utils
from running import run_tool
from tool_runs import set_up

from repvit_mm import get_model
from repvit_mm.io.images import MOST_PIXELS
from repvit_mm.models.predicting import Detector, Segmentor


class Task(NamedTuple):
    config: str
    checkpoint: str
    images: list


@pytest.fixture(scope='module', params=['mmdet', 'mmseg', 'mmpretrain'])
def task(request, tmp_path_factory):
    """A model with random weights that all show, in the folder of its config, and images of three sizes."""
    root = tmp_path_factory.mktemp(request.param)
    config, data = set_up(request.param, root)
    torch.manual_seed(0)
    model = randomise_norms(get_model(config))
    torch.save({'state_dict': model.state_dict()}, root / 'x.pth')
    images = []
    for number, size in enumerate([(96, 96), (64, 128), (96, 96), (128, 64), (64, 128)]):
        images.append(root / f'{number}.png')
        Image.open(sorted(data.rglob('val/**/*.png'))[number % 2]).convert('RGB').resize(size).save(images[-1])
    return Task(config, root / 'x.pth', images)


def expected(model, image):
    """The same from the toolbox's own function, with a model that is not fused."""
    array = np.asarray(Image.open(image).convert('RGB'))[..., ::-1].copy()
    if hasattr(model, 'roi_head'):
        from mmdet.apis import inference_detector
        return inference_detector(model, array).pred_instances
    if hasattr(model, 'decode_head'):
        from mmseg.apis import inference_model
        return inference_model(model, array).pred_sem_seg.data[0].numpy()
    from mmpretrain import ImageClassificationInferencer
    return ImageClassificationInferencer(model)(array)[0]


@pytest.mark.slow
def test_results_of_a_batch_are_those_of_the_toolbox_for_each_image(task, tmp_path):
    done = run_tool('infer', task.config, *task.images, '--checkpoint', task.checkpoint, '--out', tmp_path,
                    '--batch-size', 5, '--device', 'cpu', '--score-threshold', 0.02)
    assert (done.status, done.out.count('.png: '), done.out.count('WARNING')) == (0, 5, 0), done.err
    results = json.loads((tmp_path / 'predictions.json').read_text())
    model = get_model(task.config, task.checkpoint)
    for image, found in zip(task.images, results['pictures'], strict=True):
        wanted = expected(model, image)
        with Image.open(found['drawing']) as drawing:
            assert drawing.mode == 'RGB' and len(drawing.getcolors(1 << 24)) > 1
        if results['task'] == 'detection':
            check_objects(found['objects'], wanted[wanted.scores > 0.02], results['classes'])
        elif results['task'] == 'segmentation':
            labels = np.asarray(Image.open(found['labels']))
            assert (labels == wanted).mean() > 0.999  # fused weights are rounded otherwise
            best = found['classes'][0]
            assert best['share'] == pytest.approx((labels == best['label']).mean())
            assert best['class'] == results['classes'][best['label']]
        else:
            assert found['classes'][0]['label'] == wanted['pred_label']
            assert [entry['score'] for entry in found['classes']] == pytest.approx(
                sorted(wanted['pred_scores'], reverse=True)[:5], abs=1e-4)


def check_objects(objects, wanted, classes):
    assert len(objects) == len(wanted) > 0
    labels, boxes = np.array([found['label'] for found in objects]), np.array([found['box'] for found in objects])
    np.testing.assert_allclose([found['score'] for found in objects], wanted.scores.numpy(), atol=1e-3)
    same = np.abs(boxes[:, None] - wanted.bboxes.numpy()).max(2) < 0.1
    same &= labels[:, None] == wanted.labels.numpy()
    assert same.any(1).mean() >= 0.95  # random weights give almost equal scores
    for found, partners in zip(objects, same, strict=True):
        assert found['class'] == classes[found['label']]
        mask = mask_utils.decode(found['mask']).astype(bool)
        assert max(((mask == wanted.masks[j].numpy()).mean() for j in np.flatnonzero(partners)), default=1) > 0.99


@pytest.mark.parametrize('kind, model, pipeline, pixels', [
    (Detector, {}, [dict(type='Resize', scale=(64, 64))], MOST_PIXELS), (Detector, {}, [], 40_000_000),
    (Detector, dict(roi_head=dict(mask_head={})), [dict(type='Resize', scale=(64, 64))], (8 << 30) // 100),
    (Segmentor, {}, [dict(type='Resize', scale=(64, 64))], (8 << 30) // 600)])
def test_images_that_would_not_fit_in_memory_are_too_large(kind, model, pipeline, pixels):
    cfg = Config(dict(default_scope='mmdet', model=model, test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    meta = dict(classes=[f'class {i}' for i in range(150)])
    assert kind(SimpleNamespace(cfg=cfg, dataset_meta=meta), 0.3).most_pixels == pixels


def test_all_labels_above_the_threshold_are_reported(tmp_path):
    config, data = set_up('mmpretrain', tmp_path)
    several = tmp_path / 'several.py'
    several.write_text(f"_base_ = './{config.name}'\nmodel = dict(neck=dict(type='GlobalAveragePooling'), head=dict("
                       "_delete_=True, num_classes=8, in_channels=32, type='MultiLabelLinearClsHead'))")
    torch.manual_seed(0)
    model = randomise_norms(get_model(several))
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'x.pth')
    picture = min(data.rglob('val/**/*.png'))
    scores = expected(model, picture)['pred_scores']
    best = np.argsort(scores)[::-1]
    for number, threshold in ((3, (scores[best[2]] + scores[best[3]]) / 2), (0, 1)):
        done = run_tool('infer', several, picture, '--checkpoint', tmp_path / 'x.pth', '--out', tmp_path / 'out',
                        '--device', 'cpu', '--score-threshold', threshold)
        assert done.status == 0, done.err
        found = json.loads((tmp_path / 'out/predictions.json').read_text())['pictures'][0]['classes']
        assert [entry['label'] for entry in found] == best[:number].tolist()
        summary = ', '.join(f'{entry["class"]} {entry["score"]:.2f}' for entry in found) or 'nothing'
        assert f'{picture}: {summary}\n' in done.out


@pytest.mark.parametrize('task', ['mmpretrain'], indirect=True)
def test_checkpoint_alone_takes_the_config_beside_it(task, tmp_path):
    done = run_tool('infer', task.checkpoint, task.images[0], '--out', tmp_path / 'out', '--device', 'cpu')
    assert done.status == 0, done.err
    assert (tmp_path / 'out/predictions.json').is_file()


@pytest.mark.parametrize(('arguments', 'message'), [
    (['m1_1'], 'm1_1 is a backbone alone'),
    (['maskrcnn_repvit_m0_6'], 'give yours with --checkpoint, or train them: repvit-mm train maskrcnn_repvit_m0_6'),
    (['no.pth'], 'there is no checkpoint no.pth'),
    (['x.pth'], '. has no configs beside x.pth; name the config'),
    (['fpn_repvit_m0_6', '--checkpoint', 'x.pth', '--device', 'cuda:77'], '--device cuda:77: torch has no such device'),
])
def test_wrong_model(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (8, 8)).save('x.png')
    (tmp_path / 'x.pth').touch()
    done = run_tool('infer', arguments[0], 'x.png', *arguments[1:])
    assert done.status == 1 and message in done.err.splitlines()[-1], done.err
    assert not (tmp_path / 'outputs').exists()
