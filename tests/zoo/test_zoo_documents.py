"""Generated documents are up to date; pictures and curves have what they should."""
import json
from pathlib import Path

import pytest

from repvit_mm.errors import UserError
from repvit_mm.zoo import load_rows
from repvit_mm.zoo.curves import draw_curves, read_curves
from repvit_mm.zoo.documents import BEGIN, COMMAND, documents
from repvit_mm.zoo.plots import draw_family, family_points, load_peers

ROOT = Path(__file__).parents[2]
ROWS = load_rows()


def test_the_documents_are_up_to_date():
    for path, content in documents(ROWS, ROOT).items():
        assert path.read_text() == content, f'{path.name} is out of date: {COMMAND}'


def test_the_tables_hold_the_figures():
    readme, zoo = documents(ROWS, ROOT).values()
    assert '| m0_9 | 5.1 M | 0.82 G | 78.7 | 79.1 | 77.4 | 0.9 ms |' in readme
    assert '| m2_3 | 44.6 | 40.8 | 46.1 | 9.9 ms |' in readme
    assert all(f'[{row.name}](../{row.config})' in zoo for row in ROWS)
    assert '| DUTS | M | 0.066 |' in zoo


def test_lost_marks_are_an_error(tmp_path):
    (tmp_path / 'README.md').write_text('# Something else\n')
    with pytest.raises(UserError, match=f'README.md must have the line {BEGIN} once'):
        documents(ROWS, tmp_path)


def test_points_of_the_family_are_those_of_the_table():
    assert family_points(ROWS, 'latency', 450) == [
        (0.9, 79.1, 'M0.9'), (1.0, 80.3, 'M1.0'), (1.1, 81.2, 'M1.1'), (1.5, 82.5, 'M1.5'), (2.3, 83.7, 'M2.3')]
    assert [name for *_, name in family_points(ROWS, 'macs', 300)] == ['M0.6', 'M0.9', 'M1.0', 'M1.1', 'M1.5', 'M2.3']


def test_every_peer_names_its_source():
    peers = load_peers()
    assert len(peers) == len({(peer.family, peer.model) for peer in peers})
    assert all('https://' in peer.source and peer.device.startswith('iPhone 12') for peer in peers)


def test_the_family_is_drawn(tmp_path):
    draw_family(ROWS, tmp_path / 'plain.png')
    draw_family(ROWS, tmp_path / 'measured.png', {'repvit_m0_9_distill_300e': 75.})
    assert (tmp_path / 'plain.png').read_bytes()[:4] == b'\x89PNG'
    assert (tmp_path / 'plain.png').read_bytes() != (tmp_path / 'measured.png').read_bytes()


def test_curves_of_a_published_table(tmp_path):
    path = tmp_path / 'curves.csv'
    path.write_text('run,epoch,train_loss,test_acc1\nm0_9,0,6.98,0.116\nm0_9,1,6.5,1.5\nm1_1,0,6.9,0.2\nm1_1,1,,1.9\n')
    found = {(curve.run, curve.quantity): (curve.step, curve.x, curve.y) for curve in read_curves(path)}
    assert found == {('m0_9', 'train_loss'): ('epoch', [0, 1], [6.98, 6.5]),
                     ('m0_9', 'test_acc1'): ('epoch', [0, 1], [0.116, 1.5]),
                     ('m1_1', 'test_acc1'): ('epoch', [0, 1], [0.2, 1.9])}
    draw_curves(read_curves(path), tmp_path / 'curves.png')
    assert (tmp_path / 'curves.png').read_bytes()[:4] == b'\x89PNG'


def test_curves_of_our_own_logs(tmp_path):
    log = tmp_path / 'work' / '20260101_000000' / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True)
    log.write_text('\n'.join(json.dumps(record) for record in (
        {'lr': 1e-3, 'loss': 3., 'epoch': 1, 'iter': 10, 'step': 10}, {'lr': 1e-3, 'loss': 2.5, 'epoch': 1, 'iter': 20,
         'step': 20}, {'accuracy/top1': 10., 'step': 1}, {'loss': 2., 'epoch': 2, 'iter': 30, 'step': 30},
        {'accuracy/top1': 20., 'step': 2})) + '\n')
    for path in (log, tmp_path / 'work'):
        found = {curve.quantity: curve for curve in read_curves(path)}
        assert found['loss'].run == 'work'
        assert (found['loss'].step, found['loss'].x, found['loss'].y) == ('iter', [10, 20, 30], [3., 2.5, 2.])
        assert (found['accuracy/top1'].step, found['accuracy/top1'].x) == ('epoch', [1, 2])
