"""``repvit-mm doctor``: what is installed, what each missing package disables, and the command that installs it.

It reads versions from metadata and imports no package, so that it works where torch or mmengine is broken.
"""
import argparse
import io
import platform
import re
import sys
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import NamedTuple

from ..errors import first_line
from ..ops import find_compiled
from ..version import __version__


class Piece(NamedTuple):
    """A package that may be missing.

    Attributes:
        module: The module to import.
        disables: Features that need it.
        install: Requirement for pip; for packages of the stack, of the onedl forks and of upstream OpenMMLab.
        packages: Its distributions, likewise; named as the module if empty.
    """

    module: str
    disables: str
    install: tuple[str, ...]
    packages: tuple[str, ...] = ()


_TORCH = '"torch>=2.1" torchvision', '"torch<2.2" torchvision "numpy<2"'
_NO_ISOLATION = '--no-build-isolation '
_MMCV = '"setuptools<81" && MMCV_WITH_OPS=0 pip install --no-build-isolation --no-cache-dir '
#: Required; of the last three, one.
STACK = (
    Piece('torch', 'everything', _TORCH),
    Piece('torchvision', 'the toolboxes', _TORCH),
    Piece('mmengine', 'everything', ('"onedl-mmengine>=0.10.8"', '"mmengine>=0.10.3"'), ('onedl-mmengine', 'mmengine')),
    Piece('mmcv', 'the toolboxes', (_MMCV + '"onedl-mmcv>=2.3"', _MMCV + '"mmcv>=2.0,<2.2"'), ('onedl-mmcv', 'mmcv')),
    Piece('mmdet', 'detection and instance segmentation, the quickstart',
          (_NO_ISOLATION + '"onedl-mmdetection>=3.4"', _NO_ISOLATION + '"mmdet>=3.2,<3.4"'),
          ('onedl-mmdetection', 'mmdet')),
    Piece('mmseg', 'semantic segmentation',
          (_NO_ISOLATION + '"onedl-mmsegmentation>=1.3"', _NO_ISOLATION + '"mmsegmentation>=1.2" ftfy regex'),
          ('onedl-mmsegmentation', 'mmsegmentation')),
    Piece('mmpretrain', 'classification',
          (_NO_ISOLATION + '"onedl-mmpretrain>=1.3"', _NO_ISOLATION + '"mmpretrain>=1.2"'),
          ('onedl-mmpretrain', 'mmpretrain')),
)
_EXPORT, _SAM, _LITERT = ('"repvit-mm[export]"',), ('"repvit-mm[sam]"',), ('--no-deps -r requirements-litert.txt',)
OPTIONAL = (
    Piece('timm', "the distillation's teacher, timm's models in benchmark", ('"repvit-mm[timm]"',)),
    Piece('safetensors', 'checkpoints in .safetensors files', ('"repvit-mm[timm]"',)),
    Piece('onnx', 'export --to onnx, openvino; sam-export onnx', _EXPORT),
    Piece('onnxruntime', 'export --to onnx, sam-export onnx; benchmark and test --backend onnxruntime', _EXPORT),
    Piece('coremltools', 'export --to coreml, sam-export coreml', _EXPORT),
    Piece('openvino', 'export --to openvino; benchmark and test --backend openvino', _EXPORT),
    Piece('ncnn', 'export --to ncnn; benchmark and test --backend ncnn', _EXPORT),
    Piece('pnnx', 'export --to ncnn', _EXPORT),
    Piece('executorch', 'export --to executorch; benchmark and test --backend executorch',
          ('"repvit-mm[executorch]"',)),
    Piece('ai_edge_litert', 'export --to litert; benchmark and test --backend litert', ('ai-edge-litert',)),
    Piece('litert_torch', 'export --to litert', _LITERT),
    Piece('ai_edge_quantizer', 'export --to litert --precision fp16', _LITERT),
    Piece('segment_anything', 'RepViT-SAM: the sam-* commands', _SAM),
    Piece('pycocotools', "COCO's figures, sam-demo's masks, sam-eval coco", _SAM),
    Piece('scipy', 'sam-eval bsds500', _SAM),
    Piece('skimage', 'sam-eval bsds500', _SAM, ('scikit-image',)),
    Piece('gradio', 'the web page of sam-demo', ('"repvit-mm[sam-demo]"',)),
)


class Finding(NamedTuple):
    """A line of the report: the package, its version or the problem, and what installs or repairs it.

    Attributes:
        works: Whether it works; None if it is optional and missing.
    """

    name: str
    found: str
    works: bool | None = True
    command: str = ''


