"""The page in a real browser, by ``make test-page``: chromium, with the chromedriver of the same version."""
import contextlib
import copy
import json
import shutil
from pathlib import Path

import pytest

from zoo.analysis import pareto, result_files
from zoo.page import render, write

from .conftest import HOSTILE, MEASURED

webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed: make test-page installs it')
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('needs_extra')]
BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
WAIT = 60  # seconds, of a busy machine
FILTERS = [  # name of the field, what is chosen, which rows are left
    ('downloadable', True, lambda row: row['downloadable']),
    ('linear', True, lambda row: row['linear']),
    ('front', True, lambda row: row['front']),
    ('parity', True, lambda row: row['parity']),
    ('params', '12.5', lambda row: row['parameters'] is not None and row['parameters'] <= 12.5e6),
    ('macs', '2', lambda row: row['macs'] is not None and row['macs'] <= 2e9),
    ('top1', '84.5', lambda row: row['top1'] is not None and row['top1'] >= 84.5),
    ('pixels', '384', lambda row: row['size'] == (384, 384)),
    ('licence', 'MIT', lambda row: row['license'] == 'MIT'),
    ('licence', 'none stated', lambda row: row['license'] == 'unknown'),
    ('training', 'ImageNet-22k', lambda row: row['training'] == 'ImageNet-22k'),
]
NAMES = "[...document.querySelectorAll('#table tbody tr button.name')].map((b) => b.dataset.model)"


@contextlib.contextmanager
def started(**emulated):
    """A browser without a window, with its log and its requests."""
    browser, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which('chromedriver')
    if not (browser and driver):
        pytest.skip('there is no chromium with a chromedriver here')
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
                 '--window-size=1440,1100'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', dict(browser='ALL', performance='ALL'))
    if emulated:
        options.add_experimental_option('mobileEmulation', emulated)
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        yield chrome
    finally:
        chrome.quit()


@pytest.fixture(scope='module')
def site(results, tmp_path_factory, needs_extra) -> Path:
    return write.write(tmp_path_factory.mktemp('site'), result_files.read([results]))


@pytest.fixture(scope='module')
def chrome():
    with started() as chrome:
        yield chrome


@pytest.fixture
def page(chrome, site):
    """The page as one sees it first."""
    open_page(chrome, site)
    yield chrome
    chrome.execute_script('localStorage.clear()')
    assert not chrome.get_log('browser')


def open_page(chrome, path: Path, view: str = '') -> None:
    chrome.get('about:blank')
    chrome.get(path.as_uri() + view)
    until(chrome, "'ready' in document.documentElement.dataset")


def until(chrome, condition: str):
    """What a condition of JavaScript gives, once that is something."""
    return WebDriverWait(chrome, WAIT).until(lambda driver: driver.execute_script(f'return {condition}'))


def look(chrome, expression: str):
    return chrome.execute_script(f'return {expression}')


def find(chrome, selector: str):
    return chrome.find_element(By.CSS_SELECTOR, selector)


def press(chrome, selector: str) -> None:
    """Click an element in the middle of the window, where nothing covers it."""
    chrome.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", find(chrome, selector))
    find(chrome, selector).click()


def show_all(chrome) -> list[str]:
    """Names of the rows that search and filters leave, all on one page of the table."""
    Select(find(chrome, '.dt-length select')).select_by_value('-1')
    return look(chrome, NAMES)


def marks(chrome) -> list[str]:
    """Descriptions of the marks that the chart draws in colour."""
    return look(chrome, "[...document.querySelectorAll('#accuracy svg .marks path')].map("
                        "(path) => path.getAttribute('aria-label'))")


def fronts(chrome) -> dict[str, list[str]]:
    """Names on the fronts below the chart, by kind."""
    found, kind = {}, ''
    for tag, text, name in look(chrome, "[...document.querySelectorAll('#front > *')].map("
                                        "(e) => [e.tagName, e.textContent, e.dataset.model])"):
        if tag == 'B':
            kind = text.removeprefix('Pareto front, ').rstrip(': ')
        else:
            found.setdefault(kind, []).append(name)
    return found


def test_as_many_rows_as_tags(page, content):
    assert show_all(page) == [row['name'] for row in content['models']]
    rows, models = len(content['models']), len({row['model'] for row in content['models']})
    assert find(page, '#shown').text == f'{rows} of {rows} rows, {models} models'


def test_search(page):
    find(page, '#search').send_keys('ravlt')
    assert show_all(page) == [f'ravlt_{size}.in1k' for size in 'blst']
    assert find(page, '#shown').text.startswith('4 of ') and find(page, '#active').text == '1 active'
    assert len(marks(page)) == 5 == len([name for name in marks(page) if name.startswith('ravlt_')])
    find(page, '#search').clear()
    find(page, '#search').send_keys('no such model')
    assert show_all(page) == [] and 'No model fits' in find(page, '#table tbody').text


