"""The drawn scenes in every format, and what spoils them."""
import json
import shutil

import pytest
from other_formats import to_csv, to_cvat, to_label_studio, to_labelme, to_voc, to_yolo

from repvit_mm.datasets.shapes import write_classification, write_coco, write_segmentation

SMALL = 64


@pytest.fixture(scope='session')
def drawn(tmp_path_factory):
    """A folder for each format."""
    root = tmp_path_factory.mktemp('drawn')
    coco = write_coco(root / 'coco', SMALL, train=12, val=6, quiet=True)
    write_segmentation(root / 'labels', SMALL, train=12, val=6, quiet=True)
    write_classification(root / 'folders', SMALL, train=24, val=8, quiet=True)
    to_yolo(coco, root / 'polygons', polygons=True)
    for name, write in dict(voc=to_voc, yolo=to_yolo, labelme=to_labelme, csv=to_csv, cvat=to_cvat,
                            label_studio=to_label_studio).items():
        write(coco, root / name)
    return root


@pytest.fixture
def data(drawn, tmp_path, monkeypatch):
    """Copies a data set, to be spoiled, into the current folder."""
    monkeypatch.chdir(tmp_path)
    return lambda name: shutil.copytree(drawn / name, tmp_path / name)


@pytest.fixture
def edit(data):
    """Copies the COCO data set, and applies a function to the content of its files."""
    def apply(change):
        root = data('coco')
        for path in root.glob('annotations/*.json'):
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        return root
    return apply
