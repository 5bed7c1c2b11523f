"""What the page shows, as plain data: models, points of the chart, what runs with what, arenas, commands to copy."""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..analysis import catalog, pareto, result_files
from ..cards import dense
from ..cards.card import UNKNOWN, training_recipes
from ..cards.family_doc import family_doc
from ..registry import family_of, mixers_of, modules, smallest_like
from ..utils.errors import ZooError
from ..weights.sources import IMAGES, Source, load
from .outcomes import arena, matrix

Row = dict[str, Any]
TRAINING = {  # by the part of a tag: what weights of such a tag have learned from
    'in22k_ft_in1k': 'ImageNet-22k, then 1k', 'in22k': 'ImageNet-22k', 'dino_in1k': 'ImageNet-1k, without labels',
    'in1k': 'ImageNet-1k', 'cifar100': 'CIFAR-100', 'cifar10': 'CIFAR-10'}


class Command(NamedTuple):
    """A text to copy.

    Args:
        title: What it does.
        text: The text, with the names of a row's entries in braces.
        needs: Entry of a row without which it is left out; '' for none.
    """

    title: str
    text: str
    needs: str = ''


COMMANDS = (
    Command('build it with its weights', "import timm, zoo\nmodel = timm.create_model('{name}', pretrained=True)",
            'downloadable'),
    Command('build it', "import timm, zoo\nmodel = timm.create_model('{name}')"),
    Command('feature maps at several strides', "maps = timm.create_model('{name}', features_only=True)"),
    Command('what it is, which kernels it calls', 'zoo info {name}'),
    Command('name what is in a picture', 'zoo infer {name} picture.jpg', 'classifies'),
    Command('measure its accuracy', 'zoo validate --model {name} --pretrained --data-dir IMAGENET', 'classifies'),
    Command('train it by the published recipe', 'zoo train --config {recipe} --data-dir IMAGENET', 'recipe'),
    Command('fine-tune it on your pictures', 'zoo train --model {name} --pretrained --data-dir PICTURES', 'classifies'),
    Command('a detector on it', 'zoo train-det {detector} data/coco', 'detector'),
    Command('a segmentor on it', 'zoo train-seg {segmentor} data/ade/ADEChallengeData2016', 'segmentor'),
    Command('a file for other runtimes', 'zoo export {name} --format onnx --pretrained', 'downloadable'),
)


def collect(files: Mapping[str, Any], setting: str = '') -> dict[str, Any]:
    """Everything that the page shows.

    >>> content = collect(result_files.read([]))
    >>> [row['name'] for row in content['models'] if row['family'] == 'ravlt']
    ['ravlt_b.in1k', 'ravlt_l.in1k', 'ravlt_s.in1k', 'ravlt_t.in1k']

    Args:
        files: As :func:`zoo.analysis.result_files.read` gives them.
        setting: Part of the setting that throughput was measured in; the one with most models by default.

    Returns:
        ``models``, a row per ``model.tag``; ``families`` by short name; ``costs``, the axes of the chart with their
        ``points``; ``matrix`` and ``arenas``; ``commands``; ``about``, numbers and versions.

    Raises:
        ZooError: No throughput was measured in such a setting.
    """
    costs = {cost: found for cost in pareto.COSTS if (found := _cost(cost, files, setting))}
    tools = matrix(files)
    models = _models(files, costs, tools)
    families = {family: _family(family) for family in dict.fromkeys(row['family'] for row in models) if family}
    counts = result_files.counts()
    return dict(
        models=models, families=families, costs=costs, matrix=tools,
        kinds={kind: about for kind, (about, *_) in pareto.KINDS.items()},
        arenas=[found for content in files.values() if (found := arena(content))],
        commands=[command._asdict() for command in COMMANDS],
        about=dict(
            models=len({row['model'] for row in models}), weights=len(models), families=len(families),
            downloadable=sum(bool(row['downloadable']) for row in models),
            compared=len({golden.partition('@')[0] for golden in result_files.parity()['rows']}),
            measured=sum(row['measured_top1'] is not None for row in models), images=IMAGES,
            versions={name: text for name, text in counts['versions'].items() if name in ('zoo', 'torch', 'timm')},
            date=str(counts.get('date', '')).partition('T')[0]))


