// Wires form, table, chart and dialog.
const narrow = window.matchMedia('(max-width: 900px)');

function refresh() {
  table.search(form.elements.q.value).draw();
  keepState();
}

function setTheme(theme) {
  if (theme === 'system') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem('zoo-theme', theme);
  } catch { /* storage may be off */ }
  one('#theme span').textContent = theme;
  paintDots();
  drawCharts();
}

function wire() {
  let accepts = filter();
  $.fn.dataTable.ext.search.push((settings, _cells, index) => (
    settings.nTable.id !== 'table' || accepts(data.models[index])));
  const apply = () => { accepts = filter(); refresh(); };
  form.addEventListener('input', apply);
  form.addEventListener('change', ({target}) => { // not every browser tells of a choice by an input event
    if (target.tagName === 'SELECT') apply();
  });
  form.addEventListener('submit', (event) => event.preventDefault());
  form.addEventListener('reset', () => setTimeout(apply));
  for (const event of ['pointerover', 'focusin', 'pointerout', 'focusout']) { // a look at a family, before it is chosen
    one('#families').addEventListener(event, ({target}) => {
      const input = target.closest('label')?.querySelector('input'), seen = ['pointerover', 'focusin'].includes(event);
      accuracyView?.signal('family', seen && input ? input.value : '').runAsync();
    });
  }
  all('input[name=cost], input[name=kind]').forEach((input) => input.addEventListener('change', () => {
    keepState();
    updateChart();
  }));
  one('#sort').addEventListener('change', (event) => {
    const [column, direction] = event.target.value.split(' ');
    table.order(direction ? [[Number(column), direction]] : []).draw();
  });
  document.addEventListener('click', (event) => {
    const button = event.target.closest('[data-model]');
    if (button) openDetail(button.dataset.model);
    if (event.target === dialog) dialog.close(); // beside the dialog's content
    if (event.target.closest('a[href^="#reason-"]')) one('#reasons').open = true;
  });
  one('#theme').addEventListener('click', () => {
    const order = ['system', 'light', 'dark'];
    setTheme(order[(order.indexOf(document.documentElement.dataset.theme ?? 'system') + 1) % 3]);
  });
  window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { paintDots(); drawCharts(); });
  table.on('draw', () => { paintDots(one('#table')); tellShown(); updateChart(); });
}

fillForm();
restoreState();
makeTable();
wire();
all('table.arena').forEach((place) => $(place).DataTable({
  paging: false, searching: false, info: false, order: [], autoWidth: false}));
one('#theme span').textContent = document.documentElement.dataset.theme ?? 'system';
if (narrow.matches) one('#panel').open = false;
paintDots();
refresh();
await drawCharts();
document.documentElement.dataset.ready = '';
