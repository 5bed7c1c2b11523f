"""The card of weights: README.md of a hub repository."""
import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..cards.card import card
from ..utils.errors import printable

REPOSITORY = 'ORG/NAME'  # stands in a card until its model is published
PERCENT = dict(top1='top-1 accuracy', top5='top-5 accuracy')  # metrics in per cent
MOST_LABELS = 50  # in a card
USAGE = '''
```python
import timm, zoo          # import zoo first: it makes the model known to timm

model = timm.create_model('hf-hub:{repository}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
```

or, with transformers,

```python
import zoo
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained('{repository}')
model = AutoModelForImageClassification.from_pretrained('{repository}')
```

Without `import zoo`, timm answers `RuntimeError: Unknown model ({model})`, and transformers, misleadingly,
`ImportError: The model architecture '{model}' is not supported in your version of timm`.
'''
CONVERTED = '''
# {name_tag}

{paper}Weights converted from {file}, with the key names of backbone-zoo. They are not, or not known to be,
those that the authors of the paper released, and no accuracy is claimed here.
{usage}
{parameters:.2f} M parameters, {classes} classes, images of {height} x {width} pixels. SHA-256 of the checkpoint:
`{sha256}`. Licence: {license}.
'''
TRAINED = '''
# {name_tag}

{model} trained by backbone-zoo to tell {classes} classes apart. {accuracy}
{usage}
{parameters:.2f} M parameters, images of {height} x {width} pixels with {channels} channel(s). SHA-256 of the
checkpoint: `{sha256}`. Licence: {license}. {paper}

## Classes

{labels}

## Training

| option | value |
| --- | --- |
{training}
'''


def of_converted(name_tag: str, model: nn.Module, metadata: Mapping[str, str], official: bool) -> str:
    """A card with front matter that huggingface_hub's ``ModelCard`` takes.

    Args:
        name_tag: ``model.tag``.
        model: The model, on any device.
        metadata: Of the weights: :func:`zoo.weights.official.provenance`.
        official: Whether the weights are those that the authors released, with their licence and accuracy.
    """
    if official:
        return card(name_tag, REPOSITORY)
    cfg, data = model.pretrained_cfg, _front(name_tag, metadata['license'])
    body = CONVERTED.format(paper=_paper(cfg), file=metadata['source'], **_facts(name_tag, model, metadata))
    return _with_front(data, body)


def of_trained(
        name_tag: str, model: nn.Module, metadata: Mapping[str, str], labels: Sequence[str] | None,
        metrics: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """The card of weights from ``zoo train``, with classes, accuracy and options of the run.

    Args:
        name_tag: ``model.tag``.
        model: The model; its ``pretrained_cfg`` is that of the weights.
        metadata: Of the weights: :func:`zoo.weights.official.provenance`.
        labels: Names of the classes.
        metrics: name, value, data and split of what was measured; empty for nothing.
        training: Options of the run by name.
    """
    from huggingface_hub import EvalResult

    cfg, name = model.pretrained_cfg, name_tag.partition('.')[0]
    results = [EvalResult(
        task_type='image-classification', dataset_type='imagefolder', dataset_name=metrics['data'],
        dataset_split=metrics['split'], metric_type='accuracy', metric_name=metrics['name'],
        metric_value=round(metrics['value'], 4))] if metrics.get('name') in PERCENT else None
    data = _front(name_tag, metadata['license'], eval_results=results)
    rows = '\n'.join(f'| {key} | {escape(str(value))} |' for key, value in training.items())
    body = TRAINED.format(
        model=name, paper=_paper(cfg), channels=cfg['input_size'][0], accuracy=_accuracy(metrics),
        labels=_labels(labels), training=rows, **_facts(name_tag, model, metadata))
    return _with_front(data, body)


def escape(text: str) -> str:
    """Escape a text so that Markdown and HTML show it literally, even in a cell of a table."""
    return re.sub(r'([\\`*_\[\]|~])', r'\\\1', html.escape(printable(text), quote=False))


def _facts(name_tag: str, model: nn.Module, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The part that all cards have in common."""
    usage = USAGE.format(repository=REPOSITORY, model=name_tag.partition('.')[0])
    _, height, width = model.pretrained_cfg['input_size']
    return dict(
        name_tag=name_tag, usage=usage, parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        classes=model.num_classes, height=height, width=width, sha256=metadata['source_sha256'],
        license=metadata['license'])


def _front(name_tag: str, license: str, **more: Any) -> Any:
    from huggingface_hub import ModelCardData

    return ModelCardData(
        license=license.lower(), library_name='timm', pipeline_tag='image-classification',
        tags=['image-classification', 'timm', 'backbone-zoo'], model_name=name_tag, **more)


def _with_front(data: Any, body: str) -> str:
    return f'---\n{data.to_yaml()}\n---\n{body}'


def _accuracy(metrics: Mapping[str, Any]) -> str:
    if not metrics:
        return 'No metric was recorded with this checkpoint.'
    unit = ' %' if metrics['name'] in PERCENT else ''
    return (f'{PERCENT.get(metrics["name"], metrics["name"])} {metrics["value"]:.2f}{unit} on the split '
            f'{escape(metrics["split"])} of {escape(metrics["data"])}, as its checkpoint says.')


def _labels(labels: Sequence[str] | None) -> str:
    if not labels:
        return 'The names of the classes were not recorded.'
    more = f'\n\n... and {len(labels) - MOST_LABELS} more in `config.json`.' if len(labels) > MOST_LABELS else ''
    return '\n'.join(f'* {number}: {escape(name)}' for number, name in enumerate(labels[:MOST_LABELS])) + more


def _paper(cfg: Mapping) -> str:
    if not cfg.get('paper_name') or not cfg.get('paper_ids'):
        return ''
    number = cfg['paper_ids'].partition(':')[2]
    return f'{cfg["paper_name"]}, [{number}](https://arxiv.org/abs/{number}). '