def _cost(cost: str, files: Mapping[str, Any], setting: str) -> Row:
    """An axis of the chart, with the points against it; {} for throughput that nobody has measured."""
    try:
        points, chosen = pareto.collect([], cost, list(pareto.KINDS), files, setting if cost == 'throughput' else '')
    except ZooError:
        if setting:
            raise
        return {}
    title, less = pareto.COSTS[cost]
    best = {kind: [point.name for point in pareto.front((p for p in points if p.kind == kind), less)]
            for kind in pareto.KINDS}
    return dict(title=title, less=less, setting=chosen, front=best, points=[
        dict(name=p.name, label=p.label, kind=p.kind, cost=p.cost, top1=p.top1) for p in points])


def _models(files: Mapping[str, Any], costs: Mapping[str, Row], tools: Row) -> list[Row]:
    measured = result_files.accuracies(files)
    speeds = {point['name']: point['cost'] for point in costs.get('throughput', {}).get('points', ())}
    sources, listed = load(), modules()
    rows = []
    for row in catalog.rows():
        model, _, tag = row['name'].partition('.')
        family = family_of(model)
        kin = [v.name for v in listed[family]] if family else []
        relative = next((name for name in (model, smallest_like(model)) if name in tools.get('rows', {})), None)
        rows.append({
            **_of_weights(sources.get(row['name'])), **row, 'model': model, 'tag': tag, 'family': family,
            'measured_top1': measured.get(row['name']), 'throughput': speeds.get(row['name']),
            'training': next((text for part, text in TRAINING.items() if part in tag), tag or None),
            'mixers': list(dict.fromkeys(_names(mixers_of(model)))), 'tried': relative,
            'front': [cost for cost, axis in costs.items() if any(row['name'] in names for names in axis[
                'front'].values())],
            'parity': _parity(model, row.get('size')), 'relatives': _compared(kin),
            'classifies': bool(row.get('downloadable') and row.get('num_classes') == 1000 and row.get('top1')),
            **_recipes(model, row.get('size'))})
    return rows


def _of_weights(source: Source | None) -> Row:
    """Entries that every row has, with what the table of weights alone knows."""
    empty = dict.fromkeys((
        'size', 'crop', 'crop_mode', 'top1', 'top1_source', 'measured_top1', 'host', 'address', 'downloadable',
        'license', 'num_classes', 'note'))
    return {**empty, 'sha256': source and source.sha256, 'bytes': source and source.bytes}


def _names(table: Any) -> Iterator[str]:
    """The names in a table of mixers, which may be nested."""
    if isinstance(table, str):
        yield table
    elif isinstance(table, (list, tuple)):
        for entry in table:
            yield from _names(entry)


def _parity(model: str, size: Sequence[int] | None) -> Row | None:
    """How far a model is from the authors' code, at the size of the weights if that was compared."""
    rows = {golden: row for golden, row in result_files.parity()['rows'].items() if golden.partition('@')[0] == model}
    if not rows:
        return None
    own = f'{model}@{"x".join(map(str, dict.fromkeys(size or ())))}'
    golden = own if own in rows else next(iter(rows))
    return dict(pixels=golden.partition('@')[2], **{key: rows[golden][key] for key in ('logits', 'grad', 'agrees')})


def _compared(models: Sequence[str]) -> int:
    """How many of some models were compared with the authors' code."""
    return len({golden.partition('@')[0] for golden in result_files.parity()['rows']}.intersection(models))


def _recipes(model: str, size: Sequence[int] | None) -> dict[str, str | None]:
    """Names of the recipe for a model at a size, and of the first configs for detection and segmentation."""
    own = [row['name'] for row in training_recipes() if row['model'] == model]
    wanted = f'{model}_{(size or (0,))[0]}', model
    found: dict[str, str | None] = dict(recipe=next((name for name in (*wanted, *own) if name in own), None))
    for key, command in (('detector', 'train-det'), ('segmentor', 'train-seg')):
        configs = (row.name for row in dense.configs() if row.model == model and row.command == command)
        found[key] = next(configs, None)
    return found


def _family(family: str) -> Row:
    told = family_doc(family)
    return dict(title=told.title, summary=told.summary, papers=list(told.papers))


def licence(name: str | None) -> str:
    """The licence of weights as people read it."""
    return 'none stated' if name == UNKNOWN else name or ''
