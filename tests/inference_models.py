"""Small models of every task, for the tests that count, measure and export."""
from pathlib import Path

from repvit_mm.models.inference import InferenceModel, build_inference_model, randomise_weights

CONFIGS = Path(__file__).parents[1] / 'configs'
#: Task -> a config of it, which gets a small backbone.
BASES = {
    'classification': 'classification/repvit_m0_6_distill_300e.py',
    'segmentation': 'segmentation/fpn_repvit_m0_6.py',
    'detection': 'detection/maskrcnn_repvit_m0_6.py',
}
WIDTHS = (8, 16, 24, 32)
TINY = {'widths': WIDTHS, 'depths': (1, 1, 2, 1)}


def write_config(folder: Path, task: str) -> Path:
    """A config of a task with a tiny backbone."""
    backbone = f'backbone=dict(arch=dict(_delete_=True, widths={WIDTHS}, depths={TINY["depths"]}), init_cfg=None)'
    parts = {'classification': f'{backbone}, head=dict(num_classes=7, in_channels={WIDTHS[-1]})',
             'segmentation': f'{backbone}, neck=dict(in_channels={list(WIDTHS)}, out_channels=16), '
                             'decode_head=dict(in_channels=[16] * 4, channels=16, num_classes=5)',
             'detection': f'{backbone}, neck=dict(in_channels={list(WIDTHS)})'}
    path = folder / f'tiny_{task}.py'
    path.write_text(f'_base_ = {str(CONFIGS / BASES[task])!r}\nmodel = dict({parts[task]})\n')
    return path


def tiny_model(folder: Path, task: str) -> InferenceModel:
    """The model of :func:`write_config`, or a backbone alone, with weights of which every layer shows."""
    if task == 'backbone':
        from repvit_mm import RepViT
        from repvit_mm.models.inference import BACKBONE
        model = InferenceModel('tiny', RepViT(TINY), BACKBONE)
    else:
        model = build_inference_model(write_config(folder, task))
    randomise_weights(model)
    return model