def test_sort_by_mouse_and_by_keyboard(page, content):
    rows = {row['name']: row for row in content['models']}
    show_all(page)
    headers = page.find_elements(By.CSS_SELECTOR, '#table thead th')
    titles = [header.text for header in headers]
    for title, key in (('top-1', 'top1'), ('M params', 'parameters'), ('parity', None)):
        values = {name: row['parity'] and row['parity']['logits'] if key is None else row[key]
                  for name, row in rows.items()}
        known = [value for value in values.values() if value is not None]
        unknown = [None] * (len(values) - len(known))  # comes last either way
        assert len(known) > 100
        for falls in (True, False) if title == 'top-1' else (False, True):  # the best first, then the other way round
            page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", headers[0])
            headers[titles.index(title)].click()
            want = sorted(known, reverse=falls) + unknown
            WebDriverWait(page, WAIT).until(lambda _, v=values, w=want: [v[name] for name in look(page, NAMES)] == w)
            assert headers[titles.index(title)].get_attribute('aria-sort') == ('descending' if falls else 'ascending')
    headers[0].find_element(By.CSS_SELECTOR, '[role=button]').send_keys(Keys.ENTER)
    WebDriverWait(page, WAIT).until(lambda _: look(page, NAMES) == sorted(rows))


def test_filters(page, content):
    rows = content['models']
    for name, value, accepts in FILTERS:
        field = find(page, f'[name={name}]')
        if value is True:
            press(page, f'[name={name}]')
        elif field.tag_name == 'select':
            Select(field).select_by_value(value)
        else:
            field.send_keys(value)
        got = show_all(page)
        assert got == [row['name'] for row in rows if accepts(row)] and 0 < len(got) < len(rows), name
        press(page, 'button[type=reset]')
        WebDriverWait(page, WAIT).until(lambda _: len(show_all(page)) == len(rows))
    press(page, 'input[value=care]')
    press(page, 'input[value=van]')
    got = show_all(page)
    assert got == [row['name'] for row in rows if row['family'] in ('care', 'van')] and len(got) > 10
    find(page, '[name=params]').send_keys('5')
    assert show_all(page) == [name for name in got if name.startswith('van_b0')]
    assert find(page, '#active').text == '2 active'


def test_axes_and_fronts(page, content):
    shown = {row['name']: row for row in content['models']}
    for cost, axis in content['costs'].items():
        press(page, f'.segments label:has([value={cost}])')
        until(page, f"document.querySelector('#accuracy svg').textContent.includes('{axis['title']}')")
        assert len(marks(page)) == len(axis['points'])
        assert {kind: set(names) for kind, names in fronts(page).items()} == {
            kind: set(names) for kind, names in axis['front'].items() if names}
    press(page, '.segments label:has([value=macs])')
    press(page, '[name=linear]')  # the front of what is left
    points, _ = pareto.collect([], 'macs', ['published'], result_files.read([]))
    want = [p.name for p in pareto.front((p for p in points if shown[p.name]['linear']), less=True)]
    WebDriverWait(page, WAIT).until(lambda _: fronts(page)['published'] == want)
    assert want != content['costs']['macs']['front']['published']
    assert len(page.find_elements(By.CSS_SELECTOR, '#accuracy svg .front-line path')) == 2


def test_legend(page, content):
    points = content['costs']['macs']['points']
    published = sum(point['kind'] == 'published' for point in points)
    press(page, '.legend [value=published]')
    WebDriverWait(page, WAIT).until(lambda _: len(marks(page)) == len(MEASURED))
    assert set(fronts(page)) == {'measured'}
    press(page, '.legend [value=published]')
    press(page, '.legend [value=measured]')
    WebDriverWait(page, WAIT).until(lambda _: len(marks(page)) == published)
    press(page, 'input[value=care]')  # the list of families is the legend of colours
    WebDriverWait(page, WAIT).until(lambda _: len(marks(page)) == 3)
    dot = look(page, "document.querySelector('#families [data-family=care]').style.background")
    assert look(page, f"getComputedStyle(document.querySelector('#accuracy svg .marks path')).stroke === '{dot}'")


def test_detail_by_keyboard(page, content):
    [row] = [row for row in content['models'] if row['name'] == 'ravlt_b.in1k']
    find(page, '#search').send_keys('ravlt_b')
    button = find(page, '#table button[data-model="ravlt_b.in1k"]')
    button.send_keys(Keys.ENTER)
    text = find(page, '#detail').text
    assert 'RAVLT: rank-augmented linear attention' in text and row['sha256'] in text and 'arXiv 2411.07635' in text
    assert "timm.create_model('ravlt_b.in1k', pretrained=True)" in text and 'zoo train --config ravlt_b' in text
    assert 'as tried with ravlt_t' in text and 'onnx' in text.lower()
    copies = page.find_elements(By.CSS_SELECTOR, '#detail .command button')
    copies[1].send_keys(Keys.ENTER)
    WebDriverWait(page, WAIT).until(lambda _: copies[1].text == 'copied')
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not look(page, "document.querySelector('#detail').open")
    assert look(page, 'document.activeElement.dataset.model') == 'ravlt_b.in1k'


def test_detail_of_a_point(page):
    find(page, '#search').send_keys('care_s0')
    until(page, "document.querySelectorAll('#accuracy svg .marks path').length === 1")
    press(page, '#accuracy svg .marks path')
    assert find(page, '#detail-title').text == 'care_s0.in1k'


