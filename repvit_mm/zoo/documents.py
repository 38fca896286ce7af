"""The tables of the documentation, generated from the metafiles."""
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..io.files import atomic_write
from .plots import draw_family, load_peers
from .rows import TABLES, Row
from .tables import markdown_table

#: The generated part of a document is between these lines.
BEGIN, END = '<!-- zoo: begin -->', '<!-- zoo: end -->'
#: The command that generates it.
COMMAND = 'python tools/reproduce_tables.py --write-docs'


def documents(rows: Sequence[Row], root: Path) -> dict[Path, str]:
    """The generated documents of a checkout.

    Args:
        rows: All rows.
        root: Root of the checkout.

    Returns:
        File -> content.

    Raises:
        UserError: If the README or its markers are missing.
    """
    readme = root / 'README.md'
    if not readme.is_file():
        raise UserError(f'{readme} does not exist: documents are generated in a checkout only')
    text = readme.read_text()
    marked = re.compile(f'{re.escape(BEGIN)}\n.*?{re.escape(END)}', re.DOTALL)
    if len(marked.findall(text)) != 1:
        raise UserError(f'{readme} must have the line {BEGIN} once, followed by {END}')
    return {readme: marked.sub(lambda _: f'{BEGIN}\n{short_tables(rows)}\n{END}', text),
            root / 'docs' / 'zoo.md': full_tables(rows)}


def write_documents(rows: Sequence[Row], root: Path) -> list[Path]:
    """Write the generated documents and the picture.

    Returns:
        The files.
    """
    contents = documents(rows, root)
    for path, content in contents.items():
        with atomic_write(path) as part:
            part.write_text(content)
    picture = root / 'docs' / 'images' / 'accuracy.png'
    picture.parent.mkdir(exist_ok=True)
    with atomic_write(picture) as part:
        draw_family(rows, part)
    return [*contents, picture]


def short_tables(rows: Sequence[Row]) -> str:
    """The README's tables, with one line for each architecture."""
    classifiers = [row for row in rows if row.table == 'imagenet']
    lines = []
    for arch in dict.fromkeys(row.arch for row in classifiers):
        chosen = {_kind(row): row for row in classifiers if row.arch == arch}
        first = next(iter(chosen.values()))
        lines.append([_arch(first), _mega(first.parameters), _giga(first.macs),
                      *(_top1(chosen.get(kind)) for kind in ('300', '450', 'plain')), _latency(first)])
    dense = {arch: {row.table: row for row in rows if row.arch == arch and row.table in ('coco', 'ade20k')}
             for arch in dict.fromkeys(row.arch for row in rows if row.table == 'coco')}
    return '\n'.join([
        'ImageNet-1K top-1 in %, with a teacher (300 and 450 epochs) and without (300 epochs); parameters and '
        "multiply-adds are the fused model's at 224 x 224; latency is one image's on an iPhone 12. Configs: "
        '`configs/classification/repvit_MODEL_{distill_300e,distill_450e,300e}.py`.', '',
        markdown_table(['model', 'parameters', 'MACs', '300 epochs', '450 epochs', 'no teacher', 'latency'], lines),
        '', "Mask R-CNN on COCO (12 epochs) and Semantic FPN on ADE20K (40,000 iterations); latency is the backbone's "
        'at 512 x 512. Configs: `configs/detection/maskrcnn_repvit_MODEL.py`, '
        '`configs/segmentation/fpn_repvit_MODEL.py`.', '',
        markdown_table(['backbone', 'box AP', 'mask AP', 'mIoU', 'latency'], [
            [_arch(found['coco']), f'{found["coco"].result("box AP"):.1f}', f'{found["coco"].result("mask AP"):.1f}',
             f'{found["ade20k"].result("mIoU"):.1f}', _latency(found['coco'])] for found in dense.values()])])


