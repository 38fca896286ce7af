"""The box and mask AP of a published detector, from a file in the authors' format and annotations to the table.

The expected figures are those of timm's backbone and a Mask R-CNN written out here with torchvision's operators, as
pycocotools counts them.
"""
import json
import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dense_models import (
    Pyramid,
    draw_clouds,
    load_weights,
    measure,
    normalise,
    reproduce,
    resize_within,
    stage_maps,
    standardise,
)
from published_files import official_names, random_model
from running import run_tool
from torch import nn
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights
from torchvision.ops import batched_nms, clip_boxes_to_image, roi_align

from repvit_mm.zoo.rows import ROOT

pytest.importorskip('mmdet')
mask_tools = pytest.importorskip('pycocotools.mask')
from pycocotools.coco import COCO  # noqa: E402
from pycocotools.cocoeval import COCOeval  # noqa: E402

CONFIG = ROOT / 'configs/detection/maskrcnn_repvit_m1_1.py'
SCALE = 'test_dataloader.dataset.pipeline.1.scale'
LONG, SHORT = 160, 96  # published: 1333 and 800, which takes long
SMALL = ['test_dataloader.num_workers=0', f'{SCALE}=({LONG},{SHORT})']
CHANNELS, HIDDEN, STRIDES = 256, 1024, (4, 8, 16, 32, 64)
#: Of COCO: names by ids, which have gaps.
CATEGORIES = {number: name for number, name in enumerate(MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta['categories'])
              if name not in ('__background__', 'N/A')}


