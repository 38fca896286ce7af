"""The table of exported files in the documentation."""
import pytest

from repvit_mm.analysis.exported import BEGIN, END, HEADER, write_rows
from repvit_mm.errors import UserError


def test_the_rows_of_a_model_take_the_place_of_its_old_ones(tmp_path):
    document = tmp_path / 'page.md'
    document.write_text(f'before\n{BEGIN}\n{HEADER}\n| a | old |\n| b | kept |\n{END}\nafter\n')
    write_rows([['a', 'onnx'], ['a', 'openvino']], document)
    assert document.read_text() == (f'before\n{BEGIN}\n{HEADER}\n| b | kept |\n| a | onnx |\n| a | openvino |\n{END}\n'
                                    'after\n')
    (tmp_path / 'other.md').write_text('text\n')
    with pytest.raises(UserError, match='other.md must have the line'):
        write_rows([['a']], tmp_path / 'other.md')
