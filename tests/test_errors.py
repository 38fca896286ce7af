"""How the command line reports what is not an error of the user's own."""
import os

import pytest

from repvit_mm.errors import run_cli


@pytest.mark.parametrize('flush', [True, False])
def test_a_reader_that_has_had_enough_is_no_error(monkeypatch, capsys, flush):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, 'w') as stdout:
        monkeypatch.setattr('sys.stdout', stdout)
        with pytest.raises(SystemExit) as end:
            run_cli(lambda: print('text', flush=flush))
        monkeypatch.undo()
    assert (end.value.code, capsys.readouterr().err) == (141, '')