class MaskRcnn(nn.Module):
    """Mask R-CNN (https://arxiv.org/abs/1703.06870) on a feature pyramid."""

    def __init__(self):
        super().__init__()
        self.backbone = random_model('repvit_m1_1', num_classes=0)
        torch.manual_seed(1)
        self.neck = Pyramid(CHANNELS)
        self.rpn_head = nn.ModuleDict({'rpn_conv': nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
                                       'rpn_cls': nn.Conv2d(CHANNELS, 3, 1), 'rpn_reg': nn.Conv2d(CHANNELS, 12, 1)})
        self.roi_head = nn.ModuleDict({
            'bbox_head': nn.ModuleDict({
                'shared_fcs': nn.ModuleList([nn.Linear(49 * CHANNELS, HIDDEN), nn.Linear(HIDDEN, HIDDEN)]),
                'fc_cls': nn.Linear(HIDDEN, 81), 'fc_reg': nn.Linear(HIDDEN, 320)}),
            'mask_head': nn.ModuleDict({
                'convs': nn.ModuleList(nn.ModuleDict({'conv': nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)})
                                       for _ in range(4)),
                'upsample': nn.ConvTranspose2d(CHANNELS, CHANNELS, 2, 2), 'conv_logits': nn.Conv2d(CHANNELS, 80, 1)})})
        self.eval()

    def levels(self, image):
        """The pyramid of an image whose sides are filled up to multiples of 32."""
        height, width = image.shape[2:]
        image = F.pad(image, (0, -width % 32, 0, -height % 32))
        levels = self.neck(stage_maps(self.backbone, image)[1])
        return [*levels, levels[-1][:, :, ::2, ::2]]

    def rpn_hidden(self, levels):
        return [F.relu(self.rpn_head['rpn_conv'](level)) for level in levels]

    def propose(self, levels, size):
        """Up to 1000 boxes in a resized image of (height, width)."""
        boxes, scores, numbers = [], [], []
        for number, hidden in enumerate(self.rpn_hidden(levels)):
            score = self.rpn_head['rpn_cls'](hidden)[0].permute(1, 2, 0).flatten().sigmoid()
            deltas = self.rpn_head['rpn_reg'](hidden)[0].permute(1, 2, 0).reshape(-1, 4)
            best = score.sort(descending=True).indices[:1000]
            boxes.append(move(anchors(*hidden.shape[2:], STRIDES[number])[best], deltas[best], size))
            scores.append(score[best])
            numbers.append(torch.full_like(best, number))
        boxes, scores, numbers = torch.cat(boxes), torch.cat(scores), torch.cat(numbers)
        there = (boxes[:, 2:] > boxes[:, :2]).all(1)
        boxes, scores, numbers = boxes[there], scores[there], numbers[there]
        return boxes[batched_nms(boxes, scores, numbers, 0.7)[:1000]]

    def box_hidden(self, levels, boxes):
        hidden = pool(levels, boxes, 7).flatten(1)
        for layer in self.roi_head['bbox_head']['shared_fcs']:
            hidden = F.relu(layer(hidden))
        return hidden

    def mask_hidden(self, levels, boxes):
        hidden = pool(levels, boxes, 14)
        for layer in self.roi_head['mask_head']['convs']:
            hidden = F.relu(layer['conv'](hidden))
        return F.relu(self.roi_head['mask_head']['upsample'](hidden))

    @torch.no_grad()
    def detect(self, path):
        """Boxes, scores, labels counted from 0, and masks, in the image as it is."""
        image = cv2.imread(str(path))
        resized = normalise(resize_within(image, LONG, SHORT))
        levels, size = self.levels(resized), resized.shape[2:]
        rois = self.propose(levels, size)
        hidden = self.box_hidden(levels, rois)
        scores = self.roi_head['bbox_head']['fc_cls'](hidden).softmax(1)[:, :80]
        deltas = self.roi_head['bbox_head']['fc_reg'](hidden).view(-1, 80, 4) * torch.tensor([0.1, 0.1, 0.2, 0.2])
        boxes = move(rois[:, None].expand(-1, 80, 4), deltas, size)
        numbers, labels = (scores > 0.05).nonzero(as_tuple=True)
        boxes, scores = boxes[numbers, labels], scores[numbers, labels]
        kept = batched_nms(boxes, scores, labels, 0.5)[:100]
        boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
        logits = self.roi_head['mask_head']['conv_logits'](self.mask_hidden(levels, boxes))
        masks = logits[torch.arange(len(labels)), labels].sigmoid()
        height, width = image.shape[:2]
        boxes = boxes / torch.tensor([size[1] / width, size[0] / height] * 2)
        masks = [paste(mask, box, height, width) for mask, box in zip(masks, boxes, strict=True)]
        return list(zip(boxes.tolist(), scores.tolist(), labels.tolist(), masks, strict=True))

    def names(self):
        """Its tensors as mmdet 2.x and the authors name them."""
        tensors = {f'backbone.{name}': value for name, value in official_names(self.backbone.state_dict()).items()}
        return tensors | self.neck.names() | {
            name: value for name, value in self.state_dict().items() if name.startswith(('rpn_head.', 'roi_head.'))}


def anchors(height, width, stride):
    """Boxes of 8 strides a side, and as large ones of half and twice the height, about the corners of the cells."""
    tall = torch.tensor([0.5, 1., 2.]).sqrt()
    half = torch.stack([-1 / tall, -tall, 1 / tall, tall], 1) * 4 * stride
    y, x = torch.meshgrid(torch.arange(height) * stride, torch.arange(width) * stride, indexing='ij')
    return (torch.stack([x, y, x, y], -1)[:, :, None] + half).reshape(-1, 4)


def move(boxes, deltas, size):
    """Shift boxes by parts of their sides, stretch them by exponents, and clip them."""
    centres, sides = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    centres = centres + deltas[..., :2] * sides
    limit = -math.log(16 / 1000)
    sides = sides * deltas[..., 2:].clamp(-limit, limit).exp()
    return clip_boxes_to_image(torch.cat([centres - sides / 2, centres + sides / 2], -1), size)


def pool(levels, boxes, cells):
    """What is under each box on the level that its size asks for: up to 112 pixels the first, from 448 the last."""
    sides = (boxes[:, 2:] - boxes[:, :2]).prod(1).sqrt()
    chosen = (sides / 56 + 1e-6).log2().floor().clamp(0, 3)
    pooled = boxes.new_zeros(len(boxes), CHANNELS, cells, cells)
    for number in range(4):
        pooled[chosen == number] = roi_align(levels[number], [boxes[chosen == number]], cells, 1 / STRIDES[number],
                                             aligned=True)
    return pooled


