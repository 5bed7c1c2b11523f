"""``python -m zoo plot``: draw accuracy against cost, with the Pareto front."""
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..analysis import result_files
from ..analysis.pareto import COSTS, KINDS, collect, draw, front
from ..train.options import Parser
from ..utils.errors import ZooError, cli_main, require_packages
from ..utils.figures import FORMATS, write_figure
from ..utils.files import check_writable


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m zoo plot``; returns the exit code."""
    return cli_main(_run, argv, parser)


def _run(argv: Sequence[str]) -> None:
    args = parser().parse_intermixed_args(list(argv))  # options may stand before names, too
    require_packages('matplotlib')
    paths = _outputs(args.output)
    check_writable(paths[0].parent)
    files = result_files.read([Path(file) for file in args.results])
    kinds = list(KINDS) if args.accuracy == 'both' else [args.accuracy]
    panels, setting = {}, ''
    for cost in args.against:
        panels[cost], chosen = collect(args.models, cost, kinds, files, args.setting)
        setting = setting or chosen
        if not panels[cost]:
            raise ZooError(f'no accuracy ({args.accuracy}) of these models to draw against {cost}; python -m zoo list '
                           f'shows what there is')
    figure = draw(panels, setting)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_figure(path, figure)
    for cost, points in panels.items():
        counts = Counter(point.kind for point in points)
        print(f'{cost}: ' + ', '.join(f'{n} {kind}' for kind, n in counts.items()) + (
            f' ({setting})' if cost == 'throughput' else ''))
        for kind in counts:
            for point in front((p for p in points if p.kind == kind), COSTS[cost][1]):
                print(f'  {kind} front  {point.cost:8.2f}  {point.top1:5.1f} %  {point.name}')
    print('wrote ' + ', '.join(str(path) for path in paths))


def _outputs(text: str) -> list[Path]:
    path = Path(text)
    if path.suffix in FORMATS:
        return [path]
    if path.suffix or not path.name:
        raise ZooError(f'--output {text}: end in {", ".join(FORMATS)}, or in no suffix at all for png and svg')
    return [path.with_name(path.name + suffix) for suffix in FORMATS[:2]]


def parser() -> Parser:
    """The command line's parser."""
    parser = Parser('zoo plot', description=(
        'Draw accuracy on ImageNet-1k against cost, with the Pareto front. Accuracies are those that the authors '
        'published and those measured here, which look different; costs come from result files.'), allow_abbrev=False)
    parser.add_argument('models', nargs='*', metavar='MODEL', help="names or globs, as 'agent_*' or '*.in1k' (default: "
                                                                   'all)')
    parser.add_argument('--against', nargs='+', choices=COSTS, default=['macs', 'parameters'], metavar='COST',
                        help=f'{", ".join(COSTS)} (default: macs parameters)')
    parser.add_argument('--accuracy', choices=(*KINDS, 'both'), default='both', help='whose (default: both)')
    add_result_options(parser)
    parser.add_argument('--output', default='output/plot/accuracy', metavar='FILE', help='a png, svg or pdf file; '
                        'without a suffix png and svg (default: output/plot/accuracy)')
    parser.add_argument('--debug', action='store_true', help='show tracebacks')
    return parser


def add_result_options(parser: Parser) -> None:
    """Add ``--results`` and ``--setting``: where measured accuracies and throughput come from."""
    parser.add_argument('--results', nargs='+', default=[], metavar='FILE', help='more results of "benchmark models" '
                        'and "validate --results-format json"; those of the zoo are read anyway')
    parser.add_argument('--setting', default='', metavar='TEXT', help='for throughput: part of the device, data type, '
                        'batch or versions (default: where most models were measured)')
