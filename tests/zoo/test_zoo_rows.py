"""The metafiles against the published tables, and every size in them counted again."""
from functools import cache
from pathlib import Path

import pytest
from mmengine.fileio import load
from published import SIZES
from timm.models import repvit

from repvit_mm.errors import ConfigError
from repvit_mm.zoo import load_rows
from repvit_mm.zoo.reproduction import count_row, figures_of
from repvit_mm.zoo.rows import ROOT

ROWS = {row.name: row for row in load_rows()}

#: arch -> top-1 after 300 and 450 epochs with a teacher, after 300 without, latency on an iPhone 12, GPU images/s.
CLASSIFIERS = {
    'm0_6': (74.1, None, None, 0.6, None), 'm0_9': (78.7, 79.1, 77.4, 0.9, 4817),
    'm1_0': (80.0, 80.3, 78.6, 1.0, 3910), 'm1_1': (80.7, 81.2, 79.4, 1.1, 3604),
    'm1_5': (82.3, 82.5, 81.2, 1.5, 2151), 'm2_3': (83.3, 83.7, 82.5, 2.3, 1184),
    'm1': (78.5, None, None, 0.9, None), 'm2': (80.6, None, None, 1.1, None), 'm3': (81.4, None, None, 1.3, None)}
#: arch -> box AP, AP50, AP75, mask AP, AP50, AP75; mIoU, mAcc, aAcc; latency of the backbone at 512.
DENSE = {
    'm1_1': ([39.8, 61.9, 43.5, 37.2, 58.8, 40.1], [40.6, 51.78, 79.53], 4.9),
    'm1_5': ([41.6, 63.2, 45.3, 38.6, 60.5, 41.5], [43.6, 55.07, 80.83], 6.4),
    'm2_3': ([44.6, 66.1, 48.8, 40.8, 63.6, 43.9], [46.1, 57.36, 81.77], 9.9),
    'm2': ([39.8, 61.9, 43.5, 37.2, 58.8, 40.1], [40.6, 51.78, 79.53], 4.9),
    'm3': ([41.1, 63.1, 45.0, 38.3, 60.4, 41.0], [42.8, 54.22, 80.31], 5.9)}
SAM = {('COCO', 'mask AP'): 44.4, ('COCO', 'mask AP small'): 29.1, ('COCO', 'mask AP medium'): 48.6,
       ('COCO', 'mask AP large'): 61.4, ('BSDS500', 'ODS'): .764, ('BSDS500', 'OIS'): .786, ('BSDS500', 'AP'): .773,
       ('SegInW', 'mean AP'): 46.1, ('DAVIS 2017', 'J&F'): 73.5, ('DAVIS 2017', 'J'): 71.0, ('DAVIS 2017', 'F'): 76.1,
       ('UVO', 'AR100'): 25.3, ('DUTS', 'M'): .066, ('MVTec', 'Fp'): 37.96}
#: What the paper prints of parameters in M and MACs in G.
PRINTED = {'m0_6': (), 'm0_9': (5.1, 0.8), 'm1_0': (6.8, 1.1), 'm1_1': (8.2, 1.3), 'm1_5': (14.0, 2.3),
           'm2_3': (22.9, 4.5), 'm1': (5.1, 0.8), 'm2': (8.8, 1.4), 'm3': (10.1, 1.9)}


def test_every_published_system_has_its_row():
    names = set()
    for arch, (*top1s, latency, throughput) in CLASSIFIERS.items():
        for kind, top1 in zip(('distill_300e', 'distill_450e', '300e'), top1s, strict=True):
            if top1 is not None:
                row = ROWS[f'repvit_{arch}_{kind}']
                names.add(row.name)
                assert row.result('Top 1 Accuracy') == top1
                assert row.latencies == (latency,) and row.throughput == throughput
    for arch, (boxes_and_masks, segmentation, latency) in DENSE.items():
        detector, segmentor = ROWS[f'maskrcnn_repvit_{arch}'], ROWS[f'fpn_repvit_{arch}']
        names |= {detector.name, segmentor.name}
        assert [result.value for result in detector.results] == boxes_and_masks
        assert [result.value for result in segmentor.results] == segmentation
        assert detector.latencies == segmentor.latencies == (latency,)
    sam = ROWS['distill_repvit_m2_3']
    assert {(result.dataset, result.name): result.value for result in sam.results} == SAM
    assert sam.latencies == (48.9, 11.6, 44.8, 11.8)
    assert set(ROWS) == names | {sam.name}


