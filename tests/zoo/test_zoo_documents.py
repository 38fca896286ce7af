"""Generated documents are up to date; the plot and the report have what they should."""
from pathlib import Path

import pytest

from repvit_mm.errors import UserError
from repvit_mm.zoo import load_rows
from repvit_mm.zoo.documents import COMMAND, documents, draw_family, report
from repvit_mm.zoo.reproduction import Figure

ROOT = Path(__file__).parents[2]
ROWS = load_rows()


def test_the_documents_are_up_to_date():
    for path, content in documents(ROWS, ROOT).items():
        assert path.read_text() == content, f'{path.name} is out of date: {COMMAND}'


def test_the_tables_hold_the_figures():
    readme, zoo = documents(ROWS, ROOT).values()
    assert '| m0_9 | 5.1 | 0.82 | 0.9 | 78.7 | 79.1 | - | - | - |' in readme
    assert '| m2_3 | 22.9 | 4.52 | 2.3 | 83.3 | 83.7 | 44.6 | 40.8 | 46.1 |' in readme
    assert all(f'[{row.name}](../{row.config})' in zoo for row in ROWS)
    assert '| 0.82 | 78.7 | 0.9 | 4,817 | [file](' in zoo
    assert '| 78.5 | 0.9 | - | [repvit_m1.dist_in1k](https://huggingface.co/timm/repvit_m1.dist_in1k) |' in zoo


def test_a_document_without_marks_is_an_error(tmp_path):
    (tmp_path / 'README.md').write_text('# Something else\n')
    with pytest.raises(UserError, match='README.md must exist, with lines <!-- NAME: begin -->'):
        documents(ROWS, tmp_path)


def test_the_plot_shows_the_rows(tmp_path):
    draw_family(ROWS, tmp_path / 'all.png')
    draw_family([row for row in ROWS if row.arch != 'm2_3'], tmp_path / 'fewer.png')
    assert (tmp_path / 'all.png').read_bytes()[:4] == b'\x89PNG'
    assert (tmp_path / 'all.png').read_bytes() != (tmp_path / 'fewer.png').read_bytes()


def test_a_report_has_differences_and_reasons():
    missing = [Figure('n', 'COCO', name, 40., 1, None, 'no data') for name in ('AP', 'AP50')]
    text = report([Figure('m', 'ImageNet-1k', 'Top 1', 78.7, 1, 78.68), Figure('m', '', 'MACs', 1000, None, 1001),
                   *missing], {'processor': 'x'})
    assert '| m | Top 1, ImageNet-1k | 78.7 | 78.68 | -0.02 |' in text
    assert '| m | MACs | 1,000 | 1,001 | +1 |' in text
    assert '- n: no data (AP, COCO; AP50, COCO)' in text and text.endswith('processor x\n')
