"""What the tests of the segmentor and of the detector have in common; the models here use none of our names."""
import json

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, MODELS, DefaultScope
from oracles import IMAGENET
from running import run_tool
from torch import nn

from repvit_mm import load_checkpoint
from repvit_mm.engine.config import load_config
from repvit_mm.engine.prepare import move_data_root


def draw_clouds(path, height, width, seed):
    """Write a photograph-like picture: coloured clouds of several sizes."""
    random = np.random.RandomState(seed)
    clouds = sum(cv2.resize(random.rand(cells, cells, 3), (width, height)) for cells in (3, 9, 30)) / 3
    cv2.imwrite(str(path), (255 * clouds * (0.6, 1, 1.2)).clip(0, 255).astype(np.uint8))


def resize_within(image, long, short):
    """The largest size whose sides are no longer than the limits, rounded to pixels."""
    scale = min(long / max(image.shape[:2]), short / min(image.shape[:2]))
    height, width = (int(side * scale + 0.5) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def normalise(image):
    """A BGR image as a batch of one, in RGB with ImageNet's statistics."""
    mean, std = map(np.float32, IMAGENET)
    image = (image[:, :, ::-1].astype(np.float32) - mean) / std
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def stage_maps(backbone, x):
    """Of timm's model: the ends of the stages, and what stands before the last block of all stages but the last."""
    x, ends, penultimate = backbone.stem(x), [], []
    for number, stage in enumerate(backbone.stages):
        if number:
            x = stage.downsample.pre_block(x)
            ends.append(x)
            x = stage.downsample.channel_downsample(stage.downsample.spatial_downsample(x))
            x = x + stage.downsample.ffn(x)
        x = stage.blocks(x)
        penultimate.append(x)
    return [*ends, x], penultimate


class Pyramid(nn.Module):
    """A feature pyramid (https://arxiv.org/abs/1612.03144) on the maps of RepViT-M1.1."""

    def __init__(self, channels=256, widths=(64, 128, 256, 512)):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in widths)
        self.fpn = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in widths)

    def forward(self, maps):
        levels = [conv(level) for conv, level in zip(self.lateral, maps, strict=True)]
        for number in (2, 1, 0):
            levels[number] = levels[number] + F.interpolate(levels[number + 1], levels[number].shape[2:])
        return [conv(level) for conv, level in zip(self.fpn, levels, strict=True)]

    def names(self):
        """Its tensors as the authors name them."""
        return {f'neck.{kind}_convs.{level}.conv.{name}': value
                for kind, convs in (('lateral', self.lateral), ('fpn', self.fpn))
                for level, conv in enumerate(convs) for name, value in conv.state_dict().items()}

    @torch.no_grad()
    def calibrate(self, maps):
        """Give the levels one size, so that each shows."""
        for conv, level in zip(self.lateral, maps, strict=True):
            conv.weight /= level.std()


@torch.no_grad()
def standardise(layer, output, std=1.):
    """Scale and shift a layer so that each channel of its output gets mean 0 and a standard deviation."""
    output = output.transpose(0, 1).flatten(1)
    factor = std / output.std(1)
    layer.weight *= factor.view(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias.copy_((layer.bias - output.mean(1)) * factor)


def load_weights(config, path):
    """The tensors of a file under the names of the config's model."""
    cfg = load_config(config)
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    load_checkpoint(model, path)
    return model.state_dict()


@torch.no_grad()
def measure(config, weights, data_root, options):
    """Metric -> figure of the config's model on its data set, with settings altered and without the tool around it."""
    cfg = load_config(config, options)
    move_data_root(cfg, str(data_root))
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        dataset, model = DATASETS.build(cfg.test_dataloader.dataset), MODELS.build(cfg.model).eval()
        model.load_state_dict(weights)
        evaluator = Evaluator(cfg.test_evaluator)
        evaluator.dataset_meta = dataset.metainfo
        for number in range(len(dataset)):
            batch = pseudo_collate([dataset[number]])
            evaluator.process(model.test_step(batch), batch)
        return evaluator.evaluate(len(dataset))


def reproduce(data_set, name, root, out, options):
    """Figure -> value that ``tools/reproduce_tables.py`` measures for m1_1 with the data and weights in ``root``."""
    status, _, error = run_tool('reproduce_tables', data_set, '--models', 'm1_1', '--data-root',
                                f'{data_set}={root / "data"}', '--weights', root / 'weights', '--out', out,
                                '--cfg-options', *options)
    assert status == 0, error
    figures = json.loads((out / 'tables.json').read_text())['figures']
    return {one['name']: one['measured'] for one in figures if one['dataset'] == name}
