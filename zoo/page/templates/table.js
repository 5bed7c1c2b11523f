// The table of models, by DataTables; cells are made of text nodes.
const dash = () => make('span', {class: 'none', text: '–'});
const COLUMNS = [
  {title: 'model', key: 'name', cell: modelCell},
  {title: 'M params', key: 'parameters', number: true, text: (row) => million(row.parameters)},
  {title: 'GMACs', key: 'macs', number: true, text: (row) => billion(row.macs)},
  {title: 'pixels', of: (row) => row.size?.[0] ?? null, number: true, text: (row) => pixels(row.size)},
  {title: 'top-1', key: 'top1', number: true, best: 'desc', cell: publishedCell},
  {title: 'measured', key: 'measured_top1', number: true, best: 'desc', optional: true, cell: measuredCell},
  {title: 'images/s', key: 'throughput', number: true, best: 'desc', optional: true,
    text: (row) => (known(row.throughput) ? significant(row.throughput) : '–')},
  {title: 'linear', of: (row) => (row.linear ? 'yes' : 'no'), cell: (row) => flag(row.linear)},
  {title: 'parity', of: (row) => row.parity?.logits ?? null, number: true, cell: parityCell},
  {title: 'licence', of: (row) => licence(row.license), cell: licenceCell},
  {title: 'weights', of: (row) => row.host ?? '', cell: weightsCell},
].filter((column) => !column.optional || data.models.some((row) => known(row[column.key])));
let table;

function modelCell(row) {
  const dot = make('i', {class: 'dot', 'data-family': row.family});
  return make('div', {class: 'model'},
    make('button', {type: 'button', class: 'name', 'data-model': row.name, 'aria-haspopup': 'dialog'},
      make('span', {text: row.model}), row.tag ? make('span', {class: 'tag', text: `.${row.tag}`}) : null),
    make('small', {}, dot, familyTitle(row), row.front.length ? make('b', {
      class: 'badge', text: 'front', title: `On the Pareto front of top-1 against ${row.front.map(
        (key) => data.costs[key].title).join(' and ')}`}) : null));
}

function publishedCell(row) {
  if (!known(row.top1)) return dash();
  return make('span', {class: 'published', text: percent(row.top1) + (row.top1_source ? '*' : ''),
    title: row.top1_source ?? 'published by the authors'});
}

function measuredCell(row) {
  return known(row.measured_top1)
    ? make('b', {class: 'measured', text: percent(row.measured_top1, 2), title: 'measured with this code'}) : dash();
}

const flag = (yes) => make('span', {class: yes ? 'yes' : 'no', text: yes ? 'yes' : 'no'});

function parityCell(row) {
  if (row.parity) {
    return make('span', {class: row.parity.agrees ? 'good' : 'bad', text: `${row.parity.agrees ? '✓' : '✕'} ${
      tiny(row.parity.logits)}`, title: `logits ${tiny(row.parity.logits)}, input gradients ${
      tiny(row.parity.grad)}, at ${row.parity.pixels} pixels`});
  }
  return row.relatives ? make('span', {class: 'weak', text: 'family',
    title: `${row.relatives} other models of the family were compared`}) : dash();
}

function licenceCell(row) {
  return row.license ? make('span', {class: row.license === 'unknown' ? 'warn' : '', text: licence(row.license)}) : dash();
}

function weightsCell(row) {
  if (!row.address) return make('span', {class: 'none', text: row.note ? 'not released' : '–', title: row.note});
  return make('a', {href: row.address, rel: 'noopener noreferrer external', target: '_blank',
    title: row.note ?? row.address, text: row.host}, row.downloadable ? null : make('span', {class: 'warn', text: ' by hand'}));
}

/** Order of values of which some are not known: those come last either way. */
function knownFirst(sign) {
  return (a, b) => (known(a) ? (known(b) ? sign * (a < b ? -1 : a > b ? 1 : 0) : -1) : known(b) ? 1 : 0);
}

function makeTable() {
  Object.assign($.fn.dataTable.ext.type.order, {
    'known-pre': (value) => value, 'known-asc': knownFirst(1), 'known-desc': knownFirst(-1)});
  const value = (column, row) => (column.of ? column.of(row) : row[column.key] ?? null);
  table = $('#table').DataTable({
    data: data.models, pageLength: 25, lengthMenu: [10, 25, 50, 100, -1], autoWidth: false,
    order: [], deferRender: true, caption: null,
    layout: {topStart: null, topEnd: null, bottomStart: ['info', 'pageLength'], bottomEnd: 'paging'},
    language: {info: '_START_ to _END_ of _TOTAL_', infoEmpty: 'none', infoFiltered: '', lengthMenu: '_MENU_ per page', lengthLabels: {'-1': 'all'},
      zeroRecords: 'No model fits these filters.', emptyTable: 'No models.'},
    columns: COLUMNS.map((column) => ({
      title: column.title, type: column.number ? 'known' : 'string', className: column.number ? 'number' : '',
      orderSequence: column.best === 'desc' ? ['desc', 'asc'] : ['asc', 'desc'],
      data: (row, type) => (type === 'filter' ? searchable(column, row) : type === 'display' ? '' : value(column, row)),
      createdCell: (td, _, row) => {
        td.dataset.label = column.title;
        td.replaceChildren(column.cell ? column.cell(row) : column.text(row));
      },
    })),
  });
  for (const column of COLUMNS) {
    const wanted = column.best ?? 'asc';
    one('#sort').append(make('option', {value: `${COLUMNS.indexOf(column)} ${wanted}`, text: column.title}));
  }
  one('#sort').prepend(make('option', {value: '', text: 'family', selected: true}));
}

/** What the search looks at: names, mixers, licence, host. */
function searchable(column, row) {
  if (column.key === 'name') return `${row.name} ${familyTitle(row)} ${row.mixers.join(' ')}`;
  return ['licence', 'weights'].includes(column.title) ? (column.of(row) ?? '') : '';
}

/** The rows that search and filters leave, in their order. */
const shownRows = () => table.rows({search: 'applied', order: 'applied'}).data().toArray();

function tellShown() {
  const rows = shownRows(), models = new Set(rows.map((row) => row.model)).size;
  one('#shown').textContent = `${rows.length} of ${data.models.length} rows, ${models} model${models === 1 ? '' : 's'}`;
}
