"""RepViT in projects that are not this one: a user's configs, the toolboxes, and the installed wheel."""
import json
import math
import re
from importlib.util import find_spec
from pathlib import Path

import pytest
from installed import ROOT, attempt, run
from mmengine import Config

from repvit_mm.datasets.shapes import CLASSES, write_coco

pytestmark = pytest.mark.slow

HEADER = """
from repvit_mm import out_channels
custom_imports = dict(imports=['repvit_mm'])
"""
#: File -> toolbox and text: the lines that a user writes.
PROJECT = {
    'retinanet.py': ('mmdet', "_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'" + HEADER + """
model = dict(
    backbone=dict(_delete_=True, type='RepViT', arch='m0_6', norm_eval=True),
    neck=dict(in_channels=out_channels('m0_6')))
"""),
    'cascade_mask_rcnn.py': ('mmdet', """
_base_ = 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'""" + HEADER + """
model = dict(
    backbone=dict(_delete_=True, type='RepViT', arch='m0_6', norm_eval=True, frozen_stages=1),
    neck=dict(in_channels=out_channels('m0_6')))
"""),
    'mask_rcnn.py': ('mmdet', "_base_ = 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'" + HEADER + """
model = dict(
    backbone=dict(_delete_=True, type='RepViT', arch='m0_6', norm_eval=True),
    neck=dict(in_channels=out_channels('m0_6')))
"""),
    'rtmdet.py': ('mmdet', "_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'" + HEADER + """
model = dict(
    backbone=dict(_delete_=True, type='RepViT', arch='m0_6', out_indices=(1, 2, 3), norm_cfg=dict(type='SyncBN')),
    neck=dict(in_channels=out_channels('m0_6', out_indices=(1, 2, 3))))
"""),
    'dino.py': ('mmdet', "_base_ = 'mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py'" + HEADER + """
model = dict(
    num_queries=20,  # more than the small images of this test have would be refused
    backbone=dict(_delete_=True, type='RepViT', arch='m0_6', out_indices=(1, 2, 3), norm_eval=True),
    neck=dict(in_channels=out_channels('m0_6', out_indices=(1, 2, 3))))
"""),
    # One of ours as the base.
    'from_ours.py': ('mmdet', """
_base_ = __import__('repvit_mm').config_path('detection/maskrcnn_repvit_m0_6.py')
model = dict(backbone=dict(init_cfg=None), roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))
"""),
    'upernet.py': ('mmseg', "_base_ = 'mmseg::upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py'" + HEADER + """
model = dict(
    pretrained=None,
    backbone=dict(_delete_=True, type='RepViT', arch='m0_6'),
    decode_head=dict(in_channels=out_channels('m0_6')),
    auxiliary_head=dict(in_channels=out_channels('m0_6')[2]))
"""),
    'classifier.py': ('mmpretrain', "_base_ = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'" + HEADER + """
model = dict(
    backbone=dict(_delete_=True, type='RepViT', arch='m0_6', out_indices=(3,)),
    head=dict(in_channels=out_channels('m0_6')[-1]))
"""),
    'from_ours_by_scope.py': ('mmdet', """
_base_ = 'repvit_mm::detection/maskrcnn_repvit_m0_6.py'
model = dict(backbone=dict(init_cfg=None), roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))
"""),
    # A name in full instead of the import.
    'full_name.py': ('mmseg', """
_base_ = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(_delete_=True, type='repvit_mm.RepViT', arch='m0_6'),
    neck=dict(in_channels=[40, 80, 160, 320]))
"""),
}

STEPS = """
import json, sys
import torch
from mmengine import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import PixelData

def batch_for(toolbox, model):
    if toolbox == 'mmdet':
        from mmdet.testing import demo_mm_inputs
        return demo_mm_inputs(2, image_shapes=[(3, 128, 128)] * 2, num_items=[3, 2], num_classes=3,
                              with_mask=model.with_mask)
    if toolbox == 'mmseg':
        from mmseg.structures import SegDataSample
        samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, 19, (1, 64, 64)))) for _ in range(2)]
    else:
        from mmpretrain.structures import DataSample
        samples = [DataSample().set_gt_label(n) for n in range(2)]
    return dict(inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8) for _ in range(2)], data_samples=samples)

torch.manual_seed(0)
found = {}
for argument in sys.argv[1:]:
    path, toolbox = argument.split('=')
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    if 'data_preprocessor' in cfg:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    if toolbox == 'mmseg':
        cfg.model.data_preprocessor.size = (64, 64)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    model.init_weights()  # as the runner does; DINO's parameters are whatever was in memory before
    batch = model.data_preprocessor(batch_for(toolbox, model), True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    optimizer.step()
    trained = list(model.backbone.parameters())
    found[path] = dict(
        loss=loss.item(), backbone=type(model.backbone).__module__, trained=len(trained),
        finite=all(p.grad is not None and bool(p.grad.isfinite().all()) for p in trained),
        text=len(cfg.pretty_text))
import repvit_mm
print(json.dumps(dict(package=repvit_mm.__file__, found=found)))
"""