def full_tables(rows: Sequence[Row]) -> str:
    """``docs/zoo.md``."""
    parts = [f'<!-- Generated from the metafiles: {COMMAND} -->', '# Model zoo', INTRODUCTION,
             '![Top-1 against latency and against multiply-adds](images/accuracy.png)', _sources_of_peers()]
    for table, about in TABLES.items():
        chosen = [row for row in rows if row.table == table]
        conventions = '\n'.join(f'- {name.replace("FLOPs", "MACs")}: {text}.'
                                for name, text in chosen[0].conventions.items())
        parts += [f'## {about.title}', _full_sam(chosen) if table == 'sam' else _full_table(chosen), conventions]
    return '\n\n'.join(parts) + '\n'


INTRODUCTION = """\
The accuracies are the authors'; they were not reproduced here, as data and weights were not available. One command
recomputes what it can on a machine, and lists published and measured figures side by side, with the reason for those
that are missing:

```bash
python tools/reproduce_tables.py                                  # parameters and MACs of every model
python tools/reproduce_tables.py imagenet --data-root data/imagenet --download
python tools/reproduce_tables.py coco ade20k --data-root coco=/data/coco ade20k=/data/ade --weights DIR --gpus 8
```

Tables (Markdown and JSON) and pictures are written to `outputs/tables`, or to the folder of `--out`. Measurements are
reused until config, weights, data or versions change; `--fresh` repeats them. `--models NAME` selects models,
`--latency` measures the latency of this machine, `--curves PATH` draws training curves. Weights that are
not released are expected as `MODEL.pth` in the folder of `--weights`. m1, m2 and m3 are the first version's."""


def _full_table(rows: Sequence[Row]) -> str:
    names = list(dict.fromkeys(result.name for row in rows for result in row.results))
    lines = []
    for row in rows:
        figures = {result.name: f'{result.value:.{result.metric.decimals}f}' for result in row.results}
        lines.append([f'[{row.name}](../{row.config})', f'{row.parameters:,}', f'{row.training_parameters:,}',
                      _giga(row.macs), *(figures.get(name, '-') for name in names), _latency(row), _weights(row)])
    return markdown_table(['config', 'parameters', 'in training', 'MACs', *names, 'latency', 'weights'], lines)


def _full_sam(rows: Sequence[Row]) -> str:
    parts = []
    for row in rows:
        size = markdown_table(
            ['config', 'parameters', 'in training', 'MACs', 'weights'],
            [[f'[{row.name}](../{row.config})', f'{row.parameters:,}', f'{row.training_parameters:,}', _giga(row.macs),
              _weights(row)]])
        scores = markdown_table(['zero-shot on', 'metric', 'published'], [
            [result.dataset, result.name, f'{result.value:.{result.metric.decimals}f}'] for result in row.results], 2)
        times = markdown_table(['part', 'device', 'ms'], [
            [one.part, one.hardware, f'{one.value:.1f}'] for one in row.latencies], 2)
        parts += [size, scores, times]
    return '\n\n'.join(parts)


def _sources_of_peers() -> str:
    sources = {peer.family: peer.source.replace(' and ', ', ') for peer in load_peers()}
    return "The other families' points are published ones: " + '; '.join(
        f'{family} ({source})' for family, source in sources.items()) + '.'


def _kind(row: Row) -> str:
    return str(row.epochs) if row.distilled else 'plain'


def _arch(row: Row) -> str:
    return row.arch if '_' in row.arch else f'{row.arch} (first version)'


def _mega(parameters: int) -> str:
    return f'{parameters / 1e6:.1f} M'


def _giga(macs: int) -> str:
    return f'{macs / 1e9:.1f} G' if macs > 1e10 else f'{macs / 1e9:.2f} G'


def _top1(row: Row | None) -> str:
    return '-' if row is None else f'{row.result("Top 1 Accuracy"):.1f}'


def _latency(row: Row) -> str:
    return f'{row.latencies[0].value:.1f} ms' if row.latencies else '-'


def _weights(row: Row) -> str:
    return '-' if row.weights is None else f'[file]({row.weights.url})'