def test_every_link_leads_somewhere(page, site, content):
    show_all(page)
    links = "[...document.querySelectorAll('a:not(.vega-actions a)')].map((a) => a.getAttribute('href'))"
    for link in look(page, links):
        if link.startswith('#'):
            assert look(page, f'document.getElementById("{link[1:]}") !== null'), link
        else:
            assert link.startswith(('https://', 'http://')), link
    cards = set()
    for family in content['families']:
        name = next(row['name'] for row in content['models'] if row['family'] == family)
        page.execute_script(f"document.querySelector('[data-model=\"{name}\"]').click()")
        cards.add(find(page, '#detail .links a').get_attribute('href'))
        find(page, '#detail header button').click()
    assert len(cards) == len(content['families'])
    assert cards == {(site.parent / 'model_cards' / f'{family}.md').as_uri() for family in content['families']}
    assert all(Path(card.removeprefix('file://')).is_file() for card in cards)
    press(page, '.matrix a[href="#reason-3"]')
    assert find(page, '#reason-3').is_displayed()


def test_asks_for_nothing(chrome, site):
    chrome.get_log('performance')
    open_page(chrome, site)
    find(chrome, '#search').send_keys('care')
    press(chrome, '#theme')
    events = [json.loads(entry['message'])['message'] for entry in chrome.get_log('performance')]
    asked = {event['params']['request']['url'] for event in events if event['method'] == 'Network.requestWillBeSent'}
    assert {address for address in asked if not address.startswith(('data:', 'about:'))} == {site.as_uri()}
    assert look(chrome, "performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:'))") == []
    chrome.execute_script('localStorage.clear()')
    assert not chrome.get_log('browser')


def test_a_view_is_kept_in_the_address(page, site):
    find(page, '#search').send_keys('agent')
    press(page, '[name=linear]')
    press(page, '.segments label:has([value=parameters])')
    view = look(page, 'location.hash')
    assert view == '#?q=agent&linear=on&cost=parameters'
    rows = show_all(page)
    open_page(page, site, view)
    assert show_all(page) == rows and look(page, "document.querySelector('[name=cost]:checked').value") == 'parameters'


def test_themes(page, site):
    def background():
        return look(page, 'getComputedStyle(document.body).backgroundColor')

    ground = background()
    seen = {}
    for _ in range(3):
        press(page, '#theme')
        seen[find(page, '#theme span').text] = background()
    assert seen['light'] == seen['system'] == ground != seen['dark']
    press(page, '#theme')
    press(page, '#theme')
    open_page(page, site)
    assert background() == seen['dark'] and find(page, '#theme span').text == 'dark'
    page.execute_script('localStorage.clear()')
    page.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=[dict(name='prefers-color-scheme', value='dark')]))
    open_page(page, site)
    assert background() == seen['dark'] and find(page, '#theme span').text == 'system'
    page.execute_cdp_cmd('Emulation.setEmulatedMedia', dict(features=[]))


def test_names_stay_text(chrome, content, tmp_path):
    bad = copy.deepcopy(content)
    for row in bad['models']:
        if row['family'] == 'ravlt':
            row.update(note=HOSTILE, license=HOSTILE, mixers=[HOSTILE], tag=HOSTILE)
    bad['families']['ravlt'].update(title=HOSTILE, summary=HOSTILE)
    next(point for point in bad['costs']['macs']['points'] if point['name'] == 'ravlt_t.in1k')['label'] = HOSTILE
    path = tmp_path / 'index.html'
    path.write_text(render.render(bad), encoding='utf-8')
    open_page(chrome, path)
    find(chrome, '#search').send_keys('ravlt_t')
    assert find(chrome, '#table .tag').get_attribute('textContent') == f'.{HOSTILE}'
    chrome.execute_script("document.querySelector('#table button.name').click()")
    assert HOSTILE in look(chrome, "document.querySelector('#detail').textContent")
    assert HOSTILE in look(chrome, "document.querySelector('#front').textContent")
    assert look(chrome, "document.querySelectorAll('#detail b, #table td b:not([class]), #front i').length") == 0
    assert not chrome.get_log('browser')


def test_on_a_phone(site):
    with started(deviceMetrics=dict(width=390, height=844, pixelRatio=2), userAgent='Android') as phone:
        open_page(phone, site)
        assert look(phone, 'document.documentElement.scrollWidth') == 390
        assert not look(phone, "document.querySelector('#panel').open")
        press(phone, '#panel summary')
        find(phone, '#search').send_keys('ravlt')
        assert show_all(phone) == [f'ravlt_{size}.in1k' for size in 'blst']
        Select(find(phone, '#sort')).select_by_visible_text('top-1')
        assert look(phone, NAMES) == [f'ravlt_{size}.in1k' for size in 'lbst']
        press(phone, '#table button[data-model="ravlt_t.in1k"]')
        box = find(phone, '#detail').rect
        assert box['x'] >= 0 and box['x'] + box['width'] <= 390
        assert look(phone, 'document.documentElement.scrollWidth') == 390
        assert not phone.get_log('browser')
