"""Export configs of the toolboxes' zoos, with random weights of plausible scale, and print which files are proven.

``python tests/peers/zoo_export.py RESULTS [--to FORMAT ...] [--only REGEX]`` exports what the file RESULTS (a line of
JSON for each export) lacks, each config in a process of its own, and prints RESULTS as a table.
"""
import argparse
import contextlib
import json
import multiprocessing
import re
import tempfile
import time
from importlib import import_module
from pathlib import Path

import torch
from zoo_sweep import folder_of

from repvit_mm.errors import UserError
from repvit_mm.export import FORMATS, Options, Selection, export_model
from repvit_mm.export.detectors import spread_outputs, why_not_fixed
from repvit_mm.export.images import load_inputs
from repvit_mm.models.inference import build_inference_model, randomise_weights

COLUMNS = ('onnx', 'openvino', 'coreml', 'litert')
FORK = multiprocessing.get_context('fork')
#: Toolbox -> height and width of the image, and its configs.
CONFIGS = {
    'mmdet': ((128, 160), [
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
        'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco', 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco',
        'retinanet/retinanet_r18_fpn_1x_coco', 'pvt/retinanet_pvtv2-b0_fpn_1x_coco',
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco', 'atss/atss_r50_fpn_1x_coco', 'gfl/gfl_r50_fpn_1x_coco',
        'vfnet/vfnet_r50_fpn_1x_coco', 'rtmdet/rtmdet_tiny_8xb32-300e_coco', 'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco',
        'yolox/yolox_tiny_8xb8-300e_coco', 'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco',
        'ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco', 'centernet/centernet_r18_8xb16-crop512-140e_coco',
        'detr/detr_r50_8xb2-150e_coco', 'conditional_detr/conditional-detr_r50_8xb2-50e_coco',
        'deformable_detr/deformable-detr_r50_16xb2-50e_coco', 'dino/dino-4scale_r50_8xb2-12e_coco']),
    'mmseg': ((192, 192), [
        'deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024',
        'pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024', 'upernet/upernet_r18_4xb4-80k_ade20k-512x512',
        'hrnet/fcn_hr18s_4xb2-80k_cityscapes-512x1024', 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512',
        'segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512',
        'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024', 'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024',
        'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes',
        'stdc/stdc1_4xb12-80k_cityscapes-512x1024']),
    'mmpretrain': ((224, 224), [
        'resnet/resnet18_8xb32_in1k', 'mobilenet_v2/mobilenet-v2_8xb32_in1k',
        'mobilenet_v3/mobilenet-v3-small_8xb128_in1k', 'shufflenet_v2/shufflenet-v2-1x_16xb64_in1k',
        'efficientnet/efficientnet-b0_8xb32_in1k', 'regnet/regnetx-400mf_8xb128_in1k',
        'convnext_v2/convnext-v2-atto_32xb32_in1k', 'mobilevit/mobilevit-xxsmall_8xb128_in1k',
        'deit/deit-tiny_4xb256_in1k', 'swin_transformer/swin-tiny_16xb64_in1k']),
}
#: Config -> another height and width, for more places than it has queries.
OTHER_SHAPES = {'dino/dino-4scale_r50_8xb2-12e_coco': (160, 288)}
#: Seconds for the exports of one config.
LIMIT = 3600
#: What errors say of a model for which a format, or its converter, lacks an operation.
INEXPRESSIBLE = re.compile('cannot express|does not define|holds no detections')


def export(toolbox, name, formats, sender):
    """Send format and outcome, in words, of each export of a config."""
    torch.manual_seed(0)
    shape = OTHER_SHAPES.get(name, CONFIGS[toolbox][0])
    selection = Selection(max_detections=20) if toolbox == 'mmdet' else None
    model = build_inference_model(folder_of(toolbox) / f'{name}.py')
    if selection is None:
        randomise_weights(model, load_inputs(shape, 4, model.normalisation))
    else:
        randomise_weights(model)
        spread_outputs(model, shape)
        if hasattr(model.model, 'query_embedding') and getattr(model.model, 'as_two_stage', False):
            # Each query goes to a place by the rank of its score, which rounding decides in random weights.
            model.model.query_embedding.weight.data[:] = model.model.query_embedding.weight[0].clone()
    for to in formats:
        outcome = 'proven'
        if selection is not None and FORMATS[to].fixed and why_not_fixed(model):
            outcome += ', `sampling_ratio=2`'
            for module in model.modules():
                if hasattr(module, 'sampling_ratio'):
                    module.sampling_ratio = 2
        with tempfile.TemporaryDirectory() as folder:
            try:
                export_model(model, to, shape, Path(folder) / f'model{FORMATS[to].suffix}',
                             Options('fp32', selection=selection))
            except UserError as error:
                outcome = str(error)
            except Exception as error:  # a fault of ours
                outcome = f'{type(error).__name__}: {error}'
        sender.send((to, outcome))


def run(toolbox, name, formats):
    """Format -> the outcome for a config, by a process of its own; the imports are those of this process."""
    receiver, sender = FORK.Pipe(duplex=False)
    process = FORK.Process(target=export, args=(toolbox, name, formats, sender))
    process.start()
    sender.close()
    found, end = {}, time.monotonic() + LIMIT
    with contextlib.suppress(EOFError):
        while receiver.poll(max(0, end - time.monotonic())):
            to, found[to] = receiver.recv()
    if time.monotonic() > end:
        process.kill()
    process.join()
    last = f'the process ended with {process.exitcode}' if time.monotonic() < end else f'{LIMIT} s were not enough'
    return {to: found.get(to, last) for to in formats}


def cell(name, outcome, notes):
    """An outcome in a word, with the number of its reason among the notes."""
    if outcome in (None, 'proven'):
        return outcome or ''
    words = 'not expressible' if INEXPRESSIBLE.search(outcome) else 'refused'
    words = 'proven' if outcome.startswith('proven') else words
    reason = re.split('[;\n]', outcome.removeprefix('proven, '))[0].replace(name.partition('/')[2], 'it').strip()[:160]
    return f'{words} ({notes.setdefault(reason, len(notes) + 1)})'


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('results', type=Path)
    parser.add_argument('--to', nargs='*', choices=COLUMNS, default=[])
    parser.add_argument('--only', default='', help='a regular expression for the names of the configs')
    args = parser.parse_args()
    args.results.touch()
    results = {(name, to): outcome for name, to, outcome in map(json.loads, args.results.open())}
    for toolbox, (_, names) in CONFIGS.items():
        import_module(f'{toolbox}.models')
        for name in names:
            missing = [to for to in args.to if re.search(args.only, name) and (name, to) not in results]
            for to, outcome in (run(toolbox, name, missing) if missing else {}).items():
                results[name, to] = outcome
                with args.results.open('a') as file:
                    file.write(f'{json.dumps([name, to, outcome])}\n')
    notes = {}
    print(f'| | {" | ".join(COLUMNS)} |\n|---|{"---|" * len(COLUMNS)}')
    for toolbox, (_, names) in CONFIGS.items():
        for name in names:
            cells = ' | '.join(cell(name, results.get((name, to)), notes) for to in COLUMNS)
            print(f'| {toolbox} {name.partition("/")[2]} | {cells} |')
    print(*(f'{number}. {reason}' for reason, number in notes.items()), sep='\n')


if __name__ == '__main__':
    main()
