"""Training, testing, drawing and fusing a segmentor with the tools, on the embedded data set."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from oracles import randomise_norms
from PIL import Image
from running import Finished, run_tool

from repvit_mm import convert_state_dict, fuse, load_checkpoint
from repvit_mm.datasets.shapes import CLASSES, write_segmentation
from repvit_mm.engine.config import load_config
from repvit_mm.errors import CheckpointError, ConfigError
from repvit_mm.toolboxes import TOOLBOXES

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / 'configs' / 'quickstart' / 'fpn_repvit_m0_6_shapes.py'
pytestmark = pytest.mark.slow
# As small as it can be: what is learnt is not the point here.
SMALL = ['train_dataloader.batch_size=4', 'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
         'test_dataloader.num_workers=0', 'train_cfg.max_iters=12', 'train_cfg.val_interval=12',
         'default_hooks.logger.interval=4']


def run(tool: str, *arguments: str | Path, expected: int = 0) -> Finished:
    done = run_tool(tool, CONFIG, *arguments, '--cfg-options', *SMALL)
    assert done.status == expected, done.err
    return done


def metrics_of_test(work_dir: Path) -> dict:
    metrics, = work_dir.glob('*/*.json')
    return json.loads(metrics.read_text())


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('segmentation') / 'shapes'
    return write_segmentation(root, size=96, train=16, val=3, quiet=True)


@pytest.fixture(scope='module')
def checkpoint(data, tmp_path_factory) -> Path:
    """A random segmentor that finds every class somewhere, so that every change of it shows in the figures."""
    path = tmp_path_factory.mktemp('checkpoint') / 'random.pth'
    model = randomise_norms(build())
    images = [np.asarray(Image.open(image)) for image in sorted((data / 'img_dir' / 'val').iterdir())]
    batch = [torch.tensor(image[..., ::-1].transpose(2, 0, 1).copy()) for image in images]
    conv = model.decode_head.conv_seg
    with torch.no_grad():
        torch.nn.init.normal_(conv.weight, generator=torch.Generator().manual_seed(0))
        logits = model(model.data_preprocessor(dict(inputs=batch))['inputs'])
        mean, std = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
        conv.bias.sub_(mean).div_(std)
        conv.weight.div_(std[:, None, None, None])
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return path


@pytest.fixture(scope='module')
def figures(checkpoint, data, tmp_path_factory) -> dict:
    """What ``tools/test.py`` says of it."""
    work_dir = tmp_path_factory.mktemp('tested')
    run('test', checkpoint, '--data-root', data, '--work-dir', work_dir, '--out', work_dir / 'maps')
    return metrics_of_test(work_dir) | {'work_dir': work_dir}


def build() -> torch.nn.Module:
    pytest.importorskip('mmseg')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(load_config(CONFIG).model).eval()


def test_training_learns_and_validates(data, tmp_path):
    run('train', '--data-root', data, '--work-dir', tmp_path, '--seed', 0)
    logs = [json.loads(line) for line in next(tmp_path.glob('*/vis_data/scalars.json')).read_text().splitlines()]
    losses = [log['loss'] for log in logs if 'loss' in log]
    assert losses[-1] < losses[0] and logs[-1]['mIoU'] > 0
    load_checkpoint(build(), tmp_path / 'iter_12.pth')


def test_miou_is_that_of_the_maps_that_are_kept(figures, data):
    confusion = np.zeros((9, 9), int)
    for path in (data / 'ann_dir' / 'val').iterdir():
        truth = np.asarray(Image.open(path)).astype(int)
        found = np.asarray(Image.open(figures['work_dir'] / 'maps' / path.name)).astype(int)
        confusion += np.bincount((truth * 9 + found).ravel(), minlength=81).reshape(9, 9)
    assert confusion.sum(0).all()
    hits, union = np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
    assert figures['mIoU'] == pytest.approx(100 * np.mean(hits[union > 0] / union[union > 0]), abs=.01)
    assert figures['aAcc'] == pytest.approx(100 * hits.sum() / confusion.sum(), abs=.01)


def test_neither_the_batch_nor_equal_names_change_a_result(checkpoint, data, tmp_path):
    root = tmp_path / 'data'
    for kind in ('img_dir', 'ann_dir'):
        source = next((data / kind / 'val').iterdir())
        for i, (folder, size) in enumerate((('a', (96, 96)), ('b', (96, 64)), ('b/c', (96, 96)))):
            (root / kind / 'val' / folder).mkdir(parents=True)
            Image.open(source).rotate(90 * i).crop((0, 0, *size)).save(root / kind / 'val' / folder / 'x.png')
    found = []
    for batch in (1, 3):
        work_dir = tmp_path / str(batch)
        done = run_tool('test', CONFIG, checkpoint, '--data-root', root, '--work-dir', work_dir, '--out',
                        work_dir / 'maps', '--cfg-options', *SMALL, f'test_dataloader.batch_size={batch}')
        assert done.status == 0, done.err
        found.append([metrics_of_test(work_dir)['aAcc'], *(
            np.asarray(Image.open(work_dir / 'maps' / name)) for name in ('a/x.png', 'b/x.png', 'b/c/x.png'))])
    assert found[0][0] == pytest.approx(found[1][0], abs=0.1)
    assert all((one == other).mean() > 0.99 for one, other in zip(found[0][1:], found[1][1:], strict=True))


def test_an_official_file_is_tested_like_our_own(checkpoint, figures, data, tmp_path):
    """mmseg 0.x wrote the official names, with more in the file than weights."""
    weights = convert_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'], to='official')
    assert {name.partition('.')[0] for name in weights} == {'backbone', 'neck', 'decode_head'}
    for part in ('backbone.features.0.0.c', 'neck.lateral_convs.3.conv', 'decode_head.scale_heads.3.4.bn',
                 'decode_head.conv_seg'):
        assert f'{part}.weight' in weights
    official = tmp_path / 'official.pth'
    meta = dict(CLASSES=('background', *CLASSES), PALETTE=[[1, 2, 3]], iter=40000)
    torch.save(dict(state_dict=weights, meta=meta, optimizer={}), official)
    report = load_checkpoint(build(), official)
    assert report.taken == report.total == len(weights)
    done = run('test', official, '--data-root', data, '--work-dir', tmp_path / 'work',
               '--show-dir', tmp_path / 'show')
    assert f'{len(weights)}' in done.out + done.err
    assert metrics_of_test(tmp_path / 'work')['mIoU'] == figures['mIoU']
    pictures = sorted((tmp_path / 'show').iterdir())
    assert [path.name for path in pictures] == ['000000.png', '000001.png', '000002.png']
    assert Image.open(pictures[0]).width > 3 * 96


def test_a_missing_part_of_the_decoder_is_an_error(checkpoint, tmp_path):
    weights = torch.load(checkpoint)['state_dict']
    torch.save({name: value for name, value in weights.items() if 'scale_heads' not in name}, tmp_path / 'part.pth')
    with pytest.raises(CheckpointError, match=r'part\.pth.*decode_head\.scale_heads'):
        load_checkpoint(build(), tmp_path / 'part.pth')


def test_fusing_a_segmentor_changes_no_figure(checkpoint, figures, data, tmp_path):
    model = build()
    load_checkpoint(model, checkpoint)
    fused = fuse(model)
    assert not [name for name, part in fused.named_modules() if isinstance(part, torch.nn.modules.batchnorm._BatchNorm)]
    torch.save(dict(state_dict=fused.state_dict()), tmp_path / 'fused.pth')
    run('test', tmp_path / 'fused.pth', '--data-root', data, '--work-dir', tmp_path)
    found = metrics_of_test(tmp_path)
    for key in ('aAcc', 'mIoU', 'mAcc'):
        assert found[key] == pytest.approx(figures[key], abs=.02)


@pytest.mark.parametrize('name', ['quickstart/fpn_repvit_m0_6_shapes', 'segmentation/segformer_repvit_m0_9'])
def test_outputs_stay_when_backbone_neck_and_head_are_fused(name):
    cfg = load_config(REPOSITORY / 'configs' / f'{name}.py')
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = randomise_norms(MODELS.build(cfg.model)).eval()
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = model(image), fuse(model)(image)
    assert ((expected - found).abs().max() / expected.abs().max()) < 1e-4


def test_squares_scales_and_flips_are_merged(checkpoint, figures, data, tmp_path):
    run('test', checkpoint, '--data-root', data, '--work-dir', tmp_path / 'work', '--slide', 64, '--tta',
        '--show-dir', tmp_path / 'show')
    merged = metrics_of_test(tmp_path / 'work')
    assert merged['aAcc'] != figures['aAcc'] and merged['aAcc'] == pytest.approx(figures['aAcc'], abs=10)
    assert len(list((tmp_path / 'show').iterdir())) == 3


def test_squares_are_as_large_as_the_option_says_and_overlap():
    cfg = load_config(CONFIG)
    TOOLBOXES['mmseg'].enable_slide(cfg, 96)
    assert dict(cfg.model.test_cfg) == dict(mode='slide', crop_size=(96, 96), stride=(64, 64))
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = randomise_norms(MODELS.build(cfg.model)).eval()
    image = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    meta = [dict(ori_shape=(96, 96), img_shape=(96, 96), pad_shape=(96, 96))]
    with torch.no_grad():  # one square of the size of the image is the image
        torch.testing.assert_close(model.inference(image, meta), model.whole_inference(image, meta))


@pytest.mark.parametrize('size', [0, 16, -64])
def test_squares_smaller_than_a_stride_are_refused(size):
    with pytest.raises(ConfigError, match=f'--slide {size}: squares must have at least 32'):
        TOOLBOXES['mmseg'].enable_slide(load_config(CONFIG), size)


def test_bad_labels_stop_a_training_before_it_starts(data, tmp_path):
    bad = data / 'ann_dir' / 'train' / '000007.png'
    content = bad.read_bytes()
    try:
        Image.fromarray(np.full((96, 96), 9, np.uint8)).save(bad)
        done = run('train', '--data-root', data, '--work-dir', tmp_path, expected=1)
    finally:
        bad.write_bytes(content)
    assert done.err.splitlines()[-1] == f'error: {bad} holds 9; for 9 classes, expected 0-8 and 255'
    assert 'Traceback' not in done.err and not list(tmp_path.glob('*.pth'))
