// The data of the page, and small tools. The files of this folder are joined to one module, in the order of render.py.
const data = JSON.parse(document.getElementById('data').textContent);
data.models = data.models.rows.map((row) => Object.fromEntries(row.map((value, i) => [data.models.keys[i], value])));
const byName = new Map(data.models.map((row) => [row.name, row]));
const familyNames = Object.keys(data.families).sort(
  (a, b) => data.families[a].title.localeCompare(data.families[b].title, 'en'));
const $ = window.zooQuery;
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element with properties and children; texts become text nodes, so nothing in the data is ever read as HTML. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === 'text') element.textContent = value;
    else if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key === 'style') element.style.cssText = value;
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const known = (value) => value !== null && value !== undefined;
const million = (value) => (known(value) ? significant(value / 1e6) : '–');
const billion = (value) => (known(value) ? significant(value / 1e9) : '–');
const percent = (value, digits = 1) => (known(value) ? value.toFixed(digits) : '–');
const tiny = (value) => value.toExponential(1);
const pixels = (size) => (known(size) ? [...new Set(size)].join('×') : '–');
const licence = (name) => (name === 'unknown' ? 'none stated' : name ?? '–');
const familyTitle = (row) => data.families[row.family]?.title ?? 'any mixer in any host';

/** A number with three significant digits, without an exponent. */
function significant(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** The colour of a family: hues far from their neighbours', darker on light paper than on dark. */
function colour(family) {
  const place = familyNames.indexOf(family);
  if (place < 0) return dark() ? '#9aa4ab' : '#66727a';
  const hue = (place * 137.508 + 190) % 360, bright = place % 2;
  return dark() ? `hsl(${hue.toFixed(0)} 72% ${bright ? 74 : 62}%)` : `hsl(${hue.toFixed(0)} 68% ${bright ? 46 : 34}%)`;
}

function dark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === 'dark' : window.matchMedia('(prefers-color-scheme: dark)').matches;
}

/** Say something to those who listen to the page. */
function say(text) {
  one('#said').textContent = text;
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no permission, or no secure context
    const area = make('textarea', {style: 'position:fixed;opacity:0'});
    area.value = text;
    (button.closest('dialog') ?? document.body).append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
    button.focus();
  }
  const before = button.textContent;
  button.textContent = 'copied';
  say('copied');
  setTimeout(() => { button.textContent = before; }, 1200);
}
