"""Testing a segmentor with the tool, on the embedded data set."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from oracles import randomise_norms
from PIL import Image
from running import run_tool

from repvit_mm.datasets.shapes import write_segmentation
from repvit_mm.engine.config import load_config
from repvit_mm.errors import ConfigError
from repvit_mm.toolboxes import TOOLBOXES

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / 'configs' / 'quickstart' / 'fpn_repvit_m0_6_shapes.py'
pytestmark = pytest.mark.slow
SMALL = ['test_dataloader.num_workers=0']


def run(*arguments: str | Path, options: tuple = ()) -> None:
    done = run_tool('test', CONFIG, *arguments, '--cfg-options', *SMALL, *options)
    assert done.status == 0, done.err


def metrics_of_test(work_dir: Path) -> dict:
    metrics, = work_dir.glob('*/*.json')
    return json.loads(metrics.read_text())


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('segmentation') / 'shapes'
    return write_segmentation(root, size=96, train=1, val=3, quiet=True)


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
    """Output of ``tools/test.py``."""
    work_dir = tmp_path_factory.mktemp('tested')
    run(checkpoint, '--data-root', data, '--work-dir', work_dir, '--out', work_dir / 'maps')
    return metrics_of_test(work_dir) | {'work_dir': work_dir}


def build() -> torch.nn.Module:
    pytest.importorskip('mmseg')
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(load_config(CONFIG).model).eval()


def test_neither_the_batch_nor_equal_names_change_a_result(checkpoint, data, tmp_path):
    root = tmp_path / 'data'
    for kind in ('img_dir', 'ann_dir'):
        source = next((data / kind / 'val').iterdir())
        for i, (folder, size) in enumerate((('a', (96, 96)), ('b', (96, 64)), ('b/c', (96, 96)))):
            (root / kind / 'val' / folder).mkdir(parents=True)
            Image.open(source).rotate(90 * i).crop((0, 0, *size)).save(root / kind / 'val' / folder / 'x.png')
    found, names = [], ('a/x.png', 'b/x.png', 'b/c/x.png')
    truth = [np.asarray(Image.open(root / 'ann_dir' / 'val' / name)) for name in names]
    for batch in (1, 3):
        work_dir = tmp_path / str(batch)
        run(checkpoint, '--data-root', root, '--work-dir', work_dir, '--out', work_dir / 'maps',
            options=(f'test_dataloader.batch_size={batch}',))
        maps = [np.asarray(Image.open(work_dir / 'maps' / name)) for name in names]
        found.append([metrics_of_test(work_dir)['aAcc'], *maps])
        right = np.concatenate([(one == other).ravel() for one, other in zip(maps, truth, strict=True)])
        assert found[-1][0] == pytest.approx(100 * right.mean(), abs=.01)
    assert found[0][0] == pytest.approx(found[1][0], abs=0.1)
    assert all((one == other).mean() > 0.99 for one, other in zip(found[0][1:], found[1][1:], strict=True))


def test_squares_scales_and_flips_are_merged(checkpoint, figures, data, tmp_path):
    run(checkpoint, '--data-root', data, '--work-dir', tmp_path / 'work', '--slide', 64, '--tta', '--show-dir',
        tmp_path / 'show')
    merged = metrics_of_test(tmp_path / 'work')
    assert merged['aAcc'] != figures['aAcc'] and merged['aAcc'] == pytest.approx(figures['aAcc'], abs=10)
    assert len(list((tmp_path / 'show').iterdir())) == 3


def test_squares_are_as_large_as_the_option_says_and_overlap():
    cfg = load_config(CONFIG)
    TOOLBOXES['mmseg'].enable_slide(cfg, 96)
    assert dict(cfg.model.test_cfg) == dict(mode='slide', crop_size=(96, 96), stride=(64, 64))


@pytest.mark.parametrize('size', [0, 16, -64])
def test_squares_smaller_than_a_stride_are_refused(size):
    with pytest.raises(ConfigError, match=f'--slide {size}: squares must have at least 32'):
        TOOLBOXES['mmseg'].enable_slide(load_config(CONFIG), size)
