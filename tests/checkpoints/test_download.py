import hashlib
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from checkpoint_samples import RepViT, is_same
from filelock import FileLock

from repvit_mm import load_checkpoint
from repvit_mm.checkpoints import download, fetch, published
from repvit_mm.checkpoints.download import HTTP_VARIABLE, MIRROR_VARIABLE
from repvit_mm.errors import CheckpointError

CONTENT = bytes(range(256)) * 12_000  # 3 MB
NAME, FILE = 'repvit://m1_1_coco', 'repvit_m1_1_coco.pth'


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` under every path, and does what a test tells it to."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.content, self.tag, self.kind = CONTENT, '"v1"', 'application/octet-stream'
        self.status, self.gone, self.breaks, self.requests = 200, set(), [], []
        self.says_length, self.redirect = True, None

    def handle_error(self, *args):
        pass  # a client that hangs up is what the tests are about

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_port}'


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get('Range')
        server.requests.append((self.path, wanted))
        start = 0
        if server.redirect:
            self.send_response(302)
            self.send_header('Location', server.redirect)
            return self.end_headers()
        if server.status != 200 or self.path in server.gone:
            return self.send_error(max(server.status, 404))
        if wanted and self.headers.get('If-Range') == server.tag:
            start = int(wanted.removeprefix('bytes=').removesuffix('-'))
            if start >= len(server.content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {start}-{len(server.content) - 1}/{len(server.content)}')
        else:
            self.send_response(200)
        self.send_header('Content-Type', server.kind)
        if server.says_length:
            self.send_header('Content-Length', str(len(server.content) - start))
        if server.tag:
            self.send_header('ETag', server.tag)
        self.end_headers()
        end = server.breaks.pop(0) if server.breaks else None  # where the connection breaks
        self.wfile.write(server.content[start:end])
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    server = Server()
    monkeypatch.setenv(MIRROR_VARIABLE, server.url)
    monkeypatch.setenv(HTTP_VARIABLE, '1')
    for proxy in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(proxy, raising=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path):
    return tmp_path / 'hub' / 'checkpoints'


def files(cache):
    """What a download leaves, but for the lock, which stays."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != '.lock')


def test_a_published_file_is_downloaded_once_into_the_cache_of_torch(server, cache, capsys):
    assert fetch(NAME) == cache / FILE
    assert (cache / FILE).read_bytes() == CONTENT
    assert files(cache) == [FILE]
    progress = capsys.readouterr().err
    assert FILE in progress and '100%' in progress and '3.1/3.1 MB' in progress
    assert fetch(NAME) == cache / FILE
    assert server.requests == [(f'/{FILE}', None)]


def test_any_address_will_do_and_all_of_it_is_the_key_of_the_cache(server, cache):
    contents = {}
    for number, part in enumerate([FILE, f'a/{FILE}', f'b/{FILE}', f'a/{FILE}?v=2', 'a/my%20file.pth?v=2', NAME]):
        server.content = bytes([number]) * 100
        path = fetch(part if part == NAME else f'{server.url}/{part}')
        assert path.name == ('my file.pth' if number == 4 else FILE) and path.is_relative_to(cache)
        contents[path] = server.content
    assert path == cache / FILE  # where a file may be put by hand
    assert len(contents) == 6
    assert all(path.read_bytes() == content for path, content in contents.items())


@pytest.mark.parametrize('path', ['weights/x.pth', '/a/b.pth', './repvit:x', Path('x.pth')])
def test_a_path_stays_a_path(path):
    assert fetch(path) == Path(path)


def test_the_names_are_those_of_the_release():
    release = 'https://github.com/THU-MIG/RepViT/releases/download/v1.0'
    classifiers = [f'{arch}_distill_{epochs}e' for arch in ('m0_9', 'm1_0', 'm1_1', 'm1_5', 'm2_3')
                   for epochs in (300, 450)]
    dense = [f'{arch}_{data}' for data in ('coco', 'ade20k') for arch in ('m1_1', 'm1_5', 'm2_3')]
    assert {name: weights.url for name, weights in published().items()} == {
        name: f'{release}/repvit_{name}.pth' for name in ('m0_6_distill_300e', *classifiers, *dense)} | {
        'sam': f'{release}/repvit_sam.pt'}


NOT_WEB = 'is not a web address; expected https://...'
UNENCRYPTED = f'is not encrypted, .* use https://, or set {HTTP_VARIABLE}=1'


@pytest.mark.parametrize(('name', 'variables', 'message'), [
    ('repvit://m1_1', {}, 'repvit://m1_1 is not a published checkpoint; choose from m0_6_distill_300e, .*, sam$'),
    ('ftp://host/x.pth', {}, 'ftp://host/x.pth cannot be read; expected a path, https://... or repvit://NAME'),
    ('https://host/', {}, 'https://host/ is not the address of a file'),
    ('https://host/..', {}, 'https://host/.. is not the address of a file'),
    ('https://host/a%00b', {}, 'https://host/a%00b is not the address of a file'),
    ('https://[host/x.pth', {}, r'https://\[host/x.pth is not a valid address: '),
    (f'https://host/{"x" * 300}.pth', {}, 'cannot write .*File name too long'),
    # Who may change the file on its way
    (NAME, {HTTP_VARIABLE: '0'}, UNENCRYPTED),
    ('http://127.0.0.1:1/x.pth', {HTTP_VARIABLE: '0'}, UNENCRYPTED),
    *((NAME, {MIRROR_VARIABLE: mirror}, NOT_WEB)
      for mirror in ('host/weights', 'file:///weights', 'ftp://host', 'C:\\weights')),
])
def test_what_names_no_file_that_may_be_had_is_refused(server, monkeypatch, name, variables, message):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(CheckpointError, match=message):
        fetch(name)
    assert not server.requests


def test_a_redirection_is_followed_to_what_would_be_taken_itself(server, monkeypatch):
    server.redirect = 'ftp://127.0.0.1/x.pth'
    with pytest.raises(CheckpointError, match='ftp://127.0.0.1/x.pth is not a web address'):
        fetch(NAME)
    monkeypatch.delenv(HTTP_VARIABLE)
    with pytest.raises(CheckpointError, match='http://host/x.pth is not encrypted'):
        download._EncryptedRedirects().redirect_request(None, None, 302, '', {}, 'http://host/x.pth')


@pytest.mark.parametrize('name', ['', '.part', '.part.tag', '.lock'])
def test_links_in_the_cache_are_not_followed(server, cache, tmp_path, name):
    (tmp_path / 'mine').write_text('precious')
    cache.mkdir(parents=True)
    (cache / f'{FILE}{name}').symlink_to(tmp_path / 'mine')
    with pytest.raises(CheckpointError, match=f'{FILE}{name} is a symbolic link, which are not followed in the cache'):
        fetch(NAME)
    assert (tmp_path / 'mine').read_text() == 'precious' and not server.requests


def test_the_checksum_in_a_name_is_checked(server, cache):
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert fetch(f'{server.url}/resnet_20210831-{digest[:8]}.pth').read_bytes() == CONTENT
    assert fetch(f'{server.url}/resnet-20210831.pth').read_bytes() == CONTENT  # a date
    wrong = 'f' * 8 if digest[:8] != 'f' * 8 else 'e' * 8
    with pytest.raises(CheckpointError, match=f'has SHA-256 {digest}, expected {wrong}'):
        fetch(f'{server.url}/resnet-{wrong}.pth')
    assert not list(cache.rglob(f'*{wrong}.pth'))


# --- Broken downloads ----------------------------------------------------------------------------------------------

def test_a_broken_connection_is_taken_up_where_it_broke(server, cache):
    server.breaks = [1_000_000, 2_500_000]
    assert fetch(NAME).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, 'bytes=1000000-', 'bytes=2500000-']
    assert files(cache) == [FILE]


@pytest.mark.parametrize(('folder', 'content', 'tag', 'asked'), [
    ('', CONTENT, '"v1"', 'bytes=1000000-'),  # goes on
    ('', CONTENT[::-1], '"v2"', 'bytes=1000000-'),  # has changed since: is sent as a whole
    ('/other', CONTENT, '"v1"', None)])  # from another address
def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server, cache, monkeypatch, folder, content, tag, asked):
    with monkeypatch.context() as patch, pytest.raises(
            CheckpointError, match='the connection broke after 1,000,000 of 3,072,000 bytes'):
        patch.setattr(download, '_INTERRUPTIONS', 1)
        server.breaks = [1_000_000]
        fetch(NAME)
    assert (cache / f'{FILE}.part').read_bytes() == CONTENT[:1_000_000]
    assert not (cache / FILE).exists()
    server.content, server.tag = content, tag
    monkeypatch.setenv(MIRROR_VARIABLE, f'{server.url}{folder}/')
    assert fetch(NAME).read_bytes() == content
    assert server.requests[1:] == [(f'{folder}/{FILE}', asked)]
    assert files(cache) == [FILE]


def test_without_a_tag_a_broken_download_starts_anew(server, cache):
    server.tag, server.breaks = None, [1_000_000, None]
    assert fetch(NAME).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, None]


def test_a_part_that_is_too_long_is_thrown_away(server, cache):
    cache.mkdir(parents=True)
    (cache / f'{FILE}.part').write_bytes(CONTENT + b'x')
    (cache / f'{FILE}.part.tag').write_text(f'{server.url}/{FILE}\n"v1"')
    with pytest.raises(CheckpointError, match='416'):
        fetch(NAME)
    assert fetch(NAME).read_bytes() == CONTENT


def test_a_file_of_unknown_length_could_be_a_part_and_is_not_kept(server, cache):
    server.says_length, server.breaks = False, [1_000_000]
    with pytest.raises(CheckpointError, match='does not send the length of the file'):
        fetch(NAME)
    assert files(cache) == []
    server.breaks = []
    digest = hashlib.sha256(CONTENT).hexdigest()  # which tells as well
    assert fetch(f'{server.url}/x-{digest[:8] if re.search("[a-f]", digest[:8]) else digest}.pth').is_file()


def test_a_connection_that_breaks_for_ever_is_given_up(server, cache):
    server.tag, server.breaks = None, [10_000] * 50
    with pytest.raises(CheckpointError, match='the connection broke after 10,000 of 3,072,000 bytes'):
        fetch(NAME)
    assert len(server.requests) < 10


@pytest.mark.parametrize('status,kind,message', [
    (404, None, '404 Not Found'), (503, None, '503'), (200, 'text/html', 'the server sent a web page')])
def test_an_answer_that_is_not_the_file_is_never_kept(server, cache, status, kind, message):
    server.status, server.kind = status, kind or server.kind
    with pytest.raises(CheckpointError, match=message) as error:
        fetch(NAME)
    assert '\n' not in str(error.value)
    assert files(cache) == []


def test_offline_it_says_what_to_do(cache, server, monkeypatch):
    monkeypatch.setenv(MIRROR_VARIABLE, 'http://127.0.0.1:1/x')
    with pytest.raises(CheckpointError) as error:
        fetch(NAME)
    message = str(error.value)
    assert message.startswith(f'cannot download {NAME} from http://127.0.0.1:1/x/{FILE} (')
    for part in (str(cache / FILE), 'give the path of a copy', MIRROR_VARIABLE):
        assert part in message
    assert '\n' not in message


@pytest.mark.parametrize('recorded', [hashlib.sha256(CONTENT).hexdigest(), 'f' * 64])
def test_a_file_with_another_checksum_than_the_recorded_one_is_deleted(server, cache, monkeypatch, recorded):
    monkeypatch.setitem(published(), 'm1_1_coco', published()['m1_1_coco']._replace(sha256=recorded))
    digest = hashlib.sha256(CONTENT).hexdigest()
    with nullcontext() if recorded == digest else pytest.raises(
            CheckpointError, match=f'{NAME} from .* has SHA-256 {digest}, expected {recorded}'):
        fetch(NAME)
    assert files(cache) == [FILE] * (recorded == digest)


def test_a_cache_that_cannot_be_written_is_told_from_a_broken_connection(server, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    with pytest.raises(CheckpointError, match=r'cannot write .*\(Not a directory\); set TORCH_HOME to another folder'):
        fetch(NAME)


# --- Several processes ---------------------------------------------------------------------------------------------

def start(*command, **settings):
    return subprocess.Popen([sys.executable, '-c', *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            cwd=Path(__file__).parents[2], **settings)


@pytest.mark.slow
def test_two_processes_download_once(server, cache):
    cache.mkdir(parents=True)
    with FileLock(f'{cache / FILE}.lock'):  # until both wait
        processes = [start(f'from repvit_mm.checkpoints import fetch; print(fetch({NAME!r}))') for _ in range(2)]
        for process in processes:
            assert any('waiting for another process' in line for line in process.stdout), process.stderr.read()
    for process in processes:
        assert process.stdout.read().endswith(f'{cache / FILE}\n') and process.wait(60) == 0
    assert (cache / FILE).read_bytes() == CONTENT
    assert len(server.requests) == 1


DISTRIBUTED = """
import torch
from repvit_mm.checkpoints import fetch
from repvit_mm.errors import CheckpointError
torch.distributed.init_process_group('gloo')
for name in ('repvit://m1_1_coco', 'repvit://sam'):
    try:
        print(fetch(name).name)
    except CheckpointError as error:
        print('refused:', error)
"""


@pytest.mark.slow
def test_in_a_distributed_run_the_first_process_downloads_for_all_and_none_waits_for_ever(server, cache):
    server.gone = {'/repvit_sam.pt'}
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    shared = {**os.environ, 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    processes = [start(DISTRIBUTED, env={**shared, 'RANK': rank, 'LOCAL_RANK': rank}) for rank in '01']
    (first, progress, _), (second, silence, _) = [(*p.communicate(timeout=120), p.wait()) for p in processes]
    assert [process.returncode for process in processes] == [0, 0], (progress, silence)
    assert f'{FILE}\n' in first and f'{FILE}\n' in second
    assert 'refused: cannot download repvit://sam' in first
    assert 'refused: repvit://sam could not be downloaded; see the error of the first process of this node' in second
    assert (FILE in progress, FILE in silence) == (True, False)
    assert len(server.requests) == 2


def test_a_model_is_loaded_by_name(server, cache, tmp_path):
    torch.manual_seed(0)
    source, model = RepViT('m0_6'), RepViT('m0_6')
    torch.save({'model': source.state_dict()}, tmp_path / 'x.pth')
    server.content = (tmp_path / 'x.pth').read_bytes()
    load_checkpoint(model, 'repvit://m0_6_distill_300e')
    assert is_same(source.state_dict(), model.state_dict())
    assert server.requests == [('/repvit_m0_6_distill_300e.pth', None)]
