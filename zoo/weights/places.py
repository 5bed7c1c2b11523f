"""Addresses of official files, and error messages about files that must be downloaded manually."""
from ..utils.web import shown
from .cache import WeightsError
from .sources import Source, load

PLAIN = ('github', 'https', 'tsinghua', 'onedrive')


def fetchable(source: Source) -> bool:
    """Whether :func:`zoo.weights.fetch.fetch` can download the file."""
    return source.kind in ('hub', 'gdrive', *PLAIN)


def hub_file(location: str) -> tuple[str, str, str | None]:
    """Split ``org/repo:file@revision`` into repository, file and revision (None for the newest)."""
    repo, _, file = location.partition(':')
    file, _, revision = file.partition('@')
    return repo, file, revision or None


def address(source: Source) -> str:
    """Return the web address of the file, or '' if there is none."""
    if source.kind == 'hub':
        repo, file, revision = hub_file(source.location)
        return f'https://huggingface.co/{repo}/resolve/{revision or "main"}/{file}'
    return f'https://drive.google.com/uc?id={source.location}' if source.kind == 'gdrive' else source.location


def shown_address(source: Source) -> str:
    """Return :func:`address` for messages, without possible secrets."""
    return shown(address(source))


def manual_hint(source: Source) -> str:
    """Return the hint how to load a file that was downloaded manually."""
    model = source.name.partition('.')[0]
    return (f"With the file on disk, timm.create_model('{model}', pretrained=True, "
            f"pretrained_cfg_overlay=dict(file='...')) loads it")


def refuse_page(source: Source, is_page: bool) -> None:
    """Raise a WeightsError if a server has sent a web page instead of the file."""
    if is_page:
        raise WeightsError(
            f'{shown_address(source)} returned a web page instead of the file: the link has expired, or requires a '
            f'login or a confirmation. Open it in a browser; {_lower(manual_hint(source))}')


def why_unfetchable(source: Source) -> str:
    """Return the error message for a file that is not :func:`fetchable`."""
    if source.kind == 'none':
        model = source.name.partition('.')[0]
        others = [name for name, row in load().items() if name.startswith(f'{model}.') and fetchable(row)]
        instead = f'There are weights of {", ".join(others)}' if others else 'Use pretrained=False'
        return (f'there are no official weights of {source.name} to download ({source.note}). '
                f'{instead}; {_lower(manual_hint(source))}')
    note = f' ({source.note})' if source.note else ''
    return (f'the weights of {source.name} must be downloaded manually from {shown_address(source)}{note}. '
            f'{manual_hint(source)}')


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