def paste(mask, box, height, width):
    """A mask over its box, read between its cells at the middle of each pixel of the image."""
    x, y = ((torch.arange(length) + 0.5 - low) / (high - low) * 2 - 1
            for length, low, high in ((width, box[0], box[2]), (height, box[1], box[3])))
    grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], -1)
    return (F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= 0.5).numpy()


@torch.no_grad()
def calibrate(model, paths):
    """Let every output differ from place to place, and let a few boxes be found for each class of some."""
    images = [normalise(resize_within(cv2.imread(str(path)), LONG, SHORT)) for path in paths]
    model.neck.calibrate(stage_maps(model.backbone, images[0])[1])
    pyramids = [model.levels(image) for image in images]
    hidden = torch.cat([level.flatten(2) for levels in pyramids for level in model.rpn_hidden(levels)], 2)[..., None]
    for name, std in (('rpn_cls', 1.), ('rpn_reg', 0.02)):
        standardise(model.rpn_head[name], model.rpn_head[name](hidden), std)
    boxes = [model.propose(levels, image.shape[2:]) for levels, image in zip(pyramids, images, strict=True)]
    hidden, head = torch.cat(list(map(model.box_hidden, pyramids, boxes))), model.roi_head['bbox_head']
    for name, std in (('fc_cls', 3.), ('fc_reg', 1.)):
        standardise(head[name], head[name](hidden), std)
    head['fc_cls'].bias[80] += head['fc_cls'](hidden)[:, :80].logsumexp(1).max() + 1  # background
    logits = model.roi_head['mask_head']['conv_logits']
    standardise(logits, logits(model.mask_hidden(pyramids[0], boxes[0][:50])), 2.)


def annotate(detections):
    """Objects, of which the detections have found some well, some badly, some as another class, and some not at all."""
    for number, (box, _, label, mask) in enumerate(detections):
        right = box[2] - 0.12 * (number % 4) * (box[2] - box[0])
        mask = mask * (np.arange(mask.shape[1]) < right)
        if number % 5 == 4 or mask.sum() < 20:
            continue  # is no object
        yield {'category_id': list(CATEGORIES)[(label + (number % 7 == 6)) % 80],
               'bbox': [*box[:2], right - box[0], box[3] - box[1]], 'segmentation': encode(mask),
               'area': int(mask.sum()), 'iscrowd': int(number % 11 == 10)}


def encode(mask):
    encoded = mask_tools.encode(np.asfortranarray(mask, np.uint8))
    return {'size': encoded['size'], 'counts': encoded['counts'].decode()}


def figures(annotations, results):
    """AP, AP50 and AP75 in percent, of boxes and masks."""
    truth, expected = COCO(annotations), {}
    for kind, name in (('bbox', 'box'), ('segm', 'mask')):
        scored = COCOeval(truth, truth.loadRes([
            {key: value for key, value in result.items() if kind == 'segm' or key != 'segmentation'}
            for result in results]), kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
        expected |= {f'{name} AP{suffix}': 100 * value
                     for suffix, value in zip(('', '50', '75'), scored.stats[:3], strict=True)}
    return expected


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """Folders of images and weights, and the expected figures."""
    root = tmp_path_factory.mktemp('coco')
    for folder in ('data/val2017', 'data/annotations', 'weights'):
        (root / folder).mkdir(parents=True)
    shapes = {139: (120, 150), 285: (140, 80)}
    images = [{'id': number, 'file_name': f'{number:012}.jpg', 'height': height, 'width': width}
              for number, (height, width) in shapes.items()]
    paths = [root / 'data' / 'val2017' / image['file_name'] for image in images]
    for path, image in zip(paths, images, strict=True):
        draw_clouds(path, image['height'], image['width'], seed=image['id'])
    model = MaskRcnn()
    calibrate(model, paths)
    objects, results = [], []
    for path, image in zip(paths, images, strict=True):
        detections, known = model.detect(path), {'image_id': image['id']}
        assert 20 < len(detections) < 100
        objects += [known | one for one in annotate(detections)]
        results += [known | {'bbox': [*box[:2], box[2] - box[0], box[3] - box[1]], 'score': score,
                             'category_id': list(CATEGORIES)[label], 'segmentation': encode(mask)}
                    for box, score, label, mask in detections]
    for number, one in enumerate(objects):
        one['id'] = number + 1
    annotations = root / 'data' / 'annotations' / 'instances_val2017.json'
    annotations.write_text(json.dumps({
        'info': {}, 'images': images, 'annotations': objects,
        'categories': [{'id': number, 'name': name} for number, name in CATEGORIES.items()]}))
    torch.save({'state_dict': model.names(), 'meta': {'mmdet_version': '2.28.2'}},
               root / 'weights' / 'repvit_m1_1_coco.pth')
    return root, figures(annotations, results)


@pytest.mark.slow
def test_the_table_has_the_figures_of_the_model_written_out(published, tmp_path):
    root, expected = published
    measured = reproduce('coco', 'COCO', root, tmp_path / 'out', SMALL)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=0.2)
    assert all(10 < figure < 90 for figure in expected.values())


