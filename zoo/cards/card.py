"""The text of a model card."""
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import yaml

from ..analysis import result_files
from ..bench.report import CPU_NOTE, milliseconds, number, table
from ..compatibility import result
from ..registry import family_of, modules, variant
from ..train.option_schema import TRAIN
from ..train.options import config_path, read_config
from ..utils.errors import ZooError
from ..weights.fetch import address, fetchable
from ..weights.sources import HOSTS, Source, tags
from . import dense
from .family_doc import NO_DEPARTURES, bibtex, family_doc

UNKNOWN = 'unknown'
OURS = ('quickstart', 'arena')  # recipes that are nobody's but ours begin so
TOP1 = re.compile(r'^# .*Top-1[^:]*: ((?:about )?[\d.]+ %)', re.MULTILINE)  # in the header of a recipe
DATASETS = {  # by the parts of a tag
    'in1k': 'imagenet-1k', 'in22k': 'imagenet-22k', 'cifar10': 'cifar10', 'cifar100': 'cifar100'}
LICENSES = {'MIT': 'mit', 'Apache-2.0': 'apache-2.0'}  # the hub's names of SPDX's


def card(name: str, repo: str | None = None) -> str:
    """A model card as Markdown, with a YAML front matter for ``huggingface_hub.ModelCard``.

    >>> '# RAVLT' in card('ravlt').splitlines()
    True

    Args:
        name: A family (``'ravlt'``) for the card of all its models; ``model.tag``, or ``model`` for its default tag,
            for the card of one.
        repo: ``org/name`` of the hub's repository that the card is for; the card then loads the model from there.

    Raises:
        ZooError: There is no such family, model or tag.
    """
    family, rows = _rows(name)
    told = family_doc(family)
    alone = name not in modules()
    models = [row.name.partition('.')[0] for row in rows]
    heading = f'# {rows[0].name}, of {told.title}' if alone else f'# {told.title}'
    papers = '\n\n'.join(bibtex(arxiv) for arxiv in told.papers)
    sections = {
        None: f'{heading}\n\n{told.summary[0].upper()}{told.summary[1:]}.\n\n{told.origin}',
        'What it is': told.about,
        'Known departures': told.departures or NO_DEPARTURES,
        'Models': _models(rows),
        'Weights': _weights(rows, repo),
        'Speed': _speed(models),
        'Will it run': _compatibility(models),
        'Usage': _usage(rows, repo),
        'Training': _training(models),
        'Detection and segmentation': dense.section(models),
        'Parity': _parity(models, 'third party' in ' '.join(told.origin.split())),
        'Licence': _licence(rows),
        'Citation': f'```bibtex\n{papers}\n```'}
    body = '\n\n'.join(f'## {title}\n\n{text}' if title else text for title, text in sections.items() if text)
    front = yaml.safe_dump(_front_matter(rows, alone), sort_keys=False, allow_unicode=True)
    return f'---\n{front}---\n\n{body}\n'


def _rows(name: str) -> tuple[str, list[Source]]:
    """The family of a card and its rows of the table of weights."""
    if name in modules():
        return name, [row for v in modules()[name] for row in tags(v.name).values()]
    model, _, tag = name.partition('.')
    family, rows = family_of(model), tags(model)
    if family is None or (tag and tag not in rows):
        raise ZooError(f'{name} is not a family, model or model.tag of the zoo; zoo.list_models() names the models')
    return family, [rows[tag] if tag else next(iter(rows.values()))]


def _front_matter(rows: Sequence[Source], alone: bool) -> dict[str, Any]:
    kept = [row for row in rows if fetchable(row)] or [row for row in rows if row.location]
    licences = {row.license for row in kept} or {'Apache-2.0'}  # of the code, where there are no weights
    known = LICENSES.get(next(iter(licences))) if len(licences) == 1 else None
    front: dict[str, Any] = dict(license=known or 'other')
    if not known:
        code = timm.get_pretrained_cfg(rows[0].name).origin_url
        front.update(license_name='none-stated' if licences == {UNKNOWN} else 'several', license_link=code)
    parts = {part for row in rows for part in row.name.partition('.')[2].split('_')}
    front.update(
        library_name='timm', pipeline_tag='image-classification', tags=['image-classification', 'timm'],
        datasets=[data for part, data in DATASETS.items() if part in parts])
    measured = result_files.accuracies().get(rows[0].name) if alone else None
    if measured is not None:
        metric = dict(type='accuracy', name='Top-1', value=round(measured, 2))
        data = dict(type='imagenet-1k', name='ImageNet-1k', split='validation')
        task = dict(type='image-classification', name='Image classification')
        front['metrics'] = ['accuracy']
        front['model-index'] = [dict(name=rows[0].name, results=[dict(task=task, dataset=data, metrics=[metric])])]
    return front


