"""Where a person finds an official file, and how to go on with one that he has got himself."""
from ..utils.web import shown
from .cache import WeightsError
from .sources import Source, load

PLAIN = ('github', 'https', 'tsinghua', 'onedrive')


def fetchable(source: Source) -> bool:
    """Whether :func:`zoo.weights.fetch.fetch` knows a way to the file."""
    return source.kind in ('hub', 'gdrive', *PLAIN)


def hub_file(location: str) -> tuple[str, str, str | None]:
    """Repository, file and revision (None: the newest) of ``org/repo:file@revision``."""
    repo, _, file = location.partition(':')
    file, _, revision = file.partition('@')
    return repo, file, revision or None


def address(source: Source) -> str:
    """Where a person finds the file; '' if there is none."""
    if source.kind == 'hub':
        repo, file, revision = hub_file(source.location)
        return f'https://huggingface.co/{repo}/resolve/{revision or "main"}/{file}'
    return f'https://drive.google.com/uc?id={source.location}' if source.kind == 'gdrive' else source.location


def shown_address(source: Source) -> str:
    """:func:`address` for messages, without what may be a secret in it."""
    return shown(address(source))


def manual_hint(source: Source) -> str:
    """How to go on with a file that one has got oneself."""
    model = source.name.partition('.')[0]
    return (f"With the file on disk, timm.create_model('{model}', pretrained=True, "
            f"pretrained_cfg_overlay=dict(file='...')) loads it")


def refuse_page(source: Source, is_page: bool) -> None:
    """Raise the error for a web page that a server has sent instead of the file."""
    if is_page:
        raise WeightsError(
            f'{shown_address(source)} answers with a web page instead of the file: the link has expired, or wants a '
            f'login or a click. Open it in a browser; {_lower(manual_hint(source))}')


def why_unfetchable(source: Source) -> str:
    """What to say of a file that is not :func:`fetchable`."""
    if source.kind == 'none':
        model = source.name.partition('.')[0]
        others = [name for name, row in load().items() if name.startswith(f'{model}.') and fetchable(row)]
        instead = f'There are weights of {", ".join(others)}' if others else 'pretrained=False makes the model without'
        return (f'there are no official weights of {source.name} to download ({source.note}). '
                f'{instead}; {_lower(manual_hint(source))}')
    note = f' ({source.note})' if source.note else ''
    return (f'the weights of {source.name} have to be fetched by hand from {shown_address(source)}{note}. '
            f'{manual_hint(source)}')


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