#: What is altered -> key and value in the config.
ALTERATIONS = {
    'nothing': None,
    'tap': ('model.backbone.feature_tap', 'stage_end'),
    'mean': ('model.data_preprocessor.mean', [127.5, 127.5, 127.5]),
    'standard deviation': ('model.data_preprocessor.std', [64., 64., 64.]),
    'order of the channels': ('model.data_preprocessor.bgr_to_rgb', False),
    'multiple': ('model.data_preprocessor.pad_size_divisor', 64),
    'long side': (SCALE, (LONG - 16, SHORT)),
    'short side': (SCALE, (LONG, SHORT - 8)),
    'score': ('model.test_cfg.rcnn.score_thr', 0.3),
    'overlap': ('model.test_cfg.rcnn.nms.iou_threshold', 0.3),
    'mask': ('model.test_cfg.rcnn.mask_thr_binary', 0.4),
}


@pytest.fixture(scope='module')
def differences(published):
    """Gives what altered settings change of box AP and mask AP, in percent."""
    root, expected = published
    weights = load_weights(CONFIG, root / 'weights' / 'repvit_m1_1_coco.pth')

    def of(*settings):
        measured = measure(CONFIG, weights, root / 'data', dict([(SCALE, (LONG, SHORT)), *settings]))
        return [abs(100 * measured[f'coco/{kind}_mAP'] - expected[f'{name} AP'])
                for kind, name in (('bbox', 'box'), ('segm', 'mask'))]
    return of


@pytest.mark.slow
@pytest.mark.parametrize('setting', ALTERATIONS.values(), ids=ALTERATIONS.keys())
def test_an_altered_number_on_the_way_shows(differences, setting):
    if setting is None:
        assert max(differences()) < 0.2
    else:
        assert max(differences(setting)) > 0.5


@pytest.mark.slow
def test_another_order_of_the_classes_shows(published, differences, tmp_path):
    root, _ = published
    annotations = json.loads((root / 'data' / 'annotations' / 'instances_val2017.json').read_text())
    annotations['categories'].reverse()
    path = tmp_path / 'reversed.json'
    path.write_text(json.dumps(annotations))
    assert min(differences(('test_evaluator.ann_file', str(path)))) > 0.5


@pytest.mark.slow
def test_classes_counted_from_elsewhere_are_refused(published, tmp_path):
    root, _ = published
    names = ','.join(list(CATEGORIES.values())[1:])
    status, _, error = run_tool('test', CONFIG, root / 'weights' / 'repvit_m1_1_coco.pth', '--data-root', root / 'data',
                                '--work-dir', tmp_path, '--cfg-options', *SMALL,
                                f'test_dataloader.dataset.metainfo.classes={names}')
    assert status == 1 and 'has 79 classes, but model.roi_head.bbox_head.num_classes=80' in error