def _models(rows: Sequence[Source]) -> str:
    counts, measured = result_files.counts(), result_files.accuracies()
    columns = {
        'model': lambda row: f'`{row.name}`',
        'pixels': lambda row: 'x'.join(map(str, dict.fromkeys(row.size))),
        'crop': lambda row: f'{row.crop:g}' + (f', {row.crop_mode}' if row.crop_mode != 'center' else ''),
        'M parameters': lambda row: _figure(counts['rows'].get(row.name, {}).get('parameters'), 1e6),
        'GMACs': lambda row: _figure(counts['rows'].get(row.name, {}).get('macs'), 1e9),
        'top-1, published': lambda row: f'{row.top1:g}{"*" * bool(row.top1_source)}' if row.top1 else '-',
        'top-1, measured': lambda row: f'{measured[row.name]:.2f}' if row.name in measured else '-',
        'drop path': lambda row: f'{variant(row.name.partition(".")[0]).drop_path:g}',
        'linear': lambda row: 'yes' if variant(row.name.partition('.')[0]).linear else 'no'}
    if not any(row.name in measured for row in rows):
        del columns['top-1, measured']
    notes = [
        'Published accuracies are those of ImageNet-1k in percent, as the papers or their repositories state them: '
        'they are not measured here ("-": none stated).',
        'GMACs are multiplications, with an addition each, of matrix products, convolutions and attention for one '
        f'image of that size (measured with {_named(counts["versions"])}). Crop is the share of the resized image '
        'that evaluation keeps, drop path the stochastic depth of the published training. Linear: the work grows '
        'with the number of pixels, no faster.']
    others = ', '.join(f'`{row.name}` {row.top1_source}' for row in rows if row.top1_source)
    notes += [f'"*": not from a table of the authors: {others}.'] * bool(others)
    return '\n'.join([*table(columns, rows), '', *notes])


def _named(versions: dict[str, str]) -> str:
    return ', '.join(f'{name} {versions[name]}' for name in ('torch', 'timm') if name in versions)


def _figure(value: int | None, unit: float) -> str:
    return '-' if value is None else number(value / unit)


def _weights(rows: Sequence[Source], repo: str | None) -> str:
    columns = {
        'weights': lambda row: f'`{row.name}`',
        'from': lambda row: f'[{HOSTS[row.kind]}]({address(row)})' if row.location else '-',
        'licence': lambda row: 'none stated' if row.license == UNKNOWN else row.license,
        'sha256': lambda row: f'`{row.sha256[:16]}`…' if row.sha256 else '-',
        'note': lambda row: row.note}
    if not any(row.location for row in rows):
        if all(row.note.startswith('not ') for row in rows):
            return 'The authors have released no weights.'
        columns = {name: columns[name] for name in ('weights', 'licence', 'note')}
        return '\n'.join(['No file can be fetched by `pretrained=True`:', '', *table(columns, rows)])
    text = "The authors' own: "
    text += ('those from the place below with the key names of backbone-zoo, converted, not trained again.'
             if repo else '`pretrained=True` fetches them from the places below, checks and converts them.')
    return '\n'.join([text, '', *table(columns, rows)])


def _speed(models: Sequence[str]) -> str:
    rows = result_files.speed(models)
    if not rows:
        return ''
    columns = {
        'model': lambda r: f'`{r["model"]}`',
        'pixels': lambda r: f'{r["height"]} x {r["width"]}',
        'batch': lambda r: str(r['batch']),
        'device': lambda r: r['device'] + (f', threads: {r["threads"]}' if r['device_type'] == 'cpu' else ''),
        'variant': lambda r: f'{r["dtype"]}, {r["provider"]}, kernels {r["kernels"]}',
        'pass': lambda r: r['pass'],
        'images/s': lambda r: number(r['throughput']),
        'ms (quartiles)': lambda r: milliseconds(r['ms'])}
    versions = dict.fromkeys(_named(r['versions']) for r in rows)
    notes = [f'Measured with {"; ".join(versions)}.']
    if any(r['device_type'] == 'cpu' for r in rows):
        notes.append(f'On a CPU: {CPU_NOTE.partition(": ")[2]}.')
    return '\n'.join([*table(columns, rows), '', *notes])


