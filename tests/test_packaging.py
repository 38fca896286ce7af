"""The wheel: what it asks for, what it carries, and its configs as bases of another project's."""
import json
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from installed import ROOT, run
from mmengine import Config
from packaging.requirements import Requirement

from repvit_mm.version import __version__

CONFIGS = sorted(path for path in ROOT.glob('configs/*/*.py'))


@pytest.fixture(scope='module')
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name, = (name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        return Parser().parsestr(archive.read(name).decode())


def test_version_has_one_home(metadata, wheel):
    assert metadata['Version'] == __version__
    assert wheel.name.startswith(f'repvit_mm-{__version__}-')


def test_nothing_is_required(metadata):
    requirements = [Requirement(line) for line in metadata.get_all('Requires-Dist')]
    assert requirements
    assert [str(r) for r in requirements if r.marker is None or r.marker.evaluate({'extra': ''})] == []


@pytest.mark.parametrize('extra, names', [
    ('onedl', {'torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmsegmentation',
               'onedl-mmpretrain'}),
    # mmsegmentation imports ftfy and regex, and does not ask for them.
    ('openmmlab', {'torch', 'torchvision', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmsegmentation', 'ftfy', 'regex',
                   'mmpretrain'}),
])
def test_extra_names_its_stack(metadata, extra, names):
    requirements = map(Requirement, metadata.get_all('Requires-Dist'))
    assert {r.name for r in requirements if r.marker.evaluate({'extra': extra})} == names


def test_install_changes_no_other_package(wheel):
    report = json.loads(run(sys.executable, '-m', 'pip', 'install', '--dry-run', '--quiet', '--no-index', '--report',
                            '-', wheel))
    assert [item['metadata']['name'] for item in report['install']] == ['repvit-mm']


def test_wheel_carries_the_configs_and_tools(wheel):
    with zipfile.ZipFile(wheel) as archive:
        carried = {name.removeprefix('repvit_mm/.mim/') for name in archive.namelist() if '/.mim/' in name}
    expected = {path.relative_to(ROOT).as_posix() for folder in ('configs', 'tools')
                for path in (ROOT / folder).rglob('*') if path.is_file() and '__pycache__' not in path.parts}
    assert carried == expected | {'model-index.yml'}


def test_model_index_lists_every_metafile_and_these_only_configs():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())['Import']
    assert sorted(index) == sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob('configs/*/metafile.yml'))
    for metafile in index:
        for model in yaml.safe_load((ROOT / metafile).read_text())['Models']:
            config = ROOT / model['Config']
            assert config in CONFIGS
            assert model['Name'] == config.stem


def test_citation_names_both_papers():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    papers = [citation['preferred-citation'], *citation['references']]
    assert [paper['url'] for paper in papers] == ['https://arxiv.org/abs/2307.09283', 'https://arxiv.org/abs/2312.05760']
    assert all(len(paper['authors']) == 5 for paper in papers)


LOAD = """
import json, sys
from mmengine import Config
assert 'repvit_mm' not in sys.modules
configs = [Config.fromfile(path, import_custom_modules=False).to_dict() for path in sys.argv[1:]]
import repvit_mm
print(json.dumps({'package': repvit_mm.__file__, 'configs': configs}))
"""


def without_tuples(value):
    """Make tuples the lists that JSON knows."""
    if isinstance(value, dict):
        return {key: without_tuples(item) for key, item in value.items()}
    return [without_tuples(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.slow
def test_strangers_config_of_one_line_has_ours_as_its_base(stranger, tmp_path):
    paths = [next(path for path in CONFIGS if path.parent == folder) for folder in {path.parent for path in CONFIGS}]
    for path in paths:
        (tmp_path / path.name).write_text(
            f"_base_ = __import__('repvit_mm').config_path('{path.parent.name}/{path.name}')\n")
    result = json.loads(run(stranger, '-c', LOAD, *(path.name for path in paths), cwd=tmp_path).splitlines()[-1])
    # The copy in the wheel did it, not this clone.
    assert Path(result['package']).is_relative_to(stranger.parent.parent)
    for path, loaded in zip(paths, result['configs'], strict=True):
        own = Config.fromfile(path, import_custom_modules=False).to_dict()
        assert loaded == without_tuples(own)
