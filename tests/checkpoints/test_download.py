"""Published names, addresses and repositories of the Hugging Face Hub, from a server on this machine."""
import hashlib
import http.client
import http.server
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import timm
import torch
from checkpoint_samples import RepViT, is_same
from oracles import randomise_norms
from safetensors.torch import save

from repvit_mm import get_model, load_checkpoint
from repvit_mm.checkpoints import fetch, published
from repvit_mm.checkpoints.download import HTTP_VARIABLE, MIRROR_VARIABLE
from repvit_mm.errors import CheckpointError

NAME, FILE = 'repvit://m1_1_coco', 'repvit_m1_1_coco.pth'
REPOSITORY, COMMIT = 'someone/repvit', 'c' * 40


class Server(http.server.ThreadingHTTPServer):
    """Serves ``content`` under every path, as a Hub does."""

    def __init__(self, content):
        super().__init__(('127.0.0.1', 0), Handler)
        self.content, self.requests, self.missing, self.cut, self.redirected = content, [], (), None, {}

    def handle_error(self, *args):
        pass  # clients that hang up

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_port}'


class Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        if any(self.path.endswith(name) for name in self.server.missing):
            self.send_response(404)
            self.send_header('X-Error-Code', 'EntryNotFound')
            self.send_header('Content-Length', '0')
            self.end_headers()
            return False
        if self.path in self.server.redirected:
            self.send_response(302)
            self.send_header('Location', self.server.redirected[self.path])
            self.end_headers()
            return False
        self.send_response(200)
        self.send_header('Content-Length', str(len(self.server.content)))
        self.send_header('X-Repo-Commit', COMMIT)
        self.send_header('ETag', f'"{hashlib.sha256(self.server.content).hexdigest()}"')
        self.end_headers()
        return True

    def do_GET(self):
        self.server.requests.append(self.path)
        if self.do_HEAD():
            self.wfile.write(self.server.content[:self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return RepViT('m0_6')


@pytest.fixture
def server(monkeypatch, tmp_path, model):
    torch.save({'model': model.state_dict()}, tmp_path / 'x.pth')
    server = Server((tmp_path / 'x.pth').read_bytes())
    for variable, value in (('TORCH_HOME', str(tmp_path)), (MIRROR_VARIABLE, server.url), (HTTP_VARIABLE, '1')):
        monkeypatch.setenv(variable, value)
    for proxy in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY', 'https_proxy', 'HTTPS_PROXY'):
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
    return sorted(path.name for path in cache.rglob('*') if path.is_file() and path.suffix != '.lock')


def test_a_published_file_is_downloaded_once_into_the_cache_of_torch(server, cache, model, capsys):
    loaded = RepViT('m0_6')
    load_checkpoint(loaded, 'repvit://m0_6_distill_300e')
    assert is_same(model.state_dict(), loaded.state_dict())
    assert '100%' in capsys.readouterr().err
    for name in ('repvit://m0_6_distill_300e', published()['m0_6_distill_300e'].url):  # as mmengine's Inferencers ask
        assert fetch(name) == cache / 'repvit_m0_6_distill_300e.pth'
    assert server.requests == ['/repvit_m0_6_distill_300e.pth'] and len(files(cache)) == 1


def test_all_of_an_address_is_the_key_of_the_cache(server, cache):
    paths = {fetch(name if name == NAME else f'{server.url}/{name}') for name in (
        NAME, FILE, f'a/{FILE}', f'b/{FILE}', f'a/{FILE}?v=2', 'a/my%20file.pth?v=2')}
    assert len(paths) == 6 and cache / FILE in paths  # where a file may be put by hand
    assert {path.name for path in paths} == {FILE, 'my file.pth'}


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
        f'{arch}_distill_300e': f'hf://timm/repvit_{arch}.dist_in1k' for arch in ('m1', 'm2', 'm3')} | {
        'sam': f'{release}/repvit_sam.pt'}


UNENCRYPTED = f'is not encrypted, .* expected https://..., or http://... with {HTTP_VARIABLE}=1'


@pytest.mark.parametrize(('name', 'variables', 'message'), [
    ('repvit://m1_1', {}, 'repvit://m1_1 is not a published checkpoint; choose from m0_6_distill_300e, .*, sam$'),
    ('ftp://host/x.pth', {}, 'ftp://host/x.pth cannot be read; expected a path, https://..., repvit://NAME or hf://'),
    ('https://host/', {}, 'https://host/ is not the address of a file'),
    ('https://host/..', {}, 'https://host/.. is not the address of a file'),
    ('https://host/a%00b', {}, 'https://host/a%00b is not the address of a file'),
    ('https://[host/x.pth', {}, r'https://\[host/x.pth is not the address of a file'),
    (f'https://host/{"x" * 300}.pth', {}, 'cannot download .*File name too long'),
    (NAME, {MIRROR_VARIABLE: 'http://127.0.0.1:1/x'}, f'cannot download {NAME} from http://127.0.0.1:1/x/{FILE} to '
                                                      f'.*refused.*give the path of a copy.*{MIRROR_VARIABLE}'),
    (NAME, {HTTP_VARIABLE: '0'}, UNENCRYPTED),
    ('http://127.0.0.1:1/x.pth', {HTTP_VARIABLE: '0'}, UNENCRYPTED),
    *((NAME, {MIRROR_VARIABLE: mirror}, UNENCRYPTED)
      for mirror in ('host/weights', 'file:///weights', 'ftp://host', 'C:\\weights')),
    *((name, {}, 'is not the name of a repository; expected hf://OWNER/REPO') for name in (
        'hf://repvit', 'hf-hub:a', 'hf:///a')),
])
def test_names_and_addresses_without_a_file_are_refused(server, monkeypatch, name, variables, message):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(CheckpointError, match=message) as error:
        fetch(name)
    assert not server.requests and '\n' not in str(error.value)


@pytest.mark.parametrize(('change', 'message'), [
    ({'missing': (FILE,)}, '404'), ({'content': b'<!doctype html><html>Sign in</html>'}, 'what arrived is a web page'),
    ({'cut': 1000}, 'is truncated|IncompleteRead')])
def test_an_answer_that_is_not_the_whole_file_is_never_kept(server, cache, change, message):
    vars(server).update(change)
    with pytest.raises(CheckpointError, match=message):
        fetch(NAME)
    assert files(cache) == []


def test_the_checksum_in_a_name_is_checked(server, cache):
    digest = hashlib.sha256(server.content).hexdigest()
    assert fetch(f'{server.url}/resnet_20210831-{digest[:16]}.pth').read_bytes() == server.content
    assert fetch(f'{server.url}/resnet-20210831.pth').is_file()  # a date
    with pytest.raises(CheckpointError, match='invalid hash value'):
        fetch(f'{server.url}/resnet-{"f" * 8 if digest[:8] != "f" * 8 else "e" * 8}.pth')
    assert len(files(cache)) == 2


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    with pytest.raises(CheckpointError, match=r'Not a directory.*; TORCH_HOME names another folder'):
        fetch(NAME)


def test_two_downloads_of_a_file_at_once_are_one(server, cache):
    with ThreadPoolExecutor() as pool:
        assert set(pool.map(fetch, [NAME] * 4)) == {cache / FILE}
    assert len(server.requests) == 1


def test_redirections_are_followed_but_not_from_an_encrypted_address_to_another(server, cache, monkeypatch):
    server.redirected = {'/moved.pth': f'{server.url}/{FILE}'}
    assert fetch(f'{server.url}/moved.pth').read_bytes() == server.content
    monkeypatch.setenv(HTTP_VARIABLE, '0')
    # The server has no certificate: what would be encrypted is not.
    monkeypatch.setattr(http.client, 'HTTPSConnection', lambda host, timeout, **_: http.client.HTTPConnection(
        host, timeout=timeout))
    address = f'https://127.0.0.1:{server.server_port}'
    assert fetch(f'{address}/x.pth').read_bytes() == server.content
    requests = len(server.requests)
    with pytest.raises(CheckpointError, match=f'cannot download {address}/moved.pth .*{UNENCRYPTED}'):
        fetch(f'{address}/moved.pth')
    assert server.requests[requests:] == ['/moved.pth'] and len(files(cache)) == 2
    server.redirected = {'/moved.pth': f'{address}/{FILE}'}
    assert fetch(f'{address}/moved.pth').read_bytes() == server.content


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """The server as the Hugging Face Hub, and the constants of its client."""
    constants = pytest.importorskip('huggingface_hub').constants
    template = f'{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}'
    for name, value in (('ENDPOINT', server.url), ('HUGGINGFACE_CO_URL_TEMPLATE', template),
                        ('HF_HUB_CACHE', str(tmp_path / 'hf')), ('HF_HUB_DISABLE_XET', True)):
        monkeypatch.setattr(constants, name, value)
    return constants


def test_weights_that_only_timm_publishes_have_a_name(server, hub):
    theirs = randomise_norms(timm.create_model('repvit_m1')).eval()
    server.content = save(theirs.state_dict())
    ours = get_model('m1', pretrained=True)
    image = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(ours(image)[-1], theirs.forward_features(image), rtol=1e-4, atol=1e-5)
    assert server.requests[-1] == '/timm/repvit_m1.dist_in1k/resolve/main/model.safetensors'


def test_a_repository_is_downloaded_into_the_cache_of_the_hub_and_read_offline(server, hub, tmp_path, monkeypatch):
    server.missing = ('missing.pth',)
    names = [f'hf://{REPOSITORY}', f'hf-hub:{REPOSITORY}', f'hf_hub:{REPOSITORY}@main', f'hf://{REPOSITORY}/deep/x.pth']
    for offline in (False, True):
        monkeypatch.setattr(hub, 'HF_HUB_OFFLINE', offline)
        found = [fetch(name) for name in names]
        assert [path.name for path in found] == ['model.safetensors'] * 3 + ['x.pth']
        assert all(path.is_relative_to(tmp_path / 'hf') and path.read_bytes() == server.content for path in found)
        with pytest.raises(CheckpointError, match=r'missing.pth cannot be downloaded \(missing.pth\): ' + '.*404' * (
                not offline)):
            fetch(f'hf://{REPOSITORY}/missing.pth')
