// Charts, by Vega with its interpreter, which needs no eval.
let accuracyView, arenaViews = [];

const spec = (name) => JSON.parse(one(`#${name}-spec`).textContent);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function chartConfig() {
  const axis = {labelColor: css('--muted'), titleColor: css('--text'), gridColor: css('--line'),
    domainColor: css('--line'), tickColor: css('--line'), titleFontWeight: 600, titlePadding: 10, labelFontSize: 12,
    titleFontSize: 12, labelFont: css('--sans'), titleFont: css('--sans')};
  return {background: 'transparent', axis, text: {font: css('--sans')}};
}

async function embed(place, name, points, signals) {
  const chart = spec(name);
  chart.data[0].values = points;
  chart.signals = chart.signals.map((signal) => (
    signal.name in signals ? {...signal, value: signals[signal.name]} : signal));
  const {view} = await window.zooEmbed(place, chart, {
    mode: 'vega', renderer: 'svg', ast: true, config: chartConfig(), tooltip: {theme: dark() ? 'dark' : 'light'},
    downloadFileName: place.id || 'arena', actions: {export: true, source: false, compiled: false, editor: false}});
  return view;
}

const colours = () => ({ink: css('--text'), muted: css('--muted'), faint: css('--faint'), paper: css('--paper'),
  accent: css('--accent')});

async function drawCharts() {
  accuracyView?.finalize();
  arenaViews.forEach((view) => view.finalize());
  accuracyView = await embed(one('#accuracy'), 'accuracy', chartPoints(), {
    ...colours(), title: data.costs[cost()].title, less: data.costs[cost()].less});
  accuracyView.addEventListener('click', (_, item) => {
    if (item?.datum?.name) openDetail(item.datum.name);
  });
  tellChart();
  arenaViews = await Promise.all(all('[data-arena]').map(
    (place) => embed(place, 'arena', data.arenas[place.dataset.arena].points, colours())));
}

/** The points of the chosen cost: those of rows that the table shows are drawn in colour, the others faintly. */
function chartPoints() {
  const axis = data.costs[cost()], chosen = new Set(kinds());
  const shown = new Set(shownRows().map((row) => row.name));
  return axis.points.filter((point) => chosen.has(point.kind)).map((point) => {
    const row = byName.get(point.name);
    return {...point, family: row.family, rank: axis.less ? point.cost : -point.cost, shown: shown.has(point.name), colour: colour(row.family),
      tip: {title: point.name, family: familyTitle(row), [`top-1, ${point.kind}`]: `${percent(point.top1)} %`,
        [axis.title]: significant(point.cost), pixels: pixels(row.size), 'trained on': row.training ?? '–'}};
  });
}

async function updateChart() {
  if (!accuracyView) return;
  const {title, less} = data.costs[cost()];
  await accuracyView.data('points', chartPoints()).signal('title', title).signal('less', less).runAsync();
  tellChart();
}

/** Write below the chart where its costs are from and what is on the front. */
function tellChart() {
  const axis = data.costs[cost()], best = accuracyView.data('best'), place = one('#front');
  one('#chart-note').textContent = axis.setting ? `Measured: ${axis.setting}.` : '';
  place.replaceChildren();
  for (const kind of kinds()) {
    const names = best.filter((point) => point.kind === kind).sort((a, b) => a.cost - b.cost);
    if (!names.length) continue;
    place.append(make('b', {text: `Pareto front, ${kind}: `}));
    names.forEach((point, i) => place.append(make('button', {type: 'button', class: 'name', 'data-model': point.name,
      'aria-haspopup': 'dialog', text: point.label}), i < names.length - 1 ? ' · ' : ' '));
  }
}
