"""The section of the cards about detection and segmentation, from the configs."""
import ast
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..bench.report import table
from ..train.options import config_path

KINDS = {'mmdet': ('train-det', 'mask_rcnn_ravlt_t_1x'), 'mmseg': ('train-seg', 'fpn_ravlt_t_80k')}  # with one of each
TITLE = re.compile(r'(?P<method>.+), \w+\. Published: (?P<figures>.+)\.')
UNPUBLISHED = 'no figure in the repository'


class Dense(NamedTuple):
    """One config: its name, the command that runs it, the model, the method and the published figures."""

    name: str
    command: str
    model: str
    method: str
    figures: str


@functools.cache
def configs() -> tuple[Dense, ...]:
    """Every config that follows a published recipe, in order of its name."""
    found = []
    for kind, (command, one) in KINDS.items():
        for path in sorted(Path(config_path(one, kind)).parent.glob('[!_]*.py')):
            tree = ast.parse(path.read_text(encoding='utf-8'))
            title = TITLE.match(ast.get_docstring(tree).splitlines()[0])
            if title:
                found.append(Dense(path.stem, command, _model(tree), title['method'], title['figures']))
    return tuple(found)


def section(models: Sequence[str]) -> str:
    """The table of the configs of some models as Markdown; '' without any."""
    rows = [row for row in configs() if row.model in models]
    if not rows:
        return ''
    columns = {
        'config': lambda row: f'`{row.name}`', 'method': lambda row: row.method,
        'published': lambda row: '-' if row.figures == UNPUBLISHED else row.figures}
    return '\n'.join([
        'Configs of mmdet (COCO) and mmsegmentation (ADE20K), in configs/mmdet and configs/mmseg. The figures are '
        'those that the repository of the authors states ("-": none); none of the configs has been run to its end '
        'with this code.', '', *table(columns, rows), '',
        '```', f'python -m zoo {rows[0].command} {rows[0].name} DATA_DIR', '```'])


def _model(tree: ast.Module) -> str:
    """Name of the backbone's model, ``model = dict(backbone=dict(model=HERE, ...), ...)``, without its tag."""
    backbone = next(
        word.value for node in ast.walk(tree) if isinstance(node, ast.Call) for word in node.keywords
        if word.arg == 'backbone')
    return next(word.value.value for word in backbone.keywords if word.arg == 'model').partition('.')[0]
