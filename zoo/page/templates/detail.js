// What there is to know about one model, in a dialog: facts, what it runs with, commands to copy.
const dialog = one('#detail');

function fact(title, ...values) {
  const content = values.filter(known);
  return content.length ? make('div', {}, make('dt', {text: title}), make('dd', {}, ...content)) : null;
}

function link(href, text) {
  const outside = /^https?:/i.test(href);
  return make('a', {href, text, ...(outside ? {target: '_blank', rel: 'noopener noreferrer external'} : {})});
}

function facts(row) {
  const parity = row.parity && `${row.parity.agrees ? 'agrees' : 'differs'}: logits ${tiny(row.parity.logits)}, input `
    + `gradients ${tiny(row.parity.grad)}, at ${row.parity.pixels} pixels, in float64`;
  return make('dl', {class: 'facts'},
    fact('parameters', `${million(row.parameters)} M`),
    fact('GMACs an image', billion(row.macs)),
    fact('evaluation', known(row.size) ? `${pixels(row.size)} pixels, crop ${row.crop}` : null),
    fact('top-1, published', known(row.top1) ? `${percent(row.top1)} %${row.top1_source ? ` (${row.top1_source})` : ''}` : 'not published'),
    fact('top-1, measured', known(row.measured_top1) ? `${percent(row.measured_top1, 2)} %` : 'not measured yet'),
    known(row.throughput) ? fact('images a second', `${significant(row.throughput)} (${data.costs.throughput.setting})`) : null,
    fact('growth', row.linear ? 'linear in pixels' : 'faster than linear in pixels'),
    row.mixers.length ? fact('token mixers', row.mixers.join(', ')) : null,
    known(row.training) ? fact('trained on', row.training) : null,
    fact('parity', parity ?? (row.relatives ? `not compared at this size; ${row.relatives} models of the family were`
      : 'there is no whole model of the authors to compare with')),
    row.license ? fact('licence of the weights', licence(row.license)) : null,
    fact('weights', row.address ? link(row.address, row.host) : 'not released',
      row.address && !row.downloadable ? ', to be fetched by hand' : null,
      known(row.bytes) ? `, ${(row.bytes / 1e6).toFixed(0)} MB` : null),
    row.sha256 ? fact('SHA-256', make('code', {text: row.sha256})) : null,
    row.note ? fact('note', row.note) : null);
}

function runsWith(row) {
  const results = data.tried[row.tried];
  if (!results) return null;
  return make('section', {}, make('h3', {text: 'Runs with'}),
    row.tried === row.model ? null : make('p', {class: 'note', text: `as tried with ${row.tried}, the smallest of its kind`}),
    make('ul', {class: 'chips'}, ...Object.entries(results).map(([key, result]) => make('li', {
      class: result.replace(' ', '-'), title: data.legend[result].told}, make('span', {'aria-hidden': 'true', text: data.legend[result].sign}),
    ` ${data.targets[key]}`, make('span', {class: 'hidden', text: `: ${result}`})))));
}

function commandText(command, row) {
  return command.text.replace(/\{(\w+)\}/g, (_, key) => row[key]);
}

function commands(row) {
  const fitting = data.commands.filter((command) => !command.needs || row[command.needs]);
  const first = fitting.some((command) => command.needs === 'downloadable');
  return make('section', {}, make('h3', {text: 'Copy'}), ...fitting.filter(
    (command) => !(first && command.title === 'build it')).map((command) => {
    const text = commandText(command, row);
    return make('div', {class: 'command'}, make('span', {text: command.title}),
      make('pre', {}, make('code', {text})),
      make('button', {type: 'button', text: 'copy', 'aria-label': `copy: ${command.title}`,
        onclick: (event) => copy(text, event.currentTarget)}));
  }));
}

function openDetail(name) {
  const row = byName.get(name), family = data.families[row.family];
  dialog.replaceChildren(
    make('header', {}, make('div', {},
      make('h2', {id: 'detail-title'}, make('code', {text: row.name})),
      make('p', {}, make('i', {class: 'dot', 'data-family': row.family}), family ? `${family.title}: ${family.summary}` : familyTitle(row)),
      family ? make('p', {class: 'links'}, link(family.card, 'model card'),
        ...family.papers.map((paper) => link(`https://arxiv.org/abs/${paper}`, `arXiv ${paper}`))) : null),
    make('button', {type: 'button', class: 'quiet', text: 'close', onclick: () => dialog.close()})),
    make('div', {class: 'columns'}, make('div', {}, facts(row), runsWith(row)), commands(row)));
  paintDots(dialog);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

function paintDots(root = document) {
  for (const dot of all('.dot', root)) dot.style.background = colour(dot.dataset.family);
}
