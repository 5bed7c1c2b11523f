// The filters: read from the form, kept in the address after "#", and asked by the table.
const form = one('#filters');
const CHECKS = {
  downloadable: (row) => Boolean(row.downloadable),
  linear: (row) => Boolean(row.linear),
  parity: (row) => Boolean(row.parity?.agrees),
  front: (row) => row.front.length > 0,
};
const LIMITS = { // key of a row, unit, whether it is a lower limit
  params: ['parameters', 1e6, false], macs: ['macs', 1e9, false], top1: ['top1', 1, true],
};
const CHOICES = {
  pixels: (row) => pixels(row.size), licence: (row) => licence(row.license), training: (row) => row.training ?? '–',
};

function fillForm() {
  for (const [name, of] of Object.entries(CHOICES)) {
    const counts = new Map();
    for (const row of data.models) counts.set(of(row), (counts.get(of(row)) ?? 0) + 1);
    counts.delete('–');
    const sorted = [...counts].sort((a, b) => (name === 'pixels' ? parseInt(a[0]) - parseInt(b[0]) : b[1] - a[1]));
    for (const [value, count] of sorted) {
      form.elements[name].append(make('option', {value, text: `${value} (${count})`}));
    }
  }
  for (const family of familyNames) {
    const count = data.models.filter((row) => row.family === family).length;
    one('#families').append(make('label', {title: data.families[family].summary},
      make('input', {type: 'checkbox', name: 'family', value: family}),
      make('i', {class: 'dot', 'data-family': family}), make('span', {text: data.families[family].title}),
      make('small', {text: count})));
  }
}

function chosenFamilies() {
  return new Set(all('input[name=family]:checked', form).map((input) => input.value));
}

/** What the form says, as a function of a row. */
function filter() {
  const families = chosenFamilies();
  const checks = Object.keys(CHECKS).filter((name) => form.elements[name].checked).map((name) => CHECKS[name]);
  const limits = Object.entries(LIMITS).filter(([name]) => form.elements[name].value !== '').map(
    ([name, [key, unit, lower]]) => [key, unit * Number(form.elements[name].value), lower]);
  const choices = Object.entries(CHOICES).filter(([name]) => form.elements[name].value !== '').map(
    ([name, of]) => [of, form.elements[name].value]);
  return (row) => (families.size === 0 || families.has(row.family)) && checks.every((check) => check(row))
    && limits.every(([key, limit, lower]) => known(row[key]) && (lower ? row[key] >= limit : row[key] <= limit))
    && choices.every(([of, value]) => of(row) === value);
}

const cost = () => one('input[name=cost]:checked').value;
const kinds = () => all('input[name=kind]:checked').map((input) => input.value);

/** The view in a form that fits behind "#": only what differs from the beginning. */
function encodeState() {
  const found = new URLSearchParams();
  for (const [key, value] of new FormData(form)) if (value !== '') found.append(key, value);
  if (cost() !== one('input[name=cost]').value) found.set('cost', cost());
  return found.toString();
}

function keepState() {
  const text = encodeState();
  const active = new Set([...new FormData(form)].filter(([, value]) => value !== '').map(([key]) => key)).size;
  one('#active').textContent = active ? `${active} active` : '';
  history.replaceState(null, '', text ? `#?${text}` : location.pathname + location.search);
}

function restoreState() {
  if (!location.hash.startsWith('#?')) return;
  for (const [key, value] of new URLSearchParams(location.hash.slice(2))) {
    const inputs = key === 'cost' ? all('input[name=cost]') : all(`[name="${CSS.escape(key)}"]`, form);
    for (const input of inputs) {
      if (input.type === 'checkbox' || input.type === 'radio') {
        input.checked = input.checked || input.value === value;
      } else input.value = value;
    }
  }
}
