"""The metrics of the published tables: their decimals, and their names in the tools that measure them."""
from typing import NamedTuple


class Metric(NamedTuple):
    """A column of a published table.

    Attributes:
        decimals: Number of printed decimals.
        key: Its name in the tool that measures it; None if there is no such tool.
        scale: Factor from the tool's figure to the table's.
    """

    decimals: int
    key: str | None = None
    scale: float = 1.


def _coco(kind: str, name: str) -> dict[str, Metric]:
    return {f'{kind} AP{suffix}': Metric(1, f'coco/{name}_mAP{key}', 100.)
            for suffix, key in (('', ''), ('50', '_50'), ('75', '_75'))}


#: (table, data set, metric in the metafile) -> column.
METRICS: dict[tuple[str, str, str], Metric] = {
    ('imagenet', 'ImageNet-1k', 'Top 1 Accuracy'): Metric(1, 'accuracy/top1'),
    **{('coco', 'COCO', name): metric for name, metric in {**_coco('box', 'bbox'), **_coco('mask', 'segm')}.items()},
    ('ade20k', 'ADE20K', 'mIoU'): Metric(1, 'mIoU'),
    ('ade20k', 'ADE20K', 'mAcc'): Metric(2, 'mAcc'),
    ('ade20k', 'ADE20K', 'aAcc'): Metric(2, 'aAcc'),
    ('sam', 'COCO', 'mask AP'): Metric(1, 'AP'),
    ('sam', 'COCO', 'mask AP small'): Metric(1, 'AP_S'),
    ('sam', 'COCO', 'mask AP medium'): Metric(1, 'AP_M'),
    ('sam', 'COCO', 'mask AP large'): Metric(1, 'AP_L'),
    **{('sam', 'BSDS500', name): Metric(3, name.lower()) for name in ('ODS', 'OIS', 'AP')},
    ('sam', 'SegInW', 'mean AP'): Metric(1),
    **{('sam', 'DAVIS 2017', name): Metric(1) for name in ('J&F', 'J', 'F')},
    ('sam', 'UVO', 'AR100'): Metric(1),
    ('sam', 'DUTS', 'M'): Metric(3),
    ('sam', 'MVTec', 'Fp'): Metric(2),
}