def test_every_row_names_a_config_that_is_there():
    for row in ROWS.values():
        assert row.config_path.is_file() and row.config_path.stem == row.name
        assert set(row.conventions) == {'Parameters', 'Training Parameters', 'FLOPs'}
        # What is printed is what the table prints.
        assert all(result.value == round(result.value, result.metric.decimals) for result in row.results)


def test_every_collection_names_its_paper():
    entries = [entry for path in ROOT.glob('configs/*/metafile.yml') for part in load(path).values() for entry in part]
    papers = [entry['Paper']['URL'] for entry in entries if 'Paper' in entry or 'Config' not in entry]
    assert len(papers) >= 4 and all(url.startswith('https://arxiv.org/abs/23') for url in papers)


def test_weights_that_timm_publishes_have_their_names():
    hub = {row.hub.removeprefix('hf://'): (row.arch, row.epochs) for row in ROWS.values() if row.hub}
    assert hub == {
        f'{cfg.hf_hub_id}{model}.{tag}': (model.removeprefix('repvit_'), 450 if '450e' in tag else 300)
        for model, entry in repvit.default_cfgs.items() for tag, cfg in entry.cfgs.items()}
    assert all(row.distilled for row in ROWS.values() if row.hub)


def test_the_index_is_a_valid_one():
    index = pytest.importorskip('modelindex.load_model_index').load(str(ROOT / 'model-index.yml'))
    index.build_models_with_collections()
    assert len(index.models) == len(ROWS)
    assert index.check(silent=True) == []


@pytest.mark.parametrize('arch', SIZES)
def test_the_sizes_of_classifiers_are_the_published_ones(arch):
    training, fused, macs = SIZES[arch]
    row = ROWS[f'repvit_{arch}_distill_300e']
    assert (row.training_parameters, row.parameters, round(row.macs / 1e9, 3)) == (training, fused, macs)
    assert tuple(row.published_size.values()) == PRINTED[arch]


@cache
def counted(table, arch, distilled):
    return count_row(next(row for row in ROWS.values()
                          if (row.table, row.arch) == (table, arch) and row.distilled == distilled))


@pytest.mark.slow
@pytest.mark.parametrize('name', ROWS)
def test_every_size_is_counted_again(name):
    row = ROWS[name]
    found = counted(row.table, row.arch, row.distilled)
    # The first version's table has the m2 of the training, and rounds its multiply-adds up.
    odd = {'Parameters (M)': 8.2, 'MACs (G)': 1.3} if name == 'repvit_m2_distill_300e' else {}
    for figure in figures_of(row):
        if not figure.dataset:
            assert round(found[figure.name], figure.decimals) == odd.get(figure.name, figure.published)


def test_a_metafile_that_lacks_something_is_named(tmp_path):
    (tmp_path / 'configs' / 'detection').mkdir(parents=True)
    (tmp_path / 'model-index.yml').write_text('Import: [configs/detection/metafile.yml]\n')
    path = tmp_path / 'configs' / 'detection' / 'metafile.yml'
    text = Path(ROOT / 'configs/detection/metafile.yml').read_text()
    path.write_text(text.replace('      FLOPs: 136487553792\n', ''))
    with pytest.raises(ConfigError, match=r"metafile.yml: maskrcnn_repvit_m1_1 lacks 'FLOPs'"):
        load_rows(tmp_path)
