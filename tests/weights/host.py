"""A local server that plays the hub, GitHub and cloud hosts, with their faults; and the way of the real clients to it.

``https://any.host/path`` is served as ``/any.host/path``, files of the hub as ``/org/repo/resolve/REVISION/file``.
"""
import base64
import contextlib
import dataclasses
import hashlib
import http.client
import json
import re
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = 'c' * 40


@dataclasses.dataclass
class File:
    """What the server has under a path.

    Args:
        content: The whole file.
        faults: What goes wrong, one entry per request, the first one for good if ``forever``: a number of bytes after
            which the connection is cut, an HTTP status, or a (status, headers) pair.
        etag: Of the answer; '' for none. By default the hash of the content, as the hub gives it.
        ranges: Whether a part can be asked for.
        kind: Content-Type.
        commit: Of the hub's repository.
        later: What is there after a whole GET.
        headers: Of the answer, over those that it would have; '' for none.
        drip: Seconds after every 100 bytes.
    """

    content: bytes
    faults: list = dataclasses.field(default_factory=list)
    forever: bool = False
    etag: str | None = None
    ranges: bool = True
    kind: str = 'application/octet-stream'
    commit: str = COMMIT
    later: 'File | None' = None
    headers: dict = dataclasses.field(default_factory=dict)
    drip: float = 0


class Host(ThreadingHTTPServer):
    """``files`` by path; ``asked`` is every request as ``(method, path, first byte)``; ``writer`` is the token that
    may push."""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Answer)
        self.files, self.asked = {}, []
        self.large, self.commits = {}, []  # uploads by hash; messages

    @property
    def address(self):
        return f'http://127.0.0.1:{self.server_port}'

    def got(self, part):
        """First bytes of the GETs of paths with ``part`` in them."""
        return [first for method, path, first in self.asked if method == 'GET' and part in path]

    def handle_error(self, request, client_address):
        pass  # clients that are killed


class Answer(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def do_POST(self):
        self.take()

    def do_PUT(self):
        self.take()

    def take(self):
        """Uploads, as huggingface_hub's client does them."""
        content = self.rfile.read(int(self.headers['Content-Length'])) if 'Content-Length' in self.headers \
            else b''.join(iter(self.chunk, b''))
        self.server.asked.append((self.command, self.path, 0))
        token = (self.headers.get('Authorization') or '').removeprefix('Bearer ')
        if self.path.startswith('/lfs/'):
            self.server.large[self.path.split('/')[2]] = content
            return self.say({})
        if token != 'writer':
            return self.refuse(403 if token else 401, {})
        lines = [json.loads(line) for line in content.decode().splitlines()]
        repo = re.match(r'/(?:api/models/)?([\w-]+/[\w-]+)', self.path).group(1)
        if self.path == '/api/repos/create':
            return self.say(dict(url=f'{self.server.address}/{lines[0]["organization"]}/{lines[0]["name"]}'))
        if self.path == '/api/validate-yaml':
            return self.say(dict(errors=[], warnings=[]))
        if '/preupload/' in self.path:
            return self.say(dict(files=[
                dict(path=file['path'], shouldIgnore=False, uploadMode='lfs' if 'safe' in file['path'] else 'regular')
                for file in lines[0]['files']]))
        if self.path.endswith('/info/lfs/objects/batch'):
            return self.say(dict(objects=[
                dict(**file, actions=dict(upload=dict(href=f'{self.server.address}/lfs/{file["oid"]}')))
                for file in lines[0]['objects']]))
        assert self.path == f'/api/models/{repo}/commit/main'
        self.server.commits.append(lines[0]['value']['summary'])
        for file in (line['value'] for line in lines[1:]):
            self.server.files[f'/{repo}/resolve/main/{file["path"]}'] = File(
                base64.b64decode(file['content']) if 'content' in file else self.server.large[file['oid']])
        self.say(dict(commitUrl=f'{self.server.address}/{repo}/commit/{COMMIT}', commitOid=COMMIT))

    def chunk(self):
        size = int(self.rfile.readline(), 16)
        content = self.rfile.read(size)
        self.rfile.readline()
        return content

    def say(self, content):
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def answer(self, body):
        ranged = re.match(r'bytes=(\d+)-', self.headers.get('Range') or '')
        start = int(ranged.group(1)) if ranged else 0
        self.server.asked.append((self.command, self.path, start))
        file = self.server.files.get(self.path)
        if file is None:
            return self.refuse(404, {'X-Error-Code': 'EntryNotFound'})
        fault = file.faults[0] if file.faults else None
        status = isinstance(fault, tuple) or fault in range(400, 600)
        if file.faults and not file.forever and (status or body):
            del file.faults[0]
        if status:
            return self.refuse(*(fault if isinstance(fault, tuple) else (fault, {})))
        start = start if file.ranges else 0
        if start >= len(file.content) > 0:
            return self.refuse(416, {})
        self.send_response(206 if start else 200)
        part = f'bytes {start}-{len(file.content) - 1}/{len(file.content)}' if start else ''
        etag = hashlib.sha256(file.content).hexdigest() if file.etag is None else file.etag
        for name, value in {'Content-Type': file.kind, 'Content-Length': len(file.content) - start,
                            'Content-Range': part, 'ETag': etag and f'"{etag}"', 'X-Repo-Commit': file.commit,
                            **file.headers}.items():
            if value != '':
                self.send_header(name, str(value))
        self.end_headers()
        if body:
            content = file.content[start:][:fault]
            step = 100 if file.drip else len(content) or 1
            for at in range(0, len(content), step):
                self.wfile.write(content[at:at + step])
                threading.Event().wait(file.drip)  # tests replace time.sleep
            if fault is not None:
                self.close_connection = True
            elif file.later:
                self.server.files[self.path] = file.later

    def refuse(self, status, headers):
        self.send_response(status)
        for name, value in {'Content-Length': '0', **headers}.items():
            self.send_header(name, value)
        self.end_headers()


@contextlib.contextmanager
def serving():
    host = Host()
    thread = threading.Thread(target=host.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True)
    thread.start()
    try:
        yield host
    finally:
        host.shutdown()
        host.server_close()
        thread.join()


class ToHost(urllib.request.BaseHandler):
    """Stands for the way of urllib's https requests: it leads to the local server; what comes back is https's."""

    handler_order = 100  # before the handlers of urllib

    def __init__(self, address):
        self.address = address

    def https_open(self, request):
        local = urllib.request.Request(f'{self.address}/{request.host}{request.selector}', headers=request.headers)
        local.timeout = request.timeout
        return urllib.request.HTTPHandler().do_open(http.client.HTTPConnection, local)


def lead_to(address):
    """Have urllib find all https hosts at ``address``; the proxies of the environment are left out."""
    urllib.request.install_opener(urllib.request.build_opener(ToHost(address), urllib.request.ProxyHandler({})))