def examine(deep: bool) -> tuple[list[Finding], list[str]]:
    """The findings, and the toolboxes in which RepViT can be trained here.

    Args:
        deep: Also import each package.
    """
    stack, mixed = find_stack()
    base, toolboxes, optional = ([check(piece, stack, deep) for piece in pieces]
                                 for pieces in (STACK[:4], STACK[4:], OPTIONAL))
    trains, own = [finding.name for finding in toolboxes if finding.works], []
    if all(finding.works for finding in base):
        compiled = find_compiled(find_spec('mmcv').submodule_search_locations)
        own = [Finding('mmcv.ops', 'compiled' if compiled else "torchvision's")]
    if trains:  # one toolbox is enough
        toolboxes = map(_may_be_missing, toolboxes)
    if not all(finding.works for finding in (*base, *mixed)):
        trains = []
    return [Finding('Python', f'{platform.python_version()} ({sys.executable})'), Finding('repvit-mm', __version__),
            *base, *own, *toolboxes, *mixed, *map(_may_be_missing, optional)], trains


def _may_be_missing(finding: Finding) -> Finding:
    return finding._replace(works=None) if finding.found.startswith('missing') else finding


def find_stack() -> tuple[int, list[Finding]]:
    """The stack to install for, 0 onedl and 1 upstream, and a finding if both are installed."""
    onedl, upstream = ([piece.packages[i] for piece in STACK if piece.packages and installed_version(piece.packages[i])]
                       for i in range(2))
    mixed = Finding('stack', f'onedl and upstream mixed, which overwrite each other: {", ".join(onedl + upstream)}',
                    False, f'pip uninstall -y {" ".join(onedl + upstream)}  # then reinstall one of the two')
    return int(len(upstream) > len(onedl)), [mixed] if onedl and upstream else []


def installed_version(distribution: str) -> str | None:
    """The version of a distribution, or None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def check(piece: Piece, stack: int, deep: bool = False) -> Finding:
    """Report the version of a package, or why it does not work."""
    packages, command = piece.packages or (piece.module,), f'pip install {piece.install[stack % len(piece.install)]}'
    version = installed_version(packages[stack % len(packages)])
    if version is None:
        return Finding(piece.module, f'missing: disables {piece.disables}', False, command)
    if piece.module == 'torchvision' and (problem := _torch_mismatch()):
        return Finding(piece.module, f'{version} {problem}', False, 'pip install --force-reinstall torch torchvision')
    if deep and (error := import_error(piece.module)):
        return Finding(piece.module, f'{version} cannot be imported: {error}', False, command)
    return Finding(piece.module, version)


def _torch_mismatch() -> str:
    """Why torchvision does not go with torch, by its metadata."""
    torch = (installed_version('torch') or '').partition('+')[0]
    needed = re.findall(r'^torch\s*\(?==([\d.]+)', '\n'.join(metadata.requires('torchvision') or []), re.MULTILINE)
    return f'needs torch {needed[0]}, but {torch or "none"} is installed' if needed and needed[0] != torch else ''


def import_error(module: str) -> str:
    """Import a module quietly, and return the first line of the error, if any."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter('ignore')
        try:
            import_module(module)
        except Exception as error:  # a broken installation can raise anything
            return first_line(error)
    return ''


def show(findings: Sequence[Finding], toolboxes: Sequence[str]) -> None:
    """Print the findings, the commands that install what is missing, and a conclusion."""
    width = max(len(finding.name) for finding in findings)
    for name, found, works, _ in findings:
        found = re.sub('^missing: disables', 'optional, for', found) if works is None else found
        print(f'{"-" if works is None else "✓" if works else "✗"} {name:{width}}  {found}')
    for title, kind in (('To fix this, run in this order:', False), ('To add what is optional:', None)):
        commands = dict.fromkeys(finding.command for finding in findings if finding.works is kind and finding.command)
        if commands:
            print('', title, *commands, sep='\n')
    print(f'\nRepViT can be trained here, with {", ".join(toolboxes)}.' if toolboxes else
          '\nRepViT cannot be trained here: torch, torchvision, mmengine, mmcv and at least one toolbox must work.')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0 if RepViT can be trained here, else 1."""
    parser = argparse.ArgumentParser(
        prog='repvit-mm doctor', description='Report what is installed, what each missing package disables, and the '
                                             'command that installs it.')
    parser.add_argument('--deep', action='store_true', help='also import each package')
    findings, toolboxes = examine(parser.parse_args(arguments).deep)
    show(findings, toolboxes)
    return 0 if toolboxes else 1
