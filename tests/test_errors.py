"""How the command line reports what is not an error of the user's own."""
import os
import subprocess
import sys

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


@pytest.mark.parametrize(('redirection', 'status', 'said'), [
    ('>&-', 0, ''), ('>/dev/full', 1, 'error: No space left on device\n'), ('2>&-', 0, ''),
    ('| true; exit ${PIPESTATUS[0]}', None, '')])
def test_output_that_cannot_be_written_is_no_traceback(redirection, status, said):
    code = 'import repvit_mm_cli; repvit_mm_cli.main()'
    done = subprocess.run(['bash', '-c', f'"$0" -c "{code}" --help {redirection}', sys.executable],
                          stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert done.stderr == said and done.returncode in ([0, 141] if status is None else [status])


def test_a_terminal_without_utf_8_gets_escapes():
    code = 'import repvit_mm_cli; from repvit_mm.errors import run_cli; run_cli(lambda: print("\\u2713 torch"))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True,
                          env={**os.environ, 'PYTHONIOENCODING': 'latin-1'})
    assert (done.returncode, done.stdout, done.stderr) == (0, b'\\u2713 torch\n', b'')


def interrupted(error):
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt as interrupt:
        raise error from (interrupt if isinstance(error, SystemError) else None)


@pytest.mark.parametrize('error', [SystemError('returned a result with an exception set'), RuntimeError('failed')])
def test_a_library_error_caused_by_ctrl_c_is_ctrl_c(capsys, error):
    with pytest.raises(SystemExit) as end:
        run_cli(lambda: interrupted(error))
    assert (end.value.code, capsys.readouterr().err) == (130, 'interrupted\n')


@pytest.mark.parametrize('text', ['libc10.so: failed to map segment from shared object', 'Cannot allocate memory'])
def test_too_little_memory_for_torch_is_one_line(capsys, text):
    def main():
        raise ImportError(text)
    with pytest.raises(SystemExit) as end:
        run_cli(main)
    assert (end.value.code, capsys.readouterr().err) == (1, f'error: not enough memory: {text}\n')
