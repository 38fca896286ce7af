"""Small trainings of the three toolboxes: the quickstart's configs with a tiny backbone, on a few images."""
from inference_models import WIDTHS

from repvit_mm.datasets.shapes import CLASSES, write_classification, write_coco, write_segmentation

SIZE = 64
BACKBONE = f'backbone=dict(arch=dict(_delete_=True, widths={WIDTHS}, depths=(1, 1, 1, 1)))'

DETECTION = f"""
model = dict({BACKBONE}, neck=dict(in_channels={list(WIDTHS[1:])}), test_cfg=dict(rcnn=dict(score_thr=0.)))
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks['checkpoint'] = dict(interval=2)
param_scheduler = []  # else the figures of a test would not depend on the weights that are tested
"""
SEGMENTATION = f"""
model = dict({BACKBONE}, neck=dict(in_channels={list(WIDTHS)}))
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks['checkpoint'] = dict(interval=2)
"""
CLASSIFICATION = f"""
model = dict({BACKBONE}, head=dict(in_channels={WIDTHS[-1]}, num_classes={len(CLASSES)}))
train_cfg = dict(max_epochs=1)
default_hooks['checkpoint'] = dict(save_best=None)
"""
#: Toolbox -> its quickstart, what changes, what writes its data set, and numbers of images to train and to validate.
TOOLBOXES = {
    'mmdet': ('maskrcnn_repvit_m0_6_shapes', DETECTION, write_coco, 4, 3),
    'mmseg': ('fpn_repvit_m0_6_shapes', SEGMENTATION, write_segmentation, 4, 3),
    'mmpretrain': ('classifier_repvit_m0_6_shapes', CLASSIFICATION, write_classification, len(CLASSES), len(CLASSES)),
}


def write_config(path, quickstart, changes, batch_size=2):
    """Write a quickstart's config with changes: it logs each step, and no other process loads images."""
    loader = 'num_workers=0, persistent_workers=False'
    path.write_text(f"""
_base_ = 'repvit_mm::quickstart/{quickstart}.py'
train_dataloader = dict(batch_size={batch_size}, {loader})
val_dataloader = dict({loader})
test_dataloader = dict({loader})
default_hooks = dict(logger=dict(interval=1))
{changes}
""")
    return path


def set_up(toolbox, root):
    """Write the config and the data set of a toolbox into a folder; gives both paths."""
    quickstart, changes, write, train, val = TOOLBOXES[toolbox]
    config = write_config(root / f'{toolbox}_tiny.py', quickstart, changes)
    return config, write(root / 'shapes', SIZE, train=train, val=val, quiet=True)