#: Those that a runner trains, below; the others are trained for a step.
DETECTORS = [name for name, (toolbox, text) in PROJECT.items() if toolbox == 'mmdet' and HEADER in text]
OTHERS = [name for name in PROJECT if name not in DETECTORS]  # the first one imports repvit_mm, as the last ones need


@pytest.fixture(scope='module')
def project(stranger, tmp_path_factory):
    """Results of a training step of every config, in one process, as imports take longest."""
    folder = tmp_path_factory.mktemp('project')
    for name in OTHERS:
        (folder / name).write_text(PROJECT[name][1])
    output = run(stranger, '-c', STEPS, *(f'{name}={PROJECT[name][0]}' for name in OTHERS), cwd=folder)
    result = json.loads(output.splitlines()[-1])
    assert not Path(result['package']).is_relative_to(ROOT)
    return result['found']


@pytest.mark.parametrize('name', OTHERS)
def test_training_step(project, name):
    step = project[name]
    assert math.isfinite(step['loss']) and step['loss'] > 0
    assert step['backbone'] == 'repvit_mm.network.backbone'
    assert step['trained'] > 100 and step['finite']  # a gradient for every parameter


#: The heads keep the classes of COCO, most of which the data do not have.
DATA = f"""
metainfo = dict(classes={[*CLASSES, *(f'unused {n}' for n in range(len(CLASSES), 80))]})
train_dataloader = dict(
    _delete_=True, batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset', metainfo=metainfo, data_root='shapes/', ann_file='annotations/instances_train.json',
        data_prefix=dict(img='images/train/'),
        pipeline=[
            dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=WITH_MASK),
            dict(type='Resize', scale=(128, 128), keep_ratio=True), dict(type='PackDetInputs')]))
train_cfg = dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1)
val_cfg, val_dataloader, val_evaluator = None, None, None
custom_hooks = []
"""


def write_project(folder, name):
    """A detector's config with data beside it."""
    text = PROJECT[name][1] + DATA.replace('WITH_MASK', str('mask' in name))
    (folder / name).write_text(text.replace("norm_cfg=dict(type='SyncBN')", "norm_cfg=dict(type='BN')"))
    if not (folder / 'shapes').exists():
        write_coco(folder / 'shapes', size=64, train=2, val=1, quiet=True)


def losses_in(work_dir):
    lines = [json.loads(line) for path in work_dir.rglob('scalars.json')
             for line in path.read_text().splitlines()]
    return [line['loss'] for line in lines if 'loss' in line]


RUN = """
import json, sys
from mmengine import Config
from mmengine.runner import Runner

found = {}
for path in sys.argv[1:]:
    cfg = Config.fromfile(path)
    cfg.work_dir, cfg.experiment_name, cfg.default_hooks.logger.interval = f'work/{path}', path, 1
    cfg.default_hooks.checkpoint.update(save_optimizer=False)  # half of the file
    runner = Runner.from_cfg(cfg)
    backbone = runner.train().backbone
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    # The optimiser has a state of those that had a gradient.
    moved = {name for name, p in backbone.named_parameters() if p in runner.optim_wrapper.optimizer.state}
    found[path] = dict(
        backbone=type(backbone).__module__, frozen=sorted({name.split('.')[0] for name in frozen}),
        learns=not frozen & moved and len(frozen | moved) == len(list(backbone.parameters())),
        finite=all(bool(p.isfinite().all()) for p in backbone.parameters()))
print(json.dumps(found))
"""


