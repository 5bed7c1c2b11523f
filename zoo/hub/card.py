"""The card of published weights: README.md of a hub repository."""
from collections.abc import Mapping

from torch import nn

from ..cards.card import card

REPOSITORY = 'ORG/NAME'  # stands in a card until its model is published
BODY = '''
# {name_tag}

{paper}Weights converted from {file}, with the key names of backbone-zoo. They are not, or not known to be,
those that the authors of the paper released, and no accuracy is claimed here.

```python
import timm, zoo          # import zoo first: it makes the model known to timm

model = timm.create_model('hf-hub:{repository}', pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
```

Without `import zoo`, `timm.create_model` answers `RuntimeError: Unknown model ({model})`.

{parameters:.2f} M parameters, {classes} classes, images of {height} x {width} pixels. SHA-256 of the checkpoint:
`{sha256}`. Licence: {license}.
'''


def write(name_tag: str, model: nn.Module, metadata: Mapping[str, str], official: bool) -> str:
    """A card with front matter that huggingface_hub's ``ModelCard`` takes.

    Args:
        name_tag: ``model.tag``.
        model: The model, on any device.
        metadata: Of the weights: :func:`zoo.weights.official.provenance`.
        official: Whether the weights are those that the authors released, with their licence and accuracy.
    """
    if official:
        return card(name_tag, REPOSITORY)
    from huggingface_hub import ModelCardData

    cfg = model.pretrained_cfg
    data = ModelCardData(
        license=metadata['license'].lower(), library_name='timm', pipeline_tag='image-classification',
        tags=['image-classification', 'timm', 'backbone-zoo'], model_name=name_tag)
    body = BODY.format(
        name_tag=name_tag, paper=_paper(cfg), file=metadata['source'], repository=REPOSITORY,
        model=name_tag.partition('.')[0], parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        classes=model.num_classes, height=cfg['input_size'][1], width=cfg['input_size'][2],
        sha256=metadata['source_sha256'], license=metadata['license'])
    return f'---\n{data.to_yaml()}\n---\n{body}'


def _paper(cfg: Mapping) -> str:
    if not cfg.get('paper_name'):
        return ''
    number = cfg['paper_ids'].partition(':')[2]
    return f'{cfg["paper_name"]}, [{number}](https://arxiv.org/abs/{number}). '