def _compatibility(models: Sequence[str]) -> str:
    rows = {model: row for model in dict.fromkeys(models) if (row := result_files.tried(model))}
    if not rows:
        return ''
    return '\n'.join([
        *result.lines_of(rows), '', f'{result.MEANING[0].upper()}{result.MEANING[1:]} Reasons and versions: '
        'results/compatibility.md.'])


def _usage(rows: Sequence[Source], repo: str | None) -> str:
    row = next((row for row in rows if fetchable(row)), None)
    model = row.name.partition('.')[0] if row else rows[0].name.partition('.')[0]
    if row is not None and row is not next(iter(tags(model).values())):
        model = row.name
    named = f"'hf-hub:{repo}'" if repo else f"'{model}'"
    pretrained = ', pretrained=True' if row or repo else ''
    return '\n'.join([
        '```python', 'import timm, torch, zoo    # import zoo first: it tells timm of these models', '',
        f'model = timm.create_model({named}{pretrained}).eval()',
        'config = timm.data.resolve_model_data_config(model)',
        'transform = timm.data.create_transform(**config)       # of a PIL image, as in the published evaluation',
        "logits = model(torch.randn(1, *config['input_size']))  # any height and width from 32 pixels", '',
        f'backbone = timm.create_model({named}{pretrained}, features_only=True)',
        "maps = backbone(torch.randn(1, *config['input_size'])) # [B, C, H, W], one per stage", '```'])


@functools.cache
def training_recipes() -> tuple[dict[str, Any], ...]:
    """The published training recipes by name, each with name, command, model, method (epochs, pixels) and figures."""
    found = []
    for path in sorted(Path(config_path('quickstart')).parent.glob('[!_]*.yaml')):
        if path.stem.startswith(OURS):
            continue
        config, top1 = read_config(path, TRAIN), TOP1.search(path.read_text(encoding='utf-8'))
        size = config.get('img_size') or (config.get('input_size') or (224,))[-1]
        found.append(dict(
            name=path.stem, command='train', model=config['model'], method=f'{config["epochs"]} epochs, {size} pixels',
            figures=top1 and f'{top1[1]} top-1'))
    return tuple(found)


def recipes(models: Sequence[str]) -> list[str]:
    """Names of the training recipes of some models."""
    return [row['name'] for model in dict.fromkeys(models) for row in training_recipes() if row['model'] == model]


def _training(models: Sequence[str]) -> str:
    names = recipes(models)
    if not names:
        return 'No recipe is published.'
    return '\n'.join([
        f'The published recipes are those of configs/train: {", ".join(f"`{name}`" for name in names)}.', '',
        '```', f'python -m zoo train --config {names[0]} --data-dir IMAGENET', '```', '',
        'None of them has been run to its end on ImageNet with this code.'])


def _parity(models: Sequence[str], by_others: bool) -> str:
    content = result_files.parity()
    rows = [dict(row, golden=golden) for golden, row in content['rows'].items() if golden.partition('@')[0] in models]
    if not rows:
        return 'There is no whole model of the authors to compare with.' if content['rows'] else ''
    columns = {
        'model @ pixels': lambda r: f'`{r["golden"]}`', 'logits': lambda r: f'{r["logits"]:.1e}',
        'input gradient': lambda r: f'{r["grad"]:.1e}', 'agrees': lambda r: 'yes' if r['agrees'] else 'no'}
    measured = dict.fromkeys(_named(row['versions']) for row in rows)
    whose = "a third party's" if by_others else "the authors' own"
    text = (
        f'Largest difference from {whose} code with the same weights, in float64, relative to the largest '
        'value; weights go through the conversion that official checkpoints go through. Measured with '
        f'{"; ".join(measured)}.')
    return '\n'.join([text, '', *table(columns, rows)])


def _licence(rows: Sequence[Source]) -> str:
    lines = ['The code is under the Apache licence 2.0.']
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.location:
            groups.setdefault(row.license, []).append(f'`{row.name}`')
    for license, names in groups.items():
        which = 'the weights' if len(groups) == 1 else ', '.join(names)
        lines.append(
            f'For {which} no licence is stated: they can be had from the authors, and are not passed on.'
            if license == UNKNOWN else f'The licence of {which} is {license}.')
    return '\n'.join(lines)