def test_detectors_train_with_mmengines_runner(stranger, tmp_path):
    """All in one process, without a line of this package beside the import in each config."""
    names = [name for name in DETECTORS if name != 'mask_rcnn.py']  # mmdet's own tool trains that, see below
    for name in names:
        write_project(tmp_path, name)
    found = json.loads(run(stranger, '-c', RUN, *names, cwd=tmp_path).splitlines()[-1])
    for name in names:
        frozen = ['stages', 'stem'] if name == 'cascade_mask_rcnn.py' else []
        assert found[name] == dict(backbone='repvit_mm.network.backbone', frozen=frozen, learns=True, finite=True)
    losses = losses_in(tmp_path / 'work')  # the visualiser of the first run serves all
    assert len(losses) == len(names) == 4 and all(map(math.isfinite, losses))
    assert all((tmp_path / 'work' / name / 'epoch_1.pth').is_file() for name in names)


MMDET_TRAIN = Path(find_spec('mmdet').origin).parent / '.mim' / 'tools' / 'train.py'


def test_a_project_trains_with_the_toolboxs_own_tool(stranger, tmp_path):
    """And the config that it keeps has the channels, not the function that gave them."""
    write_project(tmp_path, 'mask_rcnn.py')
    run(stranger, MMDET_TRAIN, 'mask_rcnn.py', '--work-dir', 'work', '--cfg-options', 'default_hooks.logger.interval=1',
        cwd=tmp_path)
    assert math.isfinite(*losses_in(tmp_path / 'work'))
    assert (tmp_path / 'work' / 'epoch_1.pth').is_file()
    kept = Config.fromfile(tmp_path / 'work' / 'mask_rcnn.py', import_custom_modules=False)
    assert kept.model.neck.in_channels == [40, 80, 160, 320]
    assert kept.custom_imports == dict(imports=['repvit_mm'])
    assert 'out_channels' not in kept


INFER = """
import json, sys
import repvit_mm
from mmdet.apis import DetInferencer
import numpy as np
from repvit_mm.ops import is_provided

image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)
found = DetInferencer('mask_rcnn.py', device='cpu')(image, pred_score_thr=0)['predictions'][0]
print(json.dumps(dict(boxes=len(found['bboxes']), masks=len(found['masks']), provided=is_provided())))
"""


def test_the_toolboxs_inferencer(stranger, tmp_path):
    """With mmcv's own operators where those are compiled, or else with torchvision's."""
    untrained = 'model.update(test_cfg=dict(rcnn=dict(score_thr=0.)))\n'
    (tmp_path / 'mask_rcnn.py').write_text(PROJECT['mask_rcnn.py'][1] + untrained)
    found = json.loads(run(stranger, '-c', INFER, cwd=tmp_path).splitlines()[-1])
    assert found['boxes'] == found['masks'] > 0
    compiled = any(Path(find_spec('mmcv').origin).parent.glob('_ext.*'))
    assert found['provided'] is not compiled


def test_an_import_that_comes_too_late(stranger, tmp_path):
    """The forks' mmdet puts off what it lacks, which a warning says; upstream's does not."""
    result = attempt(stranger, '-c', 'import mmdet.apis, repvit_mm', cwd=tmp_path)
    told = 'import repvit_mm first' in result.stderr
    compiled = any(Path(find_spec('mmcv').origin).parent.glob('_ext.*'))
    assert (told or "No module named 'mmcv._ext'" in result.stderr) is not compiled


def test_a_config_of_one_line_trains_with_the_toolboxs_own_tool(stranger, tmp_path):
    """Nothing has imported repvit_mm before the config is read."""
    config, = re.findall(r'^_base_ = __import__.*\)$', (ROOT / 'docs' / 'existing_project.md').read_text(), re.M)
    (tmp_path / 'mine.py').write_text(config.replace('detection/maskrcnn_repvit_m1_1',
                                                     'quickstart/maskrcnn_repvit_m0_6_shapes'))
    write_coco(tmp_path / 'data' / 'shapes_detection', size=64, train=2, val=1, quiet=True)
    run(stranger, MMDET_TRAIN, 'mine.py', '--work-dir', 'work', '--cfg-options', 'train_cfg.max_iters=1',
        'train_cfg.val_interval=1', 'train_dataloader.batch_size=2', 'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False', 'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False', cwd=tmp_path)
    assert (tmp_path / 'work' / 'iter_1.pth').is_file()
    assert Config.fromfile(tmp_path / 'work' / 'mine.py', import_custom_modules=False).model.backbone.arch == 'm0_6'
